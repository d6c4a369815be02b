"""A run has one length, and its learning rate rises to the peak and falls, whatever that length is."""

import json
import math
from pathlib import Path

import pytest
import torch

from shotstream.configs import config_to_document
from shotstream.training.recipe import AnyRecipe, OptimConfig
from shotstream.training.recipes import RECIPES, recipe
from shotstream.training.run import prepare_run, run_recipe
from shotstream.training.saved_recipes import recipe_of_run
from tests.training.test_run import codec

SCHEDULED = [name for name in RECIPES if name.endswith(("_codec", "_decoder", "_text", "_teacher", "_init"))]
MATCHING = [name for name in RECIPES if name.endswith("_shot")]
LENGTHS = (1, 3, 60, 2401, 12_000, 20_000)


def rate_of(made: AnyRecipe, step: int) -> float:
    return made.optimizer.rate(step, made.train.num_steps)


def rate(step: int, num_steps: int, **steps: int) -> float:
    return OptimConfig(learning_rate=1.0, **steps).rate(step, num_steps)


def test_the_rate_rises_stays_and_falls_by_the_written_table() -> None:
    ten = [rate(step, 10, warmup_steps=4, decay_steps=5) for step in range(-1, 12)]
    assert ten == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0])
    assert [rate(step, 3) for step in range(4)] == [1, 1, 1, 0], "constant, to the end"
    whole = [rate(step, 4, warmup_steps=2, decay_steps=4) for step in range(4)]
    assert whole == pytest.approx([0.5, 0.75, 0.5, 0.25]), "both at once: their product"


def test_what_does_not_fit_into_a_short_run_is_shortened_with_it() -> None:
    short = [rate(step, 4, warmup_steps=100, decay_steps=1000) for step in range(4)]
    assert short == pytest.approx([0.5, 0.75, 0.5, 0.25])
    assert rate(0, 1, warmup_steps=100, decay_steps=1000) == 1, "one step is at the peak"


