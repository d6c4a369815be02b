"""What a run survives, done to real processes: kills, signals, full disks, damage, losses that are none."""

import contextlib
import logging
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from shotstream.training.checkpoint import checkpoints, load_checkpoint
from shotstream.training.recipes import recipe
from shotstream.training.run import run_recipe
from shotstream.training.stage_builders import build_stage
from shotstream.training.stages.causal_init import CausalInitStage
from tests.forked import Forked
from tests.training.processes import LIMIT_S, ROOT, environment, run_by, torchrun
from tests.training.test_run import CODEC, codec, same, teacher, weights
from tests.training.test_student import pairs, student

NAME = "theatre_codec"

# The second checkpoint's file gets half of its bytes, and the process is gone.
KILLED_IN_SAVE = """
import io, os, signal, sys, torch
save, saved = torch.save, []
def half(value, file):
    saved.append(value)
    if len(saved) < 2:
        return save(value, file)
    buffer = io.BytesIO()
    save(value, buffer)
    file.write(buffer.getvalue()[: buffer.tell() // 2])
    file.flush()
    os.fsync(file.fileno())
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = half
from shotstream.cli import main
main(sys.argv[1:])
"""

# All of the second checkpoint is written, and the process is gone before it has its name.
KILLED_BEFORE_THE_NAME = """
import os, signal, sys
from pathlib import Path
rename = Path.rename
def killed(self, target):
    if self.name == ".part.step_0000006":
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = killed
from shotstream.cli import main
main(sys.argv[1:])
"""


def settings(num_steps: int, *more: str) -> list[str]:
    loop = [
        f"train.num_steps={num_steps}",
        "train.save_every=3",
        "train.preview_every=1000",
        "train.log_every=1",
    ]
    return [part for override in [*CODEC, *loop, *more] for part in ("--set", override)]


def command(runs: Path, num_steps: int, *more: str) -> list[str]:
    """A tiny codec's run that saves every three steps."""
    return [
        "-m", "shotstream.cli", "train", NAME,
        "--runs", str(runs), *settings(num_steps, *more),
    ]  # fmt: skip


@contextlib.contextmanager
def started(arguments: list[str]) -> Generator[Forked]:
    """A process that is killed with all its children if the test leaves it running."""
    process = Forked(arguments, env=environment(), cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=LIMIT_S)


def finished(arguments: list[str]) -> tuple[int, str]:
    """How a process ended, and what it said."""
    with started(arguments) as process:
        _, said = process.communicate(timeout=LIMIT_S)
        return process.returncode, said


def until(happened: Callable[[], object], process: Forked) -> None:
    """Waits for something that a process does."""
    limit = time.monotonic() + LIMIT_S
    while not happened():
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < limit
        time.sleep(0.01)


def steps(runs: Path) -> list[int]:
    return [int(path.stem.removeprefix("step_")) for path in checkpoints(runs / NAME)]


