"""The one training loop: steps a stage, saves, logs, and stops before a non-finite loss is applied.

A stage supplies models, batches and `step`; the loop owns time. Everything random is keyed by (seed, step,
sample), so a resumed run draws what an uninterrupted one would have drawn, on any number of processes.
"""

import logging
import signal
from dataclasses import dataclass
from pathlib import Path

from shotstream.training.checkpoint import Saver, restore, save_atomically
from shotstream.training.stage import Stage
from shotstream.training.watch import Watch
from shotstream.training.world import ALONE, World

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """When a run stops, what it leaves behind, and how it is computed; none of it changes what is learnt."""

    num_steps: int
    """The run ends when this many steps are done; learning rates are planned for it."""
    stop_at: int = 0
    """Steps after which the run stops before its end, as if told to, to be gone on with; 0: it does not."""
    save_every: int = 500
    """Steps between checkpoints."""
    log_every: int = 50
    """Steps between entries of the log."""
    preview_every: int = 2000
    """Steps between previews, which the stage draws."""
    keep: int = 2
    """Checkpoints kept."""
    accumulation: int = 1
    """Parts that a process computes its share of a batch in: more of them need less memory."""
    samples_at_once: int = 0
    """Samples of such a part, in the place of `accumulation`: then there are as many parts as that takes, on
    any number of processes. 0: as `accumulation` says."""
    activation_checkpointing: bool = False
    """Whether activations are computed again in the backward pass: slower, in less memory."""
    compile: bool = False
    """Whether transformer blocks are compiled."""
    tensorboard: bool = True
    """Whether scalars are also written for TensorBoard, if that is installed."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "save_every", "log_every", "preview_every", "keep", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("stop_at", "samples_at_once"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if self.samples_at_once and self.accumulation > 1:
            raise ValueError(
                f"samples_at_once is {self.samples_at_once} and accumulation {self.accumulation}: give one"
            )

    @property
    def last_step(self) -> int:
        """Steps that are done when nobody stops the run."""
        return min(self.num_steps, self.stop_at or self.num_steps)


def resume(stage: Stage, checkpoint: Path, world: World = ALONE) -> int:
    """Loads a checkpoint into the stage; returns the steps done.

    Raises:
        ValueError: it is no checkpoint, or one of another recipe.
    """
    step = restore(stage, checkpoint, world)
    log.info("resuming at step %d from %s", step, checkpoint)
    return step


def train(stage: Stage, config: LoopConfig, directory: Path, first: int = 0, world: World = ALONE) -> int:
    """Trains until `num_steps` or `stop_at` are done, or SIGTERM or SIGINT comes; saves in each case.

    Args:
        stage: as it was after `first` steps.
        config: when to stop and what to leave behind.
        directory: where the run is kept.
        first: steps done before.
        world: the processes that train it; a signal to one of them stops all.

    Returns:
        The number of steps done in all; fewer than `num_steps` after SIGTERM or at `stop_at`.

    Raises:
        KeyboardInterrupt: SIGINT came, and what was done is saved. A second one does not wait for that.
        FloatingPointError: a loss or a gradient is not finite. What the step learnt from is in the directory.
        OSError: a checkpoint could not be written; those before it are still there.
    """
    stopped_by: list[int] = []

    def stop(number: int, _: object) -> None:
        stopped_by.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    saver = Saver(directory, config.keep, world)
    watch = Watch(
        directory,
        first=first,
        num_steps=config.num_steps,
        log_every=config.log_every,
        batch_size=stage.batch_size,
        tensorboard=config.tensorboard,
        speaks=world.leads,
    )
    try:
        with watch:
            step = first
            while step < config.last_step and not world.any(bool(stopped_by)):
                try:
                    scalars = stage.step(step)
                except FloatingPointError as error:
                    _keep_inputs(stage, step, directory, world, error)
                    saver.finish()
                    raise
                step += 1
                watch.stepped(step, scalars)
                saver.poll()
                if step % config.save_every == 0:
                    saver.save(stage.state_dict(), step)
                if step % config.preview_every == 0:
                    scalars = stage.preview(step, directory)
                    if scalars:
                        watch.previewed(step, scalars)
            if step > first and step % config.save_every:
                saver.save(stage.state_dict(), step)
            saver.finish()
        world.wait()
        if signal.SIGINT in stopped_by and step < config.num_steps:
            raise KeyboardInterrupt
        return step
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _keep_inputs(stage: Stage, step: int, directory: Path, world: World, error: FloatingPointError) -> None:
    """Writes what a step that was refused would have learnt from, each process its own."""
    path = directory / f"refused_step_{step:07d}_rank{world.rank}.pt"
    save_atomically({"step": step, "error": str(error), "inputs": stage.inputs(step)}, path)
    log.error("step %d was not applied: %s; what it learnt from is in %s", step, error, path)
