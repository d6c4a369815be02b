"""The conditioning of a shot: context frames, their positions, and the caption of each frame.

Context frames precede the frames to be generated, without noise. Networks differ in the noise level that is
passed for them, `DiTConfig.context_sigma`:

| network                          | content | level passed for context | for target frames          |
|----------------------------------|---------|--------------------------|----------------------------|
| published teacher and fake score | clean   | the target's             | the one used to noise them |
| published student                | clean   | 0                        | the one used to noise them |
| theatre: teacher, student, score | clean   | 0                        | the one used to noise them |

The phase that marks a cut and the index of the caption are two fields. For every family:

| shot                | context            | its phase  | its caption    | target phase | target caption |
|---------------------|--------------------|------------|----------------|--------------|----------------|
| the first           | zeros (of latents) | 0          | the target's   | 1            | its own        |
| a later one, or one | the plan's frames  | the plan's | of their shots | the plan's   | its own        |
| with references     |                    |            |                |              |                |
| context dropped     | zeros (of latents) | 0          | the target's   | 1            | its own        |

Context is dropped in training only, so that a sample trains the case of a first shot. Captions are stacked
without repeats: those of the frames in the context, oldest first, then the target's. A reference is a virtual
shot before the first one, with its own caption. `condition_next_shot` combines all of this, for sessions and
for training.

Source: section 3.2 of arXiv 2603.25746; the published code's inference for the first shot. That code's
training confuses phase and caption when it drops the context; here the target always has its own caption.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
from shotstream.story import ShotCaptions, last_caption
from shotstream.streaming.context_candidates import ContextPolicy, MatchCandidates, NextShot
from shotstream.streaming.context_sampling import ContextPlan, ContextSlot, choose_context
from shotstream.streaming.shot_memory import ShotMemory
from shotstream.transfer import send


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditioning:
    """The context of a batch of shots, and the positions of their own frames."""

    context: Float[Tensor, "b c f h w"] = field(repr=False)
    """Clean normalised latents of the context frames."""
    positions: FramePositions
    """Positions of the context frames."""
    target_phase: Int[Tensor, " b"]
    """RoPE phase of the frames to be generated."""
    target_caption: Int[Tensor, " b"]
    """Index of the caption of the frames to be generated; of a shot that turns, of those from then on."""
    turn_frame: Int[Tensor, " b"] | None = None
    """First latent frame, from 0, with another caption than the frames before it, which have the caption of
    the index before; 0, or None for the whole batch: all have one. For training: a session commits earlier
    chunks again instead.
    """
    given: Float[Tensor, "b c given_f h w"] | None = field(default=None, repr=False)
    """Clean latents that the shot begins with, for a model without context frames; None: there are none."""

    def __post_init__(self) -> None:
        if self.context.shape[2] != self.positions.frame_index.shape[1]:
            raise ValueError(
                f"{self.context.shape[2]} context frames with {self.positions.frame_index.shape[1]} positions"
            )

    def to(self, device: torch.device | str) -> "Conditioning":
        """Returns the same conditioning on `device`, without waiting for queued work."""
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
            turn_frame=None if self.turn_frame is None else send(self.turn_frame, device),
            given=None if self.given is None else send(self.given, device),
        )

    def chunk(self, chunk_index: int, config: DiTConfig) -> FramePositions:
        """Returns the positions of chunk `chunk_index` of the shot."""
        first, count = chunk_index * config.chunk_latent_frames, config.chunk_latent_frames
        return chunk_positions(self.target_phase, self._captions(first, count), chunk_index, config)

    def target(self, num_latent_frames: int, config: DiTConfig) -> FramePositions:
        """Returns the positions of the first `num_latent_frames` of the shot."""
        captions = self._captions(0, num_latent_frames)
        return target_positions(self.target_phase, captions, num_latent_frames, config)

    def turned(self) -> "Conditioning":
        """Returns the conditioning of shots that have turned: all their frames have the last caption."""
        return replace(self, turn_frame=None)

    def captions_at(self, frame: int) -> Int[Tensor, " b"]:
        """Returns the index of the caption of a latent frame of each shot."""
        return self._captions(frame, 1)[:, 0]

    def _captions(self, first: int, count: int) -> Int[Tensor, "b f"]:
        own = self.target_caption[:, None].expand(-1, count)
        if self.turn_frame is None:
            return own
        frames = torch.arange(first, first + count, device=own.device)
        return own - (frames < self.turn_frame[:, None]).long()


class ConditionedShot(NamedTuple):
    """The inputs of a network for the next shot, except its noise."""

    conditioning: Conditioning
    """Context and positions, in a batch of one."""
    captions: list[str]
    """Texts for the text encoder, in the order of the caption indices in `conditioning`."""


class FullPass(NamedTuple):
    """The inputs of a pass over context and target together; outputs of context frames have no meaning."""

    x: Float[Tensor, "b c f h w"]
    sigma: Float[Tensor, "b f"]
    positions: FramePositions


TextFunction = Callable[[Sequence[ShotCaptions]], str]
"""Returns the text for the text encoder from the captions of a film's shots, for the last of these."""


