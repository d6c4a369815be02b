"""Exponential moving average (EMA) of the trained weights, in float32 beside the model."""

import torch
from torch import Tensor, nn

from shotstream.training.parallelize import whole


class Ema:
    """The moving average of a module's trained parameters.

    The decay at step n (from 0) is min(decay, (1 + n) / (10 + n)): early averages are over fewer steps, so
    that they do not retain the initial weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the EMA's decay is {decay}; it must be in [0, 1)")
        self.decay = decay
        self.num_updates = 0
        self.average = {
            name: value.detach().float().clone()
            for name, value in module.named_parameters()
            if value.requires_grad
        }

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Updates the average with the module's parameters."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        values = dict(module.named_parameters())
        for name, average in self.average.items():
            average.lerp_(values[name].detach().float(), 1 - decay)

    def copy_to(self, module: nn.Module) -> None:
        """Writes the average into the parameters of an unsharded module; frozen ones are not changed."""
        values = dict(module.named_parameters())
        with torch.no_grad():
            for name, average in self.average.items():
                values[name].copy_(whole(average))

    def state_dict(self) -> dict[str, Tensor | int]:
        """Returns the averages and the number of updates."""
        return {**self.average, "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Loads a `state_dict`, which may hold additional averages, of weights that were trained earlier."""
        if not self.average.keys() <= state.keys():
            raise ValueError("the EMA's names do not belong to this module")
        self.num_updates = int(state["num_updates"])
        for name, average in self.average.items():
            average.copy_(torch.as_tensor(state[name]))
