"""The normalisation of queries and keys is computed in float32; what computes attention is a choice."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from shotstream.model.attention import (
    AttentionName,
    RMSNorm,
    attend_all,
    attend_in_eight_bits,
    attention_kernel,
)
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
    target,
    tiny_dit,
)


def test_the_norm_is_rms_over_all_heads_in_float32_then_a_scale() -> None:
    norm = RMSNorm(48, eps=1e-6)
    with torch.no_grad():
        norm.weight.copy_(randn(48, seed=1))
    x = randn(2, 5, 48) * 3
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)
    half = norm.to(torch.bfloat16)(x.to(torch.bfloat16))
    inner = x.to(torch.bfloat16).float()
    inner = inner / (inner.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(half, inner.to(torch.bfloat16) * norm.weight, rtol=0, atol=0)


def _qkv(dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((2, 30, 2, 64), (2, 90, 2, 64), (2, 90, 2, 64))
    return tuple(randn(*shape, seed=seed).to(device, dtype) for seed, shape in enumerate(shapes))  # pyright: ignore


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_torchs_own_kernels_agree_with_the_formula(backend: SDPBackend) -> None:
    queries, keys, values = _qkv()
    scores = torch.einsum("bqhd,bkhd->bhqk", queries.double(), keys.double()) / 8
    expected = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), values.double())
    with sdpa_kernel(backend):
        got = attention_kernel("sdpa", torch.device("cpu"), torch.float32)(queries, keys, values)
    torch.testing.assert_close(got, expected.float(), rtol=0, atol=1e-5)


def test_attention_in_eight_bits_rounds_and_is_nearly_the_formula() -> None:
    """Relative to the largest value; measured 0.04. An offset that all keys share is not rounded away."""
    queries, keys, values = _qkv()
    kernel = attention_kernel("sage", torch.device("cpu"), torch.float32)
    expected = attend_all(queries, keys, values)
    for offset in (0.0, 50.0):
        error = (kernel(queries, keys + offset, values) - expected).abs().max() / expected.abs().max()
        assert 1e-4 < error < 0.06


def test_attention_in_eight_bits_is_the_formula_where_nothing_has_to_be_rounded() -> None:
    """Two keys far apart, one of them chosen: scores are whole steps, the probability and its value exact."""
    queries = torch.zeros(1, 1, 1, 4)
    queries[..., 0] = 127.0
    keys = torch.zeros(1, 2, 1, 4)
    keys[0, 0, 0, 0], keys[0, 1, 0, 0] = 127.0, -127.0
    values = torch.tensor([[[[448.0, -2.0, 0.0, 7.0]], [[-448.0, 448.0, 448.0, 448.0]]]])
    kernel = attention_kernel("sage", torch.device("cpu"), torch.float32)
    torch.testing.assert_close(kernel(queries, keys, values), values[:, :1])


@pytest.mark.parametrize("name", ["cudnn", "flash3"])
def test_what_is_not_there_is_refused_in_one_line(name: AttentionName) -> None:
    with pytest.raises(ValueError, match="CUDA device") as refused:
        attention_kernel(name, torch.device("cpu"), torch.bfloat16)
    assert "\n" not in str(refused.value) and "sdpa" in str(refused.value)


def test_a_transformer_attends_with_what_it_was_given_in_every_kind_of_pass() -> None:
    dit, cache = tiny_dit(), new_cache(tiny_dit())
    calls: list[int] = []

    def counted(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        calls.append(keys.shape[1])
        return attend_all(queries, keys, values)

    text, per_frame = dit.text_cache(captions()), GRID.num_tokens
    dit.attention = counted
    with torch.no_grad():
        dit(latents(2), level(0.0, 2), text, context(), cache=cache, write="global")
        dit(latents(2), level(0.5, 2), text, chunk(0), cache=cache)
        dit(latents(4), level(0.5, 4), text, target(4))
    assert calls == [frames * per_frame for frames in (2, 4, 4) for _ in range(CONFIG.num_layers)]


@pytest.mark.slow
def test_an_opaque_kernel_stays_one_operation_of_a_compiled_graph() -> None:
    """What a library does inside may not be traceable; here a call that breaks graphs stands for it."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


PROGRAM = """
import torch
from shotstream.model.attention import attend_all, opaque

def untraceable(q, k, v):
    torch._dynamo.graph_break()
    return attend_all(q, k, v).contiguous()

kernel = opaque("untraceable", untraceable)
inputs = [torch.randn(1, n, 2, 8) for n in (3, 5, 5)]
compiled = torch.compile(lambda q, k, v: 2 * kernel(q, k, v), fullgraph=True, backend="aot_eager")
torch.testing.assert_close(compiled(*inputs), 2 * attend_all(*inputs))
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("name", "bound"), [("cudnn", 0.01), ("flash3", 0.01), ("sage", 0.1)])
def test_kernels_of_a_gpu_agree_with_the_formula(name: AttentionName, bound: float) -> None:
    """Bounds are relative to the largest value and unmeasured: SageAttention's keys have 8 bits."""
    try:
        kernel = attention_kernel(name, torch.device("cuda"), torch.bfloat16)
    except ValueError as error:
        pytest.skip(str(error))
    queries, keys, values = _qkv(torch.bfloat16, "cuda")
    expected = attend_all(queries.float(), keys.float(), values.float())
    got = kernel(queries, keys, values).float()
    assert (got - expected).abs().max() / expected.abs().max() < bound
    if name == "sage":
        rendition = attend_in_eight_bits(queries.float().cpu(), keys.float().cpu(), values.float().cpu())
        assert (got.cpu() - rendition).abs().max() / expected.abs().max() < bound
