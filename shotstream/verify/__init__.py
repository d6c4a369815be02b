"""Golden cases: recorded inputs and outputs of the published implementation, compared with this one.

The cases and the layout of their tensors are described in tests/assets/goldens/README.md. Any directory of
such files, of any sizes, can be verified. It passes only if every tensor that is not an input was compared
and agrees: an unknown case, an unreadable file, a tensor that is not compared or a directory without goldens
is a failure.
"""

import logging
from pathlib import Path

import torch
from safetensors import SafetensorError

from shotstream.verify.cases import CASES
from shotstream.verify.golden import Row, compare, read_golden
from shotstream.verify.networks import Target

__all__ = ["Row", "bundled_goldens", "verify_directory"]

log = logging.getLogger(__name__)

_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    SafetensorError,
)
"""Errors that a file that is not a golden of this project, or an incomplete install, can raise: a golden may
hold any numbers under any names, and is run without further checks.
"""


def bundled_goldens() -> Path:
    """Returns the directory of the goldens that are part of the package, in a wheel or in a checkout.

    Those of students other than ShotStream's are in a subdirectory.

    Raises:
        ValueError: There are none: the package was built from a source distribution, which does not contain
            them.
    """
    for directory in (Path(__file__).parent / "goldens", Path(__file__).parents[2] / "tests/assets/goldens"):
        if directory.is_dir():
            return directory
    raise ValueError(
        "this install has no goldens, because it was built from a source distribution; "
        "install the wheel, or name a directory of goldens"
    )


def verify_directory(
    directory: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> list[Row]:
    """Returns the rows of the comparison: one per expected tensor of every golden, and one per failure.

    The directory passes only if every row has passed. A bad file becomes a failed row, and the others still
    run.

    Args:
        directory: Directory of the goldens; subdirectories are not searched.
        device: Device of the networks.
        dtype: Dtype of the networks; the tolerances in the goldens are for float32.
    """
    paths = sorted(path for path in directory.glob("*") if path.suffix in (".safetensors", ".json"))
    target = Target(device=torch.device(device), dtype=dtype)
    # TF32 convolutions, torch's default on CUDA, have an error about a thousand times the tolerances.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        rows = [row for path in paths for row in _verify_file(path, target)]
    if not rows:
        rows.append(_failure(directory.name, "", f"{directory}: no golden (.safetensors or .json) in there"))
    return rows


def _verify_file(path: Path, target: Target) -> list[Row]:
    case = ""
    try:
        golden = read_golden(path)
        case = golden.case
        if case not in CASES:
            raise ValueError(f"unknown case {case!r}; known are {', '.join(sorted(CASES))}")
        with torch.no_grad():
            outputs = CASES[case](golden, target)
        rows = [
            compare(golden, name, expected, outputs.get(name), target.dtype)
            for name, expected in golden.expected().items()
        ]
        if not rows:
            raise ValueError("the file expects nothing of us")
    except _FAILURES as error:
        log.debug("%s failed", path, exc_info=error)
        return [_failure(path.name, case, _in_words(error))]
    return rows


def _in_words(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"not a golden of this case: it lacks {', '.join(str(key) for key in error.args)}"
    if isinstance(error, RecursionError):
        return "not a golden: its values are nested too deeply"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    if isinstance(error, SafetensorError):
        return "not a complete safetensors file; record or fetch it again"
    if isinstance(
        error, ValueError | ImportError
    ):  # from this project, and from libraries whose messages say what to do
        return str(error)
    return "not a golden of this case: its config or its tensors have another form or other sizes"


def _failure(file: str, case: str, message: str) -> Row:
    return Row(file=file, case=case, tensor="", passed=False, message=message)
