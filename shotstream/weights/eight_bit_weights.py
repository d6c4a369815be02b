"""Weights in 8-bit floats, with or without scales, as files for smaller memory have them; in bfloat16 here.

Without scales bfloat16 holds them exactly; with scales the products are rounded once.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from shotstream.weights.file_kinds import CheckpointError
from shotstream.weights.tensor_files import LazyTensor, LazyTensors

_SCALES = ("scale_weight", "weight_scale")
# Scales of activations, and the flag that a file has scales: not used, because weights become bfloat16.
_IDLE_OF_FP8 = re.compile(r"(.*\.)?(input_scale|scale_input|scaled_fp8|comfy_quant)")
_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def with_scales(names: Mapping[str, str]) -> dict[str, str]:
    """Returns names with those of the scales that may stand beside weights."""
    scaled = {
        f"{theirs.removesuffix('weight')}{scale}": f"{ours.removesuffix('weight')}{scale}"
        for theirs, ours in names.items()
        if theirs.endswith(".weight")
        for scale in _SCALES
    }
    return {**names, **scaled}


def unscaled(tensors: LazyTensors, where: str, notes: list[str]) -> LazyTensors:
    """Returns the tensors with 8-bit weights in bfloat16, multiplied by their scales if the file has some."""
    tensors = {name: tensor for name, tensor in tensors.items() if not _IDLE_OF_FP8.fullmatch(name)}
    in_eight_bits = [name for name, tensor in tensors.items() if tensor.dtype in _FP8]
    scales = {name: t for name, t in tensors.items() if name.rpartition(".")[2] in _SCALES}
    if not in_eight_bits and not scales:
        return tensors
    result = {name: tensor for name, tensor in tensors.items() if name not in scales}
    used = 0
    for name in in_eight_bits:
        stem = name.removesuffix("weight")
        scale = next((scales[stem + word] for word in _SCALES if stem + word in scales), None)
        used += scale is not None
        result[name] = _widened(name, tensors[name], scale, where)
    if used < len(scales):
        raise CheckpointError(
            f"{where}: {len(scales) - used} scales belong to no weight in 8 bits; fetch it again"
        )
    times = f", {used} of them times the scales in the file" if used else ", which holds them exactly"
    notes.append(
        f"{Path(where).name}: {len(in_eight_bits)} tensors are in 8 bits (fp8) and become bfloat16{times}; "
        "the precision lost before does not come back"
    )
    return result


def widened(tensors: LazyTensors, where: str) -> LazyTensors:
    """Returns the same tensors, with 8-bit ones in bfloat16, which holds them exactly."""
    return {
        name: _widened(name, tensor, None, where) if tensor.dtype in _FP8 else tensor
        for name, tensor in tensors.items()
    }


def _widened(name: str, lazy: LazyTensor, scale: LazyTensor | None, where: str) -> LazyTensor:
    if scale is not None:
        per_row = (lazy.shape[0], *(1 for _ in lazy.shape[1:])) if lazy.shape else ()
        if scale.shape not in ((), (1,), per_row, per_row[:1]) or not scale.dtype.is_floating_point:
            raise CheckpointError(
                f"{where}: the scale of {name} is {list(scale.shape)}; give one per weight or row"
            )

    def load() -> Tensor:
        wide = lazy.load().float()
        if scale is not None:
            factor = scale.load().float()
            wide = wide * (factor.reshape(-1, *(1 for _ in wide.shape[1:])) if factor.numel() > 1 else factor)
        return wide.bfloat16()

    return LazyTensor(shape=lazy.shape, dtype=torch.bfloat16, load=load)
