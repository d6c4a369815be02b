"""What a training stage supplies to the loop. Stages are composed, never subclassed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Stage(Protocol):
    """Models, optimisers, batches and one step."""

    def step(self, step: int) -> Mapping[str, float]:
        """Optimiser step number `step` (from 0); returns scalars for the log.

        Everything it draws is keyed by (seed, step).

        Raises:
            FloatingPointError: the loss or the gradient is not finite; nothing was applied.
        """
        ...

    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        """Draws what the model can do into `directory`; returns scalars for the log."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """`weights`, `ema` and `optimiser`: everything needed to go on exactly."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`; without `optimiser`, with a fresh one."""
        ...
