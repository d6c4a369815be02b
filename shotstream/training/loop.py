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

from shotstream.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
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


def train(stage: Stage, config: LoopConfig, directory: Path) -> int:
    """Trains until `num_steps` are done or SIGTERM comes; resumes from the newest checkpoint in `directory`.

    Returns:
        The number of steps done in all.
    """
    directory.mkdir(parents=True, exist_ok=True)
    first = 0
    found = checkpoints(directory)
    if found:
        first, state = load_checkpoint(found[-1])
        stage.load_state_dict(state)
        log.info("resuming at step %d from %s", first, found[-1])
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        began, totals, count = time.monotonic(), dict[str, float](), 0
        step = first
        while step < config.num_steps and not stopping:
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
        return step
    finally:
        signal.signal(signal.SIGTERM, previous)


def _write_log(directory: Path, entry: Mapping[str, float | int]) -> None:
    line = json.dumps({name: round(value, 5) for name, value in entry.items()})
    log.info(line)
    with (directory / "log.jsonl").open("a") as file:
        file.write(line + "\n")
