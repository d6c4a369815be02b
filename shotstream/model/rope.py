"""Rotary position embedding over time, height and width, with a discontinuous phase at every cut.

Adjacent pairs of a head's channels are rotated. Pair j of an axis with d channels is rotated by p *
10000^(-2j/d) at position p; every temporal pair also by `phase_angle` per shot phase, whatever its frequency.
Frames of one shot therefore have plain RoPE, and frames of different shots differ by a constant angle. Angles
are computed in float64, tables are stored and applied in float32, without complex numbers.

Source: RoFormer (arXiv 2104.09864), the three-axis form of Wan2.1 (arXiv 2503.20314), and the discontinuous
RoPE of arXiv 2603.25746, section 4.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from shotstream.geometry import TokenGrid
from shotstream.model.config import DiTConfig
from shotstream.model.positions import FramePositions

_BASE = 10000.0


@dataclass(frozen=True, slots=True)
class RopeTable:
    """Positions with the rotations of their tokens, computed once per chunk and used in all its passes."""

    positions: FramePositions
    cos: Float32[Tensor, "b n 1 k"]
    """Cosines, each repeated for both channels of its pair."""
    sin: Float32[Tensor, "b n 1 k"]
    """Sines, negated for the first channel of each pair."""
    turns_keys: bool = True
    """Whether the network rotates keys too. If not, its cache does, which keeps keys to rotate them again."""


def rope_table(positions: FramePositions, grid: TokenGrid, config: DiTConfig) -> RopeTable:
    """Returns the rotations of every token of the frames at `positions`, in the order f, h, w."""
    split = config.rotary_split
    device = positions.frame_index.device
    temporal = _angles(positions.frame_index, split.temporal)  # b f k
    temporal = temporal + positions.shot_phase.double()[..., None] * config.phase_angle
    vertical = _angles(torch.arange(grid.height, device=device), split.height)  # h k
    horizontal = _angles(torch.arange(grid.width, device=device), split.width)  # w k
    shape = (*positions.frame_index.shape, grid.height, grid.width)
    angles = torch.cat(
        [
            temporal[:, :, None, None].expand(*shape, -1),
            vertical[:, None].expand(*shape, -1),
            horizontal.expand(*shape, -1),
        ],
        dim=-1,
    ).flatten(1, 3)[:, :, None]  # b n 1 k/2
    cos, sin = angles.cos().float(), angles.sin().float()
    return RopeTable(
        positions, cos.repeat_interleave(2, dim=-1), torch.stack((-sin, sin), dim=-1).flatten(-2)
    )


def apply_rope(x: Float[Tensor, "b n heads k"], table: RopeTable) -> Float[Tensor, "b n heads k"]:
    """Returns queries or keys rotated by their positions; in float32 or better, returned in `x`'s dtype."""
    turned = x.to(torch.promote_types(x.dtype, torch.float32))
    swapped = turned.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(turned * table.cos, swapped, table.sin).to(x.dtype)


def _angles(position: Tensor, num_channels: int) -> Tensor:
    exponents = torch.arange(0, num_channels, 2, device=position.device, dtype=torch.float64) / num_channels
    return position.double()[..., None] * _BASE**-exponents
