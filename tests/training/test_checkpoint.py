"""A checkpoint is whole, of numbers that a run makes, and never run, at every door that reads one."""

import contextlib
import os
import pickle
import random
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save
from typer.testing import CliRunner

from shotstream.cli import app
from shotstream.training.checkpoint import (
    Saver,
    _flat,
    _name,
    checkpoints,
    load_checkpoint,
    save_atomically,
    write_portable,
)
from shotstream.training.dist_context import SINGLE_PROCESS, DistContext
from shotstream.training.run import run_recipe
from tests.training.test_run import TEACHER, codec, teacher

_STATE = {
    "weights": {"a.weight": torch.linspace(-1, 1, 12).reshape(3, 4), "a.bias": torch.ones(3)},
    "ema": {"a.weight": torch.zeros(3, 4), "num_updates": 7},
    "optimiser": {"state": {0: {"exp_avg": torch.full((3, 4), 0.5)}}, "groups": [1]},
}


def write_directory(path: Path, step: Any, state: dict[str, Any]) -> Path:
    """A checkpoint as processes that share a run write it."""
    values = _flat({"step": step, "stage": state})
    tensors = {_name(at): value for at, value in values.items() if isinstance(value, torch.Tensor)}
    rest = {at: value for at, value in values.items() if not isinstance(value, torch.Tensor)}
    path.mkdir()
    save_atomically(
        {"rest": rest, "places": {_name(at): at for at in values if _name(at) in tensors}}, path / "rest.pt"
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        save(tensors, storage_writer=FileSystemWriter(path), no_dist=True)
    return path


def write_checkpoint(path: Path, step: Any, state: dict[str, Any], form: str) -> Path:
    if form == "directory":
        return write_directory(path, step, state)
    path = path.with_suffix(".pt")
    save_atomically({"step": step, "stage": state}, path)
    return path


def _same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    one, other = _flat(left), _flat(right)
    return one.keys() == other.keys() and all(
        torch.equal(value, other[at]) if isinstance(value, torch.Tensor) else value == other[at]
        for at, value in one.items()
    )


def test_what_a_person_has_named_is_no_checkpoint_and_is_never_pruned(tmp_path: Path) -> None:
    """A copy was resumed from as the newest, or deleted as the oldest; beyond 10^7 steps order was lost."""
    own = [tmp_path / name for name in ("step_best.pt", "step_0000001 copy.pt", "step_0000001.old")]
    for path in own[:2]:
        path.write_bytes(b"mine")
    own[2].mkdir()
    saver = Saver(tmp_path, keep=2)
    for step in (1, 9_999_999, 10_000_000):
        saver.save(_STATE, step)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_9999999.pt", "step_10000000.pt"]
    assert all(path.exists() for path in own)


@pytest.mark.parametrize("form", ["file", "directory"])
def test_both_forms_give_back_what_was_saved(tmp_path: Path, form: str) -> None:
    step, state = load_checkpoint(write_checkpoint(tmp_path / "step_0000007", 7, _STATE, form))
    assert step == 7 and _same(state, _STATE)


class _Malicious:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.victim),)


def poison(path: Path, victim: Path, place: str) -> None:
    """Puts something to run into a checkpoint, where its reader would meet it."""
    if path.is_file():
        content = torch.load(path, weights_only=True)
        torch.save({**content, "more": _Malicious(victim)}, path)
    elif place == "rest":
        rest = torch.load(path / "rest.pt", weights_only=True)
        torch.save({**rest, "more": _Malicious(victim)}, path / "rest.pt")
    else:
        metadata = pickle.loads((path / ".metadata").read_bytes())
        metadata.planner_data = _Malicious(victim)
        (path / ".metadata").write_bytes(pickle.dumps(metadata))


@pytest.mark.parametrize("place", ["file", "metadata", "rest"])
def test_a_checkpoint_that_would_run_code_is_refused_by_name_and_not_run(tmp_path: Path, place: str) -> None:
    victim = tmp_path / "victim"
    path = write_checkpoint(tmp_path / "step_0000007", 7, _STATE, "file" if place == "file" else "directory")
    poison(path, victim, place)
    with pytest.raises(ValueError, match=r"step_0000007.* it wants to run posix\.mkdir"):
        load_checkpoint(path)
    assert not victim.exists()
    if place == "metadata":
        pickle.loads((path / ".metadata").read_bytes())
    else:
        torch.load(path if place == "file" else path / "rest.pt", weights_only=False)
    assert victim.exists(), "the payload works where it is let in"