def condition_next_shot(
    memories: Sequence[ShotMemory],
    caption: ShotCaptions,
    config: DiTConfig,
    latent_size: LatentSize,
    policy: str | ContextPolicy,
    *,
    turn_frame: int = 0,
    references: Sequence[ShotMemory] = (),
    text_of: TextFunction = last_caption,
    match: MatchCandidates | None = None,
    rng: np.random.Generator | None = None,
    device: torch.device | str = "cpu",
) -> ConditionedShot:
    """Returns the conditioning of the shot after `memories` and its caption rows.

    Args:
        memories: Memories of the earlier shots, the oldest first; empty for a first shot.
        caption: The shot's own caption; or two, if it turns to the second.
        config: Sizes of the transformer, including the number of context frames.
        latent_size: Size of a latent frame.
        policy: The policy that chooses the context among the candidates of the memories.
        turn_frame: First latent frame with the second of two captions.
        references: Memories of virtual shots before the first, each of pinned pictures alone.
        text_of: Returns the text for the text encoder; by default the caption. It is called only for
            captions that are used.
        match: Compares the candidates with the shot, see `NextShot`; None: nothing can be compared.
        rng: Generator for the policy, see `choose_context`.
        device: Device of the conditioning; queued work on it is not waited for.

    Raises:
        ValueError: As in `choose_context`.
    """
    told = [memory.told for memory in memories]
    captions_so_far = [caption] if isinstance(caption, str) else [caption[:1], caption]
    own = [text_of([*told, so_far]) for so_far in captions_so_far]
    if not memories and not references:
        first = first_shot_conditioning(config, latent_size, device=device)
        return ConditionedShot(_turning(first, turn_frame), own)
    plan = choose_context(
        [
            candidate
            for shot_index, memory in enumerate([*references, *memories], start=-len(references))
            for candidate in memory.candidates(shot_index)
        ],
        NextShot(
            index=len(memories), caption=caption if isinstance(caption, str) else caption[0], match=match
        ),
        config.num_context_frames,
        policy,
        rng,
    )
    if config.num_context_frames == 0:
        given = [slot.candidate.latent()[None, :, None] for slot in plan.slots]
        first = first_shot_conditioning(config, latent_size)
        first = replace(first, given=torch.cat(given, dim=2) if given else None).to(device)
        return ConditionedShot(_turning(first, turn_frame), own)
    captions = [
        text_of([references[shot].caption])
        if shot < 0
        else text_of([*told[:shot], _until(memories[shot], index)])
        for shot, index in context_captions(plan)
    ]
    conditioning = _turning(planned_conditioning(plan, device=device), turn_frame)
    return ConditionedShot(conditioning, [*captions, *own])


def _until(memory: ShotMemory, caption_index: int) -> ShotCaptions:
    """Returns the captions of a shot up to one of them."""
    return memory.captions[: caption_index + 1] if caption_index else memory.caption


def _turning(conditioning: Conditioning, turn_frame: int) -> Conditioning:
    """Returns the conditioning of a shot whose frames from one on have a further caption."""
    if not turn_frame:
        return conditioning
    last = conditioning.target_caption + 1
    return replace(conditioning, target_caption=last, turn_frame=torch.full_like(last, turn_frame))


