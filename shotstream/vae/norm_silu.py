"""The fused operation before each convolution of Wan's VAE: RMS norm over channels, SiLU, past frames.

Pixels are stored channels-last, "b f h w c". Each pixel is divided by its root mean square (in float32),
multiplied by a factor for each channel, and goes through SiLU. The same kernel also puts the two earlier
frames that a causal convolution needs before the result, and copies the two frames that the next call will
need: everything is read once and written once.

These are custom torch operations, so that a compiled graph has no break: `norm_silu`, `norm_silu_behind`,
`add_biased` for the end of a residual block, and `laid_out` for results of a resize. The bias of the previous
convolution is an argument, because cuDNN's convolutions add it in a separate pass. On a GPU each is one
kernel. The first three are Triton kernels if Triton is installed; they compile in seconds and are the same
with and without `torch.compile`, which would take a minute to fuse as much. Otherwise the plain functions are
used, with which the tests compare the kernels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from shotstream.vae import norm_silu_triton as kernels
from shotstream.vae.norm_silu_triton import REMEMBERED, SHORTEST


def norm_silu(
    x: Float[Tensor, "b f h w c"], gamma: Float[Tensor, "c *ones"], bias: Float[Tensor, " c"] | None = None
) -> Float[Tensor, "b f h w c"]:
    """Returns the SiLU of `x + bias` over its root mean square, times gamma.

    It is computed in float32 and returned in the dtype of `x`.
    """
    return torch.ops.shotstream.norm_silu(x, gamma.flatten(), bias)


def norm_silu_behind(
    before: Float[Tensor, "b past h w c"] | None,
    x: Float[Tensor, "b f h w c"],
    gamma: Float[Tensor, "c *ones"],
    bias: Float[Tensor, " c"] | None = None,
) -> tuple[Float[Tensor, "b joined h w c"], Float[Tensor, "b past h w c"]]:
    """Returns the two earlier frames (None: zeros) and `norm_silu`; and a copy of the last two frames."""
    return torch.ops.shotstream.norm_silu_behind(before, x, gamma.flatten(), bias)


def add_biased(
    x: Float[Tensor, "b f h w c"], bias: Float[Tensor, " c"], other: Float[Tensor, "b f h w c"]
) -> Float[Tensor, "b f h w c"]:
    """Returns `x + bias + other`, rounded once."""
    return torch.ops.shotstream.add_biased(x, bias, other)


def behind(
    before: Float[Tensor, "b past h w c"] | None, x: Float[Tensor, "b f h w c"]
) -> tuple[Float[Tensor, "b joined h w c"], Float[Tensor, "b past h w c"]]:
    """Returns the two earlier frames (None: zeros) and `x`, joined; and a copy of the last two frames."""
    joined = F.pad(x, (0, 0) * 3 + (REMEMBERED, 0)) if before is None else torch.cat([before, x], dim=1)
    # A copy, because a view would keep all frames of the layer in memory. Contiguous, also for axes of one
    # element, because another stride would make a compiled function compile again.
    return joined, joined[:, -REMEMBERED:].clone(memory_format=torch.contiguous_format)


def laid_out(view: Float[Tensor, "*axes"], bias: Float[Tensor, "*fewer"]) -> Float[Tensor, "*axes"]:
    """Returns `view + bias` contiguous; by default torch would keep the view's order in memory."""
    return torch.ops.shotstream.laid_out(view, bias)


def plain_norm(x: Tensor, gamma: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns the normalised input of SiLU, in float32."""
    wide = x.float() if bias is None else x.float() + bias.float()
    length = wide.square().sum(-1, keepdim=True).sqrt().clamp_min(SHORTEST)
    return wide / length * (gamma.flatten().float() * gamma.shape[0] ** 0.5)


def plain_norm_silu(x: Tensor, gamma: Tensor, bias: Tensor | None) -> Tensor:
    """Returns `norm_silu`, computed with plain torch operations."""
    return F.silu(plain_norm(x, gamma, bias)).to(x.dtype)


def plain_norm_silu_behind(
    before: Tensor | None, x: Tensor, gamma: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns `norm_silu_behind`, computed with plain torch operations."""
    return behind(before, plain_norm_silu(x, gamma, bias))


def plain_add_biased(x: Tensor, bias: Tensor, other: Tensor) -> Tensor:
    """Returns `add_biased`, computed with plain torch operations."""
    return (x.float() + bias.float() + other.float()).to(x.dtype)


def _laid_out(view: Tensor, bias: Tensor) -> Tensor:
    out = torch.empty(view.shape, dtype=view.dtype, device=view.device)
    return torch.add(view, bias, out=out)


def _like(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _like_behind(
    before: Tensor | None, x: Tensor, gamma: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    del before, gamma, bias
    batch, frames, *pixel = x.shape
    return x.new_empty(batch, REMEMBERED + frames, *pixel), x.new_empty(batch, REMEMBERED, *pixel)


def _define(name: str, schema: str, plain: Any, shape: Any) -> None:
    operation: Any = torch.library.custom_op(f"shotstream::{name}", plain, mutates_args=(), schema=schema)
    operation.register_kernel("cuda", getattr(kernels, name, plain))
    operation.register_fake(shape)


_define("norm_silu", "(Tensor x, Tensor gamma, Tensor? bias) -> Tensor", plain_norm_silu, _like)
_define(
    "norm_silu_behind",
    "(Tensor? before, Tensor x, Tensor gamma, Tensor? bias) -> (Tensor, Tensor)",
    plain_norm_silu_behind,
    _like_behind,
)
_define("add_biased", "(Tensor x, Tensor bias, Tensor other) -> Tensor", plain_add_biased, _like)
_define("laid_out", "(Tensor view, Tensor bias) -> Tensor", _laid_out, _like)
