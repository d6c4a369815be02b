"""Distribution matching: a few-step student learns to make what the bidirectional teacher holds for likely.

Three networks of one architecture: the student, causal, which films shots by the rollout that inference
uses; the teacher, bidirectional, frozen and guided, whose score is the real one; and the fake score, which
follows the student by flow matching on its samples. Both distillation stages of arXiv 2603.25746 are this
one with another history: `intra_shot` gives the true earlier shots, `inter_shot` the student's own.

A step draws what the shots are conditioned on once, then updates the fake score `fake_updates` times and
the student once, each on samples of its own. So no update depends on where a shot stands in its story, and
nothing is shared between steps but weights: a step is a pure function of them and of (seed, step).

Where the published code differs: the level told to a network is the level that was used (there: of
another row of a table); levels are restricted, not clamped; the fake score is warmed up before the first
student step; the fake score's target is the velocity itself; and losses are float32.

Source: DMD2 (arXiv 2405.14867), Self-Forcing (arXiv 2506.08009), section 4 of arXiv 2603.25746.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.data.checks import require_decay, require_positive, require_within
from shotstream.diffusion.flow import add_noise, velocity_target, x0_from_velocity
from shotstream.diffusion.samplers import VelocityFunction
from shotstream.diffusion.schedule import STUDENT_STEPS, FlowSchedule
from shotstream.losses.dmd import dmd_gradient, dmd_loss
from shotstream.losses.flow_matching import flow_matching_loss
from shotstream.model.dit import DiT
from shotstream.model.dual_cache import DualCache
from shotstream.streaming.conditioning import Conditioning
from shotstream.streaming.noise import KeyedNoise, derive_seed
from shotstream.streaming.rollout import Rollout
from shotstream.training.ema import Ema
from shotstream.training.keys import draws, onto, tensor_draws
from shotstream.training.lora import merge_adapters
from shotstream.training.optimisers import ClippedAdamW
from shotstream.training.parallelize import Execution, whole_state
from shotstream.training.precision import (
    MatmulDtype,
    hold_as_multiplied,
    matmul_dtype,
    multiplying,
    require_matmul_dtype,
)
from shotstream.training.stages.teacher import TeacherTraining, TheatreModel, token_grid
from shotstream.training.velocity import guided_velocity, shot_velocity


@dataclass(frozen=True, kw_only=True, slots=True)
class DmdTraining:
    """How a student is matched to its teacher."""

    teacher: TeacherTraining
    """How the teacher was trained; batch size, lengths of shots and their places in stories are read here."""
    num_steps: int
    """Steps of the run, which a recipe gives from its loop."""
    seed: int = 3
    """Of everything that is drawn."""
    student_steps: tuple[int, ...] = STUDENT_STEPS
    """Denoising steps of the student, of 1000 and before the schedule warps them."""
    guidance: float = 1.5
    """Scale of the teacher's guidance by captions; the fake score has none."""
    context_guidance: float = 1.0
    """Scale of the teacher's guidance by context, see `guided_velocity`; 1: none, as published."""
    least_sigma: float = 0.02
    """Least level at which the two scores are compared."""
    most_sigma: float = 0.98
    """Greatest such level."""
    fake_updates: int = 5
    """Updates of the fake score per step."""
    fake_warmup_steps: int = 20
    """Steps at the beginning in which the fake score alone is updated."""
    student_rate: float = 2e-5
    """Learning rate of the student."""
    fake_rate: float = 1e-4
    """Learning rate of the fake score."""
    student_max_norm: float = 1.0
    """The student's gradient is clipped to this norm."""
    fake_max_norm: float = 10.0
    """The fake score's gradient is clipped to this norm."""
    ema_decay: float = 0.98
    """Decay per student step of the averaged student, which is what is used afterwards."""
    matmul_dtype: MatmulDtype = "float32"
    """What linear layers compute in; "auto" is bfloat16 where the device multiplies it faster."""

    def __post_init__(self) -> None:
        require_matmul_dtype(self.matmul_dtype)
        require_within(self, 0, inf, ("seed", "guidance", "context_guidance", "fake_warmup_steps"))
        require_within(self, 1, inf, ("num_steps", "fake_updates"))
        require_within(self, 0, 1, ("least_sigma", "most_sigma"))
        require_positive(self, ("student_rate", "fake_rate", "student_max_norm", "fake_max_norm"))
        require_decay(self, ("ema_decay",))
        if self.least_sigma >= self.most_sigma:
            raise ValueError(f"levels from {self.least_sigma} to {self.most_sigma}; give an interval")
        if self.fake_warmup_steps >= self.num_steps:
            raise ValueError(
                f"fake_warmup_steps is {self.fake_warmup_steps} of {self.num_steps} steps: the student "
                "would never learn; make the warm-up shorter"
            )
        FlowSchedule(shift=self.teacher.shift).student_sigmas(self.student_steps)


