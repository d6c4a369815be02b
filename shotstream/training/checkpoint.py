"""Checkpoints of a run: written atomically, the newest few kept; and a small one to start the run elsewhere.

A single process writes a file. Several processes write a directory together, each its own part, with torch's
distributed checkpoints and in the background; the directory gets its final name when it is completely on
disk. Any number of processes can read either. No code in a checkpoint is run: a pickle that contains more
than tensors is refused, with the name of the class.
"""

import logging
import pickle
import re
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

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

# Errors of torch for files of other formats, truncated files and other content.
_WORDS_VECTORS: Final = "text.reading.vectors"
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
# In a directory: everything that is not a tensor, and the place of each tensor in the state.
_REST = "rest.pt"
# More steps than any run has; a larger number means damage.
_MOST_STEPS = 10**9

_NAME = re.compile(r"step_[0-9]{7,10}(\.pt)?")

_Path = tuple[str | int, ...]


@runtime_checkable
class Stateful(Protocol):
    """The protocol of a stage's state that a checkpoint holds; all processes call its methods together."""

    def init_optimizer_state(self) -> None:
        """Creates the optimizers' states, so that `state_dict` has every entry of a checkpoint."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns `weights`, `ema` and `optimiser`: all that an exact continuation needs. May be sharded."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads a `state_dict`, sharded in the same way; without `optimiser` the optimizers start fresh."""
        ...


def save_atomically(value: object, path: Path) -> None:
    """Writes with torch.save, so that `path` holds either the old file or the complete new one."""
    with replacing(path) as file:
        torch.save(value, file)


