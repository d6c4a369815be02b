"""Self-attention of the transformer, and the one call that computes attention.

What a query may see is decided by the caller: `SelfAttention` makes queries, keys and values, an `Attend`
function (full, masked or through a cache) gathers, and `SelfAttention` projects what was gathered.

Source: Wan2.1 (arXiv 2503.20314).
"""

import importlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from shotstream.model.causal_mask import CausalMask, QuerySlice
from shotstream.model.config import DiTConfig
from shotstream.model.quantized import FLOAT8_MAX
from shotstream.model.rope import RopeTable, apply_rope

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(queries, keys, values), each "b n heads k" after rotation -> "b n heads k"."""

AttentionName = Literal["sdpa", "cudnn", "flash3", "sage"]
"""What computes attention without a mask: torch's own choice, cuDNN, FlashAttention-3, or SageAttention in
eight bits (arXiv 2411.10958)."""

_LIBRARIES: dict[AttentionName, tuple[str, str]] = {
    "flash3": ("flash_attn_interface", "FlashAttention-3"),
    "sage": ("sageattention", "SageAttention"),
}

_QUERY_BLOCK, _KEY_BLOCK = 32, 64

_MAX_LAYOUTS = 64
"""Shots of different lengths, batches and precisions, with and without gradients, in one process."""


class RMSNorm(nn.Module):
    """Division by the root mean square over the last axis, in float32 or better, then a learned scale."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
        """`x` normalised, in its own dtype."""
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.rms_norm(precise, self.weight.shape, eps=self.eps).to(x.dtype) * self.weight


class SelfAttention(nn.Module):
    """Queries, keys and values of all frames, normalised over all heads together, turned by RoPE."""

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
        """Queries, keys and values of every token, "b n heads k", the first two turned to their places."""
        queries = apply_rope(self._heads(self.norm_q(self.q(x))), rope)
        keys = apply_rope(self._heads(self.norm_k(self.k(x))), rope)
        return queries, keys, self._heads(self.v(x))

    def forward(self, gathered: Float[Tensor, "b n heads k"]) -> Float[Tensor, "b n d"]:
        """What every token has gathered, mixed over the heads."""
        return self.o(gathered.flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))  # b n heads k


def attend_all(
    queries: Float[Tensor, "b n heads k"],
    keys: Float[Tensor, "b m heads k"],
    values: Float[Tensor, "b m heads k"],
) -> Float[Tensor, "b n heads k"]:
    """Softmax attention of every query over all keys."""
    if queries.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        # Half-precision attention is several times slower on a CPU, its backward pass above all.
        with torch.autocast("cpu", enabled=False):
            return attend_all(queries.float(), keys.float(), values.float())
    out = F.scaled_dot_product_attention(
        queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
    )
    return out.transpose(1, 2)


def attention_kernel(name: AttentionName, device: torch.device, dtype: torch.dtype) -> Attend:
    """What computes attention of every query over all keys.

    On a CUDA device all but "sdpa" are untested. On a CPU "sage" is `attend_in_eight_bits`, slow, to judge
    quality.

    Raises:
        ValueError: It is not there, or not for this device or dtype.
    """
    if name == "sdpa":
        return attend_all
    if name == "sage" and device.type == "cpu":
        return attend_in_eight_bits
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(
            f"attention {name!r} needs a CUDA device and bfloat16 or float16, "
            f"not {device.type} and {str(dtype).removeprefix('torch.')}; give sdpa"
        )
    if name == "cudnn":
        if not torch.backends.cudnn.is_available():
            raise ValueError("attention 'cudnn': this torch has no cuDNN; give sdpa")
        return _attend_cudnn
    module, library = _LIBRARIES[name]
    if name == "flash3" and torch.cuda.get_device_capability(device)[0] != 9:
        raise ValueError("attention 'flash3' is for GPUs of the Hopper generation; give sdpa or cudnn")
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"attention {name!r} needs {library}, which is not installed: {error}") from error
    if name == "flash3":
        # Some of its versions answer with the logarithm of the sums beside the result.
        return opaque(name, lambda q, k, v: _first(found.flash_attn_func(q, k, v)))
    return opaque(name, lambda q, k, v: found.sageattn(q, k, v, tensor_layout="NHD"))


