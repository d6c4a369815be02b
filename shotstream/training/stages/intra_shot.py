"""Distribution matching with the true history: each shot is the student's own, the shots before it are real.

The first of the two distillation stages of arXiv 2603.25746: what is learnt is to film one shot well on its
own chunks, before mistakes of earlier shots come into it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shotstream.data.latents import LatentPool
from shotstream.training.parallelize import Execution
from shotstream.training.stages.dmd import DmdStage, DmdTraining, Scene, fake_of
from shotstream.training.stages.teacher import ShotSource, TheatreModel, draw_batch


@dataclass(frozen=True, kw_only=True, slots=True)
class IntraShotTraining:
    """The recipe of an intra-shot student."""

    dmd: DmdTraining
    """How it is matched to its teacher."""


def intra_shot_stage(
    config: IntraShotTraining,
    *,
    student: TheatreModel,
    teacher: TheatreModel,
    pool: LatentPool | ShotSource,
    film: Callable[[TheatreModel, int, Path], Mapping[str, float]] | None = None,
    execution: Execution | None = None,
) -> DmdStage:
    """The stage: student and fake score learn whole.

    Args:
        config: the recipe.
        student: changed in place.
        teacher: frozen in place; the fake score starts as a copy of it.
        pool: the stories whose true shots are the history.
        film: see `DmdStage`.
        execution: how steps are computed.
    """
    drawn = dataclasses.replace(config.dmd.teacher, seed=config.dmd.seed)
    size = drawn.dit.chunk_latent_frames

    def draw(step: int, samples: range) -> Scene:
        batch = draw_batch(pool.at(step), drawn, step, samples=samples, keep_captions=True)
        return Scene(batch.conditioning, batch.captions, batch.x0.shape[2] // size, samples)

    return DmdStage(
        config.dmd,
        student=student,
        teacher=teacher,
        fake=fake_of(teacher),
        draw=draw,
        film=film,
        execution=execution,
    )
