"""The files of goldens: how they are read, and how our tensors are compared with theirs.

A golden is a `.safetensors` file whose metadata holds `case`, `tolerance`, `config` and `format_version`, or
a `.json` file with a `case`. In float32 and float64 the error of a tensor is
max |ours - expected| / max(1, max |expected|), against the tolerance in the file. Where a network ran in a
lower precision it is ||ours - expected|| / ||expected||, against `LOW_PRECISION_BOUNDS`. Integers must be
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
}
"""Largest relative error in bfloat16 and float16, in units of the precision's own epsilon.

About twice what rounding costs the recorded cases. In float16 the transformer's bound, 0.002, still tells a
network without shot phases (0.0037 away) from ours; in bfloat16 rounding itself costs more than that.
Cases not named here compute nothing in the networks' precision.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of the comparison: one tensor, or one reason why there was none."""

    file: str
    """Name of the golden, or of the directory."""
    case: str
    """Its case; empty where it names none."""
    tensor: str
    """The tensor compared; empty for a failure of the whole file."""
    passed: bool
    error: float | None = None
    """Measured as the module says; None where nothing could be measured."""
    bound: float | None = None
    """Largest error that passes."""
    message: str = ""
    """Why it failed, where the error does not say it."""


@dataclass(kw_only=True, slots=True)
class Golden:
    """A golden file. Whatever `take` and `weights` never asked for is expected of us."""

    file: str
    case: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    tolerance: float
    inputs: set[str] = field(default_factory=set[str])

    def take(self, name: str) -> Tensor:
        """An input, by name; ValueError when the file lacks it."""
        if name not in self.tensors:
            raise ValueError(f"the input {name!r} is missing")
        self.inputs.add(name)
        return self.tensors[name]

    def weights(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with `prefix`, without it."""
        names = [name for name in self.tensors if name.startswith(prefix)]
        self.inputs.update(names)
        return {name.removeprefix(prefix): self.tensors[name] for name in names}

    def expected(self) -> dict[str, Tensor]:
        """The expected outputs: everything that was not an input."""
        return {name: tensor for name, tensor in self.tensors.items() if name not in self.inputs}


def read_golden(path: Path) -> Golden:
    """The golden in a file; ValueError (or what the file's library raises) for anything else."""
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
    """A bound below which errors pass; one that lets everything pass is none."""
    try:
        tolerance = float(text)
    except ValueError as error:
        raise ValueError(f"no golden: its tolerance is {text[:40]!r}, not a number") from error
    if not 0 <= tolerance <= _LARGEST_TOLERANCE:
        raise ValueError(f"no golden: its tolerance is {tolerance}; it lies in [0, {_LARGEST_TOLERANCE}]")
    return tolerance


def compare(golden: Golden, name: str, expected: Tensor, ours: Tensor | None, dtype: torch.dtype) -> Row:
    """The row of one expected tensor; `ours` is None when its case does not compute it.

    Args:
        golden: Where it was recorded.
        name: Its name there.
        expected: What was recorded.
        ours: What we computed.
        dtype: The precision that the networks ran in.
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
    # This way round a NaN fails.
    return row(error <= bound, error, bound)


def _check_version(version: str | None) -> None:
    if version != FORMAT_VERSION:
        raise ValueError(f"format_version {version}; only {FORMAT_VERSION} is known")
