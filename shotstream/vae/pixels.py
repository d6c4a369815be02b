"""Pixels as uint8 levels, 0 to 255, and as networks take and give them, -1 to 1."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def from_uint8(levels: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Float32 pixels in [-1, 1] from uint8 levels."""
    return levels.float() / 127.5 - 1


def to_uint8(pixels: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """The nearest uint8 levels; what lies outside [-1, 1] is clipped."""
    return (pixels.float() + 1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
