"""Conversion of pixels between uint8 levels, 0 to 255, and the values of networks, -1 to 1."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def from_uint8(levels: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Returns float32 pixels in [-1, 1] from uint8 levels."""
    return levels.float() / 127.5 - 1


def to_uint8(pixels: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Returns the nearest uint8 levels; values outside [-1, 1] are clipped."""
    return (pixels.float() + 1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
