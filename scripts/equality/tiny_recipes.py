"""Every recipe at tiny size: what is set of each, by names that hold before and after settings have moved.

A setting is named by the end of its path, `dit.dim` for `stage.dmd.teacher.dit.dim`; where a name itself has
changed, the names that it had stand behind one another, `loop.num_steps|train.num_steps`; one that some
revisions do not have ends in `?`. What the checkout shows in a dry run decides; of several settings that end
alike the outermost is meant.
"""

from collections.abc import Iterator, Mapping
from typing import Any

STEPS = 20
HALF = 10
PAIR_FILES = 5
NUM_STEPS, STOP_AT = "loop.num_steps|train.num_steps", "stop_at"

LOOP = {"log_every": 1, "save_every": HALF, "keep": 9, "preview_every": 1000, "tensorboard": "false"}
CODEC = {
    "codec.dim|model.dim": 16,
    "codec.num_decoder_layers|model.num_decoder_layers": 1,
    "pixels_per_cell": 4,
}
DIT = {
    "dit.dim": 24,
    "dit.ffn_dim": 24,
    "dit.num_heads": 2,
    "dit.num_layers": 1,
    "dit.freq_dim": 8,
    "dit.text_dim": 8,
}
TEXT = {"text.dim|model.text.dim": 8}
POOL = {
    "pool.block_stories|data.block_stories?": 2,
    "pool.num_blocks|data.num_blocks?": 1,
    "pool.num_shots|data.num_shots?": "[3,7]",
    "pool.num_latent_frames|data.num_latent_frames?": "[3,6]",
    "pool.steps_per_block|data.steps_per_block?": 4,
    "batch_size?": 2,
}
THEATRE = {**DIT, **TEXT, **POOL}
MINI = THEATRE
RISES_AND_FALLS = {"warmup_steps": 5, "decay_steps": 8}
MATCHING = {"fake_updates": 1, "fake_warmup_steps": 3}
ADAPTERS = {"lora_rank": 2}
PAIRS = {NUM_STEPS: PAIR_FILES, "save_every": 2, "substeps?": 1}
INIT = {"substeps?": 1, "warmup_steps": 5}
PREVIEWS = {"preview_every": HALF}

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "theatre_codec": {**CODEC, **PREVIEWS, "batch_size": 2},
    "theatre_decoder": {
        **CODEC,
        **PREVIEWS,
        **RISES_AND_FALLS,
        "batch_size": 2,
        "cells_per_clip": 6,
        "stage.num_latent_frames|data.num_latent_frames": 2,
        "codec.num_finish_layers|model.num_finish_layers": 1,
        "codec.finish_dim|model.finish_dim": 16,
    },
    "theatre_teacher": {**THEATRE, **RISES_AND_FALLS},
    "theatre_ode_pairs": {**THEATRE, **PAIRS},
    "theatre_causal_init": {**THEATRE, **INIT},
    "theatre_intra_shot": {**THEATRE, **MATCHING},
    "theatre_inter_shot": {**THEATRE, **MATCHING, **ADAPTERS},
    "theatre_published_pairs": {**THEATRE, **PAIRS},
    "theatre_published_init": {**THEATRE, **INIT},
    "mini_teacher": {**MINI, **RISES_AND_FALLS},
    "mini_ode_pairs": {**MINI, **PAIRS},
    "mini_causal_init": {**MINI, **INIT},
    "mini_intra_shot": {**MINI, **MATCHING},
    "mini_inter_shot": {**MINI, **MATCHING, **ADAPTERS},
    "wan_teacher": {},
    "wan_ode_pairs": PAIRS,
    "wan_causal_init": INIT,
    "wan_intra_shot": MATCHING,
    "wan_inter_shot": {**MATCHING, **ADAPTERS, "shot_weights": "[0.0,1.0]"},
}
"""In the order in which each finds the runs that it begins at."""

ROW_NAMES = (
    "full", "no_phase", "shot_embedding", "first_frames", "first_and_last", "target_caption", "intra_only",
    "inter_only", "published_init",
)  # fmt: skip
ROW_STEPS = 4
ROWS: Mapping[str, Mapping[str, Any]] = {
    "mini_teacher": MINI,
    "mini_ode_pairs": {**MINI, **PAIRS, NUM_STEPS: 2},
    "mini_causal_init": {**MINI, **INIT, NUM_STEPS: ROW_STEPS},
    "mini_intra_shot": {**MINI, **MATCHING, NUM_STEPS: ROW_STEPS},
    "mini_inter_shot": {**MINI, **MATCHING, **ADAPTERS, NUM_STEPS: ROW_STEPS},
}
"""The stages of a row of the ablations."""


class NotThere(ValueError):
    """A recipe has no setting of any of the names."""


def leaves_of(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted names of all settings of a recipe that a dry run shows, and their values."""
    for name, value in document.items():
        if isinstance(value, dict):
            yield from leaves_of(value, f"{prefix}{name}.")
        elif name != "kind":
            yield prefix + name, value


def spelled(settings: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    """The settings as this checkout takes them behind --set.

    Raises:
        NotThere: it has none of that name.
    """
    paths = [path for path, _ in leaves_of(document)]
    found = [(_path(names, paths), value) for names, value in settings.items()]
    return [f"{path}={value}" for path, value in found if path]


def _path(names: str, paths: list[str]) -> str:
    """The setting's whole name; empty where there is none, and need not be."""
    for name in names.removesuffix("?").split("|"):
        found = sorted(
            (path for path in paths if f".{path}".endswith(f".{name}")), key=lambda one: one.count(".")
        )
        if found:
            return found[0]
    if names.endswith("?"):
        return ""
    raise NotThere(f"no setting is named {names}; there are {', '.join(paths)}")
