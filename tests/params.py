"""Parameters of laws that hold for many cases: the fast tests try the first few, the slow tests all."""

from collections.abc import Iterable
from typing import Any

import pytest


def first(number: int, cases: Iterable[Any]) -> list[Any]:
    """The cases; all but the first `number` are slow."""
    return [
        case
        if index < number
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for index, case in enumerate(cases)
    ]
