"""The one training loop: steps a stage, saves, resumes, logs, and stops before a non-finite loss is applied.

A stage supplies models, batches and `step`; the loop owns time. Everything random is keyed by (seed, step),
so a resumed run draws what an uninterrupted one would have drawn.
"""

import json
import logging
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shotstream.training.checkpoint import load_checkpoint, save_checkpoint
from shotstream.training.stage import Stage

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """When a run stops and what it leaves behind."""

    num_steps: int
    """The run ends when this many steps are done."""
    save_every: int = 500
    """Steps between checkpoints."""
    log_every: int = 50
    """Steps between lines of the log."""
    preview_every: int = 2000
    """Steps between previews, which the stage draws."""
    keep: int = 2
    """Checkpoints kept."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "save_every", "log_every", "preview_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


def resume(stage: Stage, checkpoint: Path) -> int:
    """Loads a checkpoint into the stage; returns the steps done.

    Raises:
        ValueError: the file is no checkpoint, or one of another recipe.
    """
    step, state = load_checkpoint(checkpoint)
    try:
        stage.load_state_dict(state)
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{checkpoint} is a checkpoint of another recipe or of other sizes") from error
    log.info("resuming at step %d from %s", step, checkpoint)
    return step


def train(stage: Stage, config: LoopConfig, directory: Path, first: int = 0) -> int:
    """Trains until `num_steps` are done, or SIGTERM or SIGINT comes; saves in each case.

    Args:
        stage: as it was after `first` steps.
        config: when to stop and what to leave behind.
        directory: where the run is kept.
        first: steps done before.

    Returns:
        The number of steps done in all; fewer than `num_steps` after SIGTERM.

    Raises:
        KeyboardInterrupt: SIGINT came, and what was done is saved. A second one does not wait for that.
    """
    stopped_by: list[int] = []

    def stop(number: int, _: object) -> None:
        stopped_by.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        began, totals, count = time.monotonic(), dict[str, float](), 0
        step = first
        while step < config.num_steps and not stopped_by:
            for name, value in stage.step(step).items():
                totals[name] = totals.get(name, 0.0) + value
            count += 1
            step += 1
            if step % config.log_every == 0:
                elapsed = time.monotonic() - began
                entry = {"step": step, **{name: total / count for name, total in totals.items()}}
                entry["steps_per_s"] = count / elapsed
                _write_log(directory, entry)
                began, totals, count = time.monotonic(), {}, 0
            if step % config.save_every == 0:
                save_checkpoint(stage.state_dict(), step, directory, config.keep)
            if step % config.preview_every == 0:
                _write_log(directory, {"step": step, **stage.preview(step, directory)})
                began, totals, count = time.monotonic(), {}, 0
        if step > first and step % config.save_every:
            save_checkpoint(stage.state_dict(), step, directory, config.keep)
        if signal.SIGINT in stopped_by and step < config.num_steps:
            raise KeyboardInterrupt
        return step
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _write_log(directory: Path, entry: Mapping[str, float | int]) -> None:
    line = json.dumps({name: round(value, 5) for name, value in entry.items()})
    log.info(line)
    with (directory / "log.jsonl").open("a") as file:
        file.write(line + "\n")
