"""Which numbers every stage takes and which it refuses, before anything is loaded or drawn."""

from collections.abc import Iterator
from copy import copy
from dataclasses import fields, is_dataclass, replace
from itertools import product
from math import inf, nan
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from shotstream.configs import ConfigError, config_to_document
from shotstream.data.captions import StoredTextConfig
from shotstream.training.recipes import RECIPES, recipe
from shotstream.training.saved_recipes import recipe_from_document
from shotstream.training.stages.inter_shot import InterShotConfig
from shotstream.training.stages.intra_shot import IntraShotConfig

COUNT = ((1, 7), (0, -1))
SHARE = ((0.0, 0.5, 1.0), (-0.01, 1.01, nan))
POSITIVE = ((1e-6, 5.0), (0.0, -1.0, inf, nan))
FROM_ZERO = ((0.0, 3.0), (-0.01, inf, nan))
SEED = ((0, 9), (-1,))
DECAY = ((0.0, 0.5, 0.9999), (1.0, -0.1, nan))

OPTIM = {
    **dict.fromkeys(("learning_rate", "max_norm"), POSITIVE),
    **dict.fromkeys(("warmup_steps", "decay_steps"), COUNT),
    "ema_decay": DECAY,
}
TRAIN = {
    **dict.fromkeys(("save_every", "log_every", "preview_every", "keep", "accumulation"), COUNT),
    **dict.fromkeys(("seed", "stop_at", "samples_at_once"), SEED),
    "num_steps": ((30_000,), (0, -1)),
}
POOL = {
    "seed": SEED,
    **dict.fromkeys(("batch_size", "block_stories", "num_blocks", "steps_per_block"), COUNT),
    **dict.fromkeys(("pair_share", "context_drop", "caption_drop", "turn_share", "reference_share"), SHARE),
}
SHARDS = {
    **dict.fromkeys(("seed", "num_workers", "read_ahead"), SEED),
    **dict.fromkeys(("batch_size", "max_latent_frames"), COUNT),
    **dict.fromkeys(("context_drop", "caption_drop"), SHARE),
}

# (recipe, section): each setting with (what is taken, what is refused)
TABLE: dict[tuple[str, str], dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    ("theatre_teacher", "model"): {"shift": POSITIVE},
    ("theatre_teacher", "data"): POOL,
    ("theatre_teacher", "optim"): OPTIM,
    ("theatre_teacher", "train"): TRAIN,
    ("theatre_teacher", "stage"): {
        **dict.fromkeys(("causal_share", "clean_history", "figure_share"), SHARE),
        "max_figure_weight": POSITIVE,
    },
    ("theatre_ode_pairs", "stage"): {
        **dict.fromkeys(("guidance", "context_guidance"), FROM_ZERO),
        "substeps": COUNT,
    },
    ("theatre_causal_init", "data"): {"max_bad_files": SEED},
    ("theatre_intra_shot", "stage"): {
        **dict.fromkeys(("guidance", "context_guidance"), FROM_ZERO),
        "fake_updates": COUNT,
        "fake_warmup_steps": ((0, 3), (-1,)),
        "least_sigma": ((0.0, 0.5), (-0.01, 0.98, 0.99, nan)),  # below the greatest, 0.98
        "most_sigma": ((0.03, 1.0), (0.02, 0.01, 1.01, nan)),  # above the least, 0.02
        **dict.fromkeys(("fake_learning_rate", "fake_max_norm"), POSITIVE),
    },
    ("theatre_inter_shot", "data"): {"batch_size": COUNT},
    ("theatre_inter_shot", "stage"): {"lora_rank": ((0, 4), (-1,)), "lora_alpha": COUNT},
    ("theatre_codec", "data"): {"batch_size": COUNT},
    ("theatre_codec", "stage"): {"max_noise": FROM_ZERO, "pixels_per_cell": ((1, 256), (0, 257))},
    ("theatre_decoder", "data"): {
        **dict.fromkeys(("batch_size", "num_latent_frames"), COUNT),
        "still_weight": SHARE,
    },
    ("theatre_decoder", "stage"): {
        "max_noise": FROM_ZERO,
        **dict.fromkeys(("cells_per_clip", "pixels_per_cell"), COUNT),
        "figure_weight": POSITIVE,
    },
    ("wan_teacher", "data"): SHARDS,
    ("wan_inter_shot", "data"): dict.fromkeys(("batch_size", "max_latent_frames"), COUNT),
}
WEIGHTS = (((1.0,), (0.0, 2.5)), ((), (0.0, 0.0), (1.0, -0.1), (inf,), (nan,)))
LENGTHS = (((3,), (3, 6)), ((), (0,), (3, 0)))
TUPLES = {
    ("theatre_teacher", "data", "shot_weights"): WEIGHTS,
    ("theatre_teacher", "data", "num_latent_frames"): LENGTHS,
    ("theatre_teacher", "data", "num_shots"): LENGTHS,
    ("theatre_inter_shot", "data", "shot_weights"): WEIGHTS,
    ("theatre_inter_shot", "data", "num_latent_frames"): LENGTHS,
    ("wan_inter_shot", "data", "shot_weights"): WEIGHTS,
    ("theatre_decoder", "data", "framing_weights"): (
        ((1.0, 0.0, 0.0),),
        ((), (0.0, 0.0, 0.0), (1.0, 1.0), (1.0, 1.0, 1.01), (1.0, -0.1, 1.0), (1.0, nan, 1.0)),
    ),
    **{
        (name, "stage", "student_steps"): (
            ((1000,), (1000, 500)),
            ((), (500, 1000), (1001,), (500, 500), (1000, -1)),
        )
        for name in ("theatre_ode_pairs", "theatre_causal_init", "theatre_intra_shot")
    },
}


