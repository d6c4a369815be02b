"""Checkpoints of a run: whole files or none, the newest few kept, a small one to carry the run."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shotstream.files import replacing

# What torch raises for files of other formats, cut files and other contents.
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
)


def save_atomically(value: object, path: Path) -> None:
    """Writes with torch.save so that `path` holds either the old file or the whole new one."""
    with replacing(path) as file:
        torch.save(value, file)


def checkpoints(directory: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted(directory.glob("step_*.pt"))


def save_checkpoint(state: dict[str, Any], step: int, directory: Path, keep: int) -> Path:
    """Saves a stage's state after `step` steps and drops all but the newest `keep`."""
    path = directory / f"step_{step:07d}.pt"
    save_atomically({"step": step, "stage": state}, path)
    for old in checkpoints(directory)[:-keep]:
        old.unlink()
    return path


def load_checkpoint(path: Path) -> tuple[int, dict[str, Any]]:
    """Steps done and the stage's state.

    Raises:
        ValueError: the file is not a checkpoint of ours.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        return int(saved["step"]), dict(saved["stage"])
    except _UNREADABLE as error:
        raise ValueError(
            f"{path} is not a checkpoint of a run, or it is damaged; remove it or give another"
        ) from error


def write_portable(checkpoint: Path, path: Path) -> None:
    """A checkpoint without its optimiser and in half precision: enough to carry a run to another machine."""
    step, state = load_checkpoint(checkpoint)
    small = {key: _halved(value) for key, value in state.items() if key != "optimiser"}
    save_atomically({"step": step, "stage": small}, path)


def _halved(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _halved(item) for key, item in value.items()}
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.half()
    return value
