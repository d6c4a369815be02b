"""The training loop of all stages: steps, saves and logs, and stops before a non-finite step is applied.

A stage provides models, batches and `step`; the loop decides when to step, save, log and stop. All randomness
is keyed by (seed, step, sample), so a resumed run has the same random numbers as an uninterrupted one, on any
number of processes.
"""

import logging
import signal
from pathlib import Path

from shotstream.training.checkpoint import Saver, restore, save_atomically
from shotstream.training.dist_context import SINGLE_PROCESS, DistContext
from shotstream.training.metrics_logger import MetricsLogger
from shotstream.training.recipe import TrainConfig
from shotstream.training.stage import Stage

log = logging.getLogger(__name__)


def resume(stage: Stage, checkpoint: Path, dist_context: DistContext = SINGLE_PROCESS) -> int:
    """Loads a checkpoint into the stage; returns the number of steps.

    Raises:
        ValueError: It is not a checkpoint, or is of another recipe.
    """
    step = restore(stage.state, checkpoint, dist_context)
    log.info("resuming at step %d from %s", step, checkpoint)
    return step


def train(
    stage: Stage,
    config: TrainConfig,
    directory: Path,
    first: int = 0,
    dist_context: DistContext = SINGLE_PROCESS,
) -> int:
    """Trains until `num_steps` or `stop_at` steps are done, or until SIGTERM or SIGINT; saves in each case.

    Args:
        stage: The stage in its state after `first` steps.
        config: Length of the run, and what it saves and logs.
        directory: Directory of the run.
        first: Number of steps done before.
        dist_context: The processes of the run; a signal to one of them stops all.

    Returns:
        The total number of steps; less than `num_steps` after SIGTERM or at `stop_at`.

    Raises:
        KeyboardInterrupt: SIGINT was received, and the steps done are saved. A second one does not wait for
            that.
        FloatingPointError: A loss or a gradient is not finite. The inputs of the step are written to the
            directory.
        OSError: A checkpoint could not be written; earlier ones still exist.
    """
    stopped_by: list[int] = []

    def stop(number: int, _: object) -> None:
        stopped_by.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    saver = Saver(directory, config.keep, dist_context)
    metrics = MetricsLogger(
        directory,
        first=first,
        num_steps=config.num_steps,
        log_every=config.log_every,
        batch_size=stage.batch_size,
        tensorboard=config.tensorboard,
        speaks=dist_context.is_main_process,
    )
    try:
        with metrics:
            step = first
            while step < config.last_step and not dist_context.any(bool(stopped_by)):
                try:
                    scalars = stage.step(step)
                except FloatingPointError as error:
                    _keep_training_data(stage, step, directory, dist_context, error)
                    saver.finish()
                    raise
                step += 1
                metrics.stepped(step, scalars)
                saver.poll()
                if step % config.save_every == 0:
                    saver.save(stage.state.state_dict(), step)
                if step % config.preview_every == 0:
                    scalars = stage.preview(step, directory)
                    if scalars:
                        metrics.previewed(step, scalars)
            if step > first and step % config.save_every:
                saver.save(stage.state.state_dict(), step)
            saver.finish()
        dist_context.barrier()
        if signal.SIGINT in stopped_by and step < config.num_steps:
            raise KeyboardInterrupt
        return step
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _keep_training_data(
    stage: Stage, step: int, directory: Path, dist_context: DistContext, error: FloatingPointError
) -> None:
    """Writes the training data of a step that was not applied, in each process its own."""
    path = directory / f"refused_step_{step:07d}_rank{dist_context.rank}.pt"
    save_atomically({"step": step, "error": str(error), "inputs": stage.training_data(step)}, path)
    log.error("step %d was not applied: %s; what it learnt from is in %s", step, error, path)