def changed(name: str, section: str, setting: str, value: object) -> Any:
    """A recipe with one setting changed, as `--set` changes it."""
    made = recipe(name)
    return replace(made, **{section: replace(getattr(made, section), **{setting: value})})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "section"), TABLE)
def test_a_number_that_cannot_train_is_refused_by_its_name_and_the_last_that_can_is_taken(
    name: str, section: str
) -> None:
    for setting, (taken, refused) in TABLE[name, section].items():
        for value in taken:
            assert getattr(getattr(changed(name, section, setting, value), section), setting) == value
        for value in refused:
            shown = "levels from" if setting.endswith("_sigma") else setting
            with pytest.raises(ValueError, match=rf"^({setting}|{shown}) "):
                changed(name, section, setting, value)


@pytest.mark.parametrize(("name", "section", "setting"), TUPLES)
def test_a_list_of_numbers_that_cannot_train_is_refused(name: str, section: str, setting: str) -> None:
    taken, refused = TUPLES[name, section, setting]
    for value in taken:
        assert getattr(getattr(changed(name, section, setting, value), section), setting) == value
    for value in refused:
        with pytest.raises(ValueError, match=rf"{setting}|steps"):
            changed(name, section, setting, value)


def test_the_table_has_every_number_of_every_section() -> None:
    """A setting that is added later has a row here, or is trained with whatever it is given."""
    known: dict[type, set[str]] = {}
    for (name, section), table in TABLE.items():
        known.setdefault(type(getattr(recipe(name), section)), set()).update(table)
    own = known[IntraShotConfig]
    known[InterShotConfig] |= own  # it is one
    for name, section in product(RECIPES, ("data", "optim", "train", "stage")):
        config: Any = getattr(recipe(name), section)
        if config is not None:
            numbers = {one.name for one in fields(config) if type(getattr(config, one.name)) in (int, float)}
            missing = numbers - known.get(type(config), set())
            assert not missing, (
                f"no row for {sorted(missing)} of {type(config).__name__}: check each in __post_init__, and "
                f"give TABLE[{name!r}, {section!r}] what is taken and what is refused of it"
            )


def settings_of_words(config: Any) -> Iterator[tuple[Any, str, str, tuple[str, ...]]]:
    """Each setting that takes certain words: its configuration, its name, its dotted name and the words."""
    for one in fields(config):
        value, hint = getattr(config, one.name), get_type_hints(type(config))[one.name]
        if get_origin(hint) is Literal:
            yield config, one.name, one.name, get_args(hint)
        if is_dataclass(value):
            for owner, name, path, words in settings_of_words(value):
                yield owner, name, f"{one.name}.{path}", words


@pytest.mark.parametrize("name", RECIPES)
def test_a_word_that_no_setting_has_is_refused_by_its_name_and_all_that_one_has_are_taken(name: str) -> None:
    """Made in code, set on the command line or read from a run: a word was trained with until code met it."""
    found = list(settings_of_words(recipe(name)))
    assert {path for _, _, path, _ in found} >= {"train.matmul_dtype"}
    for owner, setting, path, words in found:
        for word in words:
            assert getattr(replace(owner, **{setting: word}), setting) == word
        with pytest.raises(ValueError, match="'magic'") as in_code:
            made = copy(owner)
            object.__setattr__(made, setting, "magic")  # as a constructor has it, where types are not checked
            made.__post_init__()
        with pytest.raises(ValueError, match="'magic'") as as_override:
            recipe(name, [f"{path}=magic"])
        for refused in (in_code, as_override):
            assert all(word in str(refused.value) for word in words)
        document = config_to_document(recipe(name))
        *sections, last = path.split(".")
        part = document
        for section in sections:
            part = part[section]
        part[last] = "magic"
        with pytest.raises(ConfigError, match=rf'^here\.{path} is "magic"; .*{words[-1]} belongs there$'):
            recipe_from_document(document, "here")


def test_captions_of_shards_are_read_where_the_shards_are() -> None:
    """Whatever a recipe says of its text encoder: the shards hold what theirs said."""
    for overrides, directory in ((["data.directory=shards/others"], "shards/others"), ([], "data/shards")):
        made = recipe("wan_teacher", overrides)
        assert made.model.text == StoredTextConfig(directory=directory)
        assert made.model.text.directory == made.data.directory == directory
    theatre = recipe("theatre_teacher")
    with pytest.raises(ValueError, match=r"model\.text is that of shards, and the stories are rendered"):
        replace(theatre, model=replace(theatre.model, text=StoredTextConfig(directory="shards")))


@pytest.mark.parametrize("policy", ["prompt", "keys"])
def test_a_context_policy_that_compares_shots_of_a_film_is_not_for_training(policy: str) -> None:
    assert changed("theatre_teacher", "model", "context_policy", "published").model.context_policy
    with pytest.raises(ValueError, match=f"'{policy}' compares .* which training does not"):
        changed("theatre_teacher", "model", "context_policy", policy)
