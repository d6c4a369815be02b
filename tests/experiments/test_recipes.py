"""The recipes of the ablations, which are the theatre's in miniature."""

import pytest

from experiments.ablations import STAGES
from shotstream.configs import config_to_document
from shotstream.training.recipes import RECIPES, recipe
from shotstream.training.saved_recipes import recipe_from_document
from tests.training.test_nested_recipes import WRITTEN, complete
from tests.training.test_rates import rate_of
from tests.training.test_recipes import scales


@pytest.mark.parametrize("name", STAGES)
def test_each_is_read_as_it_is_written_and_as_earlier_versions_wrote_it(name: str) -> None:
    made = recipe(name)
    assert made.name == name
    assert recipe_from_document(config_to_document(made), name) == made
    assert recipe_from_document(complete(WRITTEN[name]), name) == made


def test_each_starts_from_recipes_that_are_there() -> None:
    done = {name for name in RECIPES if name not in STAGES}
    for name in STAGES:
        assert set(recipe(name).inputs.names()) <= done
        done.add(name)


@pytest.mark.parametrize("name", STAGES)
def test_none_is_guided_by_context_as_the_full_row_is_the_published_method(name: str) -> None:
    found = scales(config_to_document(recipe(name)))
    assert found == [1.0] * len(found)
    assert bool(found) == name.endswith(("_pairs", "_shot"))


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("mini_teacher", {18_899: 1, 18_900: 1, 19_100: 0.5, 19_299: 1 / 400}),
        ("mini_causal_init", {0: 0.1, 75: 0.5, 149: 1 / 150}),
    ],
)
def test_each_has_the_rates_it_always_had(name: str, at: dict[int, float]) -> None:
    made = recipe(name)
    assert {step: rate_of(made, step) for step in at} == pytest.approx(at)
