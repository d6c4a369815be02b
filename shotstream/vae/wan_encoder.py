"""The encoder of Wan2.1's VAE as two functions: for a video's first frame, and for the frames that follow.

For a video of one frame all earlier taps of a convolution over time would see zeros, so a batch of such
videos is encoded with convolutions over single pictures. A longer video is encoded in pieces, with a memory
as in `wan_decoder.py`, so that only the activations of a piece are in memory.

Results equal those of diffusers' `AutoencoderKLWan` up to rounding.
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
    """The encoder from pixels to the means of raw latents; stateless."""

    def __init__(self, tensors: WanTensors) -> None:
        self._encoder, self._quant_conv = tensors.encoder, tensors.quant_conv

    def first(
        self, frames: Float[Tensor, "b 1 h w 3"], *, remembers: bool
    ) -> tuple[Float[Tensor, "b 1 lh lw z"], Memory]:
        """Returns the latents of first frames, and the next memory, which is empty unless `remembers`."""
        return self._encode(frames, FirstFrame(remembers=remembers))

    def following(
        self, frames: Float[Tensor, "b f h w 3"], memory: Memory
    ) -> tuple[Float[Tensor, "b lf lh lw z"], Memory]:
        """Returns the latents of the next frames, and the next memory.

        The number of frames must be a multiple of the temporal stride.
        """
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
    """Returns every second window from the first pixel on, with zeros below and right of the last one.

    It pads two zeros on all sides and drops the first row and column of windows, which saves a copy of `x`.
    """
    windows = convolve_2d(block.space.weight, x.flatten(0, 1), stride=2, padding=2)[:, 1:, 1:]
    return laid_out(windows, bias_of(block.space)).unflatten(0, x.shape[:2])


def _downsample_time(
    walk: FirstFrame | Following, block: Resample, x: Float[Tensor, "b f h w c"]
) -> Float[Tensor, "b g h w c"]:
    """Returns half of the frames, with the last earlier frame as context; a video's first frame is kept."""
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
