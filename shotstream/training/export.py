"""From runs to a bundle: the averaged weights of a codec and of a model, in half precision, ready to load."""

from pathlib import Path

import torch

from shotstream.codec.patch_codec import PatchCodec
from shotstream.streaming.engine import EngineConfig
from shotstream.streaming.pipeline import theatre_bundle_config
from shotstream.theatre.render import FPS
from shotstream.theatre.sets import STAGE_SIZE
from shotstream.training.recipes import Recipe
from shotstream.training.run import averaged_model, input_codec, newest_checkpoint, recipe_of_run
from shotstream.training.stages.causal_init import CausalInitTraining
from shotstream.training.stages.ode_pairs import OdePairsTraining
from shotstream.training.stages.teacher import TeacherTraining, TheatreModel
from shotstream.weights.bundle import write_bundle


def export_run(name: str, runs: Path, directory: Path) -> str:
    """Writes the bundle of a theatre run, replacing one that is there; returns its sha256.

    Args:
        name: a recipe whose run made a model: the causal teacher can stream too, with more steps.
        runs: folder of all runs.
        directory: the bundle.

    Raises:
        ValueError: the run made no model, or has no checkpoint.
    """
    chosen = recipe_of_run(runs, name)
    teacher, student_steps = _teacher_of(chosen)
    model = averaged_model(newest_checkpoint(runs, name), TheatreModel(teacher.dit, teacher.text))
    return export_theatre(
        input_codec(runs), model, directory, shift=teacher.shift, student_steps=student_steps
    )


def export_theatre(
    codec: PatchCodec,
    model: TheatreModel,
    directory: Path,
    *,
    shift: float,
    student_steps: tuple[int, ...],
    num_chunks: int = 3,
) -> str:
    """Writes the bundle of a theatre model, replacing one that is there; returns its sha256.

    Args:
        codec: in eval mode.
        model: a student, or a causal teacher.
        directory: the bundle.
        shift: shift of the schedule that the model was trained with.
        student_steps: steps that it was trained for.
        num_chunks: usual length of a shot.
    """
    engine = EngineConfig(
        family="theatre",
        model_id="theatre",
        fps=FPS,
        pixel_size=STAGE_SIZE,
        num_chunks=num_chunks,
        context_policy="theatre",
        student_steps=student_steps,
        shift=shift,
    )
    parts = {"dit": model.dit, "codec": codec, "text_encoder": model.text}
    return write_bundle(
        directory,
        theatre_bundle_config(engine, model.dit.config, codec.config, model.text.config),
        {name: part.state_dict() for name, part in parts.items()},
        dtype=torch.float16,
        overwrite=True,
    )


def _teacher_of(chosen: Recipe) -> tuple[TeacherTraining, tuple[int, ...]]:
    """How the model's teacher was trained, and the steps that the model takes."""
    if isinstance(chosen.stage, CausalInitTraining):
        return chosen.stage.pairs.teacher, chosen.stage.pairs.student_steps
    if isinstance(chosen.stage, TeacherTraining):
        return chosen.stage, OdePairsTraining(teacher=chosen.stage).student_steps
    raise ValueError(f"{chosen.name} makes no model; export a teacher or a student")
