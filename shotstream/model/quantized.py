"""Float8 linear layers: weights to save memory, or products to save time as well.

Every row of a weight has a scale, which brings its largest value to the end of the range. A scale is exact in
bfloat16, so that no dtype of the network changes it. "float8" saves memory, not time: a layer's weights are
converted back for every product. "float8-products" also rounds the inputs, each row with its own scale, for
the float8 units of a GPU of compute capability 8.9 or above, on which it has not been run. It saves time only
if compiled: rounding is then fused into the preceding norm or GELU kernel; otherwise it takes several passes
over float32 data. On a CPU it is slow and serves to judge quality. Neither can be trained: 8-bit weights have
no gradients.

Source: float8 is e4m3 of arXiv 2209.05433, 3 bits of mantissa.
"""

from typing import Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional as F

WeightFormat = Literal["float8", "float8-products"]

_FLOAT8 = torch.float8_e4m3fn
_FLOAT8_MAX = torch.finfo(_FLOAT8).max
_LEAST_CAPABILITY = (8, 9)
_PRODUCT_MULTIPLE = 16
"""Number that divides the rows and columns of float8 products."""


class QuantizedLinear(nn.Module):
    """A linear layer with float8 weights."""

    bits: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        """Creates a quantised copy of `linear`, which has a bias, on its device."""
        super().__init__()
        weight = linear.weight.detach().float()
        scale = _representable(weight.abs().amax(dim=1, keepdim=True) / _FLOAT8_MAX)
        scaled = weight / torch.where(scale == 0, 1.0, scale)
        # Stored as uint8, so that `Module.to` does not convert the weight to another dtype.
        self.register_buffer("bits", scaled.to(_FLOAT8).view(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", linear.bias.detach())

    def forward(self, x: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape k"]:
        """Returns the product, in the dtype of `x`."""
        return F.linear(x, self.weight(x.dtype), self.bias)

    def weight(self, dtype: torch.dtype) -> Float[Tensor, "k d"]:
        """Returns the weights in `dtype`, as they are multiplied."""
        return self.bits.view(_FLOAT8).to(dtype) * self.scale.to(dtype)


class Float8ProductLinear(QuantizedLinear):
    """A linear layer that rounds its inputs and multiplies in float8, with float32 sums."""

    def __init__(self, linear: nn.Linear) -> None:
        """Creates a quantised copy of `linear`; raises ValueError if its sizes are not multiples of 16."""
        if linear.in_features % _PRODUCT_MULTIPLE or linear.out_features % _PRODUCT_MULTIPLE:
            raise ValueError(
                f"float8 products take multiples of {_PRODUCT_MULTIPLE}, not a layer from "
                f"{linear.in_features} to {linear.out_features}"
            )
        super().__init__(linear)

    def forward(self, x: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape k"]:
        """Returns the product of the rounded rows of `x`, in its dtype."""
        rows, scale = round_rows(x.flatten(0, -2))
        if not x.is_cuda:
            # Not torch's own product for a CPU, which supports no scale per row before 2.12.
            product = F.linear(rows.float() * scale, self.weight(torch.float32), self.bias.float()).to(
                x.dtype
            )
            return product.unflatten(0, x.shape[:-1])
        product = torch._scaled_mm(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            rows,
            self.bits.view(_FLOAT8).T,
            scale,
            self.scale.float().T,
            self.bias,
            out_dtype=x.dtype,
            # Sums stay in the tensor cores, as in other libraries; exact ones take a third longer.
            use_fast_accum=True,
        )
        return product.unflatten(0, x.shape[:-1])


def round_rows(x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float32[Tensor, "n 1"]]:
    """Returns each row in float8, with its largest value at the end of the range, and its scale."""
    precise = x.float()
    scale = precise.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / _FLOAT8_MAX
    return (precise / scale).clamp(-_FLOAT8_MAX, _FLOAT8_MAX).to(_FLOAT8), scale


def check_format(weight_format: WeightFormat, device: torch.device, dtype: torch.dtype) -> None:
    """Raises ValueError if a device does not support a format in a dtype."""
    if weight_format != "float8-products" or (device.type == "cpu" and dtype == torch.float32):
        return
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        raise ValueError(
            "float8 products need a CUDA device of compute capability 8.9 or above, or a CPU in float32, "
            "where they are slow; float8 weights run anywhere"
        )
    if dtype != torch.bfloat16:
        raise ValueError(f"float8 products come out in bfloat16, not in {str(dtype).removeprefix('torch.')}")


def quantize_linears(module: nn.Module, weight_format: WeightFormat, device: torch.device | str) -> None:
    """Replaces every linear layer inside `module`.

    They are replaced one at a time, so that there are never two complete copies.

    Args:
        module: The module, changed in place.
        weight_format: Format of the weights.
        device: Device of the new layers.
    """
    kind = QuantizedLinear if weight_format == "float8" else Float8ProductLinear
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, kind(child).to(device))
        else:
            quantize_linears(child, weight_format, device)


def _representable(scale: Tensor) -> Tensor:
    """Returns the smallest bfloat16 number not below `scale`.

    A smaller one would put weights out of range.
    """
    rounded = scale.bfloat16()
    above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded.float() < scale, above, rounded).float()
