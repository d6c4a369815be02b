"""Checks of the ranges of settings, when a configuration is created; the message names the setting."""

from collections.abc import Iterable
from typing import Any


def require_within(config: Any, low: int | float, high: int | float, names: Iterable[str]) -> None:
    """Raises ValueError unless every named setting is in [low, high]; for a tuple, every element.

    A tuple must not be empty. Infinite values and values that are not numbers are never in range.
    """
    for name in names:
        value = getattr(config, name)
        elements = value if isinstance(value, tuple) else (value,)
        if not elements or not all(low <= element <= high and element < float("inf") for element in elements):
            allowed = f"at least {low}" if high == float("inf") else f"in [{low}, {high}]"
            raise ValueError(f"{name} is {value!r}; it must be {allowed}")


def require_positive(config: Any, names: Iterable[str]) -> None:
    """Raises ValueError unless every named setting is a finite number above 0."""
    for name in names:
        value = getattr(config, name)
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value!r}; it must be above 0 and finite")


def require_decay(config: Any, names: Iterable[str]) -> None:
    """Raises ValueError unless every named setting is in [0, 1), the range of an EMA decay."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value!r}; it must be in [0, 1)")


def bad_allowed(max_bad: str, num_clips: int) -> int:
    """Returns the number of clips that may be bad; ValueError unless a count or a share such as 1%."""
    number, is_share = max_bad.removesuffix("%"), max_bad.endswith("%")
    try:
        value = float(number) if is_share else int(number)
    except ValueError:
        value = -1
    if not 0 <= value < float("inf") or (is_share and value > 100):
        raise ValueError(f"max_bad is {max_bad!r}; give a number of clips or a share such as 1%")
    return int(value * num_clips / 100) if is_share else int(value)
