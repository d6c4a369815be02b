"""Triton kernels of 8-bit attention for GPUs of the Hopper generation or later; not yet run on a GPU.

The module is imported if there is such a GPU, and by tests. `eight_bit_attention` says what is computed, and
has the same in plain torch operations. The kernels work as follows:

- A program takes `_ROWS` queries of one head and loops over the keys in blocks of `_BLOCK`, as in
  FlashAttention. Products of queries and keys are int8 with exact sums. Those of probabilities and values are
  float8; each block is summed separately and added in float32, because the tensor cores' sums of float8 keep
  few bits.
- Blocks are at multiples of `_BLOCK` in the cache, whatever range is attended to. Only blocks at its two
  ends, if they are not full, are masked, at no cost for the others.
- 8-bit products need the values of a channel side by side, which is the layout of the cache, and return their
  results in another order of columns than that of their operands. The rows of a block of keys are therefore
  read in an order that undoes this (`_ORDER`): probabilities stay where they were computed.
- If there are too few programs to fill the GPU, the keys are split among several, and a second kernel joins
  their results. The number of splits depends on sizes and the GPU alone: the same GPU rounds in the same way.
"""

# Triton compiles these functions; they have no Python types.
# pyright: basic, reportMissingImports=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportReturnType=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 128
_BLOCK = 128
_WARPS = 8
_STAGES = 3
_KEEP_TOKENS = 64
_JOIN_ROWS = 16
_MAX_SHARES = 4
_LEAST_BLOCKS = 16
"""Minimum number of key blocks for another program to be worthwhile."""
_COST_OF_SHARE = 0.03
"""Cost of joining for each split after the first, as a share of the whole."""
_RANGE = ["num_queries", "start", "stop", "full", "full_stop", "edge", "edge_gap", "num_edges"]
"""Arguments that change from chunk to chunk; without this list, kernels would be compiled again whenever 16
divides one.
"""
_FLOAT8_MAX = tl.constexpr(448.0)
_LIKELY_EXPONENT = tl.constexpr(8.0)
_NEAREST = tl.constexpr(12582912.0)
"""1.5 * 2^23: added to a float32 and subtracted again, it rounds to the nearest integer."""
_TINY = tl.constexpr(1.1754943508222875e-38)


