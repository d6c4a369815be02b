"""Distribution matching with the student's own history: what it filmed before conditions what it films next.

The second distillation stage of arXiv 2603.25746, which closes the gap to inference: the earlier shots are
filmed by the student with all its steps, decoded, and looked back at frame by frame as a session does.
Adapters of low rank learn, on student and fake score; they are merged when the model is exported.

A step draws a place in a story and films up to it from the beginning, so that its history is of the
student as it is now, and a step depends on no other. The world's captions are all the data it takes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from shotstream.codec.codec import Codec
from shotstream.codec.pixels import from_levels, to_levels
from shotstream.data.checks import require_within
from shotstream.data.latents import PoolConfig
from shotstream.diffusion.schedule import FlowSchedule
from shotstream.geometry import LatentSize
from shotstream.model.dit import DiT
from shotstream.story import compose_caption
from shotstream.streaming.conditioning import Conditioning, condition_next_shot, stack_conditioning
from shotstream.streaming.context_sampling import kept_frames
from shotstream.streaming.noise import derive_seed
from shotstream.streaming.shot_memory import ShotMemory
from shotstream.theatre.world import TheatreStory, sample_story
from shotstream.training.keys import draws
from shotstream.training.lora import attach_adapters
from shotstream.training.parallelize import Execution
from shotstream.training.precision import matmul_dtype, multiplying
from shotstream.training.stages.dmd import DmdStage, DmdTraining, Scene, fake_of, student_rollout
from shotstream.training.stages.teacher import TeacherTraining, TheatreModel


@dataclass(frozen=True, kw_only=True, slots=True)
class InterShotTraining:
    """The recipe of an inter-shot student."""

    dmd: DmdTraining
    """How it is matched to its teacher."""
    lora_rank: int = 32
    """Rank of the adapters that learn; 0: there are none, student and fake score learn whole."""
    lora_alpha: int = 32
    """The adapters' output is scaled by this over the rank."""

    def __post_init__(self) -> None:
        require_within(self, 0, inf, ("lora_rank",))
        require_within(self, 1, inf, ("lora_alpha",))


Told = TheatreStory | tuple[str, ...]
"""A story of the theatre, or the names of a stored one's captions."""


@runtime_checkable
class ToldSource(Protocol):
    """What gives stored stories, as `StoredStories` does."""

    def draw(self, rng: np.random.Generator, num_shots: int) -> tuple[str, ...]:
        """The names of the captions of a story's first shots."""
        ...


def inter_shot_stage(
    config: InterShotTraining,
    *,
    student: TheatreModel,
    teacher: TheatreModel,
    codec: Codec,
    latent_size: LatentSize,
    stored: ToldSource | None = None,
    film: Callable[[TheatreModel, int, Path], Mapping[str, float]] | None = None,
    execution: Execution | None = None,
) -> DmdStage:
    """The stage.

    Args:
        config: the recipe.
        student: an intra-shot student; changed in place.
        teacher: frozen in place; the fake score starts as a copy of it.
        codec: decodes what was filmed and encodes what is looked back at; on the student's device.
        latent_size: of the stories' frames.
        stored: the stories; None: they are drawn from the theatre's world.
        film: see `DmdStage`.
        execution: how steps are computed.
    """
    dmd = config.dmd
    fake = fake_of(teacher)
    adapt(student.dit, config, "student")
    adapt(fake, config, "fake")
    device = student.device
    sigmas = FlowSchedule(shift=dmd.teacher.shift).student_sigmas(dmd.student_steps).to(device)

    def draw(step: int, samples: range) -> Scene:
        stories, lengths = draw_stories(config, step, samples, stored)
        texts = [compositions(story) for story in stories]
        memories: list[list[ShotMemory]] = [[] for _ in stories]
        for index, num_chunks in enumerate(lengths[:-1]):
            conditioning, captions = condition_on(memories, texts, dmd.teacher, latent_size)
            conditioning = conditioning.to(device)
            seeds = [derive_seed(dmd.seed, "history", step, index, sample) for sample in samples]
            with torch.no_grad():
                text = student.embed(captions)
                with multiplying(dmd.matmul_dtype, device):
                    dtype = matmul_dtype(dmd.matmul_dtype, device)
                    rollout = student_rollout(
                        student.dit, conditioning, text, sigmas, seeds=seeds, dtype=dtype
                    )
                    latents = torch.cat(list(rollout.chunks(num_chunks)), dim=2)
                own = [rows[index] for rows in texts]
                made = look_back_at(codec, latents, own, index, student.dit.config.num_context_frames)
            for before, memory in zip(memories, made, strict=True):
                before.append(memory)
        return Scene(*condition_on(memories, texts, dmd.teacher, latent_size), lengths[-1], samples)

    return DmdStage(
        dmd, student=student, teacher=teacher, fake=fake, draw=draw, film=film, execution=execution
    )


