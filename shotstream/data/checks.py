"""Ranges of settings, checked when a configuration is made; the message names the setting."""

from collections.abc import Iterable
from typing import Any


def require_within(config: Any, low: int | float, high: int | float, names: Iterable[str]) -> None:
    """ValueError unless every named setting lies in [low, high]; of a tuple, every element.

    A tuple may not be empty, and what is not a number lies nowhere.
    """
    for name in names:
        value = getattr(config, name)
        elements = value if isinstance(value, tuple) else (value,)
        if not elements or not all(low <= element <= high for element in elements):
            allowed = f"at least {low}" if high == float("inf") else f"in [{low}, {high}]"
            raise ValueError(f"{name} is {value!r}; it must be {allowed}")


def require_positive(config: Any, names: Iterable[str]) -> None:
    """ValueError unless every named setting is a finite number above 0."""
    for name in names:
        value = getattr(config, name)
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value!r}; it must be above 0 and finite")


def require_decay(config: Any, names: Iterable[str]) -> None:
    """ValueError unless every named setting lies in [0, 1), as the decay of an average does."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value!r}; it must be in [0, 1)")
