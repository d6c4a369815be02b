"""The decoder of Wan2.1's VAE as two functions: of a video's first latent frames, and of those that follow.

What a causal convolution has to remember is an argument and a result: a tuple of tensors, one for each, the
last two frames of its input. Their number and shapes are those after the first latent frame for ever, zeros
where a video has no frame yet, so that each function has static shapes for a given number of latent frames
and compiles without a break in its graph. All latent frames of a call go through each layer together.

The weights are those of diffusers' `AutoencoderKLWan`, whose own decoder walks one latent frame after the
other over a list that holds None, a mark, or one or two frames. Agrees with it to rounding.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

Memory = tuple[Tensor, ...]
"""The last two frames of the input of each causal convolution, in the order in which they are met."""

_REMEMBERED = 2
"""Frames before its own that a causal convolution sees: its kernel is three frames long."""

_SHORTEST = 1e-12
"""Of a pixel's channels: what all zeros are divided by."""


class WanDecoder:
    """From raw latents to pixels; stateless."""

    def __init__(self, module: "AutoencoderKLWan", *, channels_last: bool = False) -> None:
        """With `channels_last` the channels of a pixel lie together; the module's weights are laid out so."""
        self._module: Any = module
        self._format = torch.channels_last_3d if channels_last else torch.contiguous_format
        if channels_last:
            for part in module.decoder.modules():
                if isinstance(part, nn.Conv2d | nn.Conv3d):
                    flat = isinstance(part, nn.Conv2d)
                    kind = torch.channels_last if flat else torch.channels_last_3d
                    part.weight.data = part.weight.data.contiguous(memory_format=kind)

    def first(self, latents: Float[Tensor, "b z f h w"]) -> tuple[Float[Tensor, "b 3 frames ph pw"], Memory]:
        """Pixels of a video's first latent frames, one or more, and the memory that follows."""
        return self._decode(latents, None)

    def following(
        self, latents: Float[Tensor, "b z f h w"], memory: Memory
    ) -> tuple[Float[Tensor, "b 3 frames ph pw"], Memory]:
        """Pixels of the next latent frames, one or more, and the memory that follows; the old stays valid."""
        return self._decode(latents, memory)

    def _decode(self, latents: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        decoder = self._module.decoder
        walk = _Walk(memory)
        x = latents.contiguous(memory_format=self._format)
        x = _pointwise(self._module.post_quant_conv, x)
        x = walk.causal(decoder.conv_in, x)
        x = walk.residual(decoder.mid_block.resnets[0], x)
        for attention, block in zip(decoder.mid_block.attentions, decoder.mid_block.resnets[1:], strict=True):
            x = walk.residual(block, _attend(attention, x))
        for level in decoder.up_blocks:
            for block in level.resnets:
                x = walk.residual(block, x)
            for upsampler in level.upsamplers or ():
                if upsampler.mode == "upsample3d":
                    x = walk.upsample_time(upsampler.time_conv, x)
                x = _upsample_space(upsampler.resample[1], x)
        x = walk.causal(decoder.conv_out, F.silu(_norm(decoder.norm_out, x)))
        return x, tuple(walk.after)


class _Walk:
    """One way through the causal convolutions: takes up what each remembers and leaves what it will."""

    def __init__(self, memory: Memory | None) -> None:
        self._is_first = memory is None
        self._before: Iterator[Tensor] = iter(memory or ())
        self.after: list[Tensor] = []

    def causal(self, convolution: nn.Conv3d, x: Tensor) -> Tensor:
        if self._is_first:
            x = F.pad(x, (0, 0, 0, 0, _REMEMBERED, 0))
        else:
            x = torch.cat([next(self._before), x], dim=2)
        # A copy: a view would keep all frames of the layer.
        self.after.append(x[:, :, -_REMEMBERED:].clone())
        # Made for padding by hand, the module keeps its own at 0 and the width of the edge elsewhere.
        edge = convolution.kernel_size[1] // 2
        return F.conv3d(x, convolution.weight, convolution.bias, padding=(0, edge, edge))

    def residual(self, block: Any, x: Tensor) -> Tensor:
        shortcut = x if isinstance(block.conv_shortcut, nn.Identity) else _pointwise(block.conv_shortcut, x)
        x = self.causal(block.conv1, F.silu(_norm(block.norm1, x)))
        x = self.causal(block.conv2, F.silu(_norm(block.norm2, x)))
        return x + shortcut

    def upsample_time(self, convolution: nn.Conv3d, x: Tensor) -> Tensor:
        """Two frames of each, but of a video's first: that one passes, and is not remembered either."""
        if not self._is_first:
            return _interleave(self.causal(convolution, x))
        first, rest = x[:, :, :1], x[:, :, 1:]
        if rest.shape[2] == 0:
            self.after.append(torch.zeros_like(x[:, :, :1]).expand(-1, -1, _REMEMBERED, -1, -1).clone())
            return first
        return torch.cat([first, _interleave(self.causal(convolution, rest))], dim=2)


def _interleave(x: Float[Tensor, "b both f h w"]) -> Float[Tensor, "b c 2*f h w"]:
    """The two halves of the channels as frames in turn."""
    return rearrange(x, "b (two c) f h w -> b c (f two) h w", two=2)


def _upsample_space(convolution: nn.Conv2d, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b d f 2*h 2*w"]:
    frames = rearrange(x, "b c f h w -> (b f) c h w")
    # Each pixel four times: exact in every dtype.
    frames = F.interpolate(frames, scale_factor=2.0, mode="nearest-exact")
    frames = F.conv2d(frames, convolution.weight, convolution.bias, padding=1)
    return rearrange(frames, "(b f) c h w -> b c f h w", b=x.shape[0])


def _attend(block: Any, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h w"]:
    """Each frame to itself, one head."""
    batch, _, _, height, width = x.shape
    frames = _norm(block.norm, rearrange(x, "b c f h w -> (b f) c h w"))
    frames = F.conv2d(frames, block.to_qkv.weight, block.to_qkv.bias)
    q, k, v = rearrange(frames, "n (three c) h w -> three n 1 (h w) c", three=3).contiguous().unbind(0)
    attended = F.scaled_dot_product_attention(q, k, v)
    frames = rearrange(attended, "n 1 (h w) c -> n c h w", h=height, w=width)
    frames = F.conv2d(frames, block.proj.weight, block.proj.bias)
    return x + rearrange(frames, "(b f) c h w -> b c f h w", b=batch)


def _pointwise(convolution: nn.Conv3d, x: Tensor) -> Tensor:
    return F.conv3d(x, convolution.weight, convolution.bias)


def _norm(norm: Any, x: Tensor) -> Tensor:
    """Root mean square over the channels, measured in float32."""
    wide = x.float()
    # On a CPU five to thirty times as fast as `F.normalize` over an axis that is not the last in memory.
    length = wide.square().sum(1, keepdim=True).sqrt().clamp_min(_SHORTEST)
    return (wide / length).to(x.dtype) * (norm.scale * norm.gamma)
