"""Precision of matrix products in training: float32, or bfloat16 by autocast.

Parameters, noise levels, RoPE, normalisations, losses and optimizer states are float32 in both cases.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from shotstream.training.muon import has_fast_bfloat16

MatmulDtype = Literal["auto", "float32", "bfloat16"]
"""Dtype of matrix products; "auto" is bfloat16 if the device multiplies it faster."""


def multiplies_bfloat16(wanted: MatmulDtype, device: torch.device) -> bool:
    """Returns whether a setting means bfloat16 on a device."""
    return has_fast_bfloat16(device) if wanted == "auto" else wanted == "bfloat16"


def matmul_dtype(wanted: MatmulDtype, device: torch.device) -> torch.dtype:
    """Returns the dtype that a setting means on a device."""
    return torch.bfloat16 if multiplies_bfloat16(wanted, device) else torch.float32


def hold_as_multiplied(frozen: nn.Module, wanted: MatmulDtype) -> None:
    """Converts the linear layers of a frozen network to the dtype of their products, in place.

    Every pass would round the weights in the same way: results do not change, in half the memory.
    """
    for layer in frozen.modules():
        if isinstance(layer, nn.Linear) and multiplies_bfloat16(wanted, layer.weight.device):
            layer.to(torch.bfloat16)


def multiplying(wanted: MatmulDtype, device: torch.device) -> AbstractContextManager[Any]:
    """Returns a context in which networks multiply in the given precision.

    Parameters are cast again in every pass: a cached cast from a pass without gradients, such as a rollout's
    first steps, would otherwise be used in the pass with gradients, and nothing would be trained.
    """
    if not multiplies_bfloat16(wanted, device):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
