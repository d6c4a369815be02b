"""The loop stops when it is told to, keeps what was done, and says how it ended."""

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from shotstream.cli import main
from shotstream.training.checkpoint import Stateful, checkpoints, load_checkpoint, write_portable
from shotstream.training.loop import resume, train
from shotstream.training.recipe import TrainConfig
from shotstream.training.run import prepare_run, run_recipe
from tests.training.test_run import CODEC, codec, teacher


class Signalled:
    """A stage that is sent a signal, or fails, in its third step."""

    def __init__(self, event: signal.Signals | Exception) -> None:
        self.event = event
        self.done = 0
        self.batch_size = 1

    def step(self, step: int) -> Mapping[str, float]:
        if step == 2:
            if isinstance(self.event, Exception):
                raise self.event
            signal.raise_signal(self.event)
        self.done = step + 1
        return {"loss": 0.0}

    @property
    def state(self) -> Stateful:
        return self

    def training_data(self, step: int) -> dict[str, Any]:
        return {"number": step}

    def init_optimizer_state(self) -> None: ...

    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        del step, directory
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = state["done"]


def test_a_run_that_is_terminated_is_saved(tmp_path: Path) -> None:
    assert train(Signalled(signal.SIGTERM), TrainConfig(num_steps=9, tensorboard=False), tmp_path) == 3
    assert load_checkpoint(checkpoints(tmp_path)[-1]) == (3, {"done": 3})


def test_a_run_that_is_interrupted_is_saved_and_says_so(tmp_path: Path) -> None:
    """An interrupt once took everything since the last checkpoint with it."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(Signalled(signal.SIGINT), TrainConfig(num_steps=9, tensorboard=False), tmp_path)
    assert load_checkpoint(checkpoints(tmp_path)[-1]) == (3, {"done": 3})
    assert signal.getsignal(signal.SIGINT) is before
    stage = Signalled(signal.SIGINT)
    assert (
        train(
            stage,
            TrainConfig(num_steps=5, tensorboard=False),
            tmp_path,
            resume(stage, checkpoints(tmp_path)[-1]),
        )
        == 5
    )


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code or 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("event", "code", "message"),
    [
        (signal.SIGTERM, 0, "stopped at step 3 of 9"),
        (signal.SIGINT, 130, "the same command resumes"),
        (FloatingPointError("the loss is nan"), 1, "the loss is nan"),
        (OSError("the disk is full"), 1, "the disk is full"),
    ],
)
def test_the_command_says_how_a_run_ended(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    event: signal.Signals | Exception,
    code: int,
    message: str,
) -> None:
    """A run that was stopped once called itself done."""
    monkeypatch.setattr("shotstream.training.run.build_stage", lambda *_: Signalled(event))
    command = (
        "train",
        "theatre_codec",
        "--runs",
        tmp_path,
        "--set",
        "train.num_steps=9",
        "--set",
        "train.tensorboard=false",
    )
    got, err = told(capsys, *command)
    assert (got, message in " ".join(err.split())) == (code, True), err


def test_bad_input_ends_with_two_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """These once came out as faults, after the run's directory had been written."""
    (tmp_path / "notes.txt").write_text("Once upon a time")
    small = [part for override in CODEC for part in ("--set", override)]
    for arguments, message in (
        (["theatre_teacher", "--device", "cpu"], "shotstream train theatre_codec"),
        (["theatre_codec", "--device", "abacus"], "cannot be used here"),
        (["theatre_codec", *small, "--start-from", tmp_path / "notes.txt"], "is not a checkpoint"),
        (["theatre_codec", *small, "--start-from", tmp_path / "absent.pt"], "no such file"),
    ):
        code, err = told(capsys, "train", *arguments, "--runs", tmp_path / "runs")
        assert (code, message in err, err.count("\n")) == (2, True, 1), err
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_of_another_recipe_starts_nothing(tmp_path: Path) -> None:
    run_recipe(codec(1), tmp_path / "here")
    write_portable(checkpoints(tmp_path / "here" / "theatre_codec")[-1], tmp_path / "codec.pt")
    with pytest.raises(ValueError, match="of another recipe"):
        prepare_run(teacher(1), tmp_path / "here", start_from=tmp_path / "codec.pt")
    assert not (tmp_path / "here" / "theatre_teacher").exists()


