"""Positions of latent frames: the position in time, the shot's RoPE phase, and the index of the caption.

Positions are built by the functions below, never by adding offsets: context frames have positions 0..C-1, and
frame f of a shot has C + f, starting again at C in every shot. Shot phase and caption index are independent:
the first sets the angle that marks a cut, the second selects a row of the captions.

Source: section 4 of arXiv 2603.25746.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from shotstream.model.config import DiTConfig


@dataclass(frozen=True, slots=True)
class FramePositions:
    """Positions of the latent frames of one pass. A batch of 1 is valid for any batch."""

    frame_index: Int[Tensor, "b f"]
    """Position in time, in latent frames."""
    shot_phase: Int[Tensor, "b f"]
    """RoPE phase: index of the frame's shot in the sequence; only differences matter."""
    caption_index: Int[Tensor, "b f"]
    """Index of the caption that the frame attends to; ignored if there is only one."""
    chunk_index: int | None = None
    """Index of the chunk of the current shot that these frames are; None for any other frames.

    It is a Python integer, so that a dual cache finds the chunk's slot without waiting for the device.
    """

    def to(self, device: torch.device | str) -> "FramePositions":
        """Returns the same positions on `device`."""
        return FramePositions(
            self.frame_index.to(device),
            self.shot_phase.to(device),
            self.caption_index.to(device),
            self.chunk_index,
        )


def context_positions(shot_phase: Int[Tensor, "b c"], caption_index: Int[Tensor, "b c"]) -> FramePositions:
    """Returns the positions of context frames, given the phase and the caption of each."""
    return FramePositions(_consecutive(shot_phase, 0), shot_phase, caption_index)


def target_positions(
    shot_phase: Int[Tensor, " b"], caption_index: Int[Tensor, "b *f"], num_frames: int, config: DiTConfig
) -> FramePositions:
    """Returns the positions of the first `num_frames` latent frames of a shot, with one phase.

    Each frame has its own caption, or all have one.
    """
    phase, caption = _per_frame(shot_phase, num_frames), _per_frame(caption_index, num_frames)
    return FramePositions(_consecutive(phase, config.num_context_frames), phase, caption)


def chunk_positions(
    shot_phase: Int[Tensor, " b"], caption_index: Int[Tensor, "b *f"], chunk_index: int, config: DiTConfig
) -> FramePositions:
    """Returns the positions of chunk `chunk_index` of a shot, counted from 0; captions as there."""
    if chunk_index < 0:
        raise ValueError(f"chunk index {chunk_index}; the first chunk is 0")
    num_frames = config.chunk_latent_frames
    phase, caption = _per_frame(shot_phase, num_frames), _per_frame(caption_index, num_frames)
    first = config.num_context_frames + chunk_index * num_frames
    return FramePositions(_consecutive(phase, first), phase, caption, chunk_index)


def join_positions(*parts: FramePositions) -> FramePositions:
    """Returns the positions of `parts` concatenated, for a pass over context and target together."""
    return FramePositions(
        torch.cat([part.frame_index for part in parts], dim=1),
        torch.cat([part.shot_phase for part in parts], dim=1),
        torch.cat([part.caption_index for part in parts], dim=1),
    )


def _per_frame(values: Tensor, num_frames: int) -> Tensor:
    return values.reshape(len(values), -1).expand(-1, num_frames)


def _consecutive(like: Tensor, first: int) -> Tensor:
    num_frames = like.shape[1]
    return torch.arange(first, first + num_frames, device=like.device).expand(like.shape[0], num_frames)
