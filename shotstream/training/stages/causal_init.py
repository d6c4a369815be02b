"""The causal initialisation stage: a copy of the teacher learns to predict the end of a trajectory.

For trajectories of one chunk all frames start from one level. For those of whole shots each chunk has its own
level, so that the student is trained on a history of any noise level, as published. The text encoder is the
teacher's, frozen.

Source: ODE regression of CausVid (arXiv 2412.07772) and arXiv 2603.25746, on pairs from a causal teacher with
a clean history (arXiv 2602.02214) or from a bidirectional one; see `ode_pairs`.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shotstream.data.ode_pairs import OdePairs, PairFiles, PairFilesConfig
from shotstream.data.rng import numpy_rng
from shotstream.diffusion.flow import x0_from_velocity
from shotstream.diffusion.ode_regression import ode_regression_loss
from shotstream.diffusion.schedule import STUDENT_STEPS, FlowSchedule
from shotstream.streaming.conditioning import full_pass
from shotstream.training.causal_masks import shot_mask
from shotstream.training.parallelize import ParallelConfig
from shotstream.training.precision import multiplying
from shotstream.training.recipe import ModelConfig, Recipe
from shotstream.training.stage import Film
from shotstream.training.text_conditioned_dit import TextConditionedDiT
from shotstream.training.train_state import TrainState


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalInitConfig:
    """Configuration of the causal initialisation stage."""

    student_steps: tuple[int, ...] = STUDENT_STEPS
    """Timesteps of the student, which must be those of the ODE pairs."""

    def check(self, recipe: Recipe[Any, Any, Any]) -> None:
        """Raises ValueError for timesteps that the schedule does not have."""
        FlowSchedule(shift=recipe.model.shift).student_sigmas(self.student_steps)


CausalInitRecipe = Recipe[ModelConfig, PairFilesConfig, CausalInitConfig]


class CausalInitStage:
    """A `Stage` that trains a student on ODE pairs."""

    def __init__(
        self,
        recipe: CausalInitRecipe,
        source: PairFiles,
        teacher: TextConditionedDiT,
        *,
        batch_size: int,
        film: Film | None = None,
        parallel: ParallelConfig | None = None,
    ) -> None:
        """Creates the stage; the student is `teacher`, changed in place.

        Args:
            recipe: Recipe of the run.
            source: The ODE pairs.
            teacher: The model from which the student starts, on the training device.
            batch_size: Number of samples of a file of pairs.
            film: Generates and scores films of the averaged student; see `Stage.preview`.
            parallel: How steps are computed.
        """
        self.recipe, self.source, self.parallel = recipe, source, parallel or ParallelConfig()
        self.batch_size = batch_size
        self.model = teacher
        self.model.text.eval().requires_grad_(False)
        self._blank = copy.deepcopy(teacher)
        self._blank.dit.to("meta")
        self.parallel.shares(self.batch_size)
        self.parallel.parallelize(self.model.dit)
        self._film = film
        schedule = FlowSchedule(shift=recipe.model.shift)
        self.sigmas = torch.cat([schedule.student_sigmas(recipe.stage.student_steps), torch.zeros(1)])
        self.state = TrainState(
            self.model,
            recipe.optimizer,
            recipe.train.num_steps,
            part=self.model.dit,
            adamw_names=("head", "text_embedding", "time_embedding"),
        )

    def step(self, step: int) -> Mapping[str, float]:
        """Runs one step; see `Stage.step`."""
        _, chosen = self._draw(step)
        num_noised = (chosen < len(self.sigmas) - 1).float().sum().item() / len(chosen)

        def loss_of(samples: range) -> Tensor:
            return self.loss(self.source.batch(step, samples), chosen[list(samples)], num_noised=num_noised)

        loss = self.parallel.backward(len(chosen), loss_of, "student's", step)
        return {"loss": loss, "norm": self.state.step(step).item()}

    def training_data(self, step: int) -> dict[str, Any]:
        """Returns the pairs of a step and the state that each sample starts from."""
        pairs, chosen = self._draw(step)
        return {
            "states": pairs.states,
            "history": pairs.history,
            "context": pairs.conditioning.context,
            "captions": pairs.captions,
            "levels": chosen,
        }

    def _draw(self, step: int) -> tuple[OdePairs, Int[Tensor, "b n"]]:
        """Returns the pairs of a step, and the index of the state that each chunk of a sample starts from.

        It is a random noisy state; for a chunk that is followed by another, the clean state is possible as
        well.
        """
        pairs, levels = self.source.read(step), len(self.sigmas) - 1
        num_chunks = pairs.states.shape[3] // self.model.dit.config.chunk_latent_frames
        chosen: list[list[int]] = []
        for sample in range(len(pairs.states)):
            rng = numpy_rng(self.recipe.train.seed, "init/level", step, sample)
            last = num_chunks - 1
            chosen.append([int(rng.integers(levels + (chunk < last))) for chunk in range(num_chunks)])
        return pairs, torch.tensor(chosen)

    def loss(
        self, pairs: OdePairs, chosen: Int[Tensor, "b n"], *, num_noised: float | None = None
    ) -> Float[Tensor, ""]:
        """Returns the squared error of the data predicted from the chosen states.

        Args:
            pairs: The pairs, on the CPU.
            chosen: Index of the state in the trajectory, for each chunk.
            num_noised: Average number of noised chunks per sample over the effective batch, so that means
                over microbatches average to the mean over all; None: the pairs are the whole batch.
        """
        config, device = self.model.dit.config, self.model.device
        size = config.chunk_latent_frames
        places = chosen.repeat_interleave(size, dim=1)  # b f
        samples, frames = torch.arange(len(chosen))[:, None], torch.arange(places.shape[1])
        noisy = pairs.states.transpose(2, 3)[samples, places, frames].transpose(1, 2).to(device)
        x0, sigma = pairs.states[:, -1].to(device), self.sigmas[places].to(device)
        history = pairs.history.to(device)
        shot = torch.cat([history, noisy], dim=2)
        levels = torch.cat([sigma.new_zeros(len(chosen), history.shape[2]), sigma], dim=1)
        inputs = full_pass(pairs.conditioning.to(device), shot, levels, config)
        with torch.no_grad():
            text = self.model.embed(pairs.captions)
        mask = shot_mask(shot, config)
        with multiplying(self.recipe.train.matmul_dtype, device):
            velocity = self.model.dit(inputs.x, inputs.sigma, text, inputs.positions, mask=mask)
        predicted = x0_from_velocity(noisy, velocity[:, :, -noisy.shape[2] :], sigma)
        counted = None if num_noised is None else num_noised * size * len(chosen)
        return ode_regression_loss(predicted, x0, sigma, num_noised=counted)

    def averaged(self) -> TextConditionedDiT:
        """Returns the student with averaged weights, in eval mode."""
        student = copy.deepcopy(self._blank)
        student.dit.to_empty(device=self.model.device)
        return self.state.averaged(student, student.dit)

    @torch.no_grad()
    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        """Writes held-out films of the averaged student; returns scores and the loss at each level."""
        averaged = self.averaged()
        if not self.parallel.dist_context.is_main_process:
            return {}
        pairs = self.source.read(0)
        own, self.model = self.model, averaged
        shape = pairs.states.shape[0], pairs.states.shape[3] // self.model.dit.config.chunk_latent_frames
        losses = {
            f"loss_{level}": self.loss(pairs, torch.full(shape, level)).item()
            for level in range(len(self.sigmas) - 1)
        }
        self.model = own
        return losses if self._film is None else {**losses, **self._film(averaged, step, directory)}