def workers_of(torchrun: Forked) -> list[int]:
    """The processes that it has started."""
    tasks = Path(f"/proc/{torchrun.pid}/task").glob("*/children")
    return [int(pid) for path in tasks for pid in path.read_text().split()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("uninterrupted")
    assert finished(command(runs, 40))[0] == 0
    return runs


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_in_mid_step_twice_ends_as_if_it_had_not_been(
    tmp_path: Path, uninterrupted: Path
) -> None:
    for reached in (3, 12):
        with started(command(tmp_path, 40)) as process:
            until(lambda reached=reached: max(steps(tmp_path), default=0) >= reached, process)
            process.kill()
            process.wait(timeout=LIMIT_S)
        assert max(steps(tmp_path)) < 40
    code, said = finished(command(tmp_path, 40))
    assert code == 0 and "resuming at step" in said, said
    assert same(weights(tmp_path, NAME), weights(uninterrupted, NAME))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_in_mid_save_resumes_from_the_whole_checkpoint_before(
    tmp_path: Path, uninterrupted: Path
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED_IN_SAVE)
    runs = tmp_path / "runs"
    code, _ = finished([str(script), *command(runs, 40)[2:]])
    assert code == -signal.SIGKILL
    assert steps(runs) == [3] and list((runs / NAME).glob(".part.*"))
    code, said = finished(command(runs, 40))
    assert code == 0 and "resuming at step 3" in said, said
    assert same(weights(runs, NAME), weights(uninterrupted, NAME))
    assert not list((runs / NAME).glob(".part.*"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_checkpoint_of_two_processes_without_its_name_is_none(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED_BEFORE_THE_NAME)
    runs, more = tmp_path / "runs", ("data.batch_size=2",)
    done = run_by(2, [str(script), *command(runs, 9, *more)[2:]])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert steps(runs) == [3] and (runs / NAME / ".part.step_0000006" / ".metadata").exists()
    done = run_by(2, command(runs, 9, *more))
    assert done.returncode == 0 and "resuming at step 3" in done.stderr, done.stderr
    assert run_by(2, command(tmp_path / "whole", 9, *more)).returncode == 0
    assert same(weights(runs, NAME), weights(tmp_path / "whole", NAME))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_that_is_terminated_saves_and_exits(tmp_path: Path, uninterrupted: Path) -> None:
    with started(command(tmp_path, 40, "train.save_every=1000")) as process:
        until(lambda: (tmp_path / NAME / "log.jsonl").exists(), process)
        process.terminate()
        _, said = process.communicate(timeout=LIMIT_S)
    (reached,) = steps(tmp_path)
    assert process.returncode == 0 and 0 < reached < 40
    assert f"stopped at step {reached} of 40" in " ".join(said.split())
    assert finished(command(tmp_path, 40))[0] == 0
    assert same(weights(tmp_path, NAME), weights(uninterrupted, NAME))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_ends_the_whole_job_and_one_that_is_told_to_stop_saves(
    tmp_path: Path, number: signal.Signals
) -> None:
    arguments = [*torchrun(2), *command(tmp_path, 100_000, "data.batch_size=2")]
    with started(arguments) as process:
        until(lambda: steps(tmp_path), process)
        workers = workers_of(process)
        assert len(workers) == 2
        began = time.monotonic()
        os.kill(workers[1], number)
        _, said = process.communicate(timeout=LIMIT_S)
    logging.getLogger(__name__).info("%s ended the job in %.1f s", number.name, time.monotonic() - began)
    if number is signal.SIGKILL:
        assert process.returncode not in (0, -signal.SIGKILL), said
    else:
        assert process.returncode == 0 and "stopped at step" in " ".join(said.split()), said
    last = steps(tmp_path)[-1]
    code, said = finished([*command(tmp_path, last + 2, "data.batch_size=2")])
    assert code == 0 and f"resuming at step {last}" in said, said


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path, num_processes: int) -> None:
    """No file may grow past 100 kB from some moment on: writing fails as on a full disk."""
    more = ("data.batch_size=2",)
    arguments = command(tmp_path, 100_000, *more)
    with started(arguments if num_processes == 1 else [*torchrun(2), *arguments]) as process:
        until(lambda: steps(tmp_path), process)
        for pid in [process.pid] if num_processes == 1 else workers_of(process):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
        _, said = process.communicate(timeout=LIMIT_S)
    told = re.findall(r"could not be saved; the checkpoints before it remain: (.*)", said)
    assert process.returncode == 1 and told, said
    assert ("File too large" if num_processes == 1 else "is the disk full?") in told[0]
    step, state = load_checkpoint(checkpoints(tmp_path / NAME)[-1])
    assert step % 3 == 0 and all(value.isfinite().all() for value in state["weights"].values())
    assert not list((tmp_path / NAME).glob(".part.*"))
    code, said = finished(command(tmp_path, step + 2, *more))
    assert code == 0 and f"resuming at step {step}" in said, said


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_step_that_is_not_finite_is_not_applied_and_its_inputs_are_kept(tmp_path: Path) -> None:
    code, said = finished(command(tmp_path, 40, "optim.learning_rate=1e30", "train.save_every=1"))
    assert code == 1 and "was not applied" in said, said
    (kept,) = (tmp_path / NAME).glob("refused_step_*")
    refused = torch.load(kept, weights_only=True)
    assert refused["inputs"]["clips"][0].shape[0] == 1
    assert steps(tmp_path)[-1] == refused["step"]
    _, state = load_checkpoint(checkpoints(tmp_path / NAME)[-1])
    assert all(value.isfinite().all() for value in state["weights"].values())


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("theatre_codec", "train.accumulation=2", r"train\.accumulation=2 cannot take effect"),
        ("theatre_codec", "train.compile=true", r"train\.compile=True cannot take effect"),
        ("theatre_codec", "train.activation_checkpointing=true", "the codec is no transformer"),
    ],
)
def test_a_setting_that_cannot_take_effect_is_refused(
    tmp_path: Path, name: str, override: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_recipe(recipe(name, [*CODEC, override]), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six files of pairs."""
    runs = tmp_path_factory.mktemp("pairs")
    for one in (codec(1), teacher(1), pairs(6)):
        run_recipe(one, runs)
    return runs


@pytest.mark.slow
def test_damaged_pairs_are_named_and_skipped_and_too_many_end_the_run(
    made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = sorted((made / "theatre_ode_pairs").glob("pairs_*"))
    cut, strange = files[1], files[2]
    cut.write_bytes(cut.read_bytes()[:5000])
    values = {name: value.clone() for name, value in load_file(strange).items()}
    values["states"][0, 1] = float("nan")
    with safe_open(strange, "pt") as file:
        save_file(values, strange, metadata=file.metadata())
    stage = build_stage(student(30), made)
    assert isinstance(stage, CausalInitStage)
    with caplog.at_level(logging.WARNING):
        for step in range(12):
            stage.step(step)
    skipped = [record.message for record in caplog.records if "is skipped" in record.message]
    assert len(skipped) == 2, "each is named once"
    assert all(any(path.name in text for text in skipped) for path in (cut, strange))
    assert "(2 of at most 4 bad files)" in skipped[1]
    for path in files[1:]:
        path.write_bytes(b"nothing")
    stage = build_stage(student(30), made)
    with pytest.raises(ValueError, match="5 files of pairs are bad"):
        for step in range(6):
            stage.step(step)
