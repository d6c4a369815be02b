"""Weights in eight bits: how far they are from the whole ones, and that nothing but them is changed."""

import copy

import pytest
import torch
from torch import nn

from shotstream.model.dual_cache import DualCache
from shotstream.model.quantized import (
    Float8ProductLinear,
    QuantizedLinear,
    check_format,
    quantize_linears,
    round_rows,
)
from tests import forked
from tests.model.tiny import GRID, captions, chunk, context, latents, level, tiny_dit


def linear() -> nn.Linear:
    """Rows of very different sizes, one of zeros."""
    layer = nn.Linear(40, 24)
    with torch.no_grad():
        layer.weight.mul_(torch.logspace(-3, 3, 24)[:, None])
        layer.weight[5] = 0
    return layer


def test_a_weight_is_within_half_a_step_of_the_whole_one() -> None:
    whole = linear()
    weight, rounded = whole.weight.detach(), QuantizedLinear(whole).weight(torch.float32)
    largest = weight.abs().amax(1, keepdim=True)
    # Three bits of mantissa, and below the smallest normal number even steps of 2^-9.
    bound = torch.maximum(weight.abs() * 2**-4, largest / 448 * (1 + 2**-7) * 2**-10)
    assert bool(((weight - rounded).abs() <= bound * (1 + 1e-5)).all())


def test_the_product_is_that_of_the_rounded_weights_and_another_dtype_does_not_change_them() -> None:
    layer = QuantizedLinear(linear())
    x = torch.randn(3, 40)
    torch.testing.assert_close(layer(x), x @ layer.weight(torch.float32).T + layer.bias, atol=1e-4, rtol=1e-5)
    before = layer.weight(torch.float32)
    layer.to(torch.bfloat16)
    assert layer.bits.dtype == torch.int8 and layer.scale.dtype == torch.bfloat16
    assert torch.equal(layer.float().weight(torch.float32), before)


def test_a_network_keeps_a_byte_a_weight_in_its_blocks_and_predicts_nearly_the_same() -> None:
    """The bound is relative to the root mean square; measured 0.022."""
    whole = tiny_dit()
    rounded = copy.deepcopy(whole)
    quantize_linears(rounded.blocks, "float8", "cpu")
    assert not any(isinstance(part, nn.Linear) for part in rounded.blocks.modules())
    assert isinstance(rounded.head.head, nn.Linear)
    num_bytes = [
        sum(t.numel() * t.element_size() for t in (*dit.blocks.parameters(), *dit.blocks.buffers()))
        for dit in (whole, rounded)
    ]
    assert num_bytes[1] < 0.35 * num_bytes[0]
    with torch.no_grad():
        outputs = [dit(latents(2), level(0.5, 2), captions(), chunk(0)) for dit in (whole, rounded)]
    error = (outputs[1] - outputs[0]).square().mean().sqrt() / outputs[0].square().mean().sqrt()
    assert 0 < error < 0.06


def test_a_float8_product_is_that_of_the_rounded_rows_and_weights() -> None:
    """Sums are kept in float32, so that only their order differs; a row of zeros stays one."""
    whole = nn.Linear(64, 32)
    layer = Float8ProductLinear(whole)
    x = torch.randn(2, 5, 64) * torch.logspace(-3, 3, 5)[:, None]
    x[1, 2] = 0
    rows, scale = round_rows(x.flatten(0, 1))
    rounded = (rows.float() * scale).unflatten(0, (2, 5))
    expected = rounded @ layer.weight(torch.float32).T
    # Relative to each row's size, over which the scales are spread; the bias would hide the small ones.
    size = expected.abs().amax(-1, keepdim=True).clamp(min=1e-12)
    bias, layer.bias = layer.bias, torch.zeros_like(layer.bias)
    torch.testing.assert_close(layer(x) / size, expected / size, rtol=0, atol=1e-5)
    layer.bias = bias
    assert torch.equal(layer(x)[1, 2], layer.bias)
    # Three bits of mantissa: a 16th of each number, and even steps below the smallest normal one.
    step = torch.maximum(x.abs() * 2**-4, scale.unflatten(0, (2, 5)) * 2**-10)
    assert bool(((rounded - x).abs() <= step * (1 + 1e-5)).all())
    half = layer.to(torch.bfloat16)(x.bfloat16())
    assert half.dtype == torch.bfloat16 and half.shape == (2, 5, 32)


