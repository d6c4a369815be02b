"""8-bit attention, with keys and values stored in 8 bits: half the bytes, and twice the rate of products.

Quantisation, for each head separately:
- A key is int8 with its own step, 1/127 of its largest value. Before that, the mean key of the context is
  subtracted, because the keys of a shot share large offsets that would use up most of the steps. Softmax does
  not change, since the same mean is subtracted from all keys that a query attends to: it is computed when
  the context is committed, and kept for the shot. A scale per key costs one multiplication per score. A scale
  per block of keys would cost none, but blocks would have to begin and end with chunks, and be rounded
  with the largest key of a block.
- A query is int8 with its own step, rounded again in each pass; products are summed exactly.
- A value is float8 (e4m3) without a scale: its exponent is one, and reaches from 2^-9 to 448.
- A probability is float8, relative to the largest of its query rounded up to a power of two, so that the
order
  of the keys does not matter. Probabilities are divided by the sum of their rounded values: the result is a
  weighted mean of values, and a component that all values share has no rounding error. Sums are float32.

On a GPU the Triton kernels of `eight_bit_kernels` compute it; here are the same steps in plain torch
operations, slow, to judge quality and to test the kernels. No gradient flows through it.

Source: the idea of smoothed int8 keys and float8 values, SageAttention2 (arXiv 2411.10958).
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

KEY_BLOCK = 128
"""Number of tokens that a kernel reads together, whether it uses all of them or not."""

_FLOAT8 = torch.float8_e4m3fn
_FLOAT8_MAX = torch.finfo(_FLOAT8).max
_LIKELY_EXPONENT = 8
"""Exponent of 2 that the largest probability is scaled to; the maximum of float8 is 448."""
_ROWS = 256
"""Number of queries whose scores are in memory together."""
_WIDTHS = (32, 64, 128)
_LEAST_CAPABILITY = (9, 0)


class EightBitKeysValues(NamedTuple):
    """Keys (after RoPE) and values of one layer in 8 bits, in the layout of the kernels' blocks."""

    keys: Tensor
    """Keys: int8, "b heads n k"."""
    steps: Tensor
    """Step size of each key: float32, "b heads n"."""
    values: Tensor
    """Values: float8, "b heads k n"."""
    centre: Tensor
    """Mean key that is subtracted from every key: float32, "b heads k"."""

    @classmethod
    def empty(
        cls, batch: int, num_tokens: int, num_heads: int, width: int, device: torch.device | str
    ) -> "EightBitKeysValues":
        """Returns buffers for `num_tokens`, rounded up to whole blocks; zeros, so that all reads are finite.

        Raises:
            ValueError: The kernels do not support the width of the heads, on a GPU.
        """
        if torch.device(device).type == "cuda" and width not in _WIDTHS:
            raise ValueError(f"attention 'eight-bit' takes heads of {_WIDTHS}, not {width}; give sdpa")
        room = -(-num_tokens // KEY_BLOCK) * KEY_BLOCK
        return cls(
            torch.zeros(batch, num_heads, room, width, dtype=torch.int8, device=device),
            torch.zeros(batch, num_heads, room, device=device),
            torch.zeros(batch, num_heads, width, room, dtype=torch.int8, device=device).view(_FLOAT8),
            torch.zeros(batch, num_heads, width, device=device),
        )

    def part(self, tokens: slice) -> "EightBitKeysValues":
        """Returns views of a range of tokens, with the same centre."""
        return EightBitKeysValues(
            self.keys[:, :, tokens], self.steps[:, :, tokens], self.values[..., tokens], self.centre
        )

    def write(self, keys: Tensor, values: Tensor, tokens: slice, *, is_context: bool) -> None:
        """Rounds keys and values, "b n heads k", into a range of tokens; a context also sets the centre."""
        if is_context:
            self.centre.copy_(keys.mean(dim=1, dtype=torch.float32))
        _keep(keys, values, self.centre, self.keys, self.steps, self.values, tokens.start)

    def attend(self, queries: Float[Tensor, "b n heads k"], tokens: slice) -> Float[Tensor, "b n heads k"]:
        """Returns attention of every query to a range of tokens, in the queries' dtype."""
        return _attend(queries, self.keys, self.steps, self.values, tokens.start, tokens.stop)


def attend_in_eight_bits(
    queries: Float[Tensor, "b n heads k"],
    keys: Float[Tensor, "b m heads k"],
    values: Float[Tensor, "b m heads k"],
) -> Float[Tensor, "b n heads k"]:
    """Returns attention of every query over all keys, which are rounded for this call alone."""
    batch, num_tokens, heads, width = keys.shape
    kept = EightBitKeysValues.empty(batch, num_tokens, heads, width, keys.device)
    kept.write(keys, values, slice(0, num_tokens), is_context=True)
    return kept.attend(queries, slice(0, num_tokens))


def check_eight_bits(device: torch.device, dtype: torch.dtype) -> None:
    """Raises ValueError if a device does not support 8-bit attention in a dtype."""
    if device.type != "cuda":
        return
    if torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        raise ValueError("attention 'eight-bit' needs a GPU of compute capability 9.0 or above; give sdpa")
    if dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(f"attention 'eight-bit' rounds half precision, not {dtype}; give sdpa or bfloat16")


def keep_plainly(
    keys: Tensor, values: Tensor, centre: Tensor, kept: tuple[Tensor, Tensor, Tensor], start: int
) -> None:
    """Writes keys and values, "b n heads k", from a token on, with plain torch operations."""
    tokens = slice(start, start + keys.shape[1])
    rounded, steps = _to_int8((keys.float() - centre[:, None]).transpose(1, 2))
    kept[0][:, :, tokens] = rounded
    kept[1][:, :, tokens] = steps
    kept[2][..., tokens] = _to_float8(values.permute(0, 2, 3, 1).float())


def attend_plainly(queries: Tensor, kept: tuple[Tensor, Tensor, Tensor], start: int, stop: int) -> Tensor:
    """Returns attention of queries, "b n heads k", to a range of tokens, with plain torch operations."""
    keys, steps, values = kept
    keys = keys[:, :, start:stop].float().transpose(2, 3)  # b heads k n
    steps = steps[:, :, None, start:stop]
    values = values[..., start:stop].float().transpose(2, 3)  # b heads n k
    gathered = [
        _attend_rows(some.transpose(1, 2), keys, steps, values) for some in queries.split(_ROWS, dim=1)
    ]
    return torch.cat(gathered, dim=2).transpose(1, 2).to(queries.dtype).contiguous()


def _attend_rows(queries: Tensor, keys: Tensor, steps: Tensor, values: Tensor) -> Tensor:
    rounded, step = _to_int8(queries.float())
    # Sums of integers below 2^24 are exact in float32. Scores are exponents of 2.
    scores = rounded.float() @ keys * steps
    step = step[..., None] * (math.log2(math.e) / math.sqrt(queries.shape[-1]))
    top = (scores.amax(dim=-1, keepdim=True) * step).ceil()
    likely = _to_float8(torch.exp2(scores * step + (_LIKELY_EXPONENT - top))).float()
    return likely @ values / likely.sum(dim=-1, keepdim=True)


def _to_int8(x: Float[Tensor, "*shape k"]) -> tuple[Tensor, Tensor]:
    """Returns each row as int8 values in [-127, 127], and its step size."""
    steps = (x.abs().amax(dim=-1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (x / steps[..., None]).round().to(torch.int8), steps


def _to_float8(x: Tensor) -> Tensor:
    return x.clamp(-_FLOAT8_MAX, _FLOAT8_MAX).to(_FLOAT8)


def _keep_op(
    keys: Tensor,
    values: Tensor,
    centre: Tensor,
    kept_keys: Tensor,
    steps: Tensor,
    kept_values: Tensor,
    start: int,
) -> None:
    if keys.is_cuda:
        from shotstream.model.eight_bit_kernels import keep
    else:
        keep = keep_plainly
    keep(keys, values, centre, (kept_keys, steps, kept_values), start)


def _attend_op(queries: Tensor, keys: Tensor, steps: Tensor, values: Tensor, start: int, stop: int) -> Tensor:
    if queries.is_cuda:
        from shotstream.model.eight_bit_kernels import attend
    else:
        attend = attend_plainly
    return attend(queries, (keys, steps, values), start, stop)


# Custom torch operations, so that a compiler does not split them.
_keep = torch.library.custom_op(
    "shotstream::keep_in_eight_bits",
    _keep_op,
    mutates_args=("kept_keys", "steps", "kept_values"),
    schema="(Tensor keys, Tensor values, Tensor centre, Tensor(a!) kept_keys, Tensor(b!) steps, "
    "Tensor(c!) kept_values, SymInt start) -> ()",
)
_attend = torch.library.custom_op(
    "shotstream::attend_in_eight_bits",
    _attend_op,
    mutates_args=(),
    schema="(Tensor queries, Tensor keys, Tensor steps, Tensor values, SymInt start, SymInt stop) -> Tensor",
)


@_keep.register_fake
def _(*_args: object) -> None:
    return None


@_attend.register_fake
def _(queries: Tensor, *_args: object) -> Tensor:
    return torch.empty_like(queries, memory_format=torch.contiguous_format)
