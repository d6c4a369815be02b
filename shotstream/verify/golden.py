"""The files of goldens: reading them, and comparing computed tensors with recorded ones.

A golden is a `.safetensors` file whose metadata holds `case`, `tolerance`, `config` and `format_version`, or
a `.json` file with a `case`. In float32 and float64 the error of a tensor is max |computed - expected| /
max(1, max |expected|), and its bound is the tolerance in the file. If a network ran in a lower precision, the
error is ||computed - expected|| / ||expected||, and its bound is in `LOW_PRECISION_BOUNDS`. Integers must be
equal.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from shotstream.documents import json_kind
from shotstream.weights.tensor_files import read_json

FORMAT_VERSION = "1"
_LARGEST_TOLERANCE = 0.1

LOW_PRECISION_BOUNDS = {
    "teacher_forward": 2.0,
    "student_masked_forward": 2.0,
    "student_rollout": 2.0,
    "dmd_gradient": 4.0,
    "text_encoder": 5.0,
    "vae": 8.0,
    "single_shot_rollout": 3.0,
    "interactive": 3.0,
    "scenes": 3.0,
    "ema_sink_rollout": 3.0,
    "memory_bank_rollout": 3.0,
    "memory_bank_interactive": 3.0,
    "rolling_window": 3.0,
}
"""Maximum relative error in bfloat16 and float16, in units of the dtype's epsilon.

It is about twice the rounding error of the recorded cases. In float16 the transformer's bound, 0.002, still
detects a network without shot phases (error 0.0037); in bfloat16 the rounding error is larger than that.
Cases that are not listed compute nothing in the networks' dtype.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of the comparison: one tensor, or one failure."""

    file: str
    """Name of the golden, or of the directory."""
    case: str
    """Name of the case; empty if the file names none."""
    tensor: str
    """Name of the compared tensor; empty for a failure of the whole file."""
    passed: bool
    error: float | None = None
    """Measured error, see the module; None if nothing could be measured."""
    bound: float | None = None
    """Maximum error that passes."""
    message: str = ""
    """Reason of a failure, if the error does not show it."""


@dataclass(kw_only=True, slots=True)
class Golden:
    """A golden file. Every tensor that `take` and `weights` did not return is an expected output."""

    file: str
    case: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    tolerance: float
    inputs: set[str] = field(default_factory=set[str])

    def take(self, name: str) -> Tensor:
        """Returns an input by name; raises ValueError if the file does not have it."""
        if name not in self.tensors:
            raise ValueError(f"the input {name!r} is missing")
        self.inputs.add(name)
        return self.tensors[name]

    def weights(self, prefix: str) -> dict[str, Tensor]:
        """Returns the tensors whose names start with `prefix`, under names without it."""
        names = [name for name in self.tensors if name.startswith(prefix)]
        self.inputs.update(names)
        return {name.removeprefix(prefix): self.tensors[name] for name in names}

    def expected(self) -> dict[str, Tensor]:
        """Returns the expected outputs: every tensor that was not an input."""
        return {name: tensor for name, tensor in self.tensors.items() if name not in self.inputs}


def read_golden(path: Path) -> Golden:
    """Returns the golden in a file.

    Raises:
        ValueError: The file is not a golden; the library that reads it may raise its own error instead.
    """
    if path.suffix == ".json":
        document = read_json(path)
        if "case" not in document:
            raise ValueError("no golden: it names no case")
        _check_version(str(document.get("format_version")))
        return Golden(file=path.name, case=str(document["case"]), config=document, tensors={}, tolerance=0.0)
    with safe_open(path, "pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
        if "case" not in metadata:
            raise ValueError("no golden: its metadata names no case")
        _check_version(metadata.get("format_version"))
        return Golden(
            file=path.name,
            case=metadata["case"],
            config=_config(metadata["config"]),
            tensors={name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118 (not a mapping)
            tolerance=_tolerance(metadata["tolerance"]),
        )


def _config(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ValueError("no golden: its config is not JSON") from error
    if not isinstance(config, dict):
        raise ValueError(f"no golden: its config is {json_kind(config)}, not an object")
    return config


def _tolerance(text: str) -> float:
    """Returns a tolerance; raises ValueError for one that would let everything pass."""
    try:
        tolerance = float(text)
    except ValueError as error:
        raise ValueError(f"no golden: its tolerance is {text[:40]!r}, not a number") from error
    if not 0 <= tolerance <= _LARGEST_TOLERANCE:
        raise ValueError(f"no golden: its tolerance is {tolerance}; it lies in [0, {_LARGEST_TOLERANCE}]")
    return tolerance


def compare(golden: Golden, name: str, expected: Tensor, ours: Tensor | None, dtype: torch.dtype) -> Row:
    """Returns the row of one expected tensor.

    Args:
        golden: The golden that holds it.
        name: Its name there.
        expected: The recorded tensor.
        ours: The computed tensor; None if its case does not compute it.
        dtype: Dtype of the networks.
    """

    def row(passed: bool, error: float | None = None, bound: float | None = None, message: str = "") -> Row:
        return Row(
            file=golden.file,
            case=golden.case,
            tensor=name,
            passed=passed,
            error=error,
            bound=bound,
            message=message,
        )

    if ours is None:
        return row(False, message="expected, but this case does not compute it")
    ours = ours.detach().cpu()
    if ours.shape != expected.shape:
        return row(False, message=f"shape {list(ours.shape)}, expected {list(expected.shape)}")
    if not expected.is_floating_point():
        num_different = float((ours != expected).sum())
        return row(num_different == 0, num_different, 0.0)
    expected = expected.double()
    difference = ours.double() - expected
    if dtype in (torch.float32, torch.float64) or golden.case not in LOW_PRECISION_BOUNDS:
        bound = golden.tolerance
        error = float(difference.abs().max() / expected.abs().max().clamp_min(1))
    else:
        bound = LOW_PRECISION_BOUNDS[golden.case] * torch.finfo(dtype).eps
        error = float(difference.norm() / expected.norm().clamp_min(torch.finfo(torch.float64).tiny))
    # Written so that a NaN fails.
    return row(error <= bound, error, bound)


def _check_version(version: str | None) -> None:
    if version != FORMAT_VERSION:
        raise ValueError(f"format_version {version}; only {FORMAT_VERSION} is known")
