"""The roofline model of a chunk: arithmetic and memory traffic, counted from the transformer's sizes.

Counted: every matrix product and both products of every attention, with multiplication and addition as two
operations. Not counted: normalisations, rotations, activations, softmax, which are less than a hundredth of
the arithmetic and memory-bound. Bytes are a lower bound: each weight, each cached key and value read once per
pass, own keys and values and the latents written once, and all intermediate values in the caches of the
processor.

The limits are measured in the same run, on matrices and copies too large for any cache: the share of them
that is reached then compares the program with this machine, not with a data sheet.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from shotstream.bench.report import Row, synchronize
from shotstream.bench.results import error_text
from shotstream.geometry import TokenGrid
from shotstream.model.config import DiTConfig

_ROUNDS = 5
_MATRIX_SIZE = {"cuda": 8192, "cpu": 1536}
_ENOUGH_S = 2.0
"""Rounds that have taken this long together are the last: a slow product varies little."""
_TOKENS_PER_CAPTION_KEY = 2
"""Two tensors per cached caption: its keys and its values."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of some passes: operations and bytes."""

    flops: float
    """Number of floating-point operations."""
    num_bytes: float
    """Minimum memory traffic in bytes."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.num_bytes + other.num_bytes)

    def __mul__(self, times: int) -> "Cost":
        return Cost(self.flops * times, self.num_bytes * times)


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The limits of a device: operations and bytes per second."""

    flops_per_s: float
    """Operations per second in products of large matrices."""
    bytes_per_s: float
    """Bytes per second in copies: reads and writes together."""

    def least_s(self, cost: Cost) -> float:
        """Returns the time of a cost on the roofline: arithmetic and traffic overlap perfectly."""
        return max(cost.flops / self.flops_per_s, cost.num_bytes / self.bytes_per_s)


def chunk_cost(
    config: DiTConfig,
    grid: TokenGrid,
    chunk_index: int,
    num_steps: int,
    itemsize: int,
    *,
    num_context_frames: int | None = None,
    with_commit: bool = True,
) -> Cost:
    """Returns the cost of a chunk: all its denoise passes and its commit pass.

    Args:
        config: Sizes of the transformer.
        grid: Size of a latent frame in tokens.
        chunk_index: Index in the shot: the chunk attends to the context, the chunks of its window and itself.
        num_steps: Number of denoise passes.
        itemsize: Bytes of a value.
        num_context_frames: Number of context frames in the cache; None: the model's maximum.
        with_commit: Whether to include the commit pass.
    """
    context = config.num_context_frames if num_context_frames is None else num_context_frames
    seen = min(chunk_index + 1, config.window_chunks) * config.chunk_latent_frames + context
    one = pass_cost(config, grid, config.chunk_latent_frames, seen, itemsize)
    return one * (num_steps + with_commit)


def shot_cost(config: DiTConfig, grid: TokenGrid, num_chunks: int, num_steps: int, itemsize: int) -> Cost:
    """Returns the cost of a shot, whose last chunk is not committed."""
    cost = context_cost(config, grid, itemsize)
    for chunk in range(num_chunks):
        cost += chunk_cost(config, grid, chunk, num_steps, itemsize, with_commit=chunk + 1 < num_chunks)
    return cost


def context_cost(config: DiTConfig, grid: TokenGrid, itemsize: int) -> Cost:
    """Returns the cost of the pass that commits the context."""
    return pass_cost(config, grid, config.num_context_frames, config.num_context_frames, itemsize)