def keep(
    keys: Tensor, values: Tensor, centre: Tensor, kept: tuple[Tensor, Tensor, Tensor], start: int
) -> None:
    """Rounds keys and values, "b n heads k", into (keys, steps, values) of a cache, from a token on."""
    batch, num_tokens, heads, width = keys.shape
    grid = (-(-num_tokens // _KEEP_TOKENS), batch * heads)
    _keep[grid](
        keys,
        values,
        centre,
        *kept,
        num_tokens,
        start,
        kept[0].shape[2],
        heads,
        *keys.stride()[:3],
        *values.stride()[:3],
        width,
        _KEEP_TOKENS,
        num_warps=4,
    )


def attend(queries: Tensor, kept: tuple[Tensor, Tensor, Tensor], start: int, stop: int) -> Tensor:
    """Returns attention of queries, "b n heads k", to the tokens of a cache from `start` to `stop`."""
    batch, num_queries, heads, width = queries.shape
    out = torch.empty_like(queries, memory_format=torch.contiguous_format)
    full, full_stop = -(-start // _BLOCK), stop // _BLOCK
    edges = [at for at in (start // _BLOCK, stop // _BLOCK) if not full <= at < full_stop]
    if stop % _BLOCK == 0:
        edges = [at for at in edges if at < full_stop]
    edges = sorted(set(edges))
    num_blocks = -(-num_queries // _ROWS)
    num_programs = num_blocks * batch * heads
    shares = num_shares(num_programs, full_stop - full, _num_multiprocessors(queries.device))
    parts, sums = out, out
    if shares > 1:
        parts = torch.empty((shares, *out.shape), dtype=torch.float32, device=out.device)
        sums = torch.empty((shares, 2, *out.shape[:3]), dtype=torch.float32, device=out.device)
    _attend[(num_blocks, batch * heads, shares)](
        queries,
        *kept,
        parts,
        sums,
        num_queries,
        start,
        stop,
        full,
        max(full, full_stop),
        edges[0] if edges else 0,
        edges[-1] - edges[0] if edges else 0,
        len(edges),
        kept[0].shape[2],
        heads,
        *queries.stride()[:3],
        1.4426950408889634 / width**0.5,
        width,
        _ROWS,
        _BLOCK,
        _STAGES,
        shares,
        num_warps=_WARPS,
        num_stages=_STAGES,
    )
    if shares > 1:
        num_rows = batch * num_queries * heads
        _join[(-(-num_rows // _JOIN_ROWS),)](
            parts, sums, out, num_rows, width, _JOIN_ROWS, shares, num_warps=4
        )
    return out


def num_shares(num_programs: int, num_blocks: int, num_multiprocessors: int) -> int:
    """Returns the number of programs that share a block of queries, for the shortest expected time."""

    def rounds(shares: int) -> float:
        return -(-num_programs * shares // num_multiprocessors) / shares * (1 + _COST_OF_SHARE * (shares - 1))

    most = min(_MAX_SHARES, max(1, num_blocks // _LEAST_BLOCKS))
    return min(range(1, most + 1), key=rounds)


def _num_multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1  # for the interpreter
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit(do_not_specialize=["num_tokens", "start"])
def _keep(
    k_ptr,
    v_ptr,
    centre_ptr,
    kept_k_ptr,
    step_ptr,
    kept_v_ptr,
    num_tokens,
    start,
    capacity,
    heads,
    k_batch,
    k_token,
    k_head,
    v_batch,
    v_token,
    v_head,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    batch, head = row // heads, row % heads
    tokens = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    channels = tl.arange(0, WIDTH)
    there = tokens < num_tokens
    k = tl.load(
        k_ptr + batch * k_batch + head * k_head + tokens[:, None] * k_token + channels[None, :],
        mask=there[:, None],
        other=0.0,
    ).to(tl.float32)
    k = k - tl.load(centre_ptr + row * WIDTH + channels)[None, :]
    rounded, step = _to_int8(k)
    tl.store(
        kept_k_ptr + (row * capacity + start + tokens[:, None]) * WIDTH + channels[None, :],
        rounded,
        mask=there[:, None],
    )
    tl.store(step_ptr + row * capacity + start + tokens, step, mask=there)
    v = tl.load(
        v_ptr + batch * v_batch + head * v_head + tokens[:, None] * v_token + channels[None, :],
        mask=there[:, None],
        other=0.0,
    ).to(tl.float32)
    v = tl.minimum(tl.maximum(v, -_FLOAT8_MAX), _FLOAT8_MAX)
    tl.store(
        kept_v_ptr + (row * WIDTH + channels[None, :]) * capacity + start + tokens[:, None],
        v.to(tl.float8e4nv),
        mask=there[:, None],
    )


@triton.jit(do_not_specialize=_RANGE)
def _attend(
    q_ptr,
    k_ptr,
    step_ptr,
    v_ptr,
    out_ptr,
    sum_ptr,
    num_queries,
    start,
    stop,
    full,
    full_stop,
    edge,
    edge_gap,
    num_edges,
    capacity,
    heads,
    q_batch,
    q_token,
    q_head,
    scale,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
    SHARES: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    share = tl.program_id(2)
    batch, head = row // heads, row % heads
    queries = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channels = tl.arange(0, WIDTH)
    there = queries < num_queries
    q = tl.load(
        q_ptr + batch * q_batch + head * q_head + queries[:, None] * q_token + channels[None, :],
        mask=there[:, None],
        other=0.0,
    ).to(tl.float32)
    q8, q_step = _to_int8(q)
    # Scores are exponents of 2.
    q_step = q_step * scale
    k_ptr += row * capacity * WIDTH
    v_ptr += row * capacity * WIDTH
    step_ptr += row * capacity
    top = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS, 16], tl.float32)
    out = tl.zeros([ROWS, WIDTH], tl.float32)
    # The matrix product also sums the probabilities, which is cheaper than a separate reduction.
    ones = tl.full([BLOCK, 16], 0x38, tl.int8).to(tl.float8e4nv, bitcast=True)
    first = full + (full_stop - full) * share // SHARES
    last = full + (full_stop - full) * (share + 1) // SHARES
    for block in tl.range(first, last, num_stages=STAGES):
        top, total, out = _add_block(
            q8,
            q_step,
            ones,
            top,
            total,
            out,
            k_ptr,
            step_ptr,
            v_ptr,
            block,
            start,
            stop,
            capacity,
            WIDTH,
            ROWS,
            BLOCK,
            False,
        )
    if share == SHARES - 1:
        for number in tl.range(0, num_edges, num_stages=1):
            block = edge + number * edge_gap
            top, total, out = _add_block(
                q8,
                q_step,
                ones,
                top,
                total,
                out,
                k_ptr,
                step_ptr,
                v_ptr,
                block,
                start,
                stop,
                capacity,
                WIDTH,
                ROWS,
                BLOCK,
                True,
            )
    place = (batch * num_queries + queries) * heads + head
    total = tl.max(total, 1)
    if SHARES == 1:
        out = out / total[:, None]
    else:
        num_rows = tl.num_programs(1).to(tl.int64) * num_queries
        out_ptr += share * num_rows * WIDTH
        sum_ptr += share * 2 * num_rows
        tl.store(sum_ptr + place, top, mask=there)
        tl.store(sum_ptr + num_rows + place, total, mask=there)
    tl.store(
        out_ptr + place[:, None] * WIDTH + channels[None, :],
        out.to(out_ptr.dtype.element_ty),
        mask=there[:, None],
    )


@triton.jit
def _add_block(
    q8,
    q_step,
    ones,
    top,
    total,
    out,
    k_ptr,
    step_ptr,
    v_ptr,
    block,
    start,
    stop,
    capacity,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
):
    at = block * BLOCK
    channels = tl.arange(0, WIDTH)
    columns = tl.arange(0, BLOCK)
    # Column 16 i + 8 j + 2 l + m of a product is operand column 16 i + 4 l + 2 j + m of the next.
    order = columns // 16 * 16 + columns % 8 // 2 * 4 + columns % 16 // 8 * 2 + columns % 2
    k = tl.load(k_ptr + (at + order)[:, None] * WIDTH + channels[None, :])
    step = tl.load(step_ptr + at + columns)
    step = tl.reshape(tl.permute(tl.reshape(step, [BLOCK // 16, 4, 2, 2]), [0, 2, 1, 3]), [BLOCK])
    v = tl.load(v_ptr + channels[:, None] * capacity + (at + columns)[None, :])
    scores = tl.dot(q8, tl.trans(k), out_dtype=tl.int32).to(tl.float32) * step[None, :]
    if MASKED:
        seen = (at + order >= start) & (at + order < stop)
        scores = tl.where(seen[None, :], scores, -float("inf"))
    new_top = tl.maximum(top, tl.ceil(tl.max(scores, 1) * q_step))
    likely = tl.math.exp2(scores * q_step[:, None] - (new_top - _LIKELY_EXPONENT)[:, None])
    shrink = tl.math.exp2(top - new_top)
    likely = likely.to(tl.float8e4nv)
    likely = tl.permute(tl.reshape(likely, [ROWS, BLOCK // 16, 2, 4, 2]), [0, 1, 3, 2, 4])
    likely = tl.reshape(likely, [ROWS, BLOCK])
    total = total * shrink[:, None] + tl.dot(likely, ones)
    out = out * shrink[:, None] + tl.dot(likely, tl.trans(v))
    return new_top, total, out


@triton.jit(do_not_specialize=["num_rows"])
def _join(
    part_ptr, sum_ptr, out_ptr, num_rows, WIDTH: tl.constexpr, ROWS: tl.constexpr, SHARES: tl.constexpr
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channels = tl.arange(0, WIDTH)
    there = rows < num_rows
    top = tl.full([ROWS], -float("inf"), tl.float32)
    for share in tl.static_range(SHARES):
        top = tl.maximum(top, tl.load(sum_ptr + share * 2 * num_rows + rows, mask=there, other=0.0))
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, WIDTH], tl.float32)
    for share in tl.static_range(SHARES):
        own_top = tl.load(sum_ptr + share * 2 * num_rows + rows, mask=there, other=0.0)
        own_total = tl.load(sum_ptr + (share * 2 + 1) * num_rows + rows, mask=there, other=1.0)
        part = tl.load(
            part_ptr + (share * num_rows + rows[:, None]) * WIDTH + channels[None, :],
            mask=there[:, None],
            other=0.0,
        )
        weight = tl.math.exp2(own_top - top)
        total += own_total * weight
        out += part * weight[:, None]
    tl.store(
        out_ptr + rows[:, None] * WIDTH + channels[None, :],
        (out / total[:, None]).to(out_ptr.dtype.element_ty),
        mask=there[:, None],
    )


@triton.jit
def _to_int8(x):
    """Returns each row as int8 values in [-127, 127], and its step size."""
    step = tl.maximum(tl.math.div_rn(tl.max(tl.abs(x), 1), 127.0), _TINY)
    nearest = (tl.math.div_rn(x, tl.broadcast_to(step[:, None], x.shape)) + _NEAREST) - _NEAREST
    return nearest.to(tl.int8), step