def first_shot_conditioning(
    config: DiTConfig,
    latent_size: LatentSize,
    *,
    batch: int = 1,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Conditioning:
    """Returns the conditioning of a shot without earlier ones; all frames have the one caption."""
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
    """Returns the conditioning of a shot with a context plan; its own caption follows the others."""
    rows = {caption: row for row, caption in enumerate(context_captions(plan))}
    phases = torch.tensor([[slot.shot_phase for slot in plan.slots]])
    own = len(rows)
    captions = torch.tensor([[rows.get(_caption_of(slot), own) for slot in plan.slots]])
    context = torch.stack([slot.candidate.latent() for slot in plan.slots], dim=1).unsqueeze(0)
    return Conditioning(
        context=context.to(dtype),
        positions=context_positions(phases, captions),
        target_phase=torch.tensor([plan.target_phase]),
        target_caption=torch.tensor([own]),
    ).to(device)


def context_captions(plan: ContextPlan) -> tuple[tuple[int, int], ...]:
    """Returns the captions that the context has, as (shot index, index among the shot's captions).

    The oldest comes first; the target's one follows them.
    """
    return tuple(sorted({_caption_of(slot) for slot in plan.slots})) if plan.own_captions else ()


def _caption_of(slot: ContextSlot) -> tuple[int, int]:
    return slot.candidate.shot_index, slot.candidate.caption_index


def stack_conditioning(samples: Sequence[Conditioning]) -> Conditioning:
    """Returns the samples as one batch; caption indices remain those of each sample."""
    return Conditioning(
        context=torch.cat([sample.context for sample in samples]),
        positions=context_positions(
            torch.cat([sample.positions.shot_phase for sample in samples]),
            torch.cat([sample.positions.caption_index for sample in samples]),
        ),
        target_phase=torch.cat([sample.target_phase for sample in samples]),
        target_caption=torch.cat([sample.target_caption for sample in samples]),
        turn_frame=torch.cat([_turn_frames(sample) for sample in samples])
        if any(sample.turn_frame is not None for sample in samples)
        else None,
    )


def _turn_frames(conditioning: Conditioning) -> Int[Tensor, " b"]:
    frames = conditioning.turn_frame
    return torch.zeros_like(conditioning.target_caption) if frames is None else frames


def drop_context(conditioning: Conditioning, dropped: Bool[Tensor, " b"]) -> Conditioning:
    """Returns the same batch with the marked samples conditioned as first shots. For training.

    The target keeps its own caption, whatever its phase becomes.
    """
    phases = conditioning.positions.shot_phase.expand(len(dropped), -1)
    captions = conditioning.positions.caption_index.expand(len(dropped), -1)
    phase, caption = conditioning.target_phase, conditioning.target_caption
    return replace(
        conditioning,
        context=conditioning.context.masked_fill(dropped[:, None, None, None, None], 0),
        positions=context_positions(
            phases.masked_fill(dropped[:, None], 0),
            torch.where(dropped[:, None], caption[:, None], captions),
        ),
        target_phase=phase.masked_fill(dropped, 1),
    )


def context_levels(sigma: Float[Tensor, "b f"], config: DiTConfig) -> Float[Tensor, "b c"]:
    """Returns the noise level passed for each context frame, given those of the target frames.

    See the table in the module. With `context_sigma` "target" it is that of the first target frame: such
    networks get one level for all.
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
    """Returns the inputs of a pass without a cache, full or masked: context first, then the noisy target."""
    return FullPass(
        torch.cat([conditioning.context.to(noisy.dtype), noisy], dim=2),
        torch.cat([context_levels(sigma, config), sigma], dim=1),
        join_positions(conditioning.positions, conditioning.target(noisy.shape[2], config)),
    )


def target_part(output: Float[Tensor, "b c f h w"], config: DiTConfig) -> Float[Tensor, "b c target_f h w"]:
    """Returns the target frames of the output of a full pass."""
    return output[:, :, config.num_context_frames :]
