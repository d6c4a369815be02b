"""Checkpoints of a run: whole or not there, the newest few kept, a small one to carry the run.

A process alone writes a file. Processes that share a run write a directory together, each what it holds, by
torch's distributed checkpoints and in the background; it gets its name when all of it is on the disk. Any
number of processes can read either. Nothing in a checkpoint is run, whoever wrote it: a pickle that wants
more than tensors is refused, by name.
"""

import logging
import pickle
import re
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import async_save

from shotstream.files import flush, remove, replacing
from shotstream.training.dist_context import SINGLE_PROCESS, DistContext
from shotstream.training.parallelize import like
from shotstream.weights.distributed_files import read_distributed
from shotstream.weights.file_kinds import CheckpointError
from shotstream.weights.pytorch_files import read_pytorch
from shotstream.weights.tensor_files import is_finite

log = logging.getLogger(__name__)

# What torch raises for files of other formats, cut files and other contents.
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    CheckpointException,
    OSError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
)
# In a directory: everything that is no tensor, and where in the state each tensor belongs.
_REST = "rest.pt"
# Beyond what any run does; a number larger than this is damage.
_MOST_STEPS = 10**9

_NAME = re.compile(r"step_[0-9]{7,10}(\.pt)?")

_Path = tuple[str | int, ...]


@runtime_checkable
class Stateful(Protocol):
    """The state of a stage that a checkpoint holds; where several processes train, each calls its methods."""

    def init_optimizer_state(self) -> None:
        """Gives the optimizers their states, for `state_dict` to have all places that a checkpoint fills."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """`weights`, `ema` and `optimiser`: everything needed to go on exactly. May be sharded."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`, sharded alike; without `optimiser`, with a fresh one."""
        ...


def save_atomically(value: object, path: Path) -> None:
    """Writes with torch.save so that `path` holds either the old file or the whole new one."""
    with replacing(path) as file:
        torch.save(value, file)


