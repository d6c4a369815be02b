"""The state of a module in training: parameters, optimizer and moving average (EMA), saved together.

`state_dict` is the content of a checkpoint; a stage that trains one module has one `TrainState`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from shotstream.training.checkpoint import load_checkpoint
from shotstream.training.ema import Ema
from shotstream.training.optimizers import ClippedOptimizer, make_optimizer
from shotstream.training.parallelize import whole_state
from shotstream.training.recipe import OptimConfig

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class TrainState:
    """A module with the optimizer and the average of its trained part."""

    def __init__(
        self,
        module: nn.Module,
        config: OptimConfig,
        num_steps: int,
        *,
        part: nn.Module | None = None,
        adamw_names: Sequence[str] = (),
    ) -> None:
        """Creates the state of a module, after it was sharded; frozen parameters stay frozen.

        Args:
            module: The module that checkpoints hold.
            config: Configuration of the optimizer.
            num_steps: Number of steps of the run.
            part: The part of it that is trained and averaged; None: all.
            adamw_names: See `muon_adamw`.
        """
        self.module, self.part = module, module if part is None else part
        self.config, self.num_steps = config, num_steps
        self.ema = Ema(self.part, config.ema_decay)
        self.optimizer: ClippedOptimizer = make_optimizer(self.part, config, adamw_names)

    def step(self, step: int) -> Tensor:
        """Applies the gradients with the learning rate of a step, and updates the average.

        Returns:
            The norm of the gradients before clipping.

        Raises:
            FloatingPointError: The norm is not finite; nothing is applied.
        """
        norm = self.optimizer.step(self.config.rate(step, self.num_steps))
        self.ema.update(self.part)
        return norm

    def averaged(self, module: ModuleT, part: nn.Module | None = None) -> ModuleT:
        """Returns a module that is not sharded, filled with the averaged weights and in eval mode.

        Args:
            module: A module of the same sizes as the trained one; it is changed in place.
            part: The part of it that corresponds to the averaged one; None: all.
        """
        module.load_state_dict(whole_state(self.module.state_dict()))
        self.ema.copy_to(module if part is None else part)
        return module.eval()

    def init_optimizer_state(self) -> None:
        """Creates the optimizers' states; see `Stateful`."""
        self.optimizer.init_state()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state; see `Stateful`."""
        return {
            "weights": self.module.state_dict(),
            "optimiser": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads a state; see `Stateful`."""
        self.module.load_state_dict(state["weights"])
        self.ema.load_state_dict(state["ema"])
        if "optimiser" in state:
            self.optimizer.load_state_dict(state["optimiser"])


def load_averaged(module: ModuleT, checkpoint: Path) -> ModuleT:
    """Loads the averaged weights of a checkpoint into a module, and its frozen weights as they are.

    Raises:
        ValueError: The checkpoint is of a module with other sizes.
    """
    _, state = load_checkpoint(checkpoint)
    averages = {name: value for name, value in state["ema"].items() if name != "num_updates"}
    if not averages.keys() <= dict(module.named_parameters()).keys():
        averages = {f"dit.{name}": value for name, value in averages.items()}
    try:
        module.load_state_dict({**state["weights"], **averages})
    except RuntimeError as error:
        raise ValueError(
            f"{checkpoint} holds a model of other sizes than the run's config.json says; one of them is of "
            "another run"
        ) from error
    return module.eval()
