"""Causal initialisation: a copy of the teacher learns to jump from any kept state of a trajectory to its end.

Source: ODE regression of CausVid (arXiv 2412.07772) and arXiv 2603.25746, on pairs from a causal teacher
with a clean history (arXiv 2602.02214). The text encoder is the teacher's, frozen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from shotstream.data.checks import require_decay, require_positive, require_within
from shotstream.data.ode_pairs import OdePairs
from shotstream.diffusion.flow import x0_from_velocity
from shotstream.diffusion.schedule import FlowSchedule
from shotstream.losses.ode_regression import ode_regression_loss
from shotstream.model.causal_mask import CausalMask
from shotstream.streaming.conditioning import full_pass
from shotstream.training.ema import Ema
from shotstream.training.optimisers import MuonAdamW
from shotstream.training.stages.ode_pairs import OdePairsTraining
from shotstream.training.stages.teacher import TheatreModel, token_grid


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalInitTraining:
    """The recipe of a causal initialisation."""

    pairs: OdePairsTraining
    """How the pairs were made."""
    num_steps: int
    """Steps over which the learning rate falls to zero."""
    seed: int = 2
    """Of everything that is drawn."""
    learning_rate: float = 2e-4
    """AdamW's; hidden matrices go to Muon, at three times it."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises from zero."""
    ema_decay: float = 0.995
    """Decay per step of the averaged weights, which are what is used afterwards."""

    def __post_init__(self) -> None:
        require_within(self, 0, inf, ("seed",))
        require_within(self, 1, inf, ("num_steps", "warmup_steps"))
        require_positive(self, ("learning_rate",))
        require_decay(self, ("ema_decay",))


class CausalInitStage:
    """A `Stage` that trains a student on ODE pairs."""

    def __init__(self, config: CausalInitTraining, teacher: TheatreModel, files: list[Path]) -> None:
        """The student starts as a copy of `teacher`, which is changed in place.

        Raises:
            ValueError: there are no pairs.
        """
        if not files:
            raise ValueError("there are no ODE pairs; run the recipe that makes them first")
        self.config = config
        self.model = teacher
        self.model.text.eval().requires_grad_(False)
        self.files = files
        schedule = FlowSchedule(shift=config.pairs.teacher.shift)
        self.sigmas = torch.cat([schedule.student_sigmas(config.pairs.student_steps), torch.zeros(1)])
        self.ema = Ema(self.model.dit, config.ema_decay)
        self.optimiser = MuonAdamW(
            self.model.dit.named_parameters(),
            learning_rate=config.learning_rate,
            adamw_names=("head", "text_embedding", "time_embedding"),
        )

    def step(self, step: int) -> Mapping[str, float]:
        """One step; see `Stage.step`."""
        epoch, index = divmod(step, len(self.files))
        order = np.random.default_rng((self.config.seed, epoch)).permutation(len(self.files))
        pairs = OdePairs.read(self.files[int(order[index])])
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        chosen = torch.randint(len(self.sigmas) - 1, (pairs.states.shape[0],), generator=generator)
        loss = self.loss(pairs, chosen)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
        loss.backward()
        left = (self.config.num_steps - step) / self.config.num_steps
        norm = self.optimiser.step(min(1.0, (step + 1) / self.config.warmup_steps) * max(left, 0.0))
        self.ema.update(self.model.dit)
        return {"loss": loss.item(), "norm": norm.item()}

    def loss(self, pairs: OdePairs, chosen: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        """The squared error of the data predicted from each sample's chosen state."""
        config = self.model.dit.config
        samples = torch.arange(pairs.states.shape[0])
        noisy, x0 = pairs.states[samples, chosen], pairs.states[:, -1]
        size = x0.shape[2]
        sigma = self.sigmas[chosen, None].expand(-1, size)
        shot = torch.cat([pairs.history, noisy], dim=2)
        levels = torch.cat([torch.zeros(len(samples), pairs.history.shape[2]), sigma], dim=1)
        inputs = full_pass(pairs.conditioning, shot, levels, config)
        with torch.no_grad():
            text = self.model.embed(pairs.captions)
        mask = CausalMask.for_shot(config, token_grid(shot, config), shot.shape[2])
        velocity = self.model.dit(inputs.x, inputs.sigma, text, inputs.positions, mask=mask)[:, :, -size:]
        return ode_regression_loss(x0_from_velocity(noisy, velocity, sigma), x0, sigma)

    def averaged(self) -> TheatreModel:
        """The student with averaged weights, in eval mode."""
        student = TheatreModel(self.model.dit.config, self.model.text.config)
        student.load_state_dict(self.model.state_dict())
        self.ema.copy_to(student.dit)
        return student.eval()

    @torch.no_grad()
    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        """The loss of the averaged weights at each level, on the first file."""
        del step, directory
        pairs = OdePairs.read(self.files[0])
        own, self.model = self.model, self.averaged()
        count = pairs.states.shape[0]
        losses = {
            f"loss_{level}": self.loss(pairs, torch.full((count,), level)).item()
            for level in range(len(self.sigmas) - 1)
        }
        self.model = own
        return losses

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {
            "weights": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self.model.load_state_dict(state["weights"])
        self.ema.load_state_dict(state["ema"])
        if "optimiser" in state:
            self.optimiser.load_state_dict(state["optimiser"])
