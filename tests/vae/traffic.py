"""Counts what a device would read and write, call by call, over tensors that need not exist."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_FREE = {torch.ops.aten.empty.memory_format, torch.ops.aten._unsafe_view.default}
_CONVOLUTION = torch.ops.aten.convolution.default


class Traffic(TorchDispatchMode):
    """What each operation reads and writes, each tensor once, as cuDNN would do it.

    A convolution answers in its input's layout, and adds its bias in a pass of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes_of: dict[str, int] = {}
        self.convolutions: list[tuple[Tensor, Tensor, Tensor]] = []
        """Input, weight and output of each."""

    @property
    def total(self) -> int:
        """Bytes of all operations."""
        return sum(self.bytes_of.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        if func is _CONVOLUTION:
            result = self._note(args, result)
        if func.is_view or func in _FREE:
            return result
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        moved = {id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}
        self._add(str(func), sum(moved.values()))
        return result

    def _note(self, args: tuple[Any, ...], result: Tensor) -> Tensor:
        given, weight, bias = args[:3]
        self.convolutions.append((given, weight, result))
        if bias is not None:
            self._add("bias of a convolution", 2 * result.numel() * result.element_size())
        if result.is_meta:
            # There torch says another layout than a device gives.
            kind = torch.channels_last if result.dim() == 4 else torch.channels_last_3d
            if given.is_contiguous(memory_format=kind):
                return torch.empty(result.shape, dtype=result.dtype, device="meta", memory_format=kind)
        return result

    def _add(self, name: str, num_bytes: int) -> None:
        self.bytes_of[name] = self.bytes_of.get(name, 0) + num_bytes
