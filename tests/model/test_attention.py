"""The normalisation of queries and keys is computed in float32; what computes attention is a choice."""

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from shotstream.model.attention import (
    _CUDNN_FIRST,  # pyright: ignore[reportPrivateUsage]
    AttentionName,
    RMSNorm,
    attend_all,
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


def test_what_is_not_there_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="CUDA device") as refused:
        attention_kernel("cudnn", torch.device("cpu"), torch.bfloat16)
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


def test_attention_by_cudnn_is_an_order_that_another_thread_may_meet() -> None:
    """The choice of one kernel holds for the whole process: the codec's attention then found none."""
    queries, keys, values = _qkv()
    with sdpa_kernel(_CUDNN_FIRST, set_priority=True):
        torch.testing.assert_close(attend_all(queries, keys, values), attend_all(queries, keys, values))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("name", "bound"), [("cudnn", 0.01), ("eight-bit", 0.06)])
def test_kernels_of_a_gpu_agree_with_the_formula(name: AttentionName, bound: float) -> None:
    """Relative to the root mean square; cuDNN's bound is unmeasured, the other a CPU's 0.04 and half."""
    try:
        kernel = attention_kernel(name, torch.device("cuda"), torch.bfloat16)
    except ValueError as error:
        pytest.skip(str(error))
    queries, keys, values = _qkv(torch.bfloat16, "cuda")
    expected = attend_all(queries.float(), keys.float(), values.float())
    error = kernel(queries, keys, values).float() - expected
    assert error.square().mean().sqrt() / expected.square().mean().sqrt() < bound