class Scene(NamedTuple):
    """What a batch of shots is made from."""

    conditioning: Conditioning
    captions: list[list[str]]
    """The caption rows of each sample."""
    num_chunks: int
    """Length of the shots."""
    samples: range
    """Which samples of the effective batch these are."""


DrawScene = Callable[[int, range], Scene]
"""What some shots of a step are conditioned on: a function of step, samples and the student's weights."""


class Part(NamedTuple):
    """What a process learns from at once in a step: its share of the batch, or a part of that."""

    scene: Scene
    text: Float[Tensor, "b s n d"]
    """Embeddings of the scene's captions."""
    free: Float[Tensor, "b s n d"]
    """Embeddings of empty captions, which the teacher's guidance turns away from."""


class DmdStage:
    """A `Stage` that trains a student and its fake score."""

    def __init__(
        self,
        config: DmdTraining,
        *,
        student: TheatreModel,
        teacher: TheatreModel,
        fake: DiT,
        draw: DrawScene,
        film: Callable[[TheatreModel, int, Path], Mapping[str, float]] | None = None,
        execution: Execution | None = None,
    ) -> None:
        """The three networks, on one device, are changed in place; what needs no gradient stays as it is.

        Args:
            config: the recipe.
            student: a causal few-step model; its text encoder is frozen.
            teacher: a bidirectional model, frozen.
            fake: what the fake score starts from.
            draw: what a step's shots are conditioned on; on any device.
            film: draws and scores what the averaged student films; see `Stage.preview`.
            execution: how steps are computed.
        """
        self.config, self.execution = config, execution or Execution()
        self.execution.shares(self.batch_size)
        self.student, self.fake = student, fake
        self.student.text.eval().requires_grad_(False)
        self.teacher = teacher.eval().requires_grad_(False)
        self.draw, self._film = draw, film
        self.schedule = FlowSchedule(shift=config.teacher.shift)
        if self.execution.world.mesh is None:  # what is gathered together must be of one dtype
            hold_as_multiplied(self.teacher.dit, config.matmul_dtype)
        self._blank = copy.deepcopy(student)
        self._blank.dit.to("meta")
        for dit in (student.dit, fake, self.teacher.dit):
            self.execution.parallelize(dit)
        self.ema = Ema(student.dit, config.ema_decay)
        self.student_optimiser = ClippedAdamW(
            student.dit.parameters(), config.student_rate, config.student_max_norm
        )
        self.fake_optimiser = ClippedAdamW(fake.parameters(), config.fake_rate, config.fake_max_norm)

    @property
    def batch_size(self) -> int:
        """Samples of a step."""
        return self.config.teacher.batch_size

    def step(self, step: int) -> Mapping[str, float]:
        """One step; see `Stage.step`."""
        parts = self.parts(step)
        scalars = {"fake_loss": 0.0, "fake_norm": 0.0}
        for update in range(self.config.fake_updates):
            loss, norm = self.update_fake(parts, (step, update))
            scalars["fake_loss"] += loss / self.config.fake_updates
            scalars["fake_norm"] += norm / self.config.fake_updates
        if step >= self.config.fake_warmup_steps:
            scalars |= self.update_student(parts, (step, self.config.fake_updates))
        return scalars

    @torch.no_grad()
    def parts(self, step: int) -> list[Part]:
        """What this process learns from in a step."""
        parts: list[Part] = []
        for samples in self.execution.shares(self.batch_size):
            drawn = self.draw(step, samples)
            scene = drawn._replace(conditioning=drawn.conditioning.to(self.student.device))
            text = self.student.embed(scene.captions)
            free = self.teacher.embed([[""] * len(rows) for rows in scene.captions])
            parts.append(Part(scene, text, free))
        return parts

    def inputs(self, step: int) -> dict[str, Any]:
        """This process's context frames and captions of a step."""
        scenes = [part.scene for part in self.parts(step)]
        return {
            "context": [scene.conditioning.context.cpu() for scene in scenes],
            "captions": [scene.captions for scene in scenes],
            "num_chunks": [scene.num_chunks for scene in scenes],
        }

    def update_fake(self, parts: Sequence[Part], key: tuple[int, int]) -> tuple[float, float]:
        """Updates the fake score on samples of the student; its loss, and its gradient's norm."""

        def loss_of(part: Part) -> Tensor:
            with torch.no_grad():
                x0 = self.rollout(part.scene, part.text, key)
            return self.fake_loss(part.scene, part.text, x0, key)

        losses = [partial(loss_of, part) for part in parts]
        loss = self.execution.backward_parts(losses, "fake score's", key[0])
        return loss, self.fake_optimiser.step().item()

    def update_student(self, parts: Sequence[Part], key: tuple[int, int]) -> dict[str, float]:
        """Updates the student and its average; scalars for the log."""
        gradients: list[Tensor] = []

        def loss_of(part: Part) -> Tensor:
            loss, gradient = self.student_loss(part.scene, part.text, part.free, key)
            gradients.append(gradient.abs().mean())
            return loss

        losses = [partial(loss_of, part) for part in parts]
        loss = self.execution.backward_parts(losses, "student's", key[0])
        norm = self.student_optimiser.step()
        self.ema.update(self.student.dit)
        gradient = self.execution.world.mean(torch.stack(gradients).mean())
        return {"student_loss": loss, "gradient": gradient.item(), "norm": norm.item()}

    def student_loss(
        self,
        scene: Scene,
        text: Float[Tensor, "b s n d"],
        free: Float[Tensor, "b s n d"],
        key: tuple[int, int],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b c f h w"]]:
        """The student's loss on samples of its own, and the gradient that it stands for.

        Args:
            scene: what the shots are made from.
            text: embeddings of its captions.
            free: embeddings of empty captions, which the teacher's guidance turns away from.
            key: of all that is drawn.
        """
        x0 = self.rollout(scene, text, key)
        gradient = self.gradient(scene, text, free, x0.detach(), key)
        return dmd_loss(x0, gradient), gradient

    def rollout(
        self, scene: Scene, text: Float[Tensor, "b s n d"], key: tuple[int, int]
    ) -> Float[Tensor, "b c f h w"]:
        """Shots of the student, ended at one denoising step for all chunks, drawn by the key."""
        exit_step = self.exit_step(key)
        with multiplying(self.config.matmul_dtype, self.student.device):
            chunks = student_rollout(
                self.student.dit,
                scene.conditioning,
                text,
                self.schedule.student_sigmas(self.config.student_steps).to(self.student.device),
                seeds=[derive_seed(self.config.seed, "rollout", *key, sample) for sample in scene.samples],
                dtype=matmul_dtype(self.config.matmul_dtype, self.student.device),
            ).chunks(scene.num_chunks, [exit_step] * scene.num_chunks)
            return torch.cat(list(chunks), dim=2)

    def exit_step(self, key: tuple[int, int]) -> int:
        """The denoising step at which all chunks of a rollout end."""
        return int(draws(self.config.seed, "exit", *key).integers(len(self.config.student_steps)))

    def fake_loss(
        self, scene: Scene, text: Tensor, x0: Float[Tensor, "b c f h w"], key: tuple[int, int]
    ) -> Float[Tensor, ""]:
        """The flow-matching loss of the fake score on samples of the student."""
        noise, sigma = self._noise(x0, "fake", key, scene.samples, low=0.0, high=1.0)
        velocity = self.velocity(self.fake, scene, text, add_noise(x0, noise, sigma), sigma)
        return flow_matching_loss(velocity, velocity_target(x0, noise))

    @torch.no_grad()
    def gradient(
        self, scene: Scene, text: Tensor, free: Tensor, x0: Float[Tensor, "b c f h w"], key: tuple[int, int]
    ) -> Float[Tensor, "b c f h w"]:
        """Where the fake score and the teacher disagree about samples of the student, see `dmd_gradient`."""
        config = self.config
        low, high = config.least_sigma, config.most_sigma
        noise, sigma = self._noise(x0, "score", key, scene.samples, low=low, high=high)
        noisy = add_noise(x0, noise, sigma)

        def conditioned(seen: Conditioning, told: Tensor) -> VelocityFunction:
            return partial(self.velocity, self.teacher.dit, scene._replace(conditioning=seen), told)

        guided = guided_velocity(
            conditioned,
            scene.conditioning,
            text,
            free,
            captions=config.guidance,
            context=config.context_guidance,
        )
        real = guided(noisy, sigma)
        fake = self.velocity(self.fake, scene, text, noisy, sigma)
        return dmd_gradient(x0, x0_from_velocity(noisy, fake, sigma), x0_from_velocity(noisy, real, sigma))

    def velocity(
        self,
        dit: DiT,
        scene: Scene,
        text: Float[Tensor, "b s n d"],
        noisy: Float[Tensor, "b c f h w"],
        sigma: Float[Tensor, "b f"],
    ) -> Float[Tensor, "b c f h w"]:
        """What a score says of noisy shots; see `shot_velocity`."""
        with multiplying(self.config.matmul_dtype, self.student.device):
            return shot_velocity(dit, scene.conditioning, text, noisy, sigma)

    def _noise(
        self, x0: Tensor, name: str, key: tuple[int, int], samples: range, *, low: float, high: float
    ) -> tuple[Tensor, Tensor]:
        """Noise like `x0`, and a level for each sample; each sample's are keyed by it alone."""
        noise: list[Tensor] = []
        levels: list[Tensor] = []
        for sample in samples:
            generator = tensor_draws(self.config.seed, name, *key, sample)
            noise.append(torch.randn(x0.shape[1:], generator=generator))
            levels.append(self.schedule.sample_training_sigma(generator, (1,), low=low, high=high))
        sigma = onto(torch.stack(levels), x0.device).expand(-1, x0.shape[2])
        return onto(torch.stack(noise), x0.device), sigma

    def averaged(self) -> TheatreModel:
        """The student with averaged weights, in eval mode."""
        averaged = copy.deepcopy(self._blank)
        averaged.dit.to_empty(device=self.student.device)
        averaged.load_state_dict(whole_state(self.student.state_dict()))
        self.ema.copy_to(averaged.dit)
        return merge_adapters(averaged).eval()

    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        """Films held-out stories with the averaged student, and scores them."""
        if self._film is None:
            return {}
        averaged = self.averaged()
        return self._film(averaged, step, directory) if self.execution.world.leads else {}

    def prime(self) -> None:
        """See `Stage.prime`."""
        self.student_optimiser.prime()
        self.fake_optimiser.prime()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {
            "weights": self.student.state_dict(),
            "ema": self.ema.state_dict(),
            "fake": self.fake.state_dict(),
            "optimiser": {
                "student": self.student_optimiser.state_dict(),
                "fake": self.fake_optimiser.state_dict(),
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self.student.load_state_dict(state["weights"])
        self.ema.load_state_dict(state["ema"])
        self.fake.load_state_dict(state["fake"])
        if "optimiser" in state:
            self.student_optimiser.load_state_dict(state["optimiser"]["student"])
            self.fake_optimiser.load_state_dict(state["optimiser"]["fake"])


def fake_of(teacher: TheatreModel) -> DiT:
    """What the fake score starts from: a copy of the teacher that learns."""
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
    """The rollout of a batch of shots, each with noise of its own seed; `dtype` is the cache's."""
    context = conditioning.context
    grid = token_grid(context, dit.config)
    cache = DualCache(dit.config, context.shape[0], grid, dtype=dtype, device=context.device)
    shape = (dit.config.latent_channels, dit.config.chunk_latent_frames, context.shape[-2], context.shape[-1])
    noise = KeyedNoise(seeds=tuple(seeds), shape=shape, device=context.device)
    return Rollout(dit, conditioning, text, cache, noise, sigmas)
