"""Precision of matrix products in training: float32, or bfloat16 by autocast.

Parameters, levels, RoPE, normalisations, losses and what optimisers keep stay in float32 either way.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from shotstream.training.muon import has_fast_bfloat16

MatmulDtype = Literal["auto", "float32", "bfloat16"]
""""auto" is bfloat16 where the device multiplies it faster."""


def multiplies_bfloat16(wanted: MatmulDtype, device: torch.device) -> bool:
    """Whether that means bfloat16 on a device."""
    return has_fast_bfloat16(device) if wanted == "auto" else wanted == "bfloat16"


def matmul_dtype(wanted: MatmulDtype, device: torch.device) -> torch.dtype:
    """The dtype that a setting means on a device."""
    return torch.bfloat16 if multiplies_bfloat16(wanted, device) else torch.float32


def hold_as_multiplied(frozen: nn.Module, wanted: MatmulDtype) -> None:
    """Keeps the linear layers of a network that never learns in what they are multiplied in, in place.

    Every pass would round them so: nothing that is computed changes, in half the memory.
    """
    for layer in frozen.modules():
        if isinstance(layer, nn.Linear) and multiplies_bfloat16(wanted, layer.weight.device):
            layer.to(torch.bfloat16)


def multiplying(wanted: MatmulDtype, device: torch.device) -> AbstractContextManager[Any]:
    """A context in which networks multiply so.

    Parameters are cast anew for every pass: a copy made without a gradient, as a rollout's first steps make
    it, would otherwise serve the pass that needs one, and nothing would be learnt.
    """
    if not multiplies_bfloat16(wanted, device):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
