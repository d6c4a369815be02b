"""The normalisation of queries and keys is computed in float32."""

import torch

from shotstream.model.attention import RMSNorm
from tests.model.tiny import randn


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
