"""The metrics logger of a training run: lines for the user, log.jsonl, and TensorBoard."""

import json
import logging
import re
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from torch.utils.tensorboard.writer import SummaryWriter

log = logging.getLogger(__name__)


class MetricsLogger:
    """Logs the scalars of a run; a context manager. Every process may have one; only the main one writes."""

    def __init__(
        self,
        directory: Path,
        *,
        first: int,
        num_steps: int,
        log_every: int,
        batch_size: int,
        tensorboard: bool,
        speaks: bool = True,
    ) -> None:
        """Creates a logger; nothing is written before the first step.

        Args:
            directory: Directory of the run.
            first: Number of steps done before.
            num_steps: Number of steps of the whole run.
            log_every: Number of steps between entries of the log.
            batch_size: Number of samples of a step.
            tensorboard: Whether scalars are also written for TensorBoard.
            speaks: Whether this process writes anything.
        """
        self._directory, self._log_every, self._batch_size = directory, log_every, batch_size
        self._speaks = speaks
        self._totals: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._began, self._num_steps = time.monotonic(), 0
        self._told_steps, self._told_s = 0, 0.0
        self._board = _board(directory, first) if tensorboard and speaks else None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        if speaks and sys.stderr.isatty():
            self._progress = _progress()
            self._task = self._progress.add_task("", total=num_steps, completed=first, scalars="")

    def __enter__(self) -> "MetricsLogger":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._board is not None:
            self._board.close()
        if self._speaks and self._told_steps:
            rate = self._told_steps / max(self._told_s, 1e-9)
            log.info(
                "%d steps at %.3g a second; at most %.2f GB",
                self._told_steps,
                rate,
                peak_memory_bytes() / 1e9,
            )

    def stepped(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records a step; `step` is the number of steps done."""
        for name, value in scalars.items():
            self._totals[name] = self._totals.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        self._num_steps += 1
        if self._progress is not None and self._task is not None:
            line = " ".join(f"{name} {value:.4f}" for name, value in scalars.items() if "loss" in name)
            rate = f"{self._rate() * self._batch_size:.1f} samples/s"
            self._progress.update(self._task, completed=step, scalars=f"{line}  {rate}")
        if step % self._log_every == 0:
            # The mean of a scalar is over the steps that have it.
            means = {name: total / self._counts[name] for name, total in self._totals.items()}
            rate = self._rate()
            self._told_steps, self._told_s = (
                self._told_steps + self._num_steps,
                self._told_s + self._spent_s(),
            )
            speed = {"steps_per_s": rate, "samples_per_s": rate * self._batch_size}
            self._tell(step, {**means, **speed, "peak_memory_gb": peak_memory_bytes() / 1e9})
            self.restart()

    def previewed(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records a preview, whose time is not counted in the rate of steps."""
        self._tell(step, scalars)
        self.restart()

    def restart(self) -> None:
        """Resets means and rates."""
        self._totals, self._counts = {}, {}
        self._began, self._num_steps = time.monotonic(), 0

    def _rate(self) -> float:
        return self._num_steps / max(self._spent_s(), 1e-9)

    def _spent_s(self) -> float:
        return time.monotonic() - self._began

    def _tell(self, step: int, scalars: Mapping[str, float]) -> None:
        if not self._speaks:
            return
        line = json.dumps({"step": step, **{name: round(value, 5) for name, value in scalars.items()}})
        if self._progress is None:
            log.info(line)
        else:
            self._progress.console.print(line, markup=False, highlight=False)
        with (self._directory / "log.jsonl").open("a") as file:
            file.write(line + "\n")
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()


def peak_memory_bytes() -> int:
    """Returns the peak memory of this process: of its GPU if it uses one, else of the machine."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:  # for this program alone; getrusage includes the one that started it
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found:
        return 1024 * int(found[1])
    scale = 1 if sys.platform == "darwin" else 1024
    return scale * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _progress() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[scalars]}"),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
    )


def _board(directory: Path, first: int) -> "SummaryWriter | None":
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        log.info("no TensorBoard: pip install 'shotstream[train]', or set loop.tensorboard=false")
        return None
    return SummaryWriter(str(directory / "tensorboard"), purge_step=first + 1 if first else None)
