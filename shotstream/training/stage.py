"""What a training stage supplies to the loop. Stages are composed, never subclassed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Stage(Protocol):
    """Models, optimisers, batches and one step.

    Where several processes train, each calls every method at the same time.
    """

    @property
    def batch_size(self) -> int:
        """Samples of a step, over all processes."""
        ...

    def step(self, step: int) -> Mapping[str, float]:
        """Optimiser step number `step` (from 0); returns scalars for the log, the same in every process.

        Everything it draws is keyed by (seed, step, sample).

        Raises:
            FloatingPointError: the loss or the gradient is not finite, in any process; it was not applied.
        """
        ...

    def inputs(self, step: int) -> dict[str, Any]:
        """What this process would learn from in a step, to look at when it went wrong; may be empty."""
        ...

    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        """Draws what the model can do into `directory`; returns scalars for the log.

        Only the leading process draws; the others return nothing.
        """
        ...

    def prime(self) -> None:
        """Gives the optimisers their states, for `state_dict` to have all places that a checkpoint fills."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """`weights`, `ema` and `optimiser`: everything needed to go on exactly. May be sharded."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`, sharded alike; without `optimiser`, with a fresh one."""
        ...
