"""A network that is larger than its device: layers visit the device one after the other, for their own turn.

Weights stay where and as they are; each layer's are copied to the device, in the dtype to compute in, when it
is called, and the copy is dropped when it returns. Results are those of the network on the device, to the
bit. Every call pays for the way of all weights.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def visit(layers: Iterable[nn.Module], device: torch.device, dtype: torch.dtype) -> None:
    """From now on each of `layers`, which must not contain one another, visits the device when it is called.

    Args:
        layers: They get their tensors on `device` and in `dtype`, from what comes before them or `bring`.
        device: To compute on.
        dtype: To compute in.
    """
    for layer in layers:
        _Visitor(layer, device, dtype)


class _Visitor:
    def __init__(self, layer: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._at_home: list[tuple[nn.Parameter, Tensor]] = []
        layer.register_forward_pre_hook(self._go)
        # Also after an error: what is left on the device would stay there.
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
    """From now on `layer` computes where it is, and what comes out is brought to the device."""

    def carry(_layer: nn.Module, _arguments: Any, result: Tensor) -> Tensor:
        return result.to(device, dtype)

    layer.register_forward_hook(carry)