def adapt(dit: DiT, config: InterShotTraining, name: str) -> None:
    """Attaches the recipe's adapters, if it has any, in place."""
    if config.lora_rank:
        seed = derive_seed(config.dmd.seed, "lora", name)
        attach_adapters(dit, rank=config.lora_rank, alpha=config.lora_alpha, seed=seed)


def draw_stories(
    config: InterShotTraining,
    step: int,
    samples: range | None = None,
    stored: ToldSource | None = None,
) -> tuple[list[Told], list[int]]:
    """The stories of a step up to the shot that is learnt, and the length of each shot in chunks.

    Only those of `samples`, if it is given: places in the effective batch. Stored stories have shots of the
    greatest length, as streaming usually does.
    """
    dmd = config.dmd
    rng = draws(dmd.seed, "places", step)
    weights = np.array(dmd.teacher.shot_weights)
    num_shots = 1 + int(rng.choice(len(weights), p=weights / weights.sum()))
    size = dmd.teacher.dit.chunk_latent_frames
    pool = dmd.teacher.pool
    samples = range(dmd.teacher.batch_size) if samples is None else samples
    generators = [draws(dmd.seed, "story", step, sample) for sample in samples]
    if not isinstance(pool, PoolConfig):
        assert stored is not None
        lengths = [pool.max_latent_frames // size] * num_shots
        return [stored.draw(generator, num_shots) for generator in generators], lengths
    lengths = [int(length) // size for length in rng.choice(pool.num_latent_frames, num_shots)]
    return [sample_story(generator, num_shots) for generator in generators], lengths


def condition_on(
    memories: Sequence[Sequence[ShotMemory]],
    texts: Sequence[Sequence[str]],
    trained: TeacherTraining,
    size: LatentSize,
) -> tuple[Conditioning, list[list[str]]]:
    """Conditioning of the shot after those of `memories` in every story, and its caption rows.

    Args:
        memories: of each story, the shots filmed so far, as many in all.
        texts: of each story, what the text encoder is given for each shot.
        trained: how the teacher was trained.
        size: of a latent frame.
    """
    shots = [
        condition_next_shot(before, rows[len(before)], trained.dit, size, trained.context_policy)
        for before, rows in zip(memories, texts, strict=True)
    ]
    return stack_conditioning([shot.conditioning for shot in shots]), [shot.captions for shot in shots]


def compositions(story: Told) -> list[str]:
    """What the text encoder is given for each shot; the names of stored captions stand for that already."""
    if isinstance(story, tuple):
        return list(story)
    return [compose_caption(story.global_caption, text, shot) for shot, text in enumerate(story.captions)]


def look_back_at(
    codec: Codec,
    latents: Float[Tensor, "b z f h w"],
    captions: Sequence[str],
    shot_index: int,
    budget: int,
) -> list[ShotMemory]:
    """What a session keeps of each shot of a batch: frames as a viewer gets them, each encoded alone."""
    pixels = from_levels(to_levels(codec.decode(latents)))
    num_frames = pixels.shape[2]
    chosen = kept_frames(num_frames, shot_index, budget)
    singles = rearrange(pixels[:, :, list(chosen)], "b c k h w -> (b k) c 1 h w")
    encoded = codec.encode(singles)[:, :, 0].cpu().unflatten(0, (len(latents), len(chosen)))
    return [
        ShotMemory(caption=caption, num_frames=num_frames, candidate_frames=chosen, latents=kept)
        for caption, kept in zip(captions, encoded, strict=True)
    ]
