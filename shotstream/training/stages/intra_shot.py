"""Distribution matching with the true history: each shot is the student's own, the shots before it are real.

The first of the two distillation stages of arXiv 2603.25746: what is learnt is to film one shot well on its
own chunks, before mistakes of earlier shots come into it.
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
    """The numbers of the intra-shot stage: those of distribution matching."""


IntraShotRecipe = Recipe[ModelConfig, StoryPoolConfig | ShardsConfig, IntraShotConfig]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrueHistory:
    """A `DataSource` of rollouts that are conditioned on true earlier shots."""

    shots: DataSource[ShotBatch]
    """Stories whose true shots are the history."""
    chunk_latent_frames: int
    """Length of a chunk."""

    def batch(self, step: int, samples: range) -> RolloutBatch:
        """Conditioning and lengths of shots of the stories."""
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
    """The intra-shot stage: student and fake score learn whole.

    Args:
        recipe: of the run.
        student: changed in place.
        teacher: frozen in place; the fake score starts as a copy of it.
        source: the stories whose true shots are the history.
        film: see `DmdStage`.
        parallel: how steps are computed.
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
