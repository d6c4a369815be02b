"""Runs a recipe in a directory: builds its stage, writes the resolved configuration beside it, trains or
resumes.
"""

import json
import shutil
from pathlib import Path

import torch

from shotstream.codec.patch_codec import PatchCodec, PatchCodecConfig
from shotstream.training.checkpoint import checkpoints
from shotstream.training.loop import train
from shotstream.training.recipes import Recipe, theatre_codec, to_document
from shotstream.training.stage import Stage
from shotstream.training.stages.codec import CodecStage, CodecTraining, codec_from_run
from shotstream.training.stages.teacher import TeacherStage


def run_recipe(
    recipe: Recipe, runs: Path, *, device: torch.device | str = "cpu", start_from: Path | None = None
) -> int:
    """Trains a recipe in `runs/NAME`; the same call resumes.

    Args:
        recipe: what to run.
        runs: folder of all runs; the recipe's inputs are found there.
        device: where to train.
        start_from: a portable checkpoint that a run without checkpoints of its own begins at.

    Returns:
        The number of steps done in all.

    Raises:
        ValueError: an input has not been trained, or the directory holds a run of another configuration.
    """
    directory = runs / recipe.name
    directory.mkdir(parents=True, exist_ok=True)
    _write_config(recipe, directory)
    if start_from is not None and not checkpoints(directory):
        shutil.copy(start_from, directory / "step_0000000.pt")
    return train(build_stage(recipe, runs, device), recipe.loop, directory)


def build_stage(recipe: Recipe, runs: Path, device: torch.device | str = "cpu") -> Stage:
    """The recipe's stage, at its beginning."""
    if isinstance(recipe.stage, CodecTraining):
        return CodecStage(recipe.stage)
    return TeacherStage(recipe.stage, input_codec(runs), device)


def newest_checkpoint(runs: Path, name: str) -> Path:
    """The newest checkpoint of a run.

    Raises:
        ValueError: there is none.
    """
    found = checkpoints(runs / name)
    if not found:
        raise ValueError(f"{runs / name} holds no checkpoint; run `shotstream train {name}` first")
    return found[-1]


def input_codec(runs: Path) -> PatchCodec:
    """The codec that a run of `theatre_codec` trained."""
    checkpoint = newest_checkpoint(runs, "theatre_codec")
    resolved = runs / "theatre_codec" / "config.json"
    if resolved.exists():
        fields = json.loads(resolved.read_text())["stage"]["codec"]
        fields.pop("kind")
        return codec_from_run(checkpoint, PatchCodecConfig(**fields))
    stage = theatre_codec().stage
    assert isinstance(stage, CodecTraining)
    return codec_from_run(checkpoint, stage.codec)


def _write_config(recipe: Recipe, directory: Path) -> None:
    """Writes the resolved configuration; lengths of the run may change on resume, nothing else."""
    document = to_document(recipe)
    path = directory / "config.json"
    if path.exists() and checkpoints(directory):
        old = json.loads(path.read_text())
        changed = [key for key, value in document["stage"].items() if old["stage"].get(key) != value]
        changed = [key for key in changed if key not in ("num_steps", "decay_steps")]
        if changed:
            raise ValueError(
                f"{directory} holds a run with other values of {', '.join(changed)}; "
                "use another --runs folder or the same values"
            )
    path.write_text(json.dumps(document, indent=1) + "\n")