def attend_in_eight_bits(
    queries: Float[Tensor, "b n heads k"],
    keys: Float[Tensor, "b m heads k"],
    values: Float[Tensor, "b m heads k"],
) -> Float[Tensor, "b n heads k"]:
    """Attention as SageAttention rounds it on a GPU that multiplies float8, in plain operations.

    Queries and keys are int8, each block of tokens with a scale of its own; a key's mean over all tokens is
    taken away before, which softmax does not see. Probabilities are float8 (e4m3) of the largest one, values
    are float8 with a scale for each channel. Sums are float32.

    Source: SageAttention2 (arXiv 2411.10958) and its predecessor's int8 (arXiv 2410.02367).
    """
    smooth = keys - keys.mean(dim=1, keepdim=True)
    rounded_queries, rounded_keys = _int8_blocks(queries, _QUERY_BLOCK), _int8_blocks(smooth, _KEY_BLOCK)
    scores = torch.einsum("bnhk,bmhk->bhnm", rounded_queries, rounded_keys) / queries.shape[-1] ** 0.5
    likely = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    scale = (values.float().abs().amax(dim=1, keepdim=True) / FLOAT8_MAX).clamp(min=torch.finfo().tiny)
    gathered = torch.einsum("bhnm,bmhk->bnhk", _float8(likely * FLOAT8_MAX), _float8(values.float() / scale))
    total = likely.sum(dim=-1).transpose(1, 2)[..., None] * FLOAT8_MAX
    return (gathered * scale / total).to(queries.dtype)


def _int8_blocks(x: Float[Tensor, "b n heads k"], size: int) -> Float[Tensor, "b n heads k"]:
    """`x` rounded to 127 steps either way, blocks of `size` tokens of a head with a scale each."""
    padded = F.pad(x.float(), (0, 0, 0, 0, 0, -x.shape[1] % size)).unflatten(1, (-1, size))
    step = (padded.abs().amax(dim=(2, 4), keepdim=True) / 127).clamp(min=torch.finfo().tiny)
    return ((padded / step).round() * step).flatten(1, 2)[:, : x.shape[1]]


def _float8(x: Tensor) -> Tensor:
    return x.clamp(-FLOAT8_MAX, FLOAT8_MAX).to(torch.float8_e4m3fn).float()


def opaque(name: str, attend: Attend) -> Attend:
    """`attend` as one operation of torch, so that a graph is compiled around what a library does inside."""
    operation = torch.library.custom_op(
        f"shotstream::{name}", attend, mutates_args=(), schema="(Tensor q, Tensor k, Tensor v) -> Tensor"
    )
    operation.register_fake(_like_queries)
    return operation


def _like_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    del k, v
    return torch.empty_like(q, memory_format=torch.contiguous_format)


def _first(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple) else result


def _attend_cudnn(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return attend_all(queries, keys, values)


def masked_attend(mask: CausalMask, device: torch.device) -> Attend:
    """Attention under `mask`, in the form it names."""
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
        # Autocast knows nothing of FlexAttention, and leaves it queries and keys of another dtype.
        dtype = torch.float32 if device == "cpu" else torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return _attend_blocks(queries.to(dtype), keys.to(dtype), values.to(dtype), block_mask=block_mask)
    # A compiled caller compiles this too.
    flex = _compiled_flex() if queries.is_cuda and not torch.compiler.is_compiling() else flex_attention
    out = flex(queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), block_mask=block_mask)
    assert isinstance(out, Tensor)
    return out.transpose(1, 2)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    """Uncompiled FlexAttention materialises all scores: 42,120 squared for a seven-chunk 480x832 shot."""
    expect_graphs(_MAX_LAYOUTS)
    # One graph or an error: past the limit torch would otherwise go on uncompiled, after a warning.
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def expect_graphs(count: int) -> None:
    """Lets torch compile a function for so many cases before it takes them for a mistake; it begins with 8.

    For all compiled functions: a limit of its own a function has only from torch 2.12 on.
    """
    limits = torch._dynamo.config  # pyright: ignore[reportPrivateUsage]
    limits.recompile_limit = max(limits.recompile_limit, count)
