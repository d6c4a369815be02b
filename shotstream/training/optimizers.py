"""The optimizers of training, with clipping: Muon for hidden matrices and AdamW for the rest, or AdamW.

Muon orthogonalises the momentum of a matrix; for the theatre's small models trained from scratch it reaches a
given loss in a fraction of AdamW's steps. Distribution matching uses AdamW alone, without momentum, because
the direction of its gradient changes from step to step.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from shotstream.training.muon import Muon
from shotstream.training.parallelize import whole
from shotstream.training.recipe import OptimConfig

_MUON_FACTOR: Final = 3.0


class ClippedOptimizer:
    """Several torch optimizers with common clipping, a common rate factor and a common state."""

    def __init__(self, optimizers: Mapping[str, torch.optim.Optimizer], max_norm: float) -> None:
        """Wraps optimizers, whose current learning rates are the peaks.

        Args:
            optimizers: The optimizers by name.
            max_norm: Maximum norm of all gradients together.
        """
        self._optimizers, self._max_norm = dict(optimizers), max_norm
        groups = [optimizer.param_groups for optimizer in optimizers.values()]
        self._rates = [[group["lr"] for group in own] for own in groups]
        self.parameters: list[nn.Parameter] = [p for own in groups for group in own for p in group["params"]]

    def step(self, rate: float = 1.0) -> Tensor:
        """Clips, applies and clears the gradients, at a share of the peak learning rates.

        Returns:
            The norm of the gradients before clipping.

        Raises:
            FloatingPointError: The norm is not finite; nothing is applied.
        """
        norm = _finite_norm(self.parameters)
        torch.nn.utils.clip_grads_with_norm_(self.parameters, self._max_norm, norm)
        for optimizer, peaks in zip(self._optimizers.values(), self._rates, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * rate
            optimizer.step()
            optimizer.zero_grad()
        return norm

    def init_state(self) -> None:
        """Creates the state of every parameter, so that `state_dict` has every entry of a checkpoint."""
        for optimizer in self._optimizers.values():
            _init_state(optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Returns the states of the optimizers by name; of a single one, its own state."""
        states = {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}
        return states if len(states) > 1 else next(iter(states.values()))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads a `state_dict`."""
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state[name] if len(self._optimizers) > 1 else state)


def make_optimizer(
    module: nn.Module, config: OptimConfig, adamw_names: Sequence[str] = ()
) -> ClippedOptimizer:
    """Returns the optimizer of a module's trainable parameters; see `muon_adamw` and `adamw`."""
    if config.optimizer == "adamw":
        return adamw(module.parameters(), config.learning_rate, config.max_norm)
    return muon_adamw(
        module.named_parameters(),
        learning_rate=config.learning_rate,
        adamw_names=adamw_names,
        max_norm=config.max_norm,
    )


def muon_adamw(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    learning_rate: float,
    adamw_names: Sequence[str] = (),
    max_norm: float = 1.0,
) -> ClippedOptimizer:
    """Returns Muon for hidden matrices and AdamW for all other parameters.

    Args:
        named_parameters: Parameters to train; matrices whose name contains none of `adamw_names` use Muon.
        learning_rate: Learning rate of AdamW; Muon's is three times it, with updates of the same root mean
            square.
        adamw_names: Parts of the names of matrices that are not hidden: embeddings, heads.
        max_norm: Maximum norm of the gradients.
    """
    hidden: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            special = parameter.ndim != 2 or any(part in name for part in adamw_names)
            (others if special else hidden).append(parameter)
    optimizers: dict[str, torch.optim.Optimizer] = {
        "muon": Muon(hidden, learning_rate * _MUON_FACTOR, weight_decay=0.0),
        "adamw": _adamw(others, learning_rate, (0.9, 0.98), 0.0),
    }
    return ClippedOptimizer(optimizers, max_norm)


def adamw(
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    max_norm: float,
    *,
    betas: tuple[float, float] = (0.0, 0.999),
    weight_decay: float = 0.01,
) -> ClippedOptimizer:
    """Returns AdamW for the trainable ones of the parameters; by default without momentum."""
    learnt = [parameter for parameter in parameters if parameter.requires_grad]
    return ClippedOptimizer({"adamw": _adamw(learnt, learning_rate, betas, weight_decay)}, max_norm)


def _adamw(
    parameters: Sequence[nn.Parameter], rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    # Fused on a GPU: torch's default allocates another copy of all trained parameters in a step.
    fused = True if parameters and all(one.device.type == "cuda" for one in parameters) else None
    return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=weight_decay, fused=fused)


def _finite_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Returns the norm of all gradients together, over all processes."""
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    if not torch.isfinite(norm):
        raise FloatingPointError(f"the gradient's norm is {norm.item()}")
    return norm


def _init_state(optimizer: torch.optim.Optimizer) -> None:
    """Creates the states with a step of learning rate 0 on zero gradients: parameters do not change."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
