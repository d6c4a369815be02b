"""The protocol of training stages. Stages are composed, never subclassed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from shotstream.training.checkpoint import Stateful
from shotstream.training.text_conditioned_dit import TextConditionedDiT

Film = Callable[[TextConditionedDiT, int, Path], Mapping[str, float]]
"""Draws into a directory what a student films after a number of steps; scalars for the log."""


@runtime_checkable
class Stage(Protocol):
    """Models, optimizers, batches and one step.

    Where several processes train, each calls every method at the same time.
    """

    @property
    def batch_size(self) -> int:
        """Samples of a step, over all processes."""
        ...

    @property
    def state(self) -> Stateful:
        """The state that checkpoints save and restore."""
        ...

    def step(self, step: int) -> Mapping[str, float]:
        """Optimizer step number `step` (from 0); returns scalars for the log, the same in every process.

        Everything it draws is keyed by (seed, step, sample).

        Raises:
            FloatingPointError: the loss or the gradient is not finite, in any process; it was not applied.
        """
        ...

    def inputs(self, step: int) -> dict[str, Any]:
        """This process's training data of a step, to look at when it went wrong; may be empty."""
        ...

    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        """Draws what the model can do into `directory`; returns scalars for the log.

        Only the leading process draws; the others return nothing.
        """
        ...
