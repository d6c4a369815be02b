"""From runs to a bundle: the averaged weights of a codec and of a model, in half precision, ready to load."""

from pathlib import Path

import torch

from shotstream.codec.patch_codec import PatchCodec
from shotstream.diffusion.schedule import STUDENT_STEPS
from shotstream.streaming.engine import EngineConfig
from shotstream.streaming.pipeline import theatre_bundle_config
from shotstream.theatre.render import FPS
from shotstream.theatre.sets import STAGE_SIZE
from shotstream.training.stages.teacher import TheatreModel
from shotstream.weights.bundle import write_bundle


def export_theatre(
    codec: PatchCodec,
    model: TheatreModel,
    directory: Path,
    *,
    shift: float,
    student_steps: tuple[int, ...] = STUDENT_STEPS,
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
    return write_bundle(
        directory,
        theatre_bundle_config(engine, model.dit.config, codec.config, model.text.config),
        {
            "dit": model.dit.state_dict(),
            "codec": codec.state_dict(),
            "text_encoder": model.text.state_dict(),
        },
        dtype=torch.float16,
        overwrite=True,
    )