def pass_cost(config: DiTConfig, grid: TokenGrid, num_frames: int, num_seen: int, itemsize: int) -> Cost:
    """Returns the cost of a pass over `num_frames` latent frames that attend to `num_seen`.

    `num_seen` includes the frames themselves. The captions' keys are cached; one caption is read per frame.
    """
    dim, tokens, seen = config.dim, num_frames * grid.num_tokens, num_seen * grid.num_tokens
    patch = config.latent_channels * config.patch_size**2
    # Per token: q, k, v, o of self-attention, q and o of cross-attention, both feed-forward matrices.
    per_token = 6 * dim * dim + 2 * dim * config.ffn_dim
    # Per query and key: a product with the key and one with the value.
    attended = 2 * dim * (seen + config.text_length)
    per_frame = config.freq_dim * dim + 7 * dim * dim
    products = (
        tokens * (config.num_layers * (per_token + attended) + 2 * patch * dim) + num_frames * per_frame
    )
    weights = config.num_layers * per_token + 2 * patch * dim + per_frame
    cached = config.num_layers * _TOKENS_PER_CAPTION_KEY * dim * (seen + config.text_length)
    latents = 2 * tokens * patch
    return Cost(flops=2.0 * products, num_bytes=float(itemsize * (weights + cached + latents)))


def roofline_rows(cost: Cost, seconds: float, ceilings: Ceilings) -> list[Row]:
    """Returns rows that compare passes of a `cost`, done in `seconds`, with the device's limits."""
    return [
        Row("reached_tflops", "transformer, Tflop/s", cost.flops / seconds / 1e12),
        Row("matmul_tflops", "matrix products alone, Tflop/s", ceilings.flops_per_s / 1e12),
        Row("copy_gbyte_per_s", "copies alone, Gbyte/s read and written", ceilings.bytes_per_s / 1e9),
        Row(
            "of_matmul",
            "transformer, fraction of the matrix ceiling",
            cost.flops / seconds / ceilings.flops_per_s,
        ),
        Row(
            "of_copy",
            "transformer, fraction of the copy ceiling",
            cost.num_bytes / seconds / ceilings.bytes_per_s,
        ),
        Row("of_roofline", "transformer, fraction of the roofline", ceilings.least_s(cost) / seconds),
    ]


def measure_ceilings(device: torch.device, dtype: torch.dtype, *, size: int | None = None) -> Ceilings:
    """Returns the device's limits, measured by large products and large copies; the best of a few rounds.

    Args:
        device: The device.
        dtype: Dtype of the matrices.
        size: Rows and columns of the matrices; None: large enough for the kind of device.
    """
    size = size or _MATRIX_SIZE["cuda" if device.type == "cuda" else "cpu"]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    product_s = _best_s(lambda: torch.mm(left, right, out=product), device)
    source = torch.ones(16 * size * size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_s = _best_s(lambda: target.copy_(source), device)
    return Ceilings(2.0 * size**3 / product_s, 2.0 * source.numel() / copy_s)


def product_ceilings(device: torch.device, *, size: int | None = None) -> dict[str, float | str]:
    """Returns tera-operations per second of large products, by number format; the best of a few rounds.

    For an unsupported format it returns the error message.
    """
    size = size or _MATRIX_SIZE["cuda" if device.type == "cuda" else "cpu"]
    found: dict[str, float | str] = {}
    for name, work in _products(device, size).items():
        try:
            found[name] = 2e-12 * size**3 / _best_s(work, device)
        except (RuntimeError, NotImplementedError) as error:
            found[name] = error_text(error)
    return found


def _products(device: torch.device, size: int) -> dict[str, Callable[[], object]]:
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator, device=device).bfloat16() for _ in range(2))
    one = torch.ones((), device=device)
    eight = [x.to(torch.float8_e4m3fn) for x in (left, right)]
    whole = [x.mul(20).clamp(-127, 127).to(torch.int8) for x in (left, right)]

    def float8() -> object:
        # The second matrix is column-major, as the device requires.
        return torch._scaled_mm(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            eight[0], eight[1].t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    def int8() -> object:
        return torch._int_mm(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            whole[0], whole[1].t()
        )

    return {
        "bfloat16": lambda: torch.mm(left, right),
        "float8": float8,
        "int8": int8,
    }


def _best_s(work: Callable[[], object], device: torch.device) -> float:
    work()
    rounds_s: list[float] = []
    while len(rounds_s) < _ROUNDS and sum(rounds_s) < _ENOUGH_S:
        synchronize(device)
        start_s = time.perf_counter()
        work()
        synchronize(device)
        rounds_s.append(time.perf_counter() - start_s)
    return min(rounds_s)
