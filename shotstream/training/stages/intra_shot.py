"""The intra-shot stage: distribution matching with the true history; each shot is the student's own.

It is the first distillation stage of arXiv 2603.25746: the student learns to generate one shot on its own
chunks, without errors of earlier shots.
"""

from dataclasses import dataclass

from shotstream.data.batches import DataSource, ShotBatch
from shotstream.data.shard_source import ShardsConfig
from shotstream.data.story_pool import StoryPoolConfig
from shotstream.training.parallelize import ParallelConfig
from shotstream.training.recipe import ModelConfig, Recipe
from shotstream.training.stage import Film
from shotstream.training.stages.dmd import DmdConfig, DmdStage, RolloutBatch, fake_of
from shotstream.training.text_conditioned_dit import TextConditionedDiT


@dataclass(frozen=True, kw_only=True, slots=True)
class IntraShotConfig(DmdConfig):
    """Configuration of the intra-shot stage: that of distribution matching."""


IntraShotRecipe = Recipe[ModelConfig, StoryPoolConfig | ShardsConfig, IntraShotConfig]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrueHistory:
    """A `DataSource` of rollouts whose context is true earlier shots."""

    shots: DataSource[ShotBatch]
    """Source of shots with their true history."""
    chunk_latent_frames: int
    """Number of latent frames of a chunk."""

    def batch(self, step: int, samples: range) -> RolloutBatch:
        """Returns conditioning and lengths of the stories' shots."""
        drawn = self.shots.batch(step, samples)
        num_chunks = drawn.x0.shape[2] // self.chunk_latent_frames
        return RolloutBatch(drawn.conditioning, drawn.captions, num_chunks, samples)


def intra_shot_stage(
    recipe: IntraShotRecipe,
    *,
    student: TextConditionedDiT,
    teacher: TextConditionedDiT,
    source: DataSource[ShotBatch],
    film: Film | None = None,
    parallel: ParallelConfig | None = None,
) -> DmdStage:
    """Returns the intra-shot stage, which trains all weights of student and fake score.

    Args:
        recipe: Recipe of the run.
        student: The student, changed in place.
        teacher: The teacher, frozen in place; the fake score starts as a copy of it.
        source: Source of shots with their true history.
        film: See `DmdStage`.
        parallel: How steps are computed.
    """
    return DmdStage(
        recipe,
        student=student,
        teacher=teacher,
        fake=fake_of(teacher),
        source=TrueHistory(shots=source, chunk_latent_frames=recipe.model.dit.chunk_latent_frames),
        film=film,
        parallel=parallel,
    )
