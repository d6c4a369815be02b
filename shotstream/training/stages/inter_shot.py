"""Distribution matching with the student's own history: what it filmed before conditions what it films next.

The second distillation stage of arXiv 2603.25746, which closes the gap to inference: the earlier shots are
filmed by the student with all its steps, decoded, and looked back at frame by frame as a session does.
Adapters of low rank learn, on student and fake score; they are merged when the model is exported.

A step draws a place in a story and films up to it from the beginning, so that its history is of the
student as it is now, and a step depends on no other. The world's captions are all the data it takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from shotstream.data.batches import DataSource
from shotstream.data.checks import require_within
from shotstream.data.story_captions import ShardCaptionsConfig, StoryCaptionsBatch, StoryCaptionsConfig
from shotstream.diffusion.schedule import FlowSchedule
from shotstream.geometry import LatentSize
from shotstream.model.dit import DiT
from shotstream.streaming.conditioning import Conditioning, condition_next_shot, stack_conditioning
from shotstream.streaming.context_sampling import kept_frames
from shotstream.streaming.noise import derive_seed
from shotstream.streaming.shot_memory import ShotMemory
from shotstream.training.lora import attach_adapters
from shotstream.training.parallelize import ParallelConfig
from shotstream.training.precision import matmul_dtype, multiplying
from shotstream.training.recipe import ModelConfig, Recipe
from shotstream.training.stage import Film
from shotstream.training.stages.dmd import DmdConfig, DmdStage, RolloutBatch, fake_of, student_rollout
from shotstream.training.text_conditioned_dit import TextConditionedDiT
from shotstream.vae.codec import Codec
from shotstream.vae.pixels import from_uint8, to_uint8


@dataclass(frozen=True, kw_only=True, slots=True)
class InterShotConfig(DmdConfig):
    """The numbers of the inter-shot stage: those of distribution matching and of its adapters."""

    lora_rank: int = 32
    """Rank of the adapters that learn; 0: there are none, student and fake score learn whole."""
    lora_alpha: int = 32
    """The adapters' output is scaled by this over the rank."""

    def __post_init__(self) -> None:
        DmdConfig.__post_init__(self)
        require_within(self, 0, inf, ("lora_rank",))
        require_within(self, 1, inf, ("lora_alpha",))


InterShotRecipe = Recipe[ModelConfig, StoryCaptionsConfig | ShardCaptionsConfig, InterShotConfig]


class OwnHistory:
    """A `DataSource` of rollouts that are conditioned on shots which the student films now."""

    def __init__(
        self,
        recipe: InterShotRecipe,
        captions: DataSource[StoryCaptionsBatch],
        student: TextConditionedDiT,
        codec: Codec,
        latent_size: LatentSize,
    ) -> None:
        """The student is asked as it is at each step.

        Args:
            recipe: of the run.
            captions: of the stories that are filmed.
            student: films them.
            codec: decodes what was filmed and encodes what is looked back at; on the student's device.
            latent_size: of the stories' frames.
        """
        self.recipe, self.captions, self.student = recipe, captions, student
        self.codec, self.latent_size = codec, latent_size
        schedule = FlowSchedule(shift=recipe.model.shift)
        self._sigmas = schedule.student_sigmas(recipe.stage.student_steps).to(student.device)

    def batch(self, step: int, samples: range) -> RolloutBatch:
        """Films every story up to the shot that is learnt."""
        stories, model = self.captions.batch(step, samples), self.recipe.model
        memories: list[list[ShotMemory]] = [[] for _ in stories.captions]
        for index, num_chunks in enumerate(stories.num_chunks[:-1]):
            conditioning, captions = condition_on(memories, stories.captions, model, self.latent_size)
            seeds = [
                derive_seed(self.recipe.train.seed, "history", step, index, sample) for sample in samples
            ]
            latents = self._film(conditioning, captions, seeds, num_chunks)
            own = [rows[index] for rows in stories.captions]
            made = look_back_at(self.codec, latents, own, index, model.dit.num_context_frames)
            for before, memory in zip(memories, made, strict=True):
                before.append(memory)
        conditioning, captions = condition_on(memories, stories.captions, model, self.latent_size)
        return RolloutBatch(conditioning, captions, stories.num_chunks[-1], samples)

    @torch.no_grad()
    def _film(
        self, conditioning: Conditioning, captions: list[list[str]], seeds: list[int], num_chunks: int
    ) -> Float[Tensor, "b z f h w"]:
        wanted, device = self.recipe.train.matmul_dtype, self.student.device
        text = self.student.embed(captions)
        with multiplying(wanted, device):
            rollout = student_rollout(
                self.student.dit,
                conditioning.to(device),
                text,
                self._sigmas,
                seeds=seeds,
                dtype=matmul_dtype(wanted, device),
            )
            return torch.cat(list(rollout.chunks(num_chunks)), dim=2)


