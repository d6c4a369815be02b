"""A bundle exported from runs loads, streams and says what it was made of."""

from pathlib import Path

import pytest

from shotstream.streaming.pipeline import load
from shotstream.training.export import export_run
from shotstream.training.recipes import RECIPES, from_document, recipe, to_document
from shotstream.training.run import run_recipe
from tests.training.test_run import codec, teacher


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_document(name: str) -> None:
    assert from_document(to_document(recipe(name))) == recipe(name)


def test_an_exported_run_streams(tmp_path: Path) -> None:
    run_recipe(codec(1), tmp_path)
    run_recipe(teacher(1), tmp_path)
    sha256 = export_run("theatre_teacher", tmp_path, tmp_path / "bundle")
    pipeline = load(tmp_path / "bundle", device="cpu", precision="float32")
    assert pipeline.weights_sha256 == sha256
    session = pipeline.session("A red fox in the city.", seed=1)
    frames = [chunk.frames for chunk in session.shot("Wide shot: the fox waves.", num_chunks=2)]
    assert [len(part) for part in frames] == [9, 12]
    assert frames[0].shape[1:] == (48, 80, 3)


def test_a_run_without_a_model_is_refused(tmp_path: Path) -> None:
    run_recipe(codec(1), tmp_path)
    with pytest.raises(ValueError, match="makes no model"):
        export_run("theatre_codec", tmp_path, tmp_path / "bundle")
    with pytest.raises(ValueError, match="holds no run"):
        export_run("theatre_teacher", tmp_path, tmp_path / "bundle")
