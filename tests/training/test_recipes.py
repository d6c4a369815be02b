"""Recipes: overrides reach their field, and nothing else is accepted."""

import json

import pytest

from shotstream.training.recipes import RECIPES, recipe, to_document
from shotstream.training.stages.teacher import TeacherTraining


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_resolves_to_a_document(name: str) -> None:
    document = to_document(recipe(name))
    assert document["name"] == name
    assert json.loads(json.dumps(document)) == document


def test_an_override_reaches_its_field() -> None:
    result = recipe(
        "theatre_teacher", ["stage.dit.num_layers=2", "stage.learning_rate=1", "stage.pool.num_shots=[1, 2]"]
    )
    assert isinstance(result.stage, TeacherTraining)
    assert result.stage.dit.num_layers == 2
    assert result.stage.learning_rate == 1.0
    assert result.stage.pool.num_shots == (1, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage.dim=2", "there is no setting"),
        ("stage.dit=2", "has parts"),
        ("stage.batch_size=big", "must be of type int"),
        ("stage.batch_size=true", "must be of type int"),
        ("stage.batch_size", "not an override"),
        ("stage.batch_size=[", "not a value in YAML"),
        ("stage.learning_rate=fast", "must be of type float"),
        ("stage.seed.more=2", "has no parts"),
    ],
)
def test_an_override_that_cannot_take_effect_is_refused(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe("theatre_teacher", [override])


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="theatre_codec"):
        recipe("cinema")


def test_a_float_may_be_written_without_a_point() -> None:
    """YAML reads 1e-3 as a word."""
    result = recipe("theatre_teacher", ["stage.learning_rate=1e-3"])
    assert isinstance(result.stage, TeacherTraining)
    assert result.stage.learning_rate == 0.001
