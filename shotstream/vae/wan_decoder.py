"""The decoder of Wan2.1's VAE as two functions: for a video's first latent frames, and for those that follow.

The memory of the causal convolutions is an argument and a result: a tuple of tensors, one for each
convolution, with the last two frames of its input. Their number, shapes and strides never change after the
first latent frame; frames before the video are zeros. Each function therefore has static shapes for a given
number of latent frames, and compiles without a graph break. All latent frames of a call go through each layer
together.

Results equal those of diffusers' `AutoencoderKLWan` up to rounding; its own decoder loops over latent frames
with a list that holds None, a mark, or one or two frames.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shotstream.vae.norm_silu import REMEMBERED, laid_out
from shotstream.vae.wan_layers import (
    Following,
    Memory,
    bias_of,
    convolve_2d,
    middle,
    pointwise,
    residual,
)
from shotstream.vae.wan_modules import Resample, Residual, Up, WanTensors

_OUTPUTS = 8
"""Number of output channels of the last convolution: padded to 8, because tensor cores compute eight at
once.
"""


class WanDecoder:
    """The decoder from raw latents to pixels; stateless."""

    def __init__(self, tensors: WanTensors) -> None:
        self._post_quant_conv, self._decoder = tensors.post_quant_conv, tensors.decoder
        levels = [level for level in self._decoder.up_blocks if isinstance(level, Up)]
        self._levels = [
            (
                [block for block in level.resnets if isinstance(block, Residual)],
                [(up, _folded(up.space)) for up in level.upsamplers if isinstance(up, Resample)],
            )
            for level in levels
        ]
        last = self._decoder.conv_out
        self._num_colours = last.out_channels
        padding = (0, 0) * 4 + (0, max(0, _OUTPUTS - last.out_channels))
        self._last_weight = F.pad(last.weight, padding).contiguous(memory_format=torch.channels_last_3d)

    def first(self, latents: Float[Tensor, "b f h w z"]) -> tuple[Float[Tensor, "b frames ph pw 3"], Memory]:
        """Returns float32 pixels of a video's first latent frames, one or more, and the next memory."""
        return self._decode(latents, None)

    def following(
        self, latents: Float[Tensor, "b f h w z"], memory: Memory
    ) -> tuple[Float[Tensor, "b frames ph pw 3"], Memory]:
        """Returns float32 pixels of the next latent frames, and the next memory; the old one stays valid."""
        return self._decode(latents, memory)

    def _decode(self, latents: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        decoder = self._decoder
        walk = Following(memory)
        x = walk.causal(
            decoder.conv_in.weight, pointwise(self._post_quant_conv, latents), decoder.conv_in.bias
        )
        x = middle(walk, decoder.mid_block, x)
        for blocks, upsamplers in self._levels:
            for block in blocks:
                x = residual(walk, block, x)
            for upsampler, weight in upsamplers:
                if upsampler.time_conv is not None:
                    x = _upsample_time(walk, upsampler.time_conv, x, is_first=memory is None)
                x = _upsample_space(weight, bias_of(upsampler.space), x)
        x = walk.activated(decoder.norm_out, self._last_weight, x)
        pixels = x[..., : self._num_colours].float() + bias_of(decoder.conv_out).float()
        return pixels.clamp(-1, 1), tuple(walk.after)


def _upsample_time(
    walk: Following, convolution: nn.Conv3d, x: Float[Tensor, "b f h w c"], *, is_first: bool
) -> Float[Tensor, "b g h w c"]:
    """Returns two frames for each frame, except for a video's first one.

    The first frame of a video is returned as it is, and is not remembered either.
    """
    if not is_first:
        return _two_of_each(walk, convolution, x)
    first, rest = x[:, :1], x[:, 1:]
    if rest.shape[1] == 0:
        walk.after.append(first.new_zeros(x.shape[0], REMEMBERED, *x.shape[2:]))
        return first
    return torch.cat([first, _two_of_each(walk, convolution, rest)], dim=1)


def _two_of_each(
    walk: Following, convolution: nn.Conv3d, x: Float[Tensor, "b f h w c"]
) -> Float[Tensor, "b 2*f h w c"]:
    """Returns two frames for each frame, from the two halves of the convolution's channels."""
    halves = walk.causal(convolution.weight, x).unflatten(-1, (2, -1)).movedim(-2, 2)
    return laid_out(halves, bias_of(convolution).view(2, 1, 1, -1)).flatten(1, 2)


def _folded(convolution: nn.Conv2d) -> Float[Tensor, "quarters c 2 2"]:
    """Returns the weight of a convolution after nearest upsampling by 2, folded onto the picture before it.

    There is a 2x2 weight for each of the four pixels that a pixel becomes. Of the three rows under a 3x3
    kernel two are equal, so their weights are added; the same holds for columns.
    """
    rows = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], device=convolution.weight.device)
    weight = torch.einsum("api,bqj,dcij->abdcpq", rows, rows, convolution.weight.float()).flatten(0, 2)
    return weight.to(convolution.weight.dtype).contiguous(memory_format=torch.channels_last)


def _upsample_space(
    weight: Float[Tensor, "quarters c 2 2"], bias: Float[Tensor, " d"], x: Float[Tensor, "b f h w c"]
) -> Float[Tensor, "b f 2*h 2*w d"]:
    """Returns a convolution of a picture that is upsampled by 2 (nearest), without computing that picture.

    Of the four pixels that a pixel becomes, the upper left and the lower right one come from windows that are
    one row and one column apart. There is therefore one more row and column of windows than of pixels.
    """
    batch, frames, height, width, _ = x.shape
    windows = convolve_2d(weight, x.flatten(0, 1), padding=1)
    step, row, column, _ = windows.stride()
    quarters = windows.as_strided(
        (batch * frames, height, 2, width, 2, bias.shape[0]),
        (step, row, row + 2 * bias.shape[0], column, column + bias.shape[0], 1),
    )
    return laid_out(quarters, bias).view(batch, frames, 2 * height, 2 * width, -1)