def checkpoints(directory: Path) -> list[Path]:
    """The run's checkpoints, oldest first: files and directories; what a person has named is none of them."""
    found = [path for path in directory.glob("step_*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=steps_of)


def steps_of(checkpoint: Path) -> int:
    """The steps that a checkpoint of a run was saved after, by its name."""
    return int(checkpoint.stem.removeprefix("step_"))


class Saver:
    """Writes the checkpoints of a run."""

    def __init__(self, directory: Path, keep: int, dist_context: DistContext = SINGLE_PROCESS) -> None:
        """Keeps the newest `keep` in `directory`."""
        self._directory, self._keep, self._dist_context = directory, keep, dist_context
        self._pending: tuple[Future[Any], Path, Path] | None = None

    def save(self, state: dict[str, Any], step: int) -> None:
        """Saves a stage's state after `step` steps.

        Where there are several processes it returns when a copy is made, and `finish` tells how it ended.

        Raises:
            OSError: this or the checkpoint before could not be written; those before it are still there.
        """
        self.finish()
        path = self._directory / f"step_{step:07d}"
        if self._dist_context.world_size == 1:
            path = path.with_suffix(".pt")
            try:
                save_atomically({"step": step, "stage": state}, path)
            except (RuntimeError, OSError) as error:
                raise _unsaved(path, error) from error
            self._prune()
            return
        part = self._directory / f".part.{path.name}"
        values = _flat({"step": step, "stage": state})
        # A tensor on the CPU is written as it is when the writer comes to it: the next step changes it.
        tensors = {_name(at): _copied(value) for at, value in values.items() if isinstance(value, Tensor)}
        if self._dist_context.is_main_process:
            remove(part)
            part.mkdir()
            rest = {at: value for at, value in values.items() if not isinstance(value, Tensor)}
            places = {_name(at): at for at in values if _name(at) in tensors}
            save_atomically({"rest": rest, "places": places}, part / _REST)
        self._dist_context.barrier()
        writer = FileSystemWriter(part)
        future = async_save(tensors, storage_writer=writer, process_group=self._dist_context.saving_group)
        assert isinstance(future, Future)
        self._pending = future, part, path

    def poll(self) -> None:
        """Gives a checkpoint that has been written meanwhile its name."""
        if self._pending is not None and self._pending[0].done():
            self.finish()

    def finish(self) -> None:
        """Waits for the checkpoint that is being written, if there is one.

        Raises:
            OSError: it could not be written; those before it are still there.
        """
        if self._pending is None:
            return
        (future, part, path), self._pending = self._pending, None
        try:
            future.result()
        except (CheckpointException, RuntimeError, OSError) as error:
            if self._dist_context.is_main_process:
                remove(part)
            raise _unsaved(path, error) from error
        if (
            self._dist_context.is_main_process
        ):  # its part of the writing ends when all others have ended theirs
            flush(part)
            remove(path)
            part.rename(path)
            flush(self._directory)
            self._prune()

    def _prune(self) -> None:
        for old in checkpoints(self._directory)[: -self._keep]:
            remove(old)


def load_checkpoint(path: Path) -> tuple[int, dict[str, Any]]:
    """Steps done and the stage's state, whole and on the CPU.

    Raises:
        ValueError: it is not a checkpoint of ours.
    """
    try:
        saved = _read_directory(path, None) if path.is_dir() else _read_file(path)
        _check_step(saved["step"])
        step, state = saved["step"], dict(saved["stage"])
        _check_values(state)
    except CheckpointError as error:
        raise ValueError(_not_ours(path, str(error))) from error
    except _UNREADABLE as error:
        raise ValueError(_not_ours(path)) from error
    return step, state


def _not_ours(path: Path, reason: str = "") -> str:
    because = f" ({reason.removeprefix(f'{path}: ')})" if reason else ""
    return f"{path} is not a checkpoint of a run, or it is damaged{because}; remove it or give another"


def _check_step(step: object) -> None:
    if not isinstance(step, int) or isinstance(step, bool):
        raise CheckpointError("it says no number of steps")
    if not 0 <= step <= _MOST_STEPS:
        raise CheckpointError(f"it says that {step} steps were done")


def _check_values(state: Mapping[str, Any]) -> None:
    """CheckpointError for a number that no run makes: a step with one is refused before it is applied."""
    for at, value in _flat(state).items():
        if not isinstance(value, Tensor):
            continue
        if value.dtype == torch.bool or value.is_complex():
            kind = "truth values" if value.dtype == torch.bool else "complex numbers"
            raise CheckpointError(f"{_name(at)} holds {kind}")
        if value.is_floating_point() and not is_finite(value):
            raise CheckpointError(f"{_name(at)} holds what is no finite number")


def restore(stage: Stateful, path: Path, dist_context: DistContext = SINGLE_PROCESS) -> int:
    """Loads a checkpoint into a stage's state, however many processes wrote it; returns the steps done.

    Raises:
        ValueError: it is no checkpoint, or one of another recipe.
    """
    if dist_context.world_size == 1 or not path.is_dir():
        step, state = load_checkpoint(path)
    else:
        step, state = -1, {}
    try:
        if dist_context.world_size > 1:
            step, state = _sharded(stage, path, step, state)
        stage.load_state_dict(state)
    except CheckpointError as error:
        raise ValueError(_not_ours(path, str(error))) from error
    except _UNREADABLE as error:
        raise ValueError(f"{path} is a checkpoint of another recipe or of other sizes") from error
    return step


def _sharded(stage: Stateful, path: Path, step: int, state: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """A checkpoint's state, sharded as the stage is; a process reads no more of a directory than it holds."""
    if path.is_dir() or "optimiser" in state:
        stage.init_optimizer_state()
    places = _flat({"step": 0, "stage": stage.state_dict()})
    if path.is_dir():
        saved = _read_directory(path, {_name(at): value for at, value in places.items()})
        _check_step(saved["step"])
        return saved["step"], dict(saved["stage"])
    values = _flat({"step": step, "stage": state})
    for at, value in values.items():
        if isinstance(value, Tensor) and at in places:  # an older one may hold more averages
            values[at] = like(value, places[at])
    return step, _nested(values)["stage"]


def _read_file(path: Path) -> dict[Any, Any]:
    return read_pytorch(path, mapped=False)


def _read_directory(path: Path, into: Mapping[str, Any] | None) -> dict[str, Any]:
    """Reads a distributed checkpoint into the tensors `into`, by name, or into new whole ones."""
    rest = read_pytorch(path / _REST, mapped=False)
    places: dict[str, _Path] = rest["places"]
    wanted = None if into is None else {name: into[name] for name in places if name in into}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it was told to be
        tensors = read_distributed(path, wanted)
    return _nested({**rest["rest"], **{places[name]: value for name, value in tensors.items()}})


def write_portable(checkpoint: Path, path: Path) -> None:
    """A checkpoint without its optimiser and in half precision: enough to carry a run to another machine.

    Raises:
        ValueError: it is no checkpoint, or a weight does not fit into half precision.
    """
    step, state = load_checkpoint(checkpoint)
    small = {key: _halved(value) for key, value in state.items() if key != "optimiser"}
    save_atomically({"step": step, "stage": small}, path)


def _halved(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _halved(item) for key, item in value.items()}
    if isinstance(value, Tensor) and value.is_floating_point():
        half = value.half()
        if not is_finite(half):
            raise ValueError("a weight is too large for half precision; carry the checkpoint itself")
        return half
    return value


def _unsaved(path: Path, error: BaseException) -> OSError:
    """The error of a checkpoint that could not be written.

    Torch hides a full disk behind an error of its own; from another process not even the cause comes with it.
    """
    if isinstance(error, CheckpointException):
        error = next((failure for failure, _ in error.failures.values()), error)
    reason: BaseException | None = error
    while reason is not None and not isinstance(reason, OSError):
        reason = reason.__cause__ or reason.__context__
    said = " ".join(str(reason or error).split())
    if "unexpected pos" in said:  # fewer bytes are in the file than were written to it
        said = f"is the disk full? {said}"
    return OSError(f"{path} could not be saved; the checkpoints before it remain: {said}")


def _copied(value: Tensor) -> Tensor:
    return value.detach().clone() if value.device.type == "cpu" else value.detach()


def _flat(value: Any, at: _Path = ()) -> dict[_Path, Any]:
    """The leaves of nested dictionaries, an empty dictionary being one."""
    if not isinstance(value, dict) or not value:
        return {at: value}
    return {where: leaf for name, item in value.items() for where, leaf in _flat(item, (*at, name)).items()}


def _nested(leaves: Mapping[_Path, Any]) -> dict[str, Any]:
    """The dictionaries that `_flat` was given."""
    result: dict[Any, Any] = {}
    for at, leaf in leaves.items():
        inner = result
        for name in at[:-1]:
            inner = inner.setdefault(name, {})
        inner[at[-1]] = leaf
    return result


def _name(at: _Path) -> str:
    return "/".join(str(name) for name in at)
