"""Weights of linear layers in eight bits, to save memory: multiplied in the dtype of what comes in.

Every row has a scale of its own, which brings its largest weight to the end of the range. A scale is a
number that bfloat16 holds exactly, so that no dtype of the network changes it. It saves memory, not time: a
layer's weights are made whole again for every product. It refuses training: eight bits take no gradient.

Source: int8 rounds to 255 even steps; float8 is e4m3 of arXiv 2209.05433, 3 bits of mantissa.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

WeightFormat = Literal["int8", "float8"]

_LARGEST: dict[WeightFormat, float] = {"int8": 127.0, "float8": torch.finfo(torch.float8_e4m3fn).max}


class QuantizedLinear(nn.Module):
    """A linear layer whose weight takes a byte a number."""

    bits: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear, weight_format: WeightFormat) -> None:
        """`linear`, which has a bias, rounded; it is not changed, and what is made lies on its device."""
        super().__init__()
        self.weight_format: WeightFormat = weight_format
        weight = linear.weight.detach().float()
        scale = _representable(weight.abs().amax(dim=1, keepdim=True) / _LARGEST[weight_format])
        scaled = weight / torch.where(scale == 0, 1.0, scale)
        # Bytes whatever they mean, so that `Module.to` converts no weight to another dtype.
        self.register_buffer(
            "bits",
            scaled.round().to(torch.int8)
            if weight_format == "int8"
            else scaled.to(torch.float8_e4m3fn).view(torch.int8),
        )
        self.register_buffer("scale", scale)
        self.register_buffer("bias", linear.bias.detach())

    def forward(self, x: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape k"]:
        """The product, in the dtype of `x`."""
        return F.linear(x, self.weight(x.dtype), self.bias)

    def weight(self, dtype: torch.dtype) -> Float[Tensor, "k d"]:
        """The weights as they are multiplied."""
        stored = self.bits if self.weight_format == "int8" else self.bits.view(torch.float8_e4m3fn)
        return stored.to(dtype) * self.scale.to(dtype)


def quantize_linears(module: nn.Module, weight_format: WeightFormat, device: torch.device | str) -> None:
    """Replace every linear layer inside `module`, one after the other, so that never two copies are whole.

    Args:
        module: Changed in place.
        weight_format: Of the weights.
        device: Where the new layers go.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, QuantizedLinear(child, weight_format).to(device))
        else:
            quantize_linears(child, weight_format, device)


def _representable(scale: Tensor) -> Tensor:
    """The next number of bfloat16 not below `scale`: a smaller one would push weights out of range."""
    rounded = scale.bfloat16()
    above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded.float() < scale, above, rounded).float()
