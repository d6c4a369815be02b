"""The encoder of Wan2.1's VAE as two functions: of a video's first frame, and of the frames that follow.

A video that is a single frame never meets a convolution over time: the taps before it would see zeros. So a
batch of them is encoded as the pictures that they are. Longer videos go on in pieces, with a memory as in
`wan_decoder.py`, so that no more is held than a piece needs.

Agrees to rounding with diffusers' `AutoencoderKLWan`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.vae.norm_silu import laid_out
from shotstream.vae.wan_layers import (
    FirstFrame,
    Following,
    Memory,
    bias_of,
    convolve,
    convolve_2d,
    middle,
    pointwise,
    residual,
)
from shotstream.vae.wan_modules import Resample, Residual, WanTensors


class WanEncoder:
    """From pixels to the means of raw latents; stateless."""

    def __init__(self, tensors: WanTensors) -> None:
        self._encoder, self._quant_conv = tensors.encoder, tensors.quant_conv

    def first(
        self, frames: Float[Tensor, "b 1 h w 3"], *, remembers: bool
    ) -> tuple[Float[Tensor, "b 1 lh lw z"], Memory]:
        """Latents of first frames, and the memory that follows; it is empty unless others follow."""
        return self._encode(frames, FirstFrame(remembers=remembers))

    def following(
        self, frames: Float[Tensor, "b f h w 3"], memory: Memory
    ) -> tuple[Float[Tensor, "b lf lh lw z"], Memory]:
        """Latents of the next frames, as many as become whole latent frames, and the memory that follows."""
        return self._encode(frames, Following(memory))

    def _encode(self, frames: Tensor, walk: FirstFrame | Following) -> tuple[Tensor, Memory]:
        encoder = self._encoder
        x = walk.causal(encoder.conv_in.weight, frames, encoder.conv_in.bias)
        for block in encoder.down_blocks:
            if isinstance(block, Residual):
                x = residual(walk, block, x)
            else:
                assert isinstance(block, Resample)
                x = _downsample_time(walk, block, _downsample_space(block, x))
        x = middle(walk, encoder.mid_block, x)
        x = walk.activated(encoder.norm_out, encoder.conv_out.weight, x) + bias_of(encoder.conv_out)
        means, _ = pointwise(self._quant_conv, x).chunk(2, dim=-1)
        return means, tuple(walk.after)


def _downsample_space(block: Resample, x: Float[Tensor, "b f h w c"]) -> Float[Tensor, "b f i j c"]:
    """Every second window from the first pixel on, with zeros below and right of the last.

    Zeros on all sides, two wide, and without the first row and column of windows, which saves a copy of `x`.
    """
    windows = convolve_2d(block.space.weight, x.flatten(0, 1), stride=2, padding=2)[:, 1:, 1:]
    return laid_out(windows, bias_of(block.space)).unflatten(0, x.shape[:2])


def _downsample_time(
    walk: FirstFrame | Following, block: Resample, x: Float[Tensor, "b f h w c"]
) -> Float[Tensor, "b g h w c"]:
    """Halves the frame rate, with the last frame before; a video's first frame passes."""
    convolution = block.time_conv
    if convolution is None:
        return x
    if isinstance(walk, FirstFrame):
        walk.keep(x, 1)
        return x
    before = walk.before()
    assert before is not None
    walk.after.append(x[:, -1:].clone(memory_format=torch.contiguous_format))
    return convolve(convolution.weight, torch.cat([before, x], dim=1), convolution.bias, stride=2)
