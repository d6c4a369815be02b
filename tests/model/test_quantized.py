"""Weights in eight bits: how far they are from the whole ones, and that nothing but them is changed."""

import copy

import pytest
import torch
from torch import nn

from shotstream.model.dual_cache import DualCache
from shotstream.model.quantized import QuantizedLinear, WeightFormat, quantize_linears
from tests.model.tiny import GRID, captions, chunk, context, latents, level, tiny_dit

FORMATS: tuple[WeightFormat, ...] = ("int8", "float8")


def linear() -> nn.Linear:
    """Rows of very different sizes, one of zeros."""
    layer = nn.Linear(40, 24)
    with torch.no_grad():
        layer.weight.mul_(torch.logspace(-3, 3, 24)[:, None])
        layer.weight[5] = 0
    return layer


@pytest.mark.parametrize("weight_format", FORMATS)
def test_a_weight_is_within_half_a_step_of_the_whole_one(weight_format: WeightFormat) -> None:
    whole = linear()
    weight, rounded = whole.weight.detach(), QuantizedLinear(whole, weight_format).weight(torch.float32)
    largest = weight.abs().amax(1, keepdim=True)
    if weight_format == "int8":
        # Even steps of 1/127 of the row's largest; the scale is up to a 128th larger to fit bfloat16.
        bound = largest / 127 / 2 * (1 + 2**-7)
    else:
        # Three bits of mantissa, and below the smallest normal number even steps of 2^-9.
        bound = torch.maximum(weight.abs() * 2**-4, largest / 448 * (1 + 2**-7) * 2**-10)
    assert bool(((weight - rounded).abs() <= bound * (1 + 1e-5)).all())


@pytest.mark.parametrize("weight_format", FORMATS)
def test_the_product_is_that_of_the_rounded_weights_and_another_dtype_does_not_change_them(
    weight_format: WeightFormat,
) -> None:
    layer = QuantizedLinear(linear(), weight_format)
    x = torch.randn(3, 40)
    torch.testing.assert_close(layer(x), x @ layer.weight(torch.float32).T + layer.bias, atol=1e-4, rtol=1e-5)
    before = layer.weight(torch.float32)
    layer.to(torch.bfloat16)
    assert layer.bits.dtype == torch.int8 and layer.scale.dtype == torch.bfloat16
    assert torch.equal(layer.float().weight(torch.float32), before)


@pytest.mark.parametrize(("weight_format", "bound"), [("int8", 0.02), ("float8", 0.06)])
def test_a_network_keeps_a_byte_a_weight_in_its_blocks_and_predicts_nearly_the_same(
    weight_format: WeightFormat, bound: float
) -> None:
    """The bound is relative to the root mean square; measured 0.008 and 0.022."""
    whole = tiny_dit()
    rounded = copy.deepcopy(whole)
    quantize_linears(rounded.blocks, weight_format, "cpu")
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
    assert 0 < error < bound


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