def test_what_is_no_tensor_in_a_directory_is_refused_and_not_run(tmp_path: Path) -> None:
    """Torch loads such an entry with all that a pickle may do, whoever asked for a tensor of its name."""
    victim = tmp_path / "victim"
    path = write_directory(tmp_path / "step_0000007", 7, _STATE)
    rest = (path / "rest.pt").read_bytes()
    shutil.rmtree(path)
    path.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = "stage/weights/a.bias"
        save({name: _Malicious(victim)}, storage_writer=FileSystemWriter(path), no_dist=True)
    (path / "rest.pt").write_bytes(rest)
    with pytest.raises(ValueError, match=rf"'{name}' is not a tensor, and would be loaded as code"):
        load_checkpoint(path)
    assert not victim.exists()


def test_a_directory_reads_no_file_elsewhere_and_no_more_than_it_has(tmp_path: Path) -> None:
    def changed(change: Callable[[Any], None]) -> Path:
        path = write_directory(tmp_path / f"step_{len(list(tmp_path.iterdir())):07d}", 7, _STATE)
        metadata = pickle.loads((path / ".metadata").read_bytes())
        change(metadata)
        (path / ".metadata").write_bytes(pickle.dumps(metadata))
        return path

    def elsewhere(metadata: Any) -> None:
        for info in metadata.storage_data.values():
            info.relative_path = "../other/__0_0.distcp"

    def larger(metadata: Any) -> None:
        metadata.state_dict_metadata["stage/weights/a.bias"].size = torch.Size([10**12])

    for change, complaint in ((elsewhere, "outside the checkpoint"), (larger, "claims to hold 4,000,000,")):
        with pytest.raises(ValueError, match=complaint):
            load_checkpoint(changed(change))


@pytest.mark.parametrize("form", ["file", "directory"])
def test_no_single_flipped_bit_changes_what_a_checkpoint_holds(tmp_path: Path, form: str) -> None:
    path, draw = write_checkpoint(tmp_path / "step_0000007", 7, _STATE, form), random.Random(1)
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.name != ".metadata"]
    num_refused = 0
    for file in files:
        whole = file.read_bytes()
        inside = whole.find(_STATE["weights"]["a.weight"].numpy().tobytes())  # type: ignore[attr-defined]
        places = [draw.randrange(len(whole) * 8) for _ in range(60)]
        places += [] if inside < 0 else [inside * 8 + at for at in range(0, 48 * 8, 11)]
        for place in places:
            damaged = bytearray(whole)
            damaged[place // 8] ^= 1 << place % 8
            file.write_bytes(damaged)
            try:
                step, state = load_checkpoint(path)
                assert step == 7 and _same(state, _STATE), (file, place)
            except ValueError:
                num_refused += 1
        file.write_bytes(whole)
    assert num_refused >= 35


@pytest.mark.parametrize("form", ["file", "directory"])
@pytest.mark.parametrize("step", [-1, 10**18, True, 2.5, "7", None])
def test_steps_that_no_run_makes_are_refused(tmp_path: Path, form: str, step: Any) -> None:
    path = write_checkpoint(tmp_path / "step_0000007", step, _STATE, form)
    with pytest.raises(ValueError, match=r"it says that -?\d+ steps were done|it says no number of steps"):
        load_checkpoint(path)


@pytest.mark.parametrize("form", ["file", "directory"])
@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (torch.tensor([1.0, float("nan"), 0.0]), "no finite number"),
        (torch.tensor([1.0, float("inf"), 0.0]).half(), "no finite number"),
        (torch.zeros(3, dtype=torch.complex64), "complex numbers"),
        (torch.zeros(3, dtype=torch.bool), "truth values"),
    ],
)
def test_numbers_that_no_run_makes_are_refused_by_their_name(
    tmp_path: Path, form: str, value: torch.Tensor, complaint: str
) -> None:
    state = {**_STATE, "weights": {**_STATE["weights"], "a.bias": value}}  # type: ignore[dict-item]
    path = write_checkpoint(tmp_path / "step_0000007", 7, state, form)
    with pytest.raises(ValueError, match=rf"weights/a\.bias holds .*{complaint}"):
        load_checkpoint(path)


