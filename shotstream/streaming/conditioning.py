"""The conditioning of a shot: context frames, their positions, and the captions that each frame reads.

Context frames stand before the frames to be generated. Their content is never noised; what differs
between networks is the level that the network is told for them, `DiTConfig.context_sigma`:

| network                          | content | level told for context | for target frames          |
|----------------------------------|---------|------------------------|----------------------------|
| published teacher and fake score | clean   | the target's           | the one used to noise them |
| published student                | clean   | 0                      | the one used to noise them |
| theatre: teacher, student, score | clean   | 0                      | the one used to noise them |

The phase that marks a cut and the caption that a frame reads are two fields. For every family:

| shot                | context            | its phase  | its caption    | target phase | target caption |
|---------------------|--------------------|------------|----------------|--------------|----------------|
| the first           | zeros (of latents) | 0          | the target's   | 1            | its own        |
| a later one         | the plan's frames  | the plan's | of their shots | the plan's   | its own        |
| context dropped     | zeros (of latents) | 0          | the target's   | 1            | its own        |

Context is dropped in training only, so that a sample teaches what a first shot needs. Captions are
stacked without repeats: those of the shots kept, oldest first, then the target's. `condition_next_shot` is
where all of it comes together, for a session (`condition_request` in `shot`) and for training, of a rendered
story (`condition_story_shot`), a clip in shards (`condition_sample`) and films of the student's own
(`condition_batch`).

Source: section 3.2 of arXiv 2603.25746; the published code's inference for the first shot. That code's
training confuses phase and caption when it drops the context; here the target always reads its own
caption.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from shotstream.geometry import LatentSize
from shotstream.model.config import DiTConfig
from shotstream.model.positions import (
    FramePositions,
    chunk_positions,
    context_positions,
    join_positions,
    target_positions,
)
from shotstream.streaming.context_sampling import (
    ContextPlan,
    ContextPolicy,
    NextShot,
    choose_context,
)
from shotstream.streaming.shot_memory import ShotMemory
from shotstream.transfer import send


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditioning:
    """The context of a batch of shots, and where their own frames stand."""

    context: Float[Tensor, "b c f h w"] = field(repr=False)
    """Clean normalised latents of the context frames."""
    positions: FramePositions
    """Positions of the context frames."""
    target_phase: Int[Tensor, " b"]
    """RoPE phase of the frames to be generated."""
    target_caption: Int[Tensor, " b"]
    """Caption of the frames to be generated, a row of the captions given with this conditioning."""

    def __post_init__(self) -> None:
        if self.context.shape[2] != self.positions.frame_index.shape[1]:
            raise ValueError(
                f"{self.context.shape[2]} context frames with {self.positions.frame_index.shape[1]} positions"
            )

    def to(self, device: torch.device | str) -> "Conditioning":
        """The same conditioning on `device`, whose queue is not waited for."""
        positions = FramePositions(
            send(self.positions.frame_index, device),
            send(self.positions.shot_phase, device),
            send(self.positions.caption_index, device),
            self.positions.chunk_index,
        )
        return Conditioning(
            context=send(self.context, device),
            positions=positions,
            target_phase=send(self.target_phase, device),
            target_caption=send(self.target_caption, device),
        )

    def chunk(self, chunk_index: int, config: DiTConfig) -> FramePositions:
        """Positions of chunk `chunk_index` of the shot."""
        return chunk_positions(self.target_phase, self.target_caption, chunk_index, config)

    def target(self, num_latent_frames: int, config: DiTConfig) -> FramePositions:
        """Positions of the first `num_latent_frames` of the shot."""
        return target_positions(self.target_phase, self.target_caption, num_latent_frames, config)


class ConditionedShot(NamedTuple):
    """The inputs of a network for the next shot, beside its noise."""

    conditioning: Conditioning
    """Context and positions of a batch of one."""
    captions: list[str]
    """The texts that `conditioning` names as rows, for the text encoder."""


class FullPass(NamedTuple):
    """The inputs of a pass over context and target together; its output's context frames mean nothing."""

    x: Float[Tensor, "b c f h w"]
    sigma: Float[Tensor, "b f"]
    positions: FramePositions


def _as_given(caption: str, shot_index: int) -> str:
    del shot_index
    return caption


def condition_next_shot(
    memories: Sequence[ShotMemory],
    caption: str,
    config: DiTConfig,
    latent_size: LatentSize,
    policy: str | ContextPolicy,
    *,
    text_of: Callable[[str, int], str] = _as_given,
    rng: np.random.Generator | None = None,
    device: torch.device | str = "cpu",
) -> ConditionedShot:
    """The conditioning of the shot after `memories` and its caption rows.

    Args:
        memories: The shots before it, the oldest first; empty for a first shot.
        caption: The shot's own caption.
        config: Sizes of the transformer; says how many context frames it takes.
        latent_size: Size of a latent frame.
        policy: Chooses the context among what the memories offer.
        text_of: Gives, for (a shot's own caption, its index in the film), the text for the text encoder; by
            default the caption itself. Only asked for captions that are read.
        rng: What the policy may draw from, see `choose_context`.
        device: Where the conditioning is wanted; its queue is not waited for.

    Raises:
        ValueError: As `choose_context` does.
    """
    own = text_of(caption, len(memories))
    if not memories:
        return ConditionedShot(first_shot_conditioning(config, latent_size, device=device), [own])
    plan = choose_context(
        [
            candidate
            for shot_index, memory in enumerate(memories)
            for candidate in memory.candidates(shot_index)
        ],
        NextShot(index=len(memories), caption=caption),
        config.num_context_frames,
        policy,
        rng,
    )
    captions = [text_of(memories[shot_index].caption, shot_index) for shot_index in caption_shots(plan)]
    return ConditionedShot(planned_conditioning(plan, device=device), [*captions, own])


