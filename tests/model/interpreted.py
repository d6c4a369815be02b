"""Triton's interpreter, made fit for float8: run in a process of its own, before kernels are imported.

Rounding to float8, the interpreter loses what carries into the exponent, and numbers below the normal ones;
torch does it as a GPU does.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
from triton.runtime import interpreter

_plain_convert = interpreter._convert_float  # pyright: ignore


def _convert(data, from_type, to_type, rounding_mode):  # pyright: ignore
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "fp8e4nv": torch.float8_e4m3fn}
    names = str(from_type), str(to_type)
    if "fp8e4nv" not in names:
        return _plain_convert(data, from_type, to_type, rounding_mode)
    given = torch.from_numpy(np.ascontiguousarray(data).view(np.uint8)).view(kinds[names[0]])
    made = given.to(kinds[names[1]]).view(torch.uint8).numpy()
    return made.view(np.uint8 if to_type.primitive_bitwidth == 8 else np.uint16).reshape(data.shape)


interpreter._convert_float = _convert  # pyright: ignore

_patch = interpreter._patch_lang_tensor  # pyright: ignore


def _patch_with_numbers(tensor, scope):  # pyright: ignore
    _patch(tensor, scope)
    # From numpy 2.5 on an array of one number is no number.
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


interpreter._patch_lang_tensor = _patch_with_numbers  # pyright: ignore
