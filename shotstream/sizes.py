"""Sizes that a network can have: refused before anything is built of one that no network has.

A file that says ten thousand million layers would otherwise be worked on until the memory ends. The limits
are far beyond any model of these families; a model that needs more changes them here.
"""

from collections.abc import Iterable

_MOST = {"layers": 512, "blocks": 512, "heads": 1024, "past": 1024, "frames": 100_000, "chunks": 100_000}
"""By the last word of a size's name."""
_MOST_OF_OTHERS = 1 << 20
"""The largest vocabulary has a quarter of this, the widest layer less than a tenth."""


def refuse_sizes(config: object, names: Iterable[str], *, least: int = 1) -> None:
    """Return only if each of a config's named fields is a whole number that a network can have.

    Raises:
        ValueError: Names the field, its value and the limit.
    """
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}; it must be a whole number")
        most = _MOST.get(name.rpartition("_")[2], _MOST_OF_OTHERS)
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
        if value > most:
            raise ValueError(f"{name} is {value:.4g}; no model has more than {most:,}")
