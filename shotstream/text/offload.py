"""Layer-wise offloading: a network larger than its device, whose layers are copied there one at a time.

The weights stay where they are, in their dtype. When a layer is called, its weights are copied to the device
in the dtype of the computation, and the copy is dropped when it returns. Results are bit-identical to those
of the network on the device. Every call transfers all weights.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def visit(layers: Iterable[nn.Module], device: torch.device, dtype: torch.dtype) -> None:
    """Registers hooks that copy each layer to the device for each of its calls.

    Args:
        layers: The layers; none may contain another. Their inputs must be on `device` and in `dtype`, see
            `bring`.
        device: Device of the computation.
        dtype: Dtype of the computation.
    """
    for layer in layers:
        _Visitor(layer, device, dtype)


class _Visitor:
    def __init__(self, layer: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._at_home: list[tuple[nn.Parameter, Tensor]] = []
        layer.register_forward_pre_hook(self._go)
        # Also after an error: otherwise the copies would stay on the device.
        layer.register_forward_hook(self._return, always_call=True)

    def _go(self, layer: nn.Module, _: Any) -> None:
        self._at_home = [(parameter, parameter.data) for parameter in layer.parameters()]
        for parameter, stored in self._at_home:
            parameter.data = stored.to(self._device, self._dtype)

    def _return(self, _layer: nn.Module, _arguments: Any, _result: Any) -> None:
        for parameter, stored in self._at_home:
            parameter.data = stored
        self._at_home = []


def bring(layer: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Registers a hook that moves the output of `layer`, computed where it is, to `device` and `dtype`."""

    def carry(_layer: nn.Module, _arguments: Any, result: Tensor) -> Tensor:
        return result.to(device, dtype)

    layer.register_forward_hook(carry)