@pytest.mark.parametrize("name", SCHEDULED)
@pytest.mark.parametrize("num_steps", LENGTHS)
def test_no_recipe_of_any_length_has_a_rate_below_zero_or_above_the_peak(name: str, num_steps: int) -> None:
    """`theatre_teacher` of 20,000 steps once ended at -1.1 times its rate, `wan_teacher` of 12,000 at
    -1999 times.
    """
    made = recipe(name, [f"train.num_steps={num_steps}"])
    rates = [rate_of(made, step) for step in range(0, num_steps, max(1, num_steps // 60))]
    rates.append(rate_of(made, num_steps - 1))
    assert all(0 < rate <= 1 and math.isfinite(rate) for rate in rates)
    assert max(rates) > 0.5, "it comes near the peak"
    assert rate_of(made, num_steps) == rate_of(made, 10 * num_steps) == 0


@pytest.mark.parametrize(
    ("name", "at"),
    [
        # step: factor, by hand from the documented warm-up and decay
        ("theatre_codec", {0: 1 / 30, 14: 0.5 * (1 - 14 / 2000), 1000: 0.5, 1999: 1 / 2000}),
        ("theatre_decoder", {0: 1 / 30, 29: 1, 1499: 1, 1500: 1, 1950: 0.5, 2399: 1 / 900}),
        ("theatre_teacher", {0: 0.01, 49: 0.5, 99: 1, 24_000: 1, 24_500: 0.5, 24_999: 0.001}),
        ("theatre_causal_init", {0: 0.02, 49: 1 - 49 / 2400, 1200: 0.5, 2399: 1 / 2400}),
        ("wan_teacher", {0: 1, 5000: 1, 9999: 1}),
        ("wan_causal_init", {0: 1, 1999: 1}),
    ],
)
def test_each_recipe_as_it_is_has_the_rates_it_always_had(name: str, at: dict[int, float]) -> None:
    made = recipe(name)
    assert {step: rate_of(made, step) for step in at} == pytest.approx(at)


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_has_one_length_and_no_other_name_for_it(name: str) -> None:
    assert recipe(name, ["train.num_steps=77"]).train.num_steps == 77
    for other in ("stage.num_steps", "loop.num_steps", "optim.num_steps"):
        with pytest.raises(ValueError, match="there is no setting"):
            recipe(name, [f"{other}=77"])


@pytest.mark.parametrize("name", MATCHING)
def test_a_student_that_would_never_learn_is_refused(name: str) -> None:
    """A run as short as the fake score's warm-up once ended with the student that it began with."""
    warmup = recipe(name).stage.fake_warmup_steps
    with pytest.raises(ValueError, match=f"fake_warmup_steps is {warmup} of {warmup} steps"):
        recipe(name, [f"train.num_steps={warmup}"])
    short = ["train.num_steps=2", "stage.fake_warmup_steps=1"]
    for overrides in (short, short[::-1]):  # what one of them alone would make impossible, in either order
        assert recipe(name, overrides).train.num_steps == 2


def saved(recipe: AnyRecipe, runs: Path) -> None:
    (runs / recipe.name).mkdir(parents=True)
    (runs / recipe.name / "config.json").write_text(json.dumps(config_to_document(recipe)))


def checked(one: AnyRecipe, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What resuming a run checks, without its inputs."""

    class Passed(Exception):
        pass

    def stop(*_: object) -> None:
        raise Passed

    monkeypatch.setattr("shotstream.training.run.checkpoints", lambda _: [Path("step_0000001.pt")])
    monkeypatch.setattr("shotstream.training.run._require_inputs", stop)
    with pytest.raises(Passed):
        prepare_run(one, runs)


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_of_any_recipe_may_be_resumed_with_another_length(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A longer run of distribution matching was once refused: its length lies one level deeper."""
    saved(recipe(name), tmp_path)
    checked(recipe(name, ["train.num_steps=123456", "train.stop_at=7"]), tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("name", "override", "said"),
    [
        ("theatre_intra_shot", "stage.guidance=2", "stage.guidance"),
        ("theatre_intra_shot", "data.batch_size=4", "data.batch_size"),
        ("theatre_inter_shot", "data.shot_weights=[1.0]", "data.shot_weights"),
        ("theatre_teacher", "model.dit.num_layers=2", "model.dit.num_layers"),
        ("theatre_teacher", "train.seed=2", "train.seed"),
        ("theatre_causal_init", "train.matmul_dtype=bfloat16", "train.matmul_dtype"),
        ("theatre_codec", "optim.learning_rate=1", "optim.learning_rate"),
        ("theatre_teacher", "inputs.codec=another", "inputs.codec"),
        ("theatre_teacher", "inputs.codec=another", "inputs.codec"),
        ("theatre_causal_init", "inputs.pairs=theatre_published_pairs", "inputs.pairs"),
        ("theatre_intra_shot", "inputs.teacher=mini_teacher", "inputs.teacher"),
        ("theatre_inter_shot", "inputs.student=theatre_causal_init", "inputs.student"),
    ],
)
def test_what_is_learnt_may_not_change_on_the_way(
    name: str, override: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(recipe(name), tmp_path)
    monkeypatch.setattr("shotstream.training.run.checkpoints", lambda _: [Path("step_0000001.pt")])
    with pytest.raises(ValueError, match=f"holds a run with {said}=.*, and {said}=.* is given;"):
        prepare_run(recipe(name, [override]), tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "it is no JSON"),
        (b'{"kind": "Recipe", ', "it is no JSON"),
        (b"[]", "holds no recipe"),
        (b'{"name": "x"}', "holds no recipe"),
        (b'{"kind": "Recipe"}', "'data' is missing"),
        (b'{"kind": "Recipe", "pace": 2}', "'pace' is unknown"),
    ],
)
def test_a_damaged_configuration_of_a_run_is_named_in_a_persons_words(
    content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / "theatre_codec").mkdir()
    (tmp_path / "theatre_codec" / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.json.*{said}"):
        recipe_of_run(tmp_path, "theatre_codec")


def test_a_stage_steps_at_the_rate_of_its_step_in_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the length of the run that was asked for, and not of the recipe: once it fell to zero too late."""
    asked: list[float] = []
    monkeypatch.setattr(
        "shotstream.training.optimizers.ClippedOptimizer.step",
        lambda _, rate: (asked.append(rate), torch.zeros(()))[1],
    )
    run_recipe(codec(8, "train.stop_at=3"), tmp_path)
    run_recipe(codec(8), tmp_path)
    risen = [1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1]
    assert asked == pytest.approx([share * (8 - step) / 8 for step, share in enumerate(risen)])
    assert recipe_of_run(tmp_path, "theatre_codec") == codec(8)
