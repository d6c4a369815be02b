"""A bundle exported from runs loads, streams and says what it was made of."""

from pathlib import Path

import pytest
import torch

from shotstream.configs import config_to_document
from shotstream.streaming.loading import load
from shotstream.training.checkpoint import checkpoints, load_checkpoint
from shotstream.training.export import export_run
from shotstream.training.inputs import trained_model
from shotstream.training.recipes import RECIPES, recipe
from shotstream.training.run import run_recipe
from shotstream.training.saved_recipes import recipe_from_document
from shotstream.vae.patch_codec import PatchCodec
from shotstream.weights.bundle import read_bundle
from tests.training.test_decoder import decoder
from tests.training.test_run import CODEC, codec, teacher


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_document(name: str) -> None:
    assert recipe_from_document(config_to_document(recipe(name)), name) == recipe(name)


@pytest.mark.slow
def test_an_exported_run_streams(tmp_path: Path) -> None:
    run_recipe(codec(1), tmp_path)
    run_recipe(teacher(1), tmp_path)
    sha256 = export_run("theatre_teacher", tmp_path, tmp_path / "bundle")
    pipeline = load(tmp_path / "bundle", device="cpu", precision="float32")
    assert pipeline.weights_sha256 == sha256
    session = pipeline.session("A red fox in the city by day.", seed=1)
    frames = [chunk.frames for chunk in session.shot("Wide shot: the fox waves.", num_chunks=2)]
    assert [len(part) for part in frames] == [9, 12]
    assert frames[0].shape[1:] == (48, 80, 3)


def test_what_is_exported_and_judged_is_the_average_and_not_the_last_step(tmp_path: Path) -> None:
    """Raw weights look alike and score worse: no error tells them from the average."""
    run_recipe(codec(1), tmp_path)
    run_recipe(teacher(3), tmp_path)
    export_run("theatre_teacher", tmp_path, tmp_path / "bundle")
    _, state = load_checkpoint(checkpoints(tmp_path / "theatre_teacher")[-1])
    parts = {part: read_bundle(tmp_path / "bundle").tensors[part] for part in ("dit", "text_encoder")}
    exported = {f"dit.{name}": value for name, value in parts["dit"].items()}
    exported |= {f"text.{name}": value for name, value in parts["text_encoder"].items()}
    judged = trained_model(tmp_path, "theatre_teacher").state_dict()
    averages = {name: value for name, value in state["ema"].items() if name != "num_updates"}
    assert averages.keys() <= exported.keys() and len(averages) > 40
    num_different = 0
    for name, average in averages.items():
        assert torch.equal(exported[name], average.half()), name
        assert torch.equal(judged[name], average), name
        num_different += not torch.equal(average.half(), state["weights"][name].half())
    assert num_different > len(averages) / 2, "the average of this run is not its last step"


@pytest.mark.slow
def test_a_finished_decoder_goes_into_the_model_whose_latents_it_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_recipe(codec(1), tmp_path)
    run_recipe(teacher(1), tmp_path)
    export_run("theatre_teacher", tmp_path, tmp_path / "shipped")
    monkeypatch.setattr("shotstream.training.export._SHIPPED", str(tmp_path / "shipped"))
    run_recipe(decoder(2), tmp_path)
    export_run("theatre_decoder", tmp_path, tmp_path / "bundle")
    old, new = (load(tmp_path / name, device="cpu", precision="float32") for name in ("shipped", "bundle"))
    assert isinstance(new.codec, PatchCodec) and new.codec.config.num_finish_layers == 1
    pixels = torch.rand(1, 3, 9, 48, 80, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(old.codec.encode(pixels), new.codec.encode(pixels))

    another = recipe("theatre_codec", [*CODEC, "train.num_steps=1", "train.seed=1"])
    run_recipe(another, tmp_path / "other")
    run_recipe(decoder(1), tmp_path / "other")
    with pytest.raises(ValueError, match="has another encoder"):
        export_run("theatre_decoder", tmp_path / "other", tmp_path / "bundle")


def test_a_run_without_a_model_is_refused(tmp_path: Path) -> None:
    run_recipe(codec(1), tmp_path)
    with pytest.raises(ValueError, match="makes no model"):
        export_run("theatre_codec", tmp_path, tmp_path / "bundle")
    with pytest.raises(ValueError, match="holds no run"):
        export_run("theatre_teacher", tmp_path, tmp_path / "bundle")
