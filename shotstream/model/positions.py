"""Positions of latent frames: the place in time, the shot's RoPE phase, the caption that is read.

Nobody adds offsets by hand: context frames hold positions 0..C-1, and frame f of a shot's own frames holds
C + f, starting again at C in every shot. The shot phase and the caption index are separate: the first sets
the angle that marks a cut, the second a row of the captions given.

Source: section 4 of arXiv 2603.25746.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from shotstream.model.config import DiTConfig


@dataclass(frozen=True, slots=True)
class FramePositions:
    """Positions of the latent frames of one pass. A batch of 1 serves any batch."""

    frame_index: Int[Tensor, "b f"]
    """Place in time, in latent frames."""
    shot_phase: Int[Tensor, "b f"]
    """Shot that the frame belongs to, as counted by the RoPE discontinuity; only differences matter."""
    caption_index: Int[Tensor, "b f"]
    """Caption that the frame reads; ignored where only one caption is given."""
    chunk_index: int | None = None
    """Which chunk of the current shot these frames are; None for any other set of frames.

    A plain integer, so that a dual cache finds the chunk's place without waiting for the device.
    """

    def to(self, device: torch.device | str) -> "FramePositions":
        """The same positions on `device`."""
        return FramePositions(
            self.frame_index.to(device),
            self.shot_phase.to(device),
            self.caption_index.to(device),
            self.chunk_index,
        )


def context_positions(shot_phase: Int[Tensor, "b c"], caption_index: Int[Tensor, "b c"]) -> FramePositions:
    """Positions of context frames, given the phase and the caption of each."""
    return FramePositions(_consecutive(shot_phase, 0), shot_phase, caption_index)


def target_positions(
    shot_phase: Int[Tensor, " b"], caption_index: Int[Tensor, " b"], num_frames: int, config: DiTConfig
) -> FramePositions:
    """Positions of the first `num_frames` latent frames of a shot, one phase and caption for all."""
    phase, caption = (field[:, None].expand(-1, num_frames) for field in (shot_phase, caption_index))
    return FramePositions(_consecutive(phase, config.num_context_frames), phase, caption)


def chunk_positions(
    shot_phase: Int[Tensor, " b"], caption_index: Int[Tensor, " b"], chunk_index: int, config: DiTConfig
) -> FramePositions:
    """Positions of chunk `chunk_index` (from 0) of a shot."""
    if chunk_index < 0:
        raise ValueError(f"chunk index {chunk_index}; the first chunk is 0")
    num_frames = config.chunk_latent_frames
    phase, caption = (field[:, None].expand(-1, num_frames) for field in (shot_phase, caption_index))
    first = config.num_context_frames + chunk_index * num_frames
    return FramePositions(_consecutive(phase, first), phase, caption, chunk_index)


def join_positions(*parts: FramePositions) -> FramePositions:
    """The frames of `parts` one after another, for a pass over context and target together."""
    return FramePositions(
        torch.cat([part.frame_index for part in parts], dim=1),
        torch.cat([part.shot_phase for part in parts], dim=1),
        torch.cat([part.caption_index for part in parts], dim=1),
    )


def _consecutive(like: Tensor, first: int) -> Tensor:
    num_frames = like.shape[1]
    return torch.arange(first, first + num_frames, device=like.device).expand(like.shape[0], num_frames)