def test_a_beginning_given_to_a_run_that_has_begun_is_refused(tmp_path: Path) -> None:
    """It was once ignored without a word."""
    run_recipe(codec(1), tmp_path)
    write_portable(checkpoints(tmp_path / "theatre_codec")[-1], tmp_path / "codec.pt")
    with pytest.raises(ValueError, match="holds a run already"):
        prepare_run(codec(2), tmp_path, start_from=tmp_path / "codec.pt")
    assert json.loads((tmp_path / "theatre_codec" / "config.json").read_text())["train"]["num_steps"] == 1


class Watched:
    """A stage that remembers what was asked of it, and what was on the disk at that moment."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.batch_size, self.done = directory, 1, 0
        self.events: list[tuple[str, int, list[str]]] = []

    def _saw(self, what: str, step: int) -> None:
        self.events.append((what, step, [path.stem[-2:] for path in checkpoints(self.directory)]))

    def step(self, step: int) -> Mapping[str, float]:
        self._saw("step", step)
        self.done = step + 1
        return {"loss": 1.0}

    @property
    def state(self) -> Stateful:
        return self

    def training_data(self, step: int) -> dict[str, Any]:
        return {"number": step}

    def init_optimizer_state(self) -> None: ...

    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        assert directory == self.directory
        self._saw("preview", step)
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = state["done"]


def test_a_step_is_done_then_saved_then_previewed_each_when_it_is_due(tmp_path: Path) -> None:
    """A preview that fails must find its step on the disk."""
    config = TrainConfig(num_steps=7, save_every=2, preview_every=4, keep=2, tensorboard=False)
    stage = Watched(tmp_path)
    assert train(stage, config, tmp_path) == 7
    assert stage.events == [
        ("step", 0, []),
        ("step", 1, []),
        ("step", 2, ["02"]),
        ("step", 3, ["02"]),
        ("preview", 4, ["02", "04"]),
        ("step", 4, ["02", "04"]),
        ("step", 5, ["02", "04"]),
        ("step", 6, ["04", "06"]),
    ]
    assert [load_checkpoint(path) for path in checkpoints(tmp_path)] == [
        (6, {"done": 6}),
        (7, {"done": 7}),
    ]


def test_a_preview_that_fails_takes_no_step_with_it(tmp_path: Path) -> None:
    """A preview that failed once took two hundred steps with it."""
    stage = Watched(tmp_path)

    def fail(step: int, directory: Path) -> Mapping[str, float]:
        raise OSError(f"no preview of {step} in {directory}")

    stage.preview = fail  # type: ignore[method-assign]
    config = TrainConfig(num_steps=9, save_every=3, preview_every=3, tensorboard=False)
    with pytest.raises(OSError, match="no preview of 3"):
        train(stage, config, tmp_path)
    assert load_checkpoint(checkpoints(tmp_path)[-1]) == (3, {"done": 3})


def test_a_run_goes_on_from_its_step_and_stops_where_it_is_told(tmp_path: Path) -> None:
    stage = Watched(tmp_path)
    config = TrainConfig(num_steps=6, stop_at=4, tensorboard=False)
    assert train(stage, config, tmp_path, first=2) == 4
    assert [(what, step) for what, step, _ in stage.events] == [("step", 2), ("step", 3)]
    assert load_checkpoint(checkpoints(tmp_path)[-1]) == (4, {"done": 4})
    assert train(stage, config, tmp_path, first=4) == 4, "nothing is left before the stop"
    assert train(stage, TrainConfig(num_steps=3, stop_at=5, tensorboard=False), tmp_path, first=0) == 3


def test_a_refused_step_leaves_what_it_learnt_from_and_the_steps_before_it(tmp_path: Path) -> None:
    stage = Signalled(FloatingPointError("the loss is nan"))
    with pytest.raises(FloatingPointError):
        train(stage, TrainConfig(num_steps=9, save_every=1, tensorboard=False), tmp_path)
    assert load_checkpoint(checkpoints(tmp_path)[-1]) == (2, {"done": 2})
    kept = torch.load(tmp_path / "refused_step_0000002_rank0.pt", weights_only=True)
    assert kept == {"step": 2, "error": "the loss is nan", "inputs": {"number": 2}}


@pytest.mark.parametrize(
    "wrong",
    [{name: 0} for name in ("num_steps", "save_every", "log_every", "preview_every", "keep", "accumulation")]
    + [{"stop_at": -1}, {"samples_at_once": -1}, {"samples_at_once": 2, "accumulation": 2}],
)
def test_a_loop_that_makes_no_sense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**{"num_steps": 1, **wrong})
