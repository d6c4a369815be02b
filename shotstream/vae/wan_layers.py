"""The layers of both halves of Wan2.1's VAE, as functions of tensors.

All tensors are channels-last, "b f h w c", so that every convolution finds its input and weight in the layout
of a GPU's tensor cores, without a conversion. A causal convolution sees the two earlier frames. `Following`
takes them from memory, an argument, and returns a new one. `FirstFrame` is for a video's first frame, which
has none before it: there each convolution is one over the frame alone, with a third of the arithmetic.

The bias of a convolution that precedes a norm is added in that norm; see `norm_silu.py`.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from shotstream.vae.norm_silu import (
    REMEMBERED,
    add_biased,
    behind,
    norm_silu,
    norm_silu_behind,
    plain_norm,
)
from shotstream.vae.wan_modules import Attention, Middle, Norm, Residual

Memory = tuple[Tensor, ...]
"""The frames that each causal convolution remembers of its input, in the order of the convolutions: the last
two, or the last one where time is halved. Contiguous.
"""


@runtime_checkable
class Walk(Protocol):
    """A pass through the causal convolutions, with their memory."""

    after: list[Tensor]
    """The next memory, as far as the pass has come; empty if it is not kept."""

    def causal(self, weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Returns the causal convolution of `x`, plus `bias`."""
        ...

    def activated(self, norm: Norm, weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Returns the causal convolution of norm and SiLU of `x + bias`.

        `bias` is that of the previous convolution.
        """
        ...


class Following:
    """A pass with the memory of earlier frames; None: of a video's first frames, after zeros."""

    def __init__(self, memory: Memory | None) -> None:
        self._before: Iterator[Tensor] | None = None if memory is None else iter(memory)
        self.after: list[Tensor] = []

    def before(self) -> Tensor | None:
        """Returns the frames that the next convolution remembers."""
        return None if self._before is None else next(self._before)

    def causal(self, weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Returns the result of `Walk.causal`."""
        joined, after = behind(self.before(), x)
        self.after.append(after)
        return convolve(weight, joined, bias)

    def activated(self, norm: Norm, weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Returns the result of `Walk.activated`."""
        joined, after = norm_silu_behind(self.before(), x, norm.gamma, bias)
        self.after.append(after)
        return convolve(weight, joined)


class FirstFrame:
    """A pass of a video's first frame. With `remembers` it returns a memory for the frames that follow."""

    def __init__(self, *, remembers: bool) -> None:
        self._remembers = remembers
        self.after: list[Tensor] = []

    def keep(self, x: Tensor, num_frames: int = REMEMBERED) -> None:
        """Appends the frames that a convolution with input `x` remembers, after zeros."""
        if self._remembers:
            self.after.append(F.pad(x, (0, 0) * 3 + (num_frames - 1, 0)))

    def causal(self, weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Returns the result of `Walk.causal`."""
        self.keep(x)
        return _convolve_frames(_last_tap(weight), x, bias)

    def activated(self, norm: Norm, weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Returns the result of `Walk.activated`."""
        x = norm_silu(x, norm.gamma, bias)
        self.keep(x)
        return _convolve_frames(_last_tap(weight), x)


def residual(walk: Walk, block: Residual, x: Float[Tensor, "b f h w c"]) -> Float[Tensor, "b f h w d"]:
    """Returns the output of a residual block: two convolutions and a shortcut."""
    shortcut = x if block.conv_shortcut is None else pointwise(block.conv_shortcut, x)
    x = walk.activated(block.norm1, block.conv1.weight, x)
    x = walk.activated(block.norm2, block.conv2.weight, x, bias_of(block.conv1))
    return add_biased(x, bias_of(block.conv2), shortcut)


def middle(walk: Walk, part: Middle, x: Float[Tensor, "b f h w c"]) -> Float[Tensor, "b f h w c"]:
    """Returns the output of the middle block: residual blocks with attention between them."""
    blocks = [block for block in part.resnets if isinstance(block, Residual)]
    x = residual(walk, blocks[0], x)
    for attention, block in zip(part.attentions, blocks[1:], strict=True):
        assert isinstance(attention, Attention)
        x = residual(walk, block, attend(attention, x))
    return x


def attend(block: Attention, x: Float[Tensor, "b f h w c"]) -> Float[Tensor, "b f h w c"]:
    """Returns the output of attention within each frame, with one head and a residual connection."""
    normed = plain_norm(x, block.norm.gamma).to(x.dtype)
    tokens = rearrange(pointwise(block.to_qkv, normed), "b f h w c -> (b f) 1 (h w) c")
    q, k, v = tokens.chunk(3, dim=-1)
    attended = F.scaled_dot_product_attention(q, k, v).reshape(x.shape)
    return x + pointwise(block.proj, attended)


def pointwise(
    convolution: nn.Conv2d | nn.Conv3d, x: Float[Tensor, "*pixels c"]
) -> Float[Tensor, "*pixels d"]:
    """Returns a 1x1 convolution, computed as a matrix product, whose bias costs nothing."""
    return F.linear(x, convolution.weight.flatten(1), convolution.bias)


def convolve(
    weight: Float[Tensor, "d c taps kh kw"],
    x: Float[Tensor, "b f h w c"],
    bias: Tensor | None = None,
    stride: int = 1,
) -> Float[Tensor, "b g h w d"]:
    """Returns a 3D convolution: no padding in time, with stride; same size in space."""
    edge = weight.shape[-1] // 2
    y = F.conv3d(x.permute(0, 4, 1, 2, 3), weight, bias, stride=(stride, 1, 1), padding=(0, edge, edge))
    return y.permute(0, 2, 3, 4, 1).contiguous()


def convolve_2d(
    weight: Float[Tensor, "d c kh kw"],
    x: Float[Tensor, "n h w c"],
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int,
) -> Float[Tensor, "n i j d"]:
    """Returns a 2D convolution of channels-last pictures."""
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride=stride, padding=padding)
    return y.permute(0, 2, 3, 1).contiguous()


def _convolve_frames(
    weight: Float[Tensor, "d c kh kw"], x: Float[Tensor, "b 1 h w c"], bias: Tensor | None = None
) -> Float[Tensor, "b 1 h w d"]:
    return convolve_2d(weight, x[:, 0], bias, padding=weight.shape[-1] // 2).unsqueeze(1)


def _last_tap(weight: Float[Tensor, "d c taps kh kw"]) -> Float[Tensor, "d c kh kw"]:
    """Returns the weights for the current frame; a small copy compared with the picture."""
    return weight[:, :, -1].contiguous(memory_format=torch.channels_last)


def bias_of(convolution: nn.Conv2d | nn.Conv3d) -> Tensor:
    """Returns the bias, which every convolution of the VAE has."""
    assert convolution.bias is not None
    return convolution.bias
