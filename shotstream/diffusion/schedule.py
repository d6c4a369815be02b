"""Noise levels: the shifted schedule, its random training levels and weights, and the student's few steps.

Sigma is in [0, 1], 1 = noise; a published timestep is 1000 sigma. Tables are computed in float64 and returned
as float32 on the CPU. A level is never rounded to bfloat16: the network must get the level at which the noise
was added.

Source: the flow-matching schedule of Wan2.1 with shift 8 and the warped steps 1000, 740, 500, 260 of the
published ShotStream code (arXiv 2603.25746).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shotstream.transfer import send

STUDENT_STEPS = (1000, 740, 500, 260)
"""The student's timesteps on the unshifted scale, before the schedule warps them."""


class StepLevels(NamedTuple):
    """The levels of a student's steps, in float64."""

    told: Float[Tensor, " k"]
    """Levels that the network is told."""
    used: Float[Tensor, " k"]
    """Levels at which noise is added and removed."""

    def to(self, device: torch.device | str) -> "StepLevels":
        """Returns the same levels on a device, without waiting for queued work."""
        return StepLevels(send(self.told, device), send(self.used, device))


_TABLE_STEPS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowSchedule:
    """The shifted schedule: levels shift s / (1 + (shift - 1) s) for s evenly spaced from 1 towards 0."""

    shift: float = 8.0
    """Shift of the levels towards noise; 1 is no shift."""
    num_train_steps: int = 1000
    """Number of rows of the training table."""

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"shift is {self.shift}; it must be above 0")
        if self.num_train_steps < 1:
            raise ValueError(f"num_train_steps is {self.num_train_steps}; it must be at least 1")

    def warp(self, even: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Returns the shifted levels of the evenly spaced levels `even` in [0, 1]."""
        return self.shift * even / (1 + (self.shift - 1) * even)

    def unwarp(self, sigma: float) -> float:
        """Returns the even level that `warp` maps to `sigma`."""
        return sigma / (self.shift - (self.shift - 1) * sigma)

    def train_sigmas(self) -> Float[Tensor, " n"]:
        """Returns the training table, descending from 1; it ends one step before 0."""
        return self._even_sigmas(self.num_train_steps).float()

    def training_weight(self, sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Returns the loss weight of each level: a bell around 1/2, with minimum 0 and mean 1 over the table.

        Levels outside the table have weights from the same formula, never below 0.
        """
        table = _bell(self._even_sigmas(self.num_train_steps))
        scale = 1 / (table - table.min()).mean()
        return ((_bell(sigma.double()) - table.min()) * scale).clamp_min(0).to(sigma.dtype)

    def nearest_index(self, sigma: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Returns the row of the training table nearest to each level; the first row of a tie."""
        return (sigma.unsqueeze(-1) - self.train_sigmas().to(sigma)).abs().argmin(dim=-1)

    def nearest_sigma(self, sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Returns the level in the training table nearest to each level, like the published code.

        Use it only to reproduce published numbers: it never returns 0, so level 0 would not be clean.
        """
        return self.train_sigmas().to(sigma)[self.nearest_index(sigma)]

    def student_sigmas(self, steps: Sequence[int] = STUDENT_STEPS) -> Float[Tensor, " k"]:
        """Returns the levels of the few-step student.

        A step is an index of even levels, counted from the clean end; step 0 is level 0.

        Raises:
            ValueError: A step is not in 0..num_train_steps.
        """
        if not steps or min(steps) < 0 or max(steps) > self.num_train_steps:
            raise ValueError(f"steps {tuple(steps)} must lie in 0..{self.num_train_steps}")
        if list(steps) != sorted(set(steps), reverse=True):
            raise ValueError(f"steps {tuple(steps)} must fall strictly, from noise to data")
        even = torch.tensor(list(steps), dtype=torch.float64) / self.num_train_steps
        return self.warp(even).float()

    def sampling_sigmas(self, num_steps: int) -> Float[Tensor, " n_plus_1"]:
        """Returns the levels of an Euler sampler of `num_steps` steps, with the final 0."""
        if num_steps < 1:
            raise ValueError(f"{num_steps} steps; a sampler takes at least 1")
        return torch.cat([self._even_sigmas(num_steps), torch.zeros(1, dtype=torch.float64)]).float()

    def sample_training_sigma(
        self, generator: torch.Generator, shape: Sequence[int], *, low: float = 0.0, high: float = 1.0
    ) -> Float[Tensor, "..."]:
        """Returns random levels in [low, high], float32, on the generator's device.

        Even levels are uniform between the even levels of the bounds, so that there is no accumulation at
        `low` or `high`, which clamping would cause.
        """
        if not 0 <= low < high <= 1:
            raise ValueError(f"levels from {low} to {high}; give 0 <= low < high <= 1")
        first, last = self.unwarp(low), self.unwarp(high)
        uniform = torch.rand(tuple(shape), generator=generator, device=generator.device)
        return self.warp(first + (last - first) * uniform)

    def _even_sigmas(self, num_steps: int) -> Tensor:
        return self.warp(1 - torch.arange(num_steps, dtype=torch.float64) / num_steps)


def step_levels(
    steps: Sequence[int], shift: float, scale: Literal["warped", "timestep", "sigma"] = "warped"
) -> StepLevels:
    """Returns the levels of a student of Wan2.1 other than ShotStream's, as its published code has them.

    The table of these students is computed in float32: a float64 table, rounded at its end, differs from it
    by one unit in the last place in a third of its entries, and the network notices.

    Args:
        steps: Steps in 1..1000, from noise to data.
        shift: Shift of the table.
        scale: "warped": row 1000 - step of the table. "timestep": the network is told the step / 1000; the
            level used is the nearest one of the table. "sigma": the level is the step / 1000, for both.
    """
    even = torch.linspace(1, 0, _TABLE_STEPS + 1)[:-1]
    table = shift * even / (1 + (shift - 1) * even)
    timesteps, given = _TABLE_STEPS * table, torch.tensor(list(steps))
    told = timesteps[_TABLE_STEPS - given] if scale == "warped" else given.float()
    used = told.double() / _TABLE_STEPS
    if scale != "sigma":
        used = table[(timesteps[None] - told[:, None]).abs().argmin(dim=1)].double()
    return StepLevels(told.double() / _TABLE_STEPS, used)


def _bell(sigma: Tensor) -> Tensor:
    return torch.exp(-2 * (sigma - 0.5) ** 2)
