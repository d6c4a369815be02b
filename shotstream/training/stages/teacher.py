"""The teacher stage: flow matching on next shots, with context frames and one caption per shot.

A share of the steps trains the same weights causally: each chunk has its own noise level, earlier chunks are
often clean (as in streaming), and the causal mask hides later chunks. One set of weights is therefore both
the bidirectional teacher and the causal one from which a few-step student is made without a gap (the causal
initialisation of Causal Forcing, arXiv 2602.02214). The text encoder is frozen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from shotstream.configs import refuse_unknown_words
from shotstream.data.batches import DataSource, ShotBatch
from shotstream.data.checks import require_positive, require_within
from shotstream.data.rng import numpy_rng, sample_noise, torch_rng
from shotstream.data.shard_source import ShardsConfig
from shotstream.data.story_pool import StoryPool, StoryPoolConfig
from shotstream.diffusion.flow import add_noise, velocity_target
from shotstream.diffusion.flow_matching import flow_matching_loss
from shotstream.diffusion.schedule import FlowSchedule
from shotstream.streaming.conditioning import full_pass, target_part
from shotstream.training.causal_masks import shot_mask
from shotstream.training.parallelize import ParallelConfig, to_device
from shotstream.training.precision import multiplying
from shotstream.training.recipe import ModelConfig, Recipe
from shotstream.training.start import begin_at
from shotstream.training.text_conditioned_dit import TextConditionedDiT
from shotstream.training.train_state import TrainState

# Matrices that are not hidden, for which AdamW is used.
_ADAMW_NAMES = ("head", "text.embedding", "position", "dit.text_embedding", "time_embedding")


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherConfig:
    """Configuration of the teacher stage.

    Those that weigh the loss and draw its levels are of training alone: the held-out losses of the log are
    those of the defaults, so that runs with other weights can be compared.
    """

    learns: Literal["all", "self_attention"] = "all"
    """Parameters that are trained: all, or those of self-attention alone."""
    causal_share: float = 0.5
    """Share of the steps with the causal mask and a level per chunk, in [0, 1]."""
    clean_history: float = 0.5
    """Probability, in [0, 1], that an earlier chunk is clean in a causal step."""
    figure_share: float = 0.5
    """Share of the loss that is on cells that show an actor, in [0, 1]. In a wide shot these are a tenth of
    all cells, and with equal weights they are learnt last. The optimum is the same.
    """
    max_figure_weight: float = 8.0
    """Maximum weight of one such cell, above 0."""

    def __post_init__(self) -> None:
        require_within(self, 0, 1, ("causal_share", "clean_history", "figure_share"))
        require_positive(self, ("max_figure_weight",))
        refuse_unknown_words(self)

    def check(self, recipe: Recipe[Any, Any, Any]) -> None:
        """Does nothing: any teacher can be trained on any shots."""


TeacherRecipe = Recipe[ModelConfig, StoryPoolConfig | ShardsConfig, TeacherConfig]


class TeacherStage:
    """A `Stage` that trains a `TextConditionedDiT`."""

    def __init__(
        self,
        recipe: TeacherRecipe,
        source: DataSource[ShotBatch],
        device: torch.device | str = "cpu",
        parallel: ParallelConfig | None = None,
    ) -> None:
        """Creates the stage with a model on `device`; the source returns batches on the CPU.

        Args:
            recipe: Recipe of the run.
            source: Source of the training shots.
            device: Device of the training.
            parallel: How steps are computed.
        """
        torch.manual_seed(recipe.train.seed)  # the initial weights
        self.recipe, self.source, self.parallel = recipe, source, parallel or ParallelConfig()
        self.parallel.shares(self.batch_size)
        self.device = torch.device(device)
        self.schedule = FlowSchedule(shift=recipe.model.shift)
        self.model = recipe.model.build().to(self.device)
        if recipe.model.start:
            begin_at(self.model.dit, recipe.model.start)
        for name, parameter in self.model.named_parameters():
            learns = recipe.stage.learns == "all" or ".self_attn." in name
            parameter.requires_grad_(learns and name.startswith("dit."))
        self.parallel.parallelize(self.model.dit)
        self.state = TrainState(
            self.model, recipe.optimizer, recipe.train.num_steps, adamw_names=_ADAMW_NAMES
        )

    @property
    def batch_size(self) -> int:
        """Number of samples of a step."""
        return self.recipe.data.batch_size

    def step(self, step: int) -> Mapping[str, float]:
        """Runs one step; see `Stage.step`."""
        causal = self._causal(step)

        def loss_of(samples: range) -> Tensor:
            return self.loss(self.model, self.source.batch(step, samples), step, causal=causal)

        loss = self.parallel.backward(self.batch_size, loss_of, "teacher's", step)
        norm = self.state.step(step)
        return {"loss": loss, "causal_loss" if causal else "full_loss": loss, "norm": norm.item()}

    def training_data(self, step: int) -> dict[str, Any]:
        """Returns this process's batches of a step, as latents, captions and levels."""
        found: list[dict[str, Any]] = []
        for samples in self.parallel.shares(self.batch_size):
            batch = self.source.batch(step, samples)
            sigma, _ = self._levels(step, batch.x0.shape[2], self._causal(step), self.recipe.stage)
            found.append(
                {
                    "x0": batch.x0,
                    "context": batch.conditioning.context,
                    "captions": batch.captions,
                    "sigma": sigma[list(samples)],
                    "samples": list(samples),
                }
            )
        return {"causal": self._causal(step), "batches": found}

    def _causal(self, step: int) -> bool:
        rng = numpy_rng(self.recipe.train.seed, "teacher/mask", step)
        return bool(rng.random() < self.recipe.stage.causal_share)

    def loss(
        self,
        model: TextConditionedDiT,
        batch: ShotBatch,
        step: int,
        *,
        causal: bool,
        numbers: TeacherConfig | None = None,
    ) -> Float[Tensor, ""]:
        """Returns the mean squared error of the velocity over noisy frames, in float32.

        The mean is over the effective batch: means over parts of it average to it, even if the parts have
        different numbers of noisy frames.

        Args:
            model: The model.
            batch: A part of the effective batch.
            step: Keys noise and levels, with each sample's index in the batch.
            causal: Whether chunks have their own levels and do not attend to later ones.
            numbers: Configuration of the loss weights and the levels; None: the recipe's.
        """
        numbers = numbers or self.recipe.stage
        dit, seed = self.recipe.model.dit, self.recipe.train.seed
        sigma, noisy_frames = self._levels(step, batch.x0.shape[2], causal, numbers)
        counted = noisy_frames.float() / noisy_frames.float().mean()
        chosen = list(batch.samples)
        sigma, counted = sigma[chosen], counted[chosen]
        conditioning = batch.conditioning
        if causal and conditioning.turn_frame is not None:
            # As a steered session commits it: what came before the turn is clean, under the new caption.
            before = torch.arange(sigma.shape[1]) < conditioning.turn_frame[:, None]
            sigma, counted = sigma.masked_fill(before, 0), counted.masked_fill(before, 0)
            conditioning = conditioning.turned()
        noise = sample_noise(batch.x0.shape[1:], seed, "teacher/noise", (step,), batch.samples)
        x0, noise, sigma = (to_device(value, self.device) for value in (batch.x0, noise, sigma))
        conditioning = conditioning.to(self.device)
        inputs = full_pass(conditioning, add_noise(x0, noise, sigma), sigma, dit)
        mask = shot_mask(x0, dit) if causal else None
        text = model.embed(batch.captions)
        with multiplying(self.recipe.train.matmul_dtype, self.device):
            velocity = model.dit(inputs.x, inputs.sigma, text, inputs.positions, mask=mask)
        return flow_matching_loss(
            target_part(velocity, dit),
            velocity_target(x0, noise),
            frame_weight=to_device(counted, self.device),
            cell_weight=to_device(cell_weight(batch.figures, numbers), self.device),
        )

    def _levels(self, step: int, f: int, causal: bool, numbers: TeacherConfig) -> tuple[Tensor, Tensor]:
        """Returns the level of each frame `[b, f]` of the effective batch, and which frames are noisy."""
        size = self.recipe.model.dit.chunk_latent_frames
        chunks = -(-f // size)
        sigmas: list[Tensor] = []
        for sample in range(self.batch_size):
            generator = torch_rng(self.recipe.train.seed, "teacher/levels", step, sample)
            sigma = self.schedule.sample_training_sigma(generator, (chunks if causal else 1,))
            if causal:
                clean = torch.rand(chunks, generator=generator) < numbers.clean_history
                clean[-1] = False
                sigma = torch.where(clean, 0.0, sigma).repeat_interleave(size)[:f]
            sigmas.append(sigma.expand(f))
        levels = torch.stack(sigmas)
        return levels, levels > 0

    def averaged(self) -> TextConditionedDiT:
        """Returns the model with averaged weights, in eval mode."""
        model = self.recipe.model
        return self.state.averaged(model.build().to(self.device))

    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        """Writes shots of held-out stories beside their truth; see `previews.py`."""
        from shotstream.training.previews import preview_teacher

        if not isinstance(self.source, StoryPool):
            return {}  # only the theatre has held-out stories
        model = self.averaged()
        return (
            preview_teacher(self, model, step, directory)
            if self.parallel.dist_context.is_main_process
            else {}
        )


def cell_weight(figures: Bool[Tensor, "b f h w"], numbers: TeacherConfig) -> Float[Tensor, "b f h w"]:
    """Returns the weight of each cell in the loss; about one on average."""
    share = figures.float().mean(dim=(1, 2, 3), keepdim=True)
    figure = (numbers.figure_share / share).clamp(max=numbers.max_figure_weight)
    rest = (1 - share * figure) / (1 - share).clamp(min=1e-6)
    return torch.where(figures, figure, rest)
