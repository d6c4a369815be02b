"""The experiments are known while a test of them runs, and to no other test."""

from collections.abc import Iterator
from unittest.mock import patch

import pytest

from experiments import register
from shotstream.streaming.context_sampling import POLICIES
from shotstream.training.recipes import RECIPES
from shotstream.training.saved_recipes import KINDS


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    kinds = {*KINDS}
    with patch.dict(POLICIES), patch.dict(RECIPES):
        register()
        yield
    KINDS.intersection_update(kinds)
