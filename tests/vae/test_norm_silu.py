"""Norm, SiLU, bias and past as one kernel: under Triton's interpreter, compiled ahead, and on a GPU."""

import importlib.util
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from shotstream.vae import norm_silu as ours
from shotstream.vae import norm_silu_triton as kernels
from tests import forked

_NEEDS_TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton here")


def test_it_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    x, gamma = torch.randn(1, 2, 3, 4, 6, generator=generator), torch.rand(6, 1, 1, 1, generator=generator)
    bias = torch.randn(6, generator=generator)
    scaled = torch.nn.functional.rms_norm(x + bias, (6,), gamma.flatten(), eps=0.0)
    torch.testing.assert_close(ours.norm_silu(x, gamma, bias), scaled * scaled.sigmoid())


def test_what_is_all_zeros_stays_so() -> None:
    assert torch.equal(ours.norm_silu(torch.zeros(1, 1, 2, 2, 4), torch.ones(4)), torch.zeros(1, 1, 2, 2, 4))


@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_the_past_of_pieces_is_that_of_the_whole(num_frames: int) -> None:
    # Whole vectors of any CPU: the end of a row is rounded in another way, wherever a piece is cut.
    x, gamma = torch.randn(2, 2 * num_frames, 3, 4, 32), torch.rand(32)
    whole, last = ours.norm_silu_behind(None, x, gamma)
    first, memory = ours.norm_silu_behind(None, x[:, :num_frames].clone(), gamma)
    second, after = ours.norm_silu_behind(memory, x[:, num_frames:].clone(), gamma)
    assert torch.equal(torch.cat([first, second[:, 2:]], dim=1), whole)
    assert torch.equal(after, last)
    assert torch.equal(second[:, :2], memory)


# In a process of its own: Triton reads the variable when the kernels are defined.
INTERPRETED = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch
from shotstream.vae import norm_silu as ours, norm_silu_triton as kernels

generator = torch.Generator().manual_seed(0)
for dtype, bound in ((torch.float32, 4e-6), (torch.bfloat16, 2**-7)):
    sizes = ((96, 1, 3, 5, 7), (192, 1, 1, 2, 9), (384, 2, 2, 3, 2), (5, 2, 1, 1, 1))
    for channels, batch, frames, height, width in sizes:
        draw = lambda *shape: torch.randn(shape, generator=generator).to(dtype)
        x, past = draw(batch, frames, height, width, channels), draw(batch, 2, height, width, channels)
        gamma, bias = draw(channels), draw(channels)
        x[0, 0, 0, 0] = 0
        pairs = [(kernels.add_biased(x, bias, 2 * x), ours.plain_add_biased(x, bias, 2 * x))]
        for given in (None, bias):
            pairs += [(kernels.norm_silu(x, gamma, given), ours.plain_norm_silu(x, gamma, given))]
            for before in (None, past):
                made = kernels.norm_silu_behind(before, x, gamma, given)
                pairs += zip(made, ours.plain_norm_silu_behind(before, x, gamma, given))
        for made, expected in pairs:
            assert made.dtype == expected.dtype
            torch.testing.assert_close(made, expected, rtol=bound, atol=bound)
"""


@_NEEDS_TRITON
@pytest.mark.slow
def test_interpreted_the_kernels_are_the_plain_forms() -> None:
    """In bfloat16 to the last bit but one, as the interpreter rounds the other way."""
    done = subprocess.run([sys.executable, "-c", INTERPRETED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


# Likewise: checks of shapes would stand between Triton and its functions.
COMPILED_AHEAD = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from shotstream.vae import norm_silu_triton as kernels

def compiled(kernel, **constants):
    signature = {name: "constexpr" if name in constants else
                 "*bf16" if name.endswith("_ptr") else "fp32" if name == "shortest" else "i32"
                 for name in kernel.arg_names}
    aligned = {(place,): [["tt.divisibility", 16]]
               for place, kind in enumerate(signature.values()) if kind == "*bf16"}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).asm

for channels in (96, 192, 384, 5):
    width = triton.next_power_of_2(channels)
    sizes = {"CHANNELS": channels, "PIXELS": 4096 // width, "WIDTH": width}
    choices = [(2, True, True), (0, False, False)]
    made = [compiled(kernels.norm_silu_kernel, PAST=past, HAS_BEFORE=before, HAS_BIAS=bias, **sizes)
            for past, before, bias in choices]
    made += [compiled(kernels.add_biased_kernel, **sizes)]
    for assembly in made:
        assert assembly["cubin"]
        # Sixteen bytes an access, where channels come by eights.
        assert channels % 8 or ("ld.global.v4" in assembly["ptx"] and "st.global.v4" in assembly["ptx"])
"""


@_NEEDS_TRITON
@pytest.mark.slow
def test_the_kernels_compile_for_a_hopper_without_one() -> None:
    done = forked.run(["-c", COMPILED_AHEAD])
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [96, 192, 384, 5])
def test_on_a_gpu_the_kernels_are_the_plain_forms(channels: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to("cuda", dtype)

    x, past, gamma, bias = (
        draw(2, 3, 9, 7, channels),
        draw(2, 2, 9, 7, channels),
        draw(channels),
        draw(channels),
    )
    pairs = [(ours.add_biased(x, bias, 2 * x), ours.plain_add_biased(x, bias, 2 * x))]
    for given in (None, bias):
        pairs += [(ours.norm_silu(x, gamma, given), ours.plain_norm_silu(x, gamma, given))]
        for before in (None, past):
            made = ours.norm_silu_behind(before, x, gamma, given)
            pairs += zip(made, ours.plain_norm_silu_behind(before, x, gamma, given), strict=True)
    bound = 1e-5 if dtype == torch.float32 else 2**-7
    for made, expected in pairs:
        torch.testing.assert_close(made, expected, rtol=bound, atol=bound)
    assert kernels.HAVE_TRITON
