"""Recipes: overrides reach their field, and nothing else is accepted."""

import json

import pytest

from shotstream.configs import config_to_document
from shotstream.training.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_resolves_to_a_document(name: str) -> None:
    document = config_to_document(recipe(name))
    assert document["name"] == name
    assert json.loads(json.dumps(document)) == document


def test_an_override_reaches_its_field() -> None:
    result = recipe(
        "theatre_teacher", ["model.dit.num_layers=2", "optim.learning_rate=1", "data.num_shots=[1, 2]"]
    )
    assert result.model.dit.num_layers == 2
    assert result.optimizer.learning_rate == 1.0
    assert result.data.num_shots == (1, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage.dim=2", "there is no setting"),
        ("model.dit=2", "has parts"),
        ("data.batch_size=big", r'^data.batch_size is "big"; write a whole number, as \d+$'),
        ("data.batch_size=true", "^data.batch_size is true; write a whole number, as"),
        ("data.batch_size=", "^data.batch_size is null; write a whole number, as"),
        ("data.batch_size=2024-01-31", 'is "2024-01-31"; write a whole number, as'),
        ("model.dit.num_layers=2.5", "is 2.5; write a whole number, as"),
        ("train.tensorboard=1", "is 1; write true or false, as true$"),
        ("train.tensorboard=[no]", r"is \[false\]; write true or false, as true$"),
        ("train.matmul_dtype={}", 'is {}; write a word, as "auto"$'),
        ("data.num_shots=2", r"is 2; write a list, as \[2, 3"),
        (
            "data.num_shots=[2, many]",
            '^entry 2 of data.num_shots is "many"; write a whole',
        ),
        (
            "model.text.questions=[[species, 2.5]]",
            "^entry 2 of entry 1 of model.text.questions is 2.5",
        ),
        ("data.batch_size", "not an override"),
        ("data.batch_size=[", "not a value in YAML"),
        ("data.batch_size=2024-02-31", "'2024-02-31' is not a value in YAML"),
        ('data.batch_size=!!bool "x"', "is not a value in YAML"),
        ("data.batch_size=!!timestamp x", "is not a value in YAML"),
        pytest.param("data.batch_size=" + "9" * 5000, "999…' is not a value in YAML", id="5000 digits"),
        pytest.param("data.batch_size=" + "[" * 3000, "is not a value in YAML", id="nested"),
        ("optim.learning_rate=fast", 'is "fast"; write a number, as'),
        ("train.seed.more=2", "has no parts"),
    ],
)
def test_an_override_that_cannot_take_effect_is_refused(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe("theatre_teacher", [override])


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="theatre_codec"):
        recipe("cinema")


def test_a_float_may_be_written_without_a_point() -> None:
    """YAML reads 1e-3 as a word."""
    result = recipe("theatre_teacher", ["optim.learning_rate=1e-3"])
    assert result.optimizer.learning_rate == 0.001


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("theatre_codec", "data.batch_size=0"),
        ("theatre_codec", "train.num_steps=0"),
        ("theatre_codec", "stage.pixels_per_cell=257"),
        ("theatre_codec", "stage.max_noise=-1"),
        ("theatre_codec", "optim.ema_decay=1"),
        ("theatre_teacher", "data.batch_size=0"),
        ("theatre_teacher", "optim.decay_steps=0"),
        ("theatre_teacher", "optim.warmup_steps=0"),
        ("theatre_teacher", "stage.causal_share=1.5"),
        ("theatre_teacher", "data.context_drop=-0.1"),
        ("theatre_teacher", "data.caption_drop=nan"),
        ("theatre_teacher", "optim.learning_rate=inf"),
        ("theatre_teacher", "model.shift=0"),
        ("theatre_teacher", "data.shot_weights=[]"),
        ("theatre_teacher", "data.shot_weights=[0.0, 0.0]"),
        ("theatre_teacher", "data.num_shots=[]"),
        ("theatre_teacher", "data.num_latent_frames=[3, 0]"),
        ("theatre_teacher", "data.steps_per_block=0"),
        ("theatre_ode_pairs", "stage.substeps=0"),
        ("theatre_ode_pairs", "stage.student_steps=[260, 1000]"),
        ("theatre_causal_init", "train.num_steps=0"),
        ("theatre_causal_init", "optim.learning_rate=-1"),
        ("wan_teacher", "train.accumulation=2"),
        ("theatre_teacher", "train.samples_at_once=-1"),
    ],
)
def test_a_value_that_cannot_train_is_refused_at_once(name: str, override: str) -> None:
    """A decay of no steps once failed as a division by zero, an empty batch hours into a chain of runs."""
    setting = override.partition("=")[0].rpartition(".")[2]
    with pytest.raises(ValueError, match=setting.replace("student_steps", "steps")):
        recipe(name, [override])


