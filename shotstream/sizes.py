"""Limits of the sizes of networks, checked before anything is built.

Without them, a file that claims ten thousand million layers would be processed until memory is exhausted. The
limits are far above any model of these families; raise them here for a larger model.
"""

from collections.abc import Iterable

_MOST = {"layers": 512, "blocks": 512, "heads": 1024, "past": 1024, "frames": 100_000, "chunks": 100_000}
"""Maximum, by the last word of a size's name."""
_MOST_OF_OTHERS = 1 << 20
"""Maximum of other sizes: the largest vocabulary has a quarter of it, the widest layer less than a tenth."""


def refuse_sizes(config: object, names: Iterable[str], *, least: int = 1) -> None:
    """Raises ValueError unless each named field of a config is an integer in the range of possible sizes.

    Raises:
        ValueError: The message names the field, its value and the limit.
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
