"""Configurations of earlier runs, whose stages held each other, are read as the flat ones that they mean."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shotstream.data.story_pool import StoryPoolConfig
from shotstream.theatre.questions import QUESTIONS
from shotstream.training.nested_recipes import flattened
from shotstream.training.recipe import WHOLE_RUN, AnyRecipe
from shotstream.training.recipes import RECIPES, recipe
from shotstream.training.saved_recipes import recipe_from_document

# As `config.json` of a run of each recipe was written; the long lists of words stand in the code.
WRITTEN: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "assets" / "nested_recipes.json").read_text()
)


def complete(value: Any) -> Any:
    words = {"WORDS": ["fox", "owl"], "QUESTIONS": [list(question) for question in QUESTIONS]}
    if isinstance(value, dict):
        return {name: complete(item) for name, item in value.items()}
    return words.get(value, value) if isinstance(value, str) else value


def without(value: Any, names: set[str]) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: without(item, names) for name, item in value.items() if name not in names}


def as_it_was(name: str) -> AnyRecipe:
    """A recipe with what has changed since it held nested stages: the theatre's stories and their number."""
    now = recipe(name)
    if not isinstance(now.data, StoryPoolConfig):
        return now
    data = replace(
        now.data,
        num_latent_frames=(3, 6, 9),
        shot_weights=(0.3, 0.25, 0.2, 0.1, 0.1, 0.0, 0.05),
        turn_share=0.0,
        reference_share=0.0,
    )
    num_steps = 18_900 if name == "theatre_teacher" else now.train.num_steps
    return replace(now, data=data, train=replace(now.train, num_steps=num_steps))


@pytest.mark.parametrize("name", RECIPES)
def test_a_nested_configuration_is_the_recipe_that_it_was(name: str) -> None:
    assert recipe_from_document(complete(WRITTEN[name]), name) == as_it_was(name)


def test_what_was_set_is_found_where_it_belongs_now() -> None:
    document = complete(WRITTEN["theatre_inter_shot"])
    dmd = document["stage"]["dmd"]
    document["loop"]["num_steps"] = 55  # of two lengths the loop's is the run's
    dmd |= {"student_rate": 0.25, "fake_rate": 0.5, "student_max_norm": 3.0, "seed": 9}
    dmd["teacher"]["shot_weights"], dmd["teacher"]["batch_size"] = [0.0, 1.0], 7
    dmd["teacher"]["dit"]["phase_angle"] = 0.75
    found = recipe_from_document(document, "here")
    assert (found.train.num_steps, found.train.seed) == (55, 9)
    assert (found.optimizer.learning_rate, found.optimizer.max_norm) == (0.25, 3.0)
    assert found.stage.fake_learning_rate == 0.5
    assert (found.data.shot_weights, found.data.batch_size) == ((0.0, 1.0), 7)
    assert found.model.dit.phase_angle == 0.75
    for name, decays, steps in (("wan_causal_init", False, 1), ("theatre_causal_init", True, WHOLE_RUN)):
        assert WRITTEN[name]["stage"]["decays"] is decays
        assert recipe_from_document(complete(WRITTEN[name]), "here").optimizer.decay_steps == steps


@pytest.mark.parametrize(
    ("name", "newer"),
    [
        ("theatre_teacher", {"matmul_dtype", "figure_share", "pair_share", "max_norm", "learns", "start"}),
        ("theatre_causal_init", {"matmul_dtype", "decays", "max_bad_files"}),
        ("theatre_inter_shot", {"context_guidance", "student_max_norm", "figure_share"}),
        ("theatre_ode_pairs", {"flow", "context_guidance"}),
    ],
)
def test_a_run_that_is_older_than_a_setting_has_the_default_of_its_time(name: str, newer: set[str]) -> None:
    old = recipe_from_document(without(complete(WRITTEN[name]), newer), "here")
    if name == "theatre_teacher":
        assert old == as_it_was(name) and old.train.matmul_dtype == "auto"
    elif name == "theatre_causal_init":
        assert old.train.matmul_dtype == "float32" and old.optimizer.decay_steps == WHOLE_RUN
    elif name == "theatre_inter_shot":
        assert old.stage.context_guidance == 1.0 and old.optimizer.max_norm == 1.0
    else:
        assert (old.stage.flow, old.stage.context_guidance) == ("causal", 1.0)


def test_settings_that_were_given_up_are_dropped() -> None:
    document = complete(WRITTEN["theatre_ode_pairs"])
    document["stage"]["batch_size"] = 99  # never had an effect
    document["stage"]["teacher"]["text"]["bigrams"] = True
    assert recipe_from_document(document, "here") == as_it_was("theatre_ode_pairs")


def test_a_flat_document_is_left_as_it_is() -> None:
    document = {"kind": "Recipe", "name": "x", "train": {}}
    assert flattened(document) is document
