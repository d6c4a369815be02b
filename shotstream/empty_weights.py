"""Modules without values, whose tensors are loaded afterwards."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_DRAWS: Final = (Tensor.normal_, Tensor.uniform_)
_ELEMENTWISE: Final = (Tensor.mul, Tensor.div, Tensor.add, Tensor.ge)
"""What modules do to their first values, besides the functions of torch.nn.init."""


@contextmanager
def init_empty_weights() -> Generator[None]:
    """Makes modules on the meta device, where tensors have shapes only, and computes nothing for them.

    Torch would import its compiler first, which takes two seconds, to work out the shapes of first values.
    """
    with torch.device("meta"), _NoValues():
        yield


class _NoValues(TorchFunctionMode):
    """Returns a tensor of the shape that an initialisation has, without torch's own way to that shape."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func in _ELEMENTWISE:
            shape = torch.broadcast_shapes(*(each.shape for each in args if isinstance(each, Tensor)))
            return torch.empty(shape, dtype=torch.bool if func is Tensor.ge else args[0].dtype)
        if func is torch.stack:
            return torch.empty(len(args[0]), *args[0][0].shape)
        return func(*args, **kwargs)