def test_every_recipe_starts_from_recipes_that_are_there() -> None:
    """Each chain of inputs ends, so that everything can be made from nothing."""
    done: set[str] = set()
    for name in RECIPES:  # in the order in which they are run
        assert set(recipe(name).inputs.names()) <= done
        done.add(name)


@pytest.mark.parametrize("name", RECIPES)
def test_guidance_by_context_is_the_theatres_alone(name: str) -> None:
    """The published recipes have none."""
    found = scales(config_to_document(recipe(name)))
    wanted = 2.0 if name.startswith("theatre_") else 1.0
    assert found == [wanted] * len(found)
    assert bool(found) == name.endswith(("_pairs", "_shot"))


def scales(document: object) -> list[float]:
    if not isinstance(document, dict):
        return []
    own = [document["context_guidance"]] if "context_guidance" in document else []
    return own + [scale for part in document.values() for scale in scales(part)]


def settings(name: str) -> dict[str, object]:
    """Every setting of a recipe, by its dotted name."""

    def leaves(value: object, path: str) -> dict[str, object]:
        if not isinstance(value, dict):
            return {path: value}
        return {key: one for part in value for key, one in leaves(value[part], f"{path}.{part}").items()}

    return {
        path.removeprefix("."): value for path, value in leaves(config_to_document(recipe(name)), "").items()
    }


@pytest.mark.parametrize(
    ("name", "published"),
    [
        (
            "wan_teacher",
            {
                "train.num_steps": 10_000, "data.batch_size": 64, "optim.learning_rate": 1e-5,
                "optim.optimizer": "adamw", "optim.max_norm": 10.0, "stage.learns": "self_attention",
                "model.shift": 8.0, "model.context_policy": "published", "model.dit.dim": 1536,
                "data.context_drop": 0.1, "data.caption_drop": 0.1,
                "stage.causal_share": 0.5, "stage.clean_history": 0.5,
                "model.dit.num_context_frames": 6, "model.dit.chunk_latent_frames": 3,
            },
        ),
        (
            "wan_ode_pairs",
            {"train.num_steps": 79, "data.batch_size": 64, "stage.guidance": 6.0, "stage.substeps": 12,
             "stage.student_steps": [1000, 740, 500, 260], "stage.context_guidance": 1.0,
             "data.context_drop": 0.1, "data.caption_drop": 0.0},
        ),
        (
            "wan_causal_init",
            {"train.num_steps": 2000, "optim.learning_rate": 1e-6, "optim.decay_steps": 1,
             "optim.optimizer": "adamw", "optim.max_norm": 1.0, "optim.ema_decay": 0.99},
        ),
        *(
            (
                f"wan_{kind}_shot",
                {
                    "train.num_steps": num_steps, "data.batch_size": 32,
                    "stage.guidance": 4.0, "stage.context_guidance": 1.0,
                    "stage.fake_updates": 5, "stage.fake_warmup_steps": 20,
                    "optim.learning_rate": 2e-6, "stage.fake_learning_rate": 4e-7,
                    "optim.max_norm": 1.0, "stage.fake_max_norm": 10.0,
                    "stage.least_sigma": 0.02, "stage.most_sigma": 0.98,
                    "optim.ema_decay": 0.99, "optim.decay_steps": 1, "optim.warmup_steps": 1,
                },
            )
            for kind, num_steps in (("intra", 500), ("inter", 1000))
        ),
        (
            "wan_inter_shot",
            {"stage.lora_rank": 256, "stage.lora_alpha": 256, "data.shot_weights": [0.2] * 5},
        ),
    ],
)  # fmt: skip
def test_the_recipes_of_the_1_3b_model_have_the_numbers_that_were_published(
    name: str, published: dict[str, object]
) -> None:
    """And ours where the text says so: a share of causal steps, averages, a warm-up of the fake score."""
    found = settings(name)
    assert {key: found[key] for key in published} == published


def test_every_stage_draws_from_a_seed_of_its_own() -> None:
    """Stages with one seed would learn from the same shots in the same order."""
    for family in ("theatre", "wan"):
        kinds = ("teacher", "ode_pairs", "causal_init", "intra_shot", "inter_shot")
        found = [settings(f"{family}_{kind}") for kind in kinds]
        own = [one["train.seed"] for one in found]
        assert own == [0, 1, 2, 3, 4]