def first_shot_conditioning(
    config: DiTConfig,
    latent_size: LatentSize,
    *,
    batch: int = 1,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Conditioning:
    """Conditioning of a shot with nothing before it; it reads the one caption given with it."""
    num_frames = config.num_context_frames
    zeros = torch.zeros(batch, num_frames, dtype=torch.long, device=device)
    shape = (batch, config.latent_channels, num_frames, latent_size.height, latent_size.width)
    return Conditioning(
        context=torch.zeros(shape, dtype=dtype, device=device),
        positions=context_positions(zeros, zeros),
        target_phase=torch.ones(batch, dtype=torch.long, device=device),
        target_caption=torch.zeros(batch, dtype=torch.long, device=device),
    )


def planned_conditioning(
    plan: ContextPlan, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Conditioning:
    """Conditioning of one shot after others, reading the captions of `caption_shots(plan)`, then its own."""
    rows = {shot_index: row for row, shot_index in enumerate(caption_shots(plan))}
    phases = torch.tensor([[slot.shot_phase for slot in plan.slots]])
    own = len(rows)
    captions = torch.tensor([[rows.get(slot.candidate.shot_index, own) for slot in plan.slots]])
    context = torch.stack([slot.candidate.latent() for slot in plan.slots], dim=1).unsqueeze(0)
    return Conditioning(
        context=context.to(dtype),
        positions=context_positions(phases, captions),
        target_phase=torch.tensor([plan.target_phase]),
        target_caption=torch.tensor([own]),
    ).to(device)


def caption_shots(plan: ContextPlan) -> tuple[int, ...]:
    """The earlier shots whose captions the context reads, oldest first; the target's caption follows them."""
    return tuple(sorted({slot.candidate.shot_index for slot in plan.slots})) if plan.own_captions else ()


def stack_conditioning(samples: Sequence[Conditioning]) -> Conditioning:
    """The samples as one batch; each keeps its caption rows, which are per sample."""
    return Conditioning(
        context=torch.cat([sample.context for sample in samples]),
        positions=context_positions(
            torch.cat([sample.positions.shot_phase for sample in samples]),
            torch.cat([sample.positions.caption_index for sample in samples]),
        ),
        target_phase=torch.cat([sample.target_phase for sample in samples]),
        target_caption=torch.cat([sample.target_caption for sample in samples]),
    )


def drop_context(conditioning: Conditioning, dropped: Bool[Tensor, " b"]) -> Conditioning:
    """The same batch with the marked samples conditioned as first shots are. For training.

    The target goes on reading its own caption, whatever its phase becomes.
    """
    phases = conditioning.positions.shot_phase.expand(len(dropped), -1)
    captions = conditioning.positions.caption_index.expand(len(dropped), -1)
    phase, caption = conditioning.target_phase, conditioning.target_caption
    return Conditioning(
        context=conditioning.context.masked_fill(dropped[:, None, None, None, None], 0),
        positions=context_positions(
            phases.masked_fill(dropped[:, None], 0),
            torch.where(dropped[:, None], caption[:, None], captions),
        ),
        target_phase=phase.masked_fill(dropped, 1),
        target_caption=caption,
    )


def context_levels(sigma: Float[Tensor, "b f"], config: DiTConfig) -> Float[Tensor, "b c"]:
    """The level told for each context frame, given those of the target frames (see the table above).

    With `context_sigma` "target" it is that of the first target frame: such networks are given one for all.
    """
    if config.context_sigma == "target":
        return sigma[:, :1].expand(-1, config.num_context_frames)
    return sigma.new_zeros(sigma.shape[0], config.num_context_frames)


def full_pass(
    conditioning: Conditioning,
    noisy: Float[Tensor, "b c target_f h w"],
    sigma: Float[Tensor, "b target_f"],
    config: DiTConfig,
) -> FullPass:
    """Inputs of a pass without a cache, full or masked: context first, then the noisy target."""
    return FullPass(
        torch.cat([conditioning.context.to(noisy.dtype), noisy], dim=2),
        torch.cat([context_levels(sigma, config), sigma], dim=1),
        join_positions(conditioning.positions, conditioning.target(noisy.shape[2], config)),
    )


def target_part(output: Float[Tensor, "b c f h w"], config: DiTConfig) -> Float[Tensor, "b c target_f h w"]:
    """The target frames of the output of a full pass."""
    return output[:, :, config.num_context_frames :]
