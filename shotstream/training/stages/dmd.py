"""The distribution matching stage: a few-step student learns to sample the teacher's distribution.

There are three networks of one architecture. The student is causal and generates shots by the rollout of
inference. The teacher is bidirectional, frozen and guided; its score is the real one. The fake score follows
the student by flow matching on its samples. Both distillation stages of arXiv 2603.25746 are this one with
another history: `intra_shot` has the true earlier shots, `inter_shot` the student's own.

A step draws the conditioning of its shots once, then updates the fake score `fake_updates` times and the
student once, each on new samples. No update depends on a shot's position in its story, and only weights are
shared between steps: a step is a pure function of them and of (seed, step).

Differences from the published code: the level passed to a network is the level of the noise (there: of
another row of a table); levels are restricted, not clamped; the fake score is warmed up before the first
student step; the fake score's target is the velocity itself; and losses are float32.

Source: DMD2 (arXiv 2405.14867), Self-Forcing (arXiv 2506.08009), section 4 of arXiv 2603.25746.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.data.batches import DataSource
from shotstream.data.checks import require_positive, require_within
from shotstream.data.rng import numpy_rng, torch_rng
from shotstream.diffusion.dmd import dmd_gradient, dmd_loss
from shotstream.diffusion.flow import add_noise, velocity_target, x0_from_velocity
from shotstream.diffusion.flow_matching import flow_matching_loss
from shotstream.diffusion.samplers import VelocityFunction
from shotstream.diffusion.schedule import STUDENT_STEPS, FlowSchedule
from shotstream.model.dit import DiT
from shotstream.model.dual_cache import DualCache
from shotstream.streaming.conditioning import Conditioning
from shotstream.streaming.noise import KeyedNoise, derive_seed
from shotstream.streaming.rollout import Rollout
from shotstream.training.causal_masks import token_grid
from shotstream.training.lora import merge_adapters
from shotstream.training.optimizers import ClippedOptimizer, make_optimizer
from shotstream.training.parallelize import ParallelConfig, to_device
from shotstream.training.precision import hold_as_multiplied, matmul_dtype, multiplying
from shotstream.training.recipe import ModelConfig, Recipe
from shotstream.training.stage import Film
from shotstream.training.text_conditioned_dit import TextConditionedDiT
from shotstream.training.train_state import TrainState
from shotstream.training.velocity import guided_velocity, shot_velocity

# Matrices that are not hidden, for which AdamW is used.
_ADAMW_NAMES: Final = ("head", "text_embedding", "time_embedding")


@dataclass(frozen=True, kw_only=True, slots=True)
class DmdConfig:
    """Configuration of distribution matching; the recipe's optimizer is the student's."""

    student_steps: tuple[int, ...] = STUDENT_STEPS
    """Timesteps of the student, of 1000 and before the schedule warps them."""
    guidance: float = 1.5
    """Scale of the teacher's guidance by captions; 1: none. The fake score is not guided."""
    context_guidance: float = 1.0
    """Scale of the teacher's guidance by context, see `guided_velocity`; 1: none, as published."""
    least_sigma: float = 0.02
    """Minimum noise level at which the two scores are compared, in [0, 1]."""
    most_sigma: float = 0.98
    """Maximum noise level at which the two scores are compared, in [0, 1]."""
    fake_updates: int = 5
    """Number of updates of the fake score per step, at least 1."""
    fake_warmup_steps: int = 20
    """Number of steps at the beginning in which only the fake score is updated, at least 0."""
    fake_learning_rate: float = 1e-4
    """Learning rate of the fake score, above 0."""
    fake_max_norm: float = 10.0
    """Maximum norm of the fake score's gradient, above 0."""

    def __post_init__(self) -> None:
        require_within(self, 0, inf, ("guidance", "context_guidance", "fake_warmup_steps"))
        require_within(self, 1, inf, ("fake_updates",))
        require_within(self, 0, 1, ("least_sigma", "most_sigma"))
        require_positive(self, ("fake_learning_rate", "fake_max_norm"))
        if self.least_sigma >= self.most_sigma:
            raise ValueError(f"levels from {self.least_sigma} to {self.most_sigma}; give an interval")

    def check(self, recipe: Recipe[Any, Any, Any]) -> None:
        """Raises ValueError for a run that never updates the student, or for unknown timesteps."""
        num_steps = recipe.train.num_steps
        if self.fake_warmup_steps >= num_steps:
            raise ValueError(
                f"fake_warmup_steps is {self.fake_warmup_steps} of {num_steps} steps: the student "
                "would never learn; make the warm-up shorter"
            )
        FlowSchedule(shift=recipe.model.shift).student_sigmas(self.student_steps)


