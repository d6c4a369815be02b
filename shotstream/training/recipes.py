"""The recipes by name: the module of each, and overrides of their settings.

`shotstream train NAME` runs one. Settings can be changed by dotted names, for example `--set
data.batch_size=8`; an unknown name or a value of another type is refused. A module is imported when a recipe
of it is requested, so that a command line knows all names before anything is loaded. A new recipe is a
function that returns it and a line in `RECIPES`; `experiments/` adds five.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from shotstream.configs import with_settings
from shotstream.documents import DocumentError, parse_setting, shorten

if TYPE_CHECKING:
    from shotstream.training.recipe import AnyRecipe

RECIPES: Final[dict[str, str]] = {
    "theatre_codec": "shotstream.training.theatre",
    "theatre_decoder": "shotstream.training.theatre",
    "theatre_teacher": "shotstream.training.theatre",
    "theatre_ode_pairs": "shotstream.training.theatre",
    "theatre_causal_init": "shotstream.training.theatre",
    "theatre_intra_shot": "shotstream.training.theatre",
    "theatre_inter_shot": "shotstream.training.theatre",
    "theatre_published_pairs": "shotstream.training.theatre",
    "theatre_published_init": "shotstream.training.theatre",
    "wan_teacher": "shotstream.training.wan",
    "wan_ode_pairs": "shotstream.training.wan",
    "wan_causal_init": "shotstream.training.wan",
    "wan_intra_shot": "shotstream.training.wan",
    "wan_inter_shot": "shotstream.training.wan",
}
"""Module of the function that returns a recipe, by the recipe's name; in the order in which they are run."""


def require_recipe(name: str) -> None:
    """Raises ValueError, with all names, unless there is a recipe of this name."""
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")


def recipe(name: str, overrides: Sequence[str] = ()) -> "AnyRecipe":
    """Returns the recipe of a name, with `key.path=value` overrides.

    Raises:
        ValueError: There is no such recipe or key, or the value has another type.
    """
    require_recipe(name)
    changes: dict[str, Any] = {}
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"{override!r} is not an override; write key.path=value")
        try:
            changes[path] = parse_setting(text)
        except DocumentError as error:
            raise ValueError(f"{shorten(override, 80)!r}: {error}") from error
    return with_settings(getattr(import_module(RECIPES[name]), name)(), changes)
