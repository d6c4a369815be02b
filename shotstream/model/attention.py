"""Self-attention of the transformer, and the choice of the attention kernel.

The caller decides what a query attends to: `SelfAttention` computes queries, keys and values, an `Attend`
function (full, masked or with a KV cache) computes attention, and `SelfAttention` projects the result.

Source: Wan2.1 (arXiv 2503.20314).
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from shotstream.model.causal_mask import CausalMask, QuerySlice
from shotstream.model.config import DiTConfig
from shotstream.model.eight_bit_attention import attend_in_eight_bits, check_eight_bits
from shotstream.model.rope import RopeTable, apply_rope

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""An attention function: queries, keys, values, each "b n heads k" after RoPE -> "b n heads k"."""

AttentionName = Literal["sdpa", "cudnn", "eight-bit"]
"""Name of the kernel for attention without a mask: torch's default, cuDNN, or the 8-bit kernel of this
package, which needs a dual cache of int8.
"""

_CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


_MAX_LAYOUTS = 64
"""Maximum number of compiled variants in one process: lengths of shots, batches, dtypes, with or without
gradients.
"""


class RMSNorm(nn.Module):
    """RMS norm over the last axis, in float32 or better, with a learned scale."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
        """Returns `x` normalised, in its own dtype."""
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.rms_norm(precise, self.weight.shape, eps=self.eps).to(x.dtype) * self.weight


class SelfAttention(nn.Module):
    """Self-attention over all tokens, with queries and keys normalised over all heads together, and RoPE."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q = nn.Linear(config.dim, config.dim)
        self.k = nn.Linear(config.dim, config.dim)
        self.v = nn.Linear(config.dim, config.dim)
        self.o = nn.Linear(config.dim, config.dim)
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.norm_k = RMSNorm(config.dim, config.eps)

    def project(self, x: Float[Tensor, "b n d"], rope: RopeTable) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, keys and values of every token, "b n heads k", the first two after RoPE.

        Keys are returned before RoPE if the table says so.
        """
        queries = apply_rope(self._heads(self.norm_q(self.q(x))), rope)
        keys = self._heads(self.norm_k(self.k(x)))
        return queries, apply_rope(keys, rope) if rope.turns_keys else keys, self._heads(self.v(x))

    def forward(self, gathered: Float[Tensor, "b n heads k"]) -> Float[Tensor, "b n d"]:
        """Returns the output projection of the result of attention."""
        return self.o(gathered.flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))  # b n heads k


def attend_all(
    queries: Float[Tensor, "b n heads k"],
    keys: Float[Tensor, "b m heads k"],
    values: Float[Tensor, "b m heads k"],
) -> Float[Tensor, "b n heads k"]:
    """Returns softmax attention of every query over all keys."""
    if queries.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        # Half-precision attention is several times slower on a CPU, especially its backward pass.
        with torch.autocast("cpu", enabled=False):
            return attend_all(queries.float(), keys.float(), values.float())
    out = F.scaled_dot_product_attention(
        queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
    )
    return out.transpose(1, 2)


def attention_kernel(name: AttentionName, device: torch.device, dtype: torch.dtype) -> Attend:
    """Returns the attention kernel with a name; it attends over all keys.

    On a CUDA device all except "sdpa" are untested. "eight-bit" is slow on a CPU, where it serves to judge
    quality; the function returned here rounds its keys in each call, a dual cache of int8 once, when they are
    written.

    Raises:
        ValueError: It is not available, or does not support this device or dtype.
    """
    if name == "sdpa":
        return attend_all
    if name == "eight-bit":
        check_eight_bits(device, dtype)
        return attend_in_eight_bits
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(
            f"attention {name!r} needs a CUDA device and bfloat16 or float16, "
            f"not {device.type} and {str(dtype).removeprefix('torch.')}; give sdpa"
        )
    if not torch.backends.cudnn.is_available():
        raise ValueError("attention 'cudnn': this torch has no cuDNN; give sdpa")
    return _attend_cudnn


def _attend_cudnn(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    # A priority, not a restriction: it applies to all threads, and a codec may compute attention meanwhile.
    with sdpa_kernel(_CUDNN_FIRST, set_priority=True):
        return attend_all(queries, keys, values)


def masked_attend(mask: CausalMask, device: torch.device) -> Attend:
    """Returns attention under `mask`, in the form that the mask selects."""
    if mask.form == "slices":
        return partial(_attend_slices, slices=mask.slices())
    return partial(_attend_blocks, block_mask=mask.block_mask(device))


def _attend_slices(
    queries: Tensor, keys: Tensor, values: Tensor, *, slices: tuple[QuerySlice, ...]
) -> Tensor:
    parts = [
        attend_all(queries[:, part.queries], _take(keys, part.keys), _take(values, part.keys))
        for part in slices
    ]
    return torch.cat(parts, dim=1)


def _take(x: Tensor, ranges: tuple[slice, ...]) -> Tensor:
    if len(ranges) == 1:
        return x[:, ranges[0]]
    return torch.cat([x[:, part] for part in ranges], dim=1)


def _attend_blocks(queries: Tensor, keys: Tensor, values: Tensor, *, block_mask: BlockMask) -> Tensor:
    device = queries.device.type
    if torch.is_autocast_enabled(device):
        # Autocast does not handle FlexAttention, whose queries and keys may then differ in dtype.
        dtype = torch.float32 if device == "cpu" else torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return _attend_blocks(queries.to(dtype), keys.to(dtype), values.to(dtype), block_mask=block_mask)
    # A compiled caller compiles this as well.
    flex = _compiled_flex() if queries.is_cuda and not torch.compiler.is_compiling() else flex_attention
    out = flex(queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), block_mask=block_mask)
    assert isinstance(out, Tensor)
    return out.transpose(1, 2)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    """Returns compiled FlexAttention.

    Uncompiled, it would materialise all scores: 42,120 squared for a seven-chunk 480x832 shot.
    """
    expect_graphs(_MAX_LAYOUTS)
    # One graph or an error: beyond the limit torch would otherwise run uncompiled, after a warning.
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def expect_graphs(count: int) -> None:
    """Increases torch's limit of compiled variants of a function to `count`; the default is 8.

    The limit is for all compiled functions: a limit per function exists only from torch 2.12 on.
    """
    limits = torch._dynamo.config  # pyright: ignore[reportPrivateUsage]
    limits.recompile_limit = max(limits.recompile_limit, count)