DmdRecipe = Recipe[ModelConfig, Any, DmdConfig]


class RolloutBatch(NamedTuple):
    """A batch of shots for a rollout: their conditioning, captions and length."""

    conditioning: Conditioning
    captions: list[list[str]]
    """Caption rows of each sample."""
    num_chunks: int
    """Length of the shots in chunks."""
    samples: range
    """Indices of the samples in the effective batch."""


class Microbatch(NamedTuple):
    """The samples that a process computes together, with the embeddings of their captions."""

    batch: RolloutBatch
    text: Float[Tensor, "b s n d"]
    """Embeddings of the batch's captions."""
    uncond: Float[Tensor, "b s n d"]
    """Embeddings of empty captions, for the teacher's guidance."""


class DmdStage:
    """A `Stage` that trains a student and its fake score."""

    def __init__(
        self,
        recipe: DmdRecipe,
        *,
        student: TextConditionedDiT,
        teacher: TextConditionedDiT,
        fake: DiT,
        source: DataSource[RolloutBatch],
        film: Film | None = None,
        parallel: ParallelConfig | None = None,
    ) -> None:
        """Creates the stage from three networks on one device, which are changed in place.

        Frozen parameters stay frozen.

        Args:
            recipe: Recipe of the run.
            student: A causal few-step model; its text encoder is frozen.
            teacher: A bidirectional model, frozen.
            fake: Initial fake score.
            source: Source of the shots' conditioning, on any device; it may depend on the student.
            film: Generates and scores films of the averaged student; see `Stage.preview`.
            parallel: How steps are computed.
        """
        self.recipe, self.source, self.parallel = recipe, source, parallel or ParallelConfig()
        self.parallel.shares(self.batch_size)
        self.student, self.fake = student, fake
        self.student.text.eval().requires_grad_(False)
        self.teacher = teacher.eval().requires_grad_(False)
        self._film = film
        self.schedule = FlowSchedule(shift=recipe.model.shift)
        if self.parallel.dist_context.mesh is None:  # tensors that are gathered together must have one dtype
            hold_as_multiplied(self.teacher.dit, recipe.train.matmul_dtype)
        self._blank = copy.deepcopy(student)
        self._blank.dit.to("meta")
        for dit in (student.dit, fake, self.teacher.dit):
            self.parallel.parallelize(dit)
        fake_optim = replace(
            recipe.optimizer,
            learning_rate=recipe.stage.fake_learning_rate,
            max_norm=recipe.stage.fake_max_norm,
        )
        self.state = DmdState(
            student=TrainState(
                student,
                recipe.optimizer,
                recipe.train.num_steps,
                part=student.dit,
                adamw_names=_ADAMW_NAMES,
            ),
            fake=fake,
            fake_optimizer=make_optimizer(fake, fake_optim, _ADAMW_NAMES),
        )

    @property
    def batch_size(self) -> int:
        """Number of samples of a step."""
        return self.recipe.data.batch_size

    def step(self, step: int) -> Mapping[str, float]:
        """Runs one step; see `Stage.step`."""
        parts = self.microbatches(step)
        scalars = {"fake_loss": 0.0, "fake_norm": 0.0}
        for update in range(self.recipe.stage.fake_updates):
            loss, norm = self.update_fake(parts, (step, update))
            scalars["fake_loss"] += loss / self.recipe.stage.fake_updates
            scalars["fake_norm"] += norm / self.recipe.stage.fake_updates
        if step >= self.recipe.stage.fake_warmup_steps:
            scalars |= self.update_student(parts, (step, self.recipe.stage.fake_updates))
        return scalars

    @torch.no_grad()
    def microbatches(self, step: int) -> list[Microbatch]:
        """Returns this process's microbatches of a step."""
        parts: list[Microbatch] = []
        for samples in self.parallel.shares(self.batch_size):
            drawn = self.source.batch(step, samples)
            batch = drawn._replace(conditioning=drawn.conditioning.to(self.student.device))
            text = self.student.embed(batch.captions)
            uncond = self.teacher.embed([[""] * len(rows) for rows in batch.captions])
            parts.append(Microbatch(batch, text, uncond))
        return parts

    def training_data(self, step: int) -> dict[str, Any]:
        """Returns this process's context frames and captions of a step."""
        batches = [part.batch for part in self.microbatches(step)]
        return {
            "context": [batch.conditioning.context.cpu() for batch in batches],
            "captions": [batch.captions for batch in batches],
            "num_chunks": [batch.num_chunks for batch in batches],
        }

    def update_fake(self, parts: Sequence[Microbatch], key: tuple[int, int]) -> tuple[float, float]:
        """Updates the fake score on samples of the student; returns its loss, and its gradient's norm."""

        def loss_of(part: Microbatch) -> Tensor:
            with torch.no_grad():
                x0 = self.rollout(part.batch, part.text, key)
            return self.fake_loss(part.batch, part.text, x0, key)

        losses = [partial(loss_of, part) for part in parts]
        loss = self.parallel.backward_parts(losses, "fake score's", key[0])
        rate = self.recipe.optimizer.rate(key[0], self.recipe.train.num_steps)
        return loss, self.state.fake_optimizer.step(rate).item()

    def update_student(self, parts: Sequence[Microbatch], key: tuple[int, int]) -> dict[str, float]:
        """Updates the student and its average; returns scalars for the log."""
        gradients: list[Tensor] = []

        def loss_of(part: Microbatch) -> Tensor:
            loss, gradient = self.student_loss(part.batch, part.text, part.uncond, key)
            gradients.append(gradient.abs().mean())
            return loss

        losses = [partial(loss_of, part) for part in parts]
        loss = self.parallel.backward_parts(losses, "student's", key[0])
        norm = self.state.student.step(key[0])
        gradient = self.parallel.dist_context.mean(torch.stack(gradients).mean())
        return {"student_loss": loss, "gradient": gradient.item(), "norm": norm.item()}

    def student_loss(
        self,
        batch: RolloutBatch,
        text: Float[Tensor, "b s n d"],
        uncond: Float[Tensor, "b s n d"],
        key: tuple[int, int],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b c f h w"]]:
        """Returns the student's loss on its own samples, and the DMD gradient that it stands for.

        Args:
            batch: The shots.
            text: Embeddings of its captions.
            uncond: Embeddings of empty captions, for the teacher's guidance.
            key: Key of all randomness.
        """
        x0 = self.rollout(batch, text, key)
        gradient = self.gradient(batch, text, uncond, x0.detach(), key)
        return dmd_loss(x0, gradient), gradient

    def rollout(
        self, batch: RolloutBatch, text: Float[Tensor, "b s n d"], key: tuple[int, int]
    ) -> Float[Tensor, "b c f h w"]:
        """Returns shots of the student, ended at one random denoising step for all chunks."""
        exit_step = self.exit_step(key)
        with multiplying(self.recipe.train.matmul_dtype, self.student.device):
            chunks = student_rollout(
                self.student.dit,
                batch.conditioning,
                text,
                self.schedule.student_sigmas(self.recipe.stage.student_steps).to(self.student.device),
                seeds=[
                    derive_seed(self.recipe.train.seed, "rollout", *key, sample) for sample in batch.samples
                ],
                dtype=matmul_dtype(self.recipe.train.matmul_dtype, self.student.device),
            ).chunks(batch.num_chunks, [exit_step] * batch.num_chunks)
            return torch.cat(list(chunks), dim=2)

    def exit_step(self, key: tuple[int, int]) -> int:
        """Returns the random denoising step at which all chunks of a rollout end."""
        return int(
            numpy_rng(self.recipe.train.seed, "exit", *key).integers(len(self.recipe.stage.student_steps))
        )

    def fake_loss(
        self, batch: RolloutBatch, text: Tensor, x0: Float[Tensor, "b c f h w"], key: tuple[int, int]
    ) -> Float[Tensor, ""]:
        """Returns the flow-matching loss of the fake score on samples of the student."""
        noise, sigma = self._noise(x0, "fake", key, batch.samples, low=0.0, high=1.0)
        velocity = self.velocity(self.fake, batch, text, add_noise(x0, noise, sigma), sigma)
        return flow_matching_loss(velocity, velocity_target(x0, noise))

    @torch.no_grad()
    def gradient(
        self,
        batch: RolloutBatch,
        text: Tensor,
        uncond: Tensor,
        x0: Float[Tensor, "b c f h w"],
        key: tuple[int, int],
    ) -> Float[Tensor, "b c f h w"]:
        """Returns the DMD gradient at samples of the student, see `dmd_gradient`."""
        config = self.recipe.stage
        low, high = config.least_sigma, config.most_sigma
        noise, sigma = self._noise(x0, "score", key, batch.samples, low=low, high=high)
        noisy = add_noise(x0, noise, sigma)

        def velocity_of(cond: Conditioning, text: Tensor) -> VelocityFunction:
            return partial(self.velocity, self.teacher.dit, batch._replace(conditioning=cond), text)

        guided = guided_velocity(
            velocity_of,
            batch.conditioning,
            text,
            uncond,
            captions=config.guidance,
            context=config.context_guidance,
        )
        real = guided(noisy, sigma)
        fake = self.velocity(self.fake, batch, text, noisy, sigma)
        return dmd_gradient(x0, x0_from_velocity(noisy, fake, sigma), x0_from_velocity(noisy, real, sigma))

    def velocity(
        self,
        dit: DiT,
        batch: RolloutBatch,
        text: Float[Tensor, "b s n d"],
        noisy: Float[Tensor, "b c f h w"],
        sigma: Float[Tensor, "b f"],
    ) -> Float[Tensor, "b c f h w"]:
        """Returns the velocity that a score predicts for noisy shots; see `shot_velocity`."""
        with multiplying(self.recipe.train.matmul_dtype, self.student.device):
            return shot_velocity(dit, batch.conditioning, text, noisy, sigma)

    def _noise(
        self, x0: Tensor, name: str, key: tuple[int, int], samples: range, *, low: float, high: float
    ) -> tuple[Tensor, Tensor]:
        """Returns noise like `x0`, and a level for each sample, keyed by the sample."""
        noise: list[Tensor] = []
        levels: list[Tensor] = []
        for sample in samples:
            generator = torch_rng(self.recipe.train.seed, name, *key, sample)
            noise.append(torch.randn(x0.shape[1:], generator=generator))
            levels.append(self.schedule.sample_training_sigma(generator, (1,), low=low, high=high))
        sigma = to_device(torch.stack(levels), x0.device).expand(-1, x0.shape[2])
        return to_device(torch.stack(noise), x0.device), sigma

    def averaged(self) -> TextConditionedDiT:
        """Returns the student with averaged weights, in eval mode."""
        averaged = copy.deepcopy(self._blank)
        averaged.dit.to_empty(device=self.student.device)
        return merge_adapters(self.state.student.averaged(averaged, averaged.dit)).eval()

    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        """Generates held-out stories with the averaged student, and returns their scores."""
        if self._film is None:
            return {}
        averaged = self.averaged()
        return self._film(averaged, step, directory) if self.parallel.dist_context.is_main_process else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class DmdState:
    """The state of distribution matching: those of the student and of the fake score."""

    student: TrainState
    fake: DiT
    fake_optimizer: ClippedOptimizer

    def init_optimizer_state(self) -> None:
        """Creates the optimizers' states; see `Stateful`."""
        self.student.init_optimizer_state()
        self.fake_optimizer.init_state()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state; see `Stateful`."""
        student = self.student.state_dict()
        optimizers = {"student": student["optimiser"], "fake": self.fake_optimizer.state_dict()}
        return {**student, "fake": self.fake.state_dict(), "optimiser": optimizers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads a state; see `Stateful`."""
        student = {name: state[name] for name in ("weights", "ema")}
        if "optimiser" in state:
            student["optimiser"] = state["optimiser"]["student"]
            self.fake_optimizer.load_state_dict(state["optimiser"]["fake"])
        self.student.load_state_dict(student)
        self.fake.load_state_dict(state["fake"])


def fake_of(teacher: TextConditionedDiT) -> DiT:
    """Returns the initial fake score: a trainable copy of the teacher."""
    return copy.deepcopy(teacher.dit).requires_grad_(True)


def student_rollout(
    dit: DiT,
    conditioning: Conditioning,
    text: Float[Tensor, "b s n d"],
    sigmas: Float[Tensor, " k"],
    *,
    seeds: Sequence[int],
    dtype: torch.dtype = torch.float32,
) -> Rollout:
    """Returns the rollout of a batch of shots, each with noise of its own seed; `dtype` is the cache's."""
    context = conditioning.context
    grid = token_grid(context, dit.config)
    cache = DualCache(dit.config, context.shape[0], grid, dtype=dtype, device=context.device)
    shape = (dit.config.latent_channels, dit.config.chunk_latent_frames, context.shape[-2], context.shape[-1])
    noise = KeyedNoise(seeds=tuple(seeds), shape=shape, device=context.device)
    return Rollout(dit, conditioning, text, cache, noise, sigmas)
