"""The names of all recipes and of all rows of the ablations, for a command line that has loaded nothing."""

from collections.abc import Mapping
from typing import Final

RECIPE_NAMES: Final[tuple[str, ...]] = (
    "theatre_codec",
    "theatre_decoder",
    "theatre_text",
    "theatre_teacher",
    "theatre_ode_pairs",
    "theatre_causal_init",
    "theatre_intra_shot",
    "theatre_inter_shot",
    "theatre_published_pairs",
    "theatre_published_init",
    "mini_teacher",
    "mini_ode_pairs",
    "mini_causal_init",
    "mini_intra_shot",
    "mini_inter_shot",
    "wan_teacher",
    "wan_ode_pairs",
    "wan_causal_init",
    "wan_intra_shot",
    "wan_inter_shot",
)
"""In the order in which they are run."""

ROW_NAMES: Final[Mapping[str, str]] = {
    "full": "full method",
    "no_phase": "no RoPE indicator",
    "shot_embedding": "learnable embedding instead",
    "first_frames": "context: first frame only",
    "first_and_last": "context: first & last",
    "target_caption": "target caption for all frames",
    "intra_only": "stage 1 only",
    "inter_only": "stage 2 only",
    "published_init": "its causal initialisation",
}
"""Each with its name in the paper's table."""


def require_recipe(name: str) -> None:
    """ValueError unless there is a recipe of this name; it names those that there are."""
    if name not in RECIPE_NAMES:
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(RECIPE_NAMES)}")


def require_row(name: str) -> None:
    """ValueError unless there is a row of this name; it names those that there are."""
    if name not in ROW_NAMES:
        raise ValueError(f"there is no row {name!r}; there are {', '.join(ROW_NAMES)}")