def checkpoints(directory: Path) -> list[Path]:
    """Returns a run's checkpoints, oldest first: files and directories; renamed ones are ignored."""
    found = [path for path in directory.glob("step_*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=steps_of)


def steps_of(checkpoint: Path) -> int:
    """Returns the number of steps after which a checkpoint was saved, from its name."""
    return int(checkpoint.stem.removeprefix("step_"))


class Saver:
    """Writes the checkpoints of a run."""

    def __init__(self, directory: Path, keep: int, dist_context: DistContext = SINGLE_PROCESS) -> None:
        """Creates a saver that keeps the newest `keep` checkpoints in `directory`."""
        self._directory, self._keep, self._dist_context = directory, keep, dist_context
        self._pending: tuple[Future[Any], Path, Path] | None = None

    def save(self, state: dict[str, Any], step: int) -> None:
        """Saves a stage's state after `step` steps.

        With several processes it returns after the state is copied; `finish` waits for the end of the
        writing.

        Raises:
            OSError: This or the previous checkpoint could not be written; earlier ones still exist.
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
        # CPU tensors are copied, because the next step may change them before they are written.
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
        """Renames a checkpoint to its final name if it has been written meanwhile."""
        if self._pending is not None and self._pending[0].done():
            self.finish()

    def finish(self) -> None:
        """Waits for the checkpoint that is being written, if there is one.

        Raises:
            OSError: It could not be written; earlier ones still exist.
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
        if self._dist_context.is_main_process:  # its writing ends when all others have ended theirs
            flush(part)
            remove(path)
            part.rename(path)
            flush(self._directory)
            self._prune()

    def _prune(self) -> None:
        for old in checkpoints(self._directory)[: -self._keep]:
            remove(old)


def load_checkpoint(path: Path) -> tuple[int, dict[str, Any]]:
    """Returns the number of steps and the stage's complete state, on the CPU.

    Raises:
        ValueError: It is not a checkpoint of this project.
    """
    try:
        saved = _read_directory(path, None) if path.is_dir() else _read_file(path)
        _check_step(saved["step"])
        step, state = saved["step"], dict(saved["stage"])
        _check_values(state)
        _replace_word_encoder(state)
    except CheckpointError as error:
        raise ValueError(_not_ours(path, str(error))) from error
    except _UNREADABLE as error:
        raise ValueError(_not_ours(path)) from error
    return step, state


def _replace_word_encoder(state: dict[str, Any]) -> None:
    """Keeps, of a model's earlier text encoder, the vectors of its answers: today's has only these."""
    weights = state.get("weights")
    if isinstance(weights, Mapping) and _WORDS_VECTORS in weights:
        for part in ("weights", "ema"):
            if isinstance(values := state.get(part), Mapping):
                state[part] = {name: value for name, value in values.items() if not name.startswith("text.")}
        state["weights"]["text.vectors"] = weights[_WORDS_VECTORS]


def _not_ours(path: Path, reason: str = "") -> str:
    because = f" ({reason.removeprefix(f'{path}: ')})" if reason else ""
    return f"{path} is not a checkpoint of a run, or it is damaged{because}; remove it or give another"


def _check_step(step: object) -> None:
    if not isinstance(step, int) or isinstance(step, bool):
        raise CheckpointError("it says no number of steps")
    if not 0 <= step <= _MOST_STEPS:
        raise CheckpointError(f"it says that {step} steps were done")


def _check_values(state: Mapping[str, Any]) -> None:
    """Raises CheckpointError for values that no run saves, such as NaN: a step with one is not applied."""
    for at, value in _flat(state).items():
        if not isinstance(value, Tensor):
            continue
        if value.dtype == torch.bool or value.is_complex():
            kind = "truth values" if value.dtype == torch.bool else "complex numbers"
            raise CheckpointError(f"{_name(at)} holds {kind}")
        if value.is_floating_point() and not is_finite(value):
            raise CheckpointError(f"{_name(at)} holds what is no finite number")


def restore(stage: Stateful, path: Path, dist_context: DistContext = SINGLE_PROCESS) -> int:
    """Loads a checkpoint into a stage's state, from any number of processes; returns the number of steps.

    Raises:
        ValueError: It is not a checkpoint, or is of another recipe.
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
    """Returns a checkpoint's state, sharded like the stage.

    Of a directory only this process's part is read.
    """
    if path.is_dir() or "optimiser" in state:
        stage.init_optimizer_state()
    places = _flat({"step": 0, "stage": stage.state_dict()})
    if path.is_dir():
        saved = _read_directory(path, {_name(at): value for at, value in places.items()})
        _check_step(saved["step"])
        return saved["step"], dict(saved["stage"])
    values = _flat({"step": step, "stage": state})
    for at, value in values.items():
        if isinstance(value, Tensor) and at in places:  # an older checkpoint may hold more averages
            values[at] = like(value, places[at])
    return step, _nested(values)["stage"]


def _read_file(path: Path) -> dict[Any, Any]:
    return read_pytorch(path, mapped=False)


def _read_directory(path: Path, into: Mapping[str, Any] | None) -> dict[str, Any]:
    """Reads a distributed checkpoint into the tensors `into`, by name, or into new complete ones."""
    rest = read_pytorch(path / _REST, mapped=False)
    places: dict[str, _Path] = rest["places"]
    wanted = None if into is None else {name: into[name] for name in places if name in into}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it was told to be
        tensors = read_distributed(path, wanted)
    return _nested({**rest["rest"], **{places[name]: value for name, value in tensors.items()}})


def write_portable(checkpoint: Path, path: Path) -> None:
    """Writes a checkpoint without its optimizer and in half precision, to start the run on another machine.

    Raises:
        ValueError: It is not a checkpoint, or a weight is out of the range of half precision.
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
    """Returns the error of a checkpoint that could not be written.

    Torch reports a full disk as an error of its own; from another process even the cause is missing.
    """
    if isinstance(error, CheckpointException):
        error = next((failure for failure, _ in error.failures.values()), error)
    reason: BaseException | None = error
    while reason is not None and not isinstance(reason, OSError):
        reason = reason.__cause__ or reason.__context__
    said = " ".join(str(reason or error).split())
    if "unexpected pos" in said:  # the file has fewer bytes than were written
        said = f"is the disk full? {said}"
    return OSError(f"{path} could not be saved; the checkpoints before it remain: {said}")


def _copied(value: Tensor) -> Tensor:
    return value.detach().clone() if value.device.type == "cpu" else value.detach()


def _flat(value: Any, at: _Path = ()) -> dict[_Path, Any]:
    """Returns the leaves of nested dictionaries; an empty dictionary is a leaf."""
    if not isinstance(value, dict) or not value:
        return {at: value}
    return {where: leaf for name, item in value.items() for where, leaf in _flat(item, (*at, name)).items()}


def _nested(leaves: Mapping[_Path, Any]) -> dict[str, Any]:
    """Returns the nested dictionaries that `_flat` was given."""
    result: dict[Any, Any] = {}
    for at, leaf in leaves.items():
        inner = result
        for name in at[:-1]:
            inner = inner.setdefault(name, {})
        inner[at[-1]] = leaf
    return result


def _name(at: _Path) -> str:
    return "/".join(str(name) for name in at)