def test_a_portable_checkpoint_holds_no_number_that_became_infinite(tmp_path: Path) -> None:
    path = tmp_path / "step_0000007.pt"
    save_atomically({"step": 7, "stage": {"weights": {"a": torch.tensor([70_000.0])}}}, path)
    with pytest.raises(ValueError, match="too large for half precision"):
        write_portable(path, tmp_path / "small.pt")
    assert not (tmp_path / "small.pt").exists()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a codec and of a teacher."""
    directory = tmp_path_factory.mktemp("runs")
    run_recipe(codec(1), directory)
    run_recipe(teacher(1), directory)
    return directory


def _as_directory(path: Path) -> Path:
    step, state = load_checkpoint(path)
    path.unlink()
    return write_directory(path.with_suffix(""), step, state)


_TRAIN = [part for override in (*TEACHER, "train.num_steps=2") for part in ("--set", override)]
_DOORS = {
    "train": ["train", "theatre_teacher", *_TRAIN, "--runs", "RUNS"],
    "pack": ["weights", "pack", "theatre_teacher", "-o", "OUT", "--runs", "RUNS"],
    "export": ["weights", "export", "theatre_teacher", "-o", "OUT", "--runs", "RUNS"],
    "evaluate": [
        "evaluate", "--run", "theatre_teacher", "--runs", "RUNS",
        "--stories", "1", "--shots", "1", "-o", "OUT",
    ],
}  # fmt: skip


@pytest.mark.parametrize("form", ["file", "directory"])
@pytest.mark.parametrize("door", _DOORS)
def test_no_door_runs_what_a_checkpoint_asks_for(runs: Path, tmp_path: Path, door: str, form: str) -> None:
    victim, mine = tmp_path / "victim", tmp_path / "runs"
    shutil.copytree(runs, mine)
    path = checkpoints(mine / "theatre_teacher")[-1]
    if form == "directory":
        path = _as_directory(path)
    poison(path, victim, "metadata")
    words = {"RUNS": str(mine), "OUT": str(tmp_path / "out")}
    result = CliRunner().invoke(app, [words.get(word, word) for word in _DOORS[door]])
    assert not victim.exists()
    assert result.exit_code != 0
    assert "it wants to run posix.mkdir" in f"{result.exception} {result.output}"


class _Stopped(BaseException):
    """A kill: nothing after it is done."""


def _killed_at(patch: pytest.MonkeyPatch, stop_at: int, *owners: tuple[Any, str]) -> list[str]:
    """From the step of number `stop_at` that reaches the disk on there is no process any more."""
    steps: list[str] = []
    for owner, name in owners:
        real = getattr(owner, name)

        def step(*args: Any, _real: Any = real, _name: str = name, **options: Any) -> Any:
            if len(steps) >= stop_at:
                raise _Stopped
            steps.append(_name)
            return _real(*args, **options)

        patch.setattr(owner, name, step)
    return steps


_DISK = ((os, "fsync"), (Path, "replace"), (Path, "rename"), (Path, "unlink"), (shutil, "rmtree"))


@pytest.mark.parametrize("form", ["file", "directory"])
def test_a_kill_at_any_step_of_saving_leaves_a_whole_checkpoint_as_the_newest(
    tmp_path: Path, form: str
) -> None:
    """The checkpoints before go only when the new one is whole and has its name."""
    newest: list[int] = []
    for stop_at in range(30):
        directory = tmp_path / str(stop_at)
        directory.mkdir()
        for step in (3, 6):
            write_checkpoint(directory / f"step_{step:07d}", step, _STATE, form)
        saver = Saver(directory, 2, SINGLE_PROCESS if form == "file" else DistContext(rank=0, world_size=2))
        if form == "directory":
            part = write_directory(directory / ".part.step_0000009", 9, _STATE)
            written: Future[Any] = Future()
            written.set_result(None)
            saver._pending = written, part, directory / "step_0000009"
        with pytest.MonkeyPatch.context() as patch:
            steps = _killed_at(patch, stop_at, *_DISK)
            with contextlib.suppress(_Stopped):
                saver.save(_STATE, 9) if form == "file" else saver.finish()
        found = checkpoints(directory)
        assert len(found) >= 2, "keep of them at least, at every moment"
        for path in found:
            # The oldest may be half deleted when it is a directory; it is never the one that is resumed.
            if path != found[0] or form == "file":
                step, state = load_checkpoint(path)
                assert path.stem == f"step_{step:07d}" and _same(state, _STATE)
        newest.append(int(found[-1].stem.removeprefix("step_")))
        if len(steps) < stop_at:
            break
    else:
        raise AssertionError("saving never came to its end")
    assert newest[0] == 6 and newest[-1] == 9 and newest == sorted(newest)
    assert [path.stem for path in found] == ["step_0000006", "step_0000009"]
