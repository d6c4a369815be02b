"""Attention in eight bits: plain operations against the formula, and the kernels against plain operations.

Kernels run in processes of their own: under Triton's interpreter, and through its compiler for a Hopper GPU
that need not be there. The shape checks that other tests run under would hide a kernel's source.
"""

import importlib.util
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from shotstream.model.attention import attend_all, attention_kernel
from shotstream.model.dual_cache import DualCache
from shotstream.model.eight_bit_attention import (
    EightBitKeysValues,
    attend_in_eight_bits,
    attend_plainly,
    keep_plainly,
)
from shotstream.model.quantized import quantize_linears
from shotstream.model.rope import rope_table
from tests import forked
from tests.model.tiny import (
    CONFIG,
    GRID,
    captions,
    chunk,
    context,
    latents,
    level,
    new_cache,
    randn,
    tiny_dit,
)

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")


def _qkv(num_keys: int = 90, width: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    return randn(2, 30, 2, width), randn(2, num_keys, 2, width, seed=1), randn(2, num_keys, 2, width, seed=2)


def test_it_is_nearly_the_formula_and_an_offset_of_all_keys_is_not_rounded_away() -> None:
    """Relative to the root mean square, of values that do not agree at all and of some with a mean of 1."""
    queries, keys, values = _qkv()
    for offset, mean, bound in ((0.0, 0.0, 0.05), (50.0, 0.0, 0.05), (0.0, 1.0, 0.01)):
        expected = attend_all(queries, keys, values + mean)
        error = attend_in_eight_bits(queries, keys + offset, values + mean) - expected
        assert 1e-4 < error.square().mean().sqrt() / expected.square().mean().sqrt() < bound


def test_it_is_the_formula_where_nothing_has_to_be_rounded() -> None:
    """Two keys far apart, one of them chosen: scores are whole steps, the probability and its value exact."""
    queries = torch.zeros(1, 1, 1, 4)
    queries[..., 0] = 127.0
    keys = torch.zeros(1, 2, 1, 4)
    keys[0, 0, 0, 0], keys[0, 1, 0, 0] = 127.0, -127.0
    values = torch.tensor([[[[448.0, -2.0, 0.0, 7.0]], [[-448.0, 448.0, 448.0, 448.0]]]])
    kernel = attention_kernel("eight-bit", torch.device("cpu"), torch.float32)
    torch.testing.assert_close(kernel(queries, keys, values), values[:, :1])


def test_a_key_is_within_half_a_step_and_a_value_within_a_sixteenth() -> None:
    _, keys, values = _qkv()
    values[0, 0, 0, 0], values[0, 1, 0, 0] = 1000.0, -1000.0  # float8 holds 448
    kept = EightBitKeysValues.empty(2, 90, 2, 64, "cpu")
    kept.write(keys, values, slice(0, 90), is_context=True)
    restored = (kept.keys.float() * kept.steps[..., None]).transpose(1, 2)[:, :90] + kept.centre[:, None]
    step = kept.steps.transpose(1, 2)[:, :90, :, None]
    assert ((restored - keys).abs() <= step * 0.5001).all()
    held = values.clamp(-448, 448)
    error = (kept.values.float().permute(0, 3, 1, 2)[:, :90] - held).abs()
    assert (error <= torch.maximum(held.abs() * 2**-4, torch.tensor(2**-10))).all()


def test_keys_and_values_may_be_written_in_any_pieces_and_a_range_sees_only_itself() -> None:
    queries, keys, values = _qkv()
    kept = EightBitKeysValues.empty(2, 150, 2, 64, "cpu")
    kept.write(keys[:, :40], values[:, :40], slice(20, 60), is_context=True)
    kept.write(keys[:, 40:], values[:, 40:], slice(60, 110), is_context=False)
    got = kept.attend(queries, slice(20, 110))
    kept.keys[:, :, 110:], kept.steps[:, :, :20] = 127, 1e6
    assert torch.equal(kept.attend(queries, slice(20, 110)), got)
    error = got - attend_all(queries, keys, values)
    assert error.square().mean().sqrt() < 0.05 * got.square().mean().sqrt()


def _films(dtype: torch.dtype, num_chunks: int) -> tuple[list[Tensor], DualCache]:
    dit, text = tiny_dit(), captions()
    cache, made = new_cache(dit) if dtype == torch.float32 else DualCache(CONFIG, 1, GRID, dtype), []
    with torch.no_grad():
        dit(latents(2), level(0.0, 2), text, context(), cache=cache, write="global")
        for index in range(num_chunks):
            made.append(dit(latents(2, seed=index), level(0.7, 2), text, chunk(index), cache=cache))
            dit(latents(2, seed=50 + index), level(0.0, 2), text, chunk(index), cache=cache, write="local")
    return made, cache


def test_a_shot_through_a_cache_in_eight_bits_is_nearly_the_whole_one_past_the_window_too() -> None:
    (exact, whole), (rounded, small) = _films(torch.float32, 5), _films(torch.int8, 5)
    for ours, theirs in zip(rounded, exact, strict=True):
        error = (ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt()
        assert 1e-4 < error < 0.05
    num_bytes = [sum(x.nbytes for layer in cache.layers for x in layer) for cache in (whole, small)]
    # Of a head of 24 numbers: 2 bytes each and 4 for the step; the last block is not full.
    room = small.layers[0].keys.shape[2] / whole.layers[0].keys.shape[1]
    assert num_bytes[1] < num_bytes[0] / 4 * room * (1 + 4 / 48) * 1.02


def test_a_cache_in_eight_bits_is_only_changed_by_commits_and_comes_back_as_it_was() -> None:
    dit, text = tiny_dit(), captions()
    _, cache = _films(torch.int8, 4)  # longer than the window of 3
    before = cache.snapshot()

    def denoised(index: int) -> Tensor:
        return dit(latents(2, seed=7), level(0.7, 2), text, chunk(index), cache=cache)

    with torch.no_grad():
        first = denoised(4)
        denoised(3)
        assert torch.equal(denoised(4), first)
        after = cache.snapshot()
        for ours, theirs in zip(before.layers, after.layers, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        dit(latents(2, seed=3), level(0.0, 2), text, context(), cache=cache, write="global")
        cache.restore(before)
        assert torch.equal(denoised(4), first)
    with pytest.raises(ValueError, match="another shape"):
        new_cache(dit).restore(before)


@pytest.mark.parametrize("num_chunks", [2, 4, 5])
def test_a_chunk_denoised_again_beside_its_committed_self_equals_the_first_time(num_chunks: int) -> None:
    """Within the window of 3, and past it, where its place lies between those that it reads."""
    dit, text, last = tiny_dit(), captions(), num_chunks - 1
    made, cache = _films(torch.int8, num_chunks)
    with torch.no_grad():
        again = dit(latents(2, seed=last), level(0.7, 2), text, chunk(last), cache=cache)
    torch.testing.assert_close(again, made[last], rtol=0, atol=1e-5)


def test_a_cache_in_eight_bits_refuses_gradients() -> None:
    _, cache = _films(torch.int8, 1)
    with pytest.raises(ValueError, match="gradients"):
        tiny_dit()(latents(2), level(0.7, 2), captions(), chunk(1), cache=cache)


def _run(program: str) -> None:
    done = forked.run(["-c", program])
    assert done.returncode == 0, done.stderr[-4000:]


INTERPRETED = """
import tests.model.interpreted
import torch
from shotstream.model import eight_bit_kernels as kernels
from shotstream.model.eight_bit_attention import EightBitKeysValues, attend_plainly, keep_plainly

torch.set_num_threads(1)

def check(batch, num_queries, width, start, pieces, dtype=torch.bfloat16, shares=1):
    num_keys, heads = start + sum(pieces), 2
    kept = [EightBitKeysValues.empty(batch, num_keys, heads, width, "cpu") for _ in range(2)]
    keys = torch.randn(batch, num_keys, heads, width) + 5 * torch.randn(heads, width)
    values, queries = torch.randn(keys.shape), torch.randn(batch, num_queries, heads, width)
    keys, values, queries = (x.to(dtype) for x in (keys, values, queries))
    for one, keep in zip(kept, (keep_plainly, kernels.keep)):
        one.centre.copy_(keys.mean(1, dtype=torch.float32))
        at = 0
        for piece in (start, *pieces):
            keep(keys[:, at : at + piece], values[:, at : at + piece], one.centre, tuple(one[:3]), at)
            at += piece
    for ours, theirs in zip(*kept):
        assert torch.equal(ours.float(), theirs.float())
    kernels.num_shares = lambda *_: shares
    cache = tuple(kept[0][:3])
    ours = kernels.attend(queries, cache, start, num_keys)
    theirs = attend_plainly(queries, cache, start, num_keys)
    assert theirs.std() > 0.01
    # One in a thousand numbers may be rounded to the other side, and results to another half.
    bound = 2**-7 if dtype == torch.bfloat16 else 1e-3
    torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound * theirs.float().std().item())
"""


CASES = (
    "1, 40, 32, 0, (128, 128)",  # full blocks
    "2, 150, 32, 24, (50, 61, 150)",  # neither end full, several writes, queries past a block
    "1, 20, 128, 8, (60, 20)",  # within one block
    "1, 20, 64, 100, (28, 5)",  # two blocks, none full
    "1, 20, 64, 128, (40,)",  # begins with a block
    "1, 20, 32, 8, (130, 520), torch.float32, 3",  # keys shared among programs
)


@needs_triton
@pytest.mark.slow
def test_the_kernels_equal_plain_operations() -> None:
    """In a Python that has not imported Triton yet, which decides then whether it interprets."""
    program = "\n".join([INTERPRETED, *(f"check({case})" for case in CASES), f"print({len(CASES)}, 'equal')"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{len(CASES)} equal\n"), done.stderr[-4000:]


COMPILED = """
import pathlib, re, subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from shotstream.model import eight_bit_kernels as kernels

def compiled(kernel, pointers, constants, num_warps, num_stages, divisible=()):
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in names}
    even = {*pointers, *divisible} - {"scale"}
    hints = {(names.index(n),): [["tt.divisibility", 16]] for n in even}
    source = ASTSource(kernel, signature, {(names.index(n),): x for n, x in constants.items()}, hints)
    options = {"num_warps": num_warps, "num_stages": num_stages}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)

def registers_and_spills(cubin):
    tool = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        return None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        pathlib.Path(file.name).write_bytes(cubin)
        done = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    return tuple(int(re.search(rf"{what}:(\\d+)", done.stdout)[1]) for what in ("REG", "STACK", "LOCAL"))

cache = dict(k_ptr="*i8", step_ptr="*fp32", v_ptr="*fp8e4nv")
kept = dict(kept_k_ptr="*i8", step_ptr="*fp32", kept_v_ptr="*fp8e4nv")
sizes = dict(ROWS=kernels._ROWS, BLOCK=kernels._BLOCK, STAGES=kernels._STAGES)
for width in (32, 64, 128):
    for shares in (1, 2):
        out = "*bf16" if shares == 1 else "*fp32"
        made = compiled(
            kernels._attend,
            dict(q_ptr="*bf16", **cache, out_ptr=out, sum_ptr=out, scale="fp32"),
            dict(sizes, WIDTH=width, SHARES=shares), kernels._WARPS, kernels._STAGES,
            ("capacity", "q_batch", "q_token", "q_head"),
        )
        ptx = made.asm["ptx"]
        assert re.search(r"wgmma\\.mma_async\\S*\\.s32\\.s8\\.s8", ptx), "int8 products"
        assert re.search(r"wgmma\\.mma_async\\S*\\.f32\\.e4m3\\.e4m3", ptx), "float8 products"
        usage = registers_and_spills(made.asm["cubin"])
        print(width, shares, "shared", made.metadata.shared, "registers, stack, local", usage)
        assert made.metadata.shared <= 232448
        assert usage is None or usage[1:] == (0, 0)
    compiled(
        kernels._keep,
        dict(k_ptr="*bf16", v_ptr="*bf16", centre_ptr="*fp32", **kept),
        dict(WIDTH=width, TOKENS=kernels._KEEP_TOKENS), 4, 3, ("capacity",),
    )
    compiled(
        kernels._join, dict(part_ptr="*fp32", sum_ptr="*fp32", out_ptr="*bf16"),
        dict(WIDTH=width, ROWS=kernels._JOIN_ROWS, SHARES=2), 4, 3,
    )
"""


@needs_triton
@pytest.mark.slow
def test_the_kernels_compile_for_hopper_to_products_of_eight_bits_without_spilling() -> None:
    _run(COMPILED)


@pytest.mark.slow
@needs_triton
def test_keys_are_shared_where_that_fills_the_gpu_better() -> None:
    """37 blocks of queries of 12 heads are 444 programs: four rounds of 132, or seven of half the length."""
    _run(
        "from shotstream.model.eight_bit_kernels import num_shares\n"
        "assert num_shares(444, 329, 132) == 2\n"
        "assert num_shares(888, 73, 132) == 1\n"
        "assert num_shares(444, 20, 132) == 1\n"
    )


@pytest.mark.slow
def test_it_stays_one_operation_of_a_compiled_graph() -> None:
    _run(
        """
import torch
from shotstream.model.eight_bit_attention import EightBitKeysValues, attend_in_eight_bits
kept = EightBitKeysValues.empty(1, 20, 2, 8, "cpu")
kept.write(*(torch.randn(1, 20, 2, 8) for _ in range(2)), slice(0, 20), is_context=True)
new = [torch.randn(1, 5, 2, 8) for _ in range(3)]

def step(queries, keys, values):
    kept.write(keys, values, slice(10, 15), is_context=False)
    return 2 * kept.attend(queries, slice(0, 15))

expected = step(*new)
kept.keys[:, :, 10:15] = 0
compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
torch.testing.assert_close(compiled(*new), expected)
"""
    )


on_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0),
    reason="needs a GPU of compute capability 9.0",
)


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize(
    ("num_queries", "start", "pieces", "width"),
    [(4680, 1560, (7800, 4680, 4680), 128), (300, 24, (50, 61, 700), 64), (20, 8, (60, 20), 32)],
)
def test_a_gpus_kernels_equal_plain_operations(
    num_queries: int, start: int, pieces: tuple[int, ...], width: int
) -> None:
    num_keys = start + sum(pieces)
    queries, keys, values = (
        randn(1, number, 2, width, seed=seed).bfloat16()
        for seed, number in enumerate((num_queries, num_keys, num_keys))
    )
    keys = keys + 5 * randn(2, width, seed=3).bfloat16()
    ours = EightBitKeysValues.empty(1, num_keys, 2, width, "cuda")
    theirs = EightBitKeysValues.empty(1, num_keys, 2, width, "cpu")
    theirs.centre.copy_(keys.mean(dim=1, dtype=torch.float32))
    ours.centre.copy_(theirs.centre)
    at = 0
    for piece in (start, *pieces):
        new = keys[:, at : at + piece], values[:, at : at + piece]
        ours.write(*(x.cuda() for x in new), slice(at, at + piece), is_context=False)
        keep_plainly(*new, theirs.centre, (theirs.keys, theirs.steps, theirs.values), at)
        at += piece
    for mine, plain in zip(ours, theirs, strict=True):
        assert torch.equal(mine.cpu().float(), plain.float())
    got = ours.attend(queries.cuda(), slice(start, num_keys)).cpu().float()
    expected = attend_plainly(queries, (theirs.keys, theirs.steps, theirs.values), start, num_keys).float()
    # A GPU's exponentials and its sums of float8 are less exact than a processor's.
    assert (got - expected).square().mean().sqrt() < 0.01 * expected.square().mean().sqrt()


def _velocity(device: str, dtype: torch.dtype) -> Tensor:
    """Of a chunk, in eight bits throughout; on a GPU nothing of the second time around may wait."""
    dit = tiny_dit(dim=64)
    quantize_linears(dit.blocks, "float8-products", "cpu")
    dit.to(device, dtype)
    cache = DualCache(dit.config, 1, GRID, torch.int8, device)
    frames = [latents(2, seed=seed).to(device) for seed in range(3)]
    sigmas = [level(value, 2).to(device) for value in (0.0, 0.5, 0.0)]
    text = dit.text_cache(captions().to(device))
    first, second = (rope_table(place.to(device), GRID, dit.config) for place in (context(), chunk(0)))

    def run() -> Tensor:
        dit(frames[0], sigmas[0], text, first, cache=cache, write="global")
        velocity = dit(frames[1], sigmas[1], text, second, cache=cache)
        dit(frames[2], sigmas[2], text, second, cache=cache, write="local")
        return velocity

    once = run()
    if device == "cpu":
        return once
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return again.cpu().float()


@pytest.mark.gpu
@on_hopper
@torch.no_grad()
def test_a_gpus_passes_in_eight_bits_are_a_processors_and_wait_for_nothing() -> None:
    """Context, chunk and commit; a CPU's bfloat16 is within this bound of its float32."""
    ours, theirs = _velocity("cuda", torch.bfloat16), _velocity("cpu", torch.float32)
    assert (ours - theirs).square().mean().sqrt() < 0.05 * theirs.square().mean().sqrt()