def inter_shot_stage(
    recipe: InterShotRecipe,
    *,
    student: TextConditionedDiT,
    teacher: TextConditionedDiT,
    codec: Codec,
    latent_size: LatentSize,
    captions: DataSource[StoryCaptionsBatch],
    film: Film | None = None,
    parallel: ParallelConfig | None = None,
) -> DmdStage:
    """The inter-shot stage: adapters of student and fake score learn.

    Args:
        recipe: of the run.
        student: an intra-shot student; changed in place.
        teacher: frozen in place; the fake score starts as a copy of it.
        codec: decodes what was filmed and encodes what is looked back at; on the student's device.
        latent_size: of the stories' frames.
        captions: of the stories that are filmed.
        film: see `DmdStage`.
        parallel: how steps are computed.
    """
    fake = fake_of(teacher)
    adapt(student.dit, recipe, "student")
    adapt(fake, recipe, "fake")
    return DmdStage(
        recipe,
        student=student,
        teacher=teacher,
        fake=fake,
        source=OwnHistory(recipe, captions, student, codec, latent_size),
        film=film,
        parallel=parallel,
    )


def adapt(dit: DiT, recipe: InterShotRecipe, name: str) -> None:
    """Attaches the recipe's adapters, if it has any, in place."""
    if recipe.stage.lora_rank:
        seed = derive_seed(recipe.train.seed, "lora", name)
        attach_adapters(dit, rank=recipe.stage.lora_rank, alpha=recipe.stage.lora_alpha, seed=seed)


def condition_on(
    memories: Sequence[Sequence[ShotMemory]],
    captions: Sequence[Sequence[str]],
    model: ModelConfig,
    size: LatentSize,
) -> tuple[Conditioning, list[list[str]]]:
    """Conditioning of the shot after those of `memories` in every story, and its caption rows.

    Args:
        memories: of each story, the shots filmed so far, as many in all.
        captions: of each story, what the text encoder is given for each shot.
        model: the model that films.
        size: of a latent frame.
    """
    shots = [
        condition_next_shot(before, rows[len(before)], model.dit, size, model.context_policy)
        for before, rows in zip(memories, captions, strict=True)
    ]
    return stack_conditioning([shot.conditioning for shot in shots]), [shot.captions for shot in shots]


@torch.no_grad()
def look_back_at(
    codec: Codec,
    latents: Float[Tensor, "b z f h w"],
    captions: Sequence[str],
    shot_index: int,
    budget: int,
) -> list[ShotMemory]:
    """The memories of a batch of shots, as a session keeps them: frames as a viewer gets them."""
    pixels = from_uint8(to_uint8(codec.decode(latents)))
    num_frames = pixels.shape[2]
    chosen = kept_frames(num_frames, shot_index, budget)
    singles = rearrange(pixels[:, :, list(chosen)], "b c k h w -> (b k) c 1 h w")
    encoded = codec.encode(singles)[:, :, 0].cpu().unflatten(0, (len(latents), len(chosen)))
    return [
        ShotMemory(caption=caption, num_frames=num_frames, candidate_frames=chosen, latents=kept)
        for caption, kept in zip(captions, encoded, strict=True)
    ]
