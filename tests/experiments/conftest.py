"""The experiments are known while a test of them runs, and to no other test."""

from collections.abc import Iterator
from unittest.mock import patch

import pytest

from experiments import register
from shotstream.streaming.context_sampling import POLICIES
from shotstream.training import saved_recipes
from shotstream.training.recipes import RECIPES


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with (
        patch.dict(POLICIES),
        patch.dict(RECIPES),
        patch.object(saved_recipes, "KINDS", {*saved_recipes.KINDS}),
    ):
        register()
        yield
