"""The protocol of training stages, which are composed, not subclassed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from shotstream.training.checkpoint import Stateful
from shotstream.training.text_conditioned_dit import TextConditionedDiT

Film = Callable[[TextConditionedDiT, int, Path], Mapping[str, float]]
"""Writes a preview of a student's films into a directory, after a number of steps; returns scalars for the
log.
"""


@runtime_checkable
class Stage(Protocol):
    """The protocol of training stages: models, optimizers, batches and one step.

    All processes of a run call every method together.
    """

    @property
    def batch_size(self) -> int:
        """Number of samples of a step, over all processes."""
        ...

    @property
    def state(self) -> Stateful:
        """The state that checkpoints save and restore."""
        ...

    def step(self, step: int) -> Mapping[str, float]:
        """Runs optimizer step number `step` (from 0); returns scalars for the log, the same in every process.

        All randomness is keyed by (seed, step, sample).

        Raises:
            FloatingPointError: The loss or the gradient is not finite in some process; the step was not
                applied.
        """
        ...

    def training_data(self, step: int) -> dict[str, Any]:
        """Returns this process's training data of a step, to examine a failure; may be empty."""
        ...

    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        """Writes a preview of the model into `directory`; returns scalars for the log.

        Only the main process writes; the others return nothing.
        """
        ...
