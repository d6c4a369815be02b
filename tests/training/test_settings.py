"""Which numbers every stage takes and which it refuses, before anything is loaded or drawn."""

from dataclasses import fields, is_dataclass, replace
from math import inf, nan
from typing import Any

import pytest

from shotstream.data.captions import StoredTextConfig
from shotstream.training.recipes import RECIPES, recipe

COUNT = ((1, 7), (0, -1))
SHARE = ((0.0, 0.5, 1.0), (-0.01, 1.01, nan))
POSITIVE = ((1e-6, 5.0), (0.0, -1.0, inf, nan))
FROM_ZERO = ((0.0, 3.0), (-0.01, inf, nan))
SEED = ((0, 9), (-1,))
DECAY = ((0.0, 0.5, 0.9999), (1.0, -0.1, nan))

# (recipe, place of the settings): each setting with (what is taken, what is refused)
TABLE: dict[tuple[str, str], dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    ("theatre_teacher", ""): {
        **dict.fromkeys(("num_steps", "decay_steps", "batch_size", "warmup_steps"), COUNT),
        **dict.fromkeys(("causal_share", "clean_history", "context_drop", "caption_drop"), SHARE),
        **dict.fromkeys(("figure_share", "pair_share"), SHARE),
        **dict.fromkeys(("learning_rate", "max_norm", "shift", "max_figure_weight"), POSITIVE),
        "seed": SEED,
        "ema_decay": DECAY,
    },
    ("theatre_ode_pairs", ""): {
        "seed": SEED,
        **dict.fromkeys(("guidance", "context_guidance"), FROM_ZERO),
        "substeps": COUNT,
    },
    ("theatre_causal_init", ""): {
        **dict.fromkeys(("seed", "max_bad_files"), SEED),
        **dict.fromkeys(("num_steps", "warmup_steps"), COUNT),
        **dict.fromkeys(("learning_rate", "max_norm"), POSITIVE),
        "ema_decay": DECAY,
    },
    ("theatre_intra_shot", "dmd"): {
        "seed": SEED,
        **dict.fromkeys(("guidance", "context_guidance"), FROM_ZERO),
        "fake_updates": COUNT,
        "num_steps": ((100,), (0, -1)),
        "fake_warmup_steps": ((0, 3), (-1,)),
        "least_sigma": ((0.0, 0.5), (-0.01, 0.98, 0.99, nan)),  # below the greatest, 0.98
        "most_sigma": ((0.03, 1.0), (0.02, 0.01, 1.01, nan)),  # above the least, 0.02
        **dict.fromkeys(("student_rate", "fake_rate", "student_max_norm", "fake_max_norm"), POSITIVE),
        "ema_decay": DECAY,
    },
    ("theatre_inter_shot", ""): {"lora_rank": ((0, 4), (-1,)), "lora_alpha": COUNT},
    ("theatre_codec", ""): {
        "seed": SEED,
        "max_noise": FROM_ZERO,
        **dict.fromkeys(("num_steps", "batch_size"), COUNT),
        "learning_rate": POSITIVE,
        "ema_decay": DECAY,
    },
    ("theatre_decoder", ""): {
        "seed": SEED,
        "max_noise": FROM_ZERO,
        **dict.fromkeys(("num_steps", "decay_steps", "batch_size", "num_latent_frames"), COUNT),
        **dict.fromkeys(("warmup_steps", "cells_per_clip", "pixels_per_cell"), COUNT),
        "still_weight": SHARE,
        **dict.fromkeys(("learning_rate", "figure_weight"), POSITIVE),
        "ema_decay": DECAY,
    },
    ("theatre_text", ""): {
        "seed": SEED,
        **dict.fromkeys(("num_steps", "batch_size", "max_shots"), COUNT),
        **dict.fromkeys(("empty_share", "global_drop", "word_drop"), SHARE),
        "learning_rate": POSITIVE,
        "ema_decay": DECAY,
    },
}
TUPLES = {
    ("theatre_teacher", "", "shot_weights"): (
        ((1.0,), (0.0, 2.5)),
        ((), (0.0, 0.0), (1.0, -0.1), (inf,), (nan,)),
    ),
    ("theatre_decoder", "", "framing_weights"): (
        ((1.0, 0.0, 0.0),),
        ((), (0.0, 0.0, 0.0), (1.0, 1.0), (1.0, 1.0, 1.01), (1.0, -0.1, 1.0), (1.0, nan, 1.0)),
    ),
    ("theatre_intra_shot", "dmd", "student_steps"): (
        ((1000,), (1000, 500)),
        ((), (500, 1000), (1001,), (500, 500), (1000, -1)),
    ),
}


def settings(name: str, place: str) -> Any:
    stage: Any = recipe(name).stage
    return getattr(stage, place) if place else stage


@pytest.mark.parametrize(("name", "place"), TABLE)
def test_a_number_that_cannot_train_is_refused_by_its_name_and_the_last_that_can_is_taken(
    name: str, place: str
) -> None:
    config = settings(name, place)
    for setting, (taken, refused) in TABLE[name, place].items():
        for value in taken:
            assert getattr(replace(config, **{setting: value}), setting) == value
        for value in refused:
            shown = "levels from" if setting.endswith("_sigma") else setting
            with pytest.raises(ValueError, match=rf"^({setting}|{shown}) "):
                replace(config, **{setting: value})


@pytest.mark.parametrize(("name", "place", "setting"), TUPLES)
def test_a_list_of_numbers_that_cannot_train_is_refused(name: str, place: str, setting: str) -> None:
    config = settings(name, place)
    taken, refused = TUPLES[name, place, setting]
    for value in taken:
        assert getattr(replace(config, **{setting: value}), setting) == value
    for value in refused:
        with pytest.raises(ValueError, match=rf"{setting}|steps"):
            replace(config, **{setting: value})


def test_the_table_has_every_number_of_every_stage() -> None:
    """A setting that is added later has a row here, or is trained with whatever it is given."""
    known = {setting for table in TABLE.values() for setting in table} | {"pixels_per_cell"}
    for name in RECIPES:
        stage: Any = recipe(name).stage
        for config in (stage, getattr(stage, "dmd", stage)):
            assert is_dataclass(config)
            numbers = {one.name for one in fields(config) if type(getattr(config, one.name)) in (int, float)}
            assert numbers <= known, name


def test_captions_of_shards_are_read_where_the_shards_are() -> None:
    """Whatever a recipe says of its text encoder: the shards hold what theirs said."""
    for name, directory in (("wan_teacher", "shards/others"), ("wan_teacher", "")):
        stage: Any = recipe(name, [f"stage.pool.directory={directory}"] if directory else []).stage
        assert stage.text == StoredTextConfig(directory=stage.pool.directory)
        assert not directory or stage.text.directory == directory
    theatre: Any = recipe("theatre_teacher").stage
    with pytest.raises(ValueError, match="text is stored with shards, and the stories are rendered"):
        replace(theatre, text=StoredTextConfig(directory="shards"))