def test_a_network_of_float8_products_predicts_nearly_the_same() -> None:
    """The bound is relative to the root mean square; measured 0.036."""
    whole = tiny_dit()
    rounded = copy.deepcopy(whole)
    quantize_linears(rounded.blocks, "float8-products", "cpu")
    with torch.no_grad():
        outputs = [dit(latents(2), level(0.5, 2), captions(), chunk(0)) for dit in (whole, rounded)]
    error = (outputs[1] - outputs[0]).square().mean().sqrt() / outputs[0].square().mean().sqrt()
    assert 0 < error < 0.08


FUSED = """
import re
import torch
from torch._inductor.utils import run_and_get_code
from torch.nn import functional as F
from shotstream.model.dit import modulated_norm
from shotstream.model.quantized import round_rows

torch.set_num_threads(1)

def of_norm(x, shift, scale):
    rows = modulated_norm(x, shift, scale, 1e-6).flatten(0, -2)
    return [round_rows(rows) for _ in range(3)]

def of_gelu(x):
    return round_rows(F.gelu(x, approximate="tanh"))

x, shift, scale = (torch.randn(1, 3, n, 192).bfloat16() for n in (64, 1, 1))
for function, arguments in ((of_norm, (x, shift, scale)), (of_gelu, (x.flatten(0, -2),))):
    _, (code,) = run_and_get_code(torch.compile(function, fullgraph=True, dynamic=False), *arguments)
    assert len(re.findall(r"^cpp_fused\\w+ = ", code, re.M)) == 1, code
"""


@pytest.mark.slow
def test_compiled_rounding_is_part_of_the_kernel_before_also_for_queries_keys_and_values_together() -> None:
    done = forked.run(["-c", FUSED])
    assert done.returncode == 0, done.stderr[-4000:]


def test_eight_bit_products_are_refused_where_they_do_not_run() -> None:
    with pytest.raises(ValueError, match=r"8\.9"):
        check_format("float8-products", torch.device("cpu"), torch.bfloat16)
    with pytest.raises(ValueError, match="multiples of 16"):
        Float8ProductLinear(nn.Linear(40, 32))
    for weight_format in ("float8", "float8-products"):
        check_format(weight_format, torch.device("cpu"), torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpus_float8_products_are_a_processors() -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs compute capability 8.9")
    check_format("float8-products", torch.device("cuda"), torch.bfloat16)
    layer = Float8ProductLinear(nn.Linear(1536, 256)).to(torch.bfloat16)
    x = torch.randn(2, 5, 1536).bfloat16()
    expected = layer(x).float()
    got = layer.cuda()(x.cuda()).cpu().float()
    # Fast accumulation keeps 14 bits of a sum; results come out in the 8 of bfloat16.
    assert (got - expected).square().mean().sqrt() < 0.01 * expected.square().mean().sqrt()


def test_a_float8_cache_keeps_a_byte_a_number_and_changes_little() -> None:
    dit = tiny_dit()
    outputs: list[torch.Tensor] = []
    for dtype in (torch.float32, torch.float8_e4m3fn):
        cache = DualCache(dit.config, 1, GRID, dtype)
        assert cache.layers[0].keys.element_size() == (4 if dtype == torch.float32 else 1)
        with torch.no_grad():
            text = dit.text_cache(captions())
            dit(latents(2), level(0.0, 2), text, context(), cache=cache, write="global")
            outputs.append(dit(latents(2, seed=1), level(0.5, 2), text, chunk(0), cache=cache))
    error = (outputs[1] - outputs[0]).square().mean().sqrt() / outputs[0].square().mean().sqrt()
    assert 0 < error < 0.05  # measured 0.01
