"""The ODE pairs stage: a teacher integrates its flow from noise to data, and some states are stored.

By default the teacher is causal and its history is clean (teacher forcing), like the student's: each noisy
chunk then has one end under the teacher's own flow, which a bidirectional teacher cannot guarantee for a
causal student (Causal Forcing, arXiv 2602.02214). With `flow="bidirectional"` it is as published (arXiv
2603.25746): whole shots at once, without a mask. Each step of this stage writes one file; a resumed run
continues with the next one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.configs import refuse_unknown_words
from shotstream.data.batches import DataSource, ShotBatch
from shotstream.data.checks import require_within
from shotstream.data.ode_pairs import OdePairs, digest_of
from shotstream.data.rng import numpy_rng, sample_noise
from shotstream.data.shard_source import ShardsConfig
from shotstream.data.story_pool import StoryPoolConfig
from shotstream.diffusion.samplers import VelocityFunction, euler_states
from shotstream.diffusion.schedule import STUDENT_STEPS, FlowSchedule
from shotstream.model.config import DiTConfig
from shotstream.model.dit import DiT
from shotstream.model.dual_cache import DualCache
from shotstream.model.rope import rope_table
from shotstream.streaming.conditioning import Conditioning
from shotstream.training.causal_masks import token_grid
from shotstream.training.parallelize import ParallelConfig
from shotstream.training.precision import multiplying
from shotstream.training.recipe import ModelConfig, Recipe
from shotstream.training.text_conditioned_dit import TextConditionedDiT
from shotstream.training.velocity import guided_velocity, shot_velocity

Flow = Literal["causal", "bidirectional"]
"""Kind of trajectories: of one chunk after a clean history, or of a whole shot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OdePairsConfig:
    """Configuration of the ODE pairs stage."""

    student_steps: tuple[int, ...] = STUDENT_STEPS
    """Timesteps whose states are stored, of 1000 and before the schedule warps them; the end is stored as
    well.
    """
    substeps: int = 4
    """Number of Euler steps between two of them, at least 1."""
    guidance: float = 1.5
    """Scale of guidance by captions along the trajectories; 1: none."""
    context_guidance: float = 1.0
    """Scale of guidance by context, see `guided_velocity`; 1: none, as published."""
    flow: Flow = "causal"
    """Kind of trajectories. "causal": of one chunk of a shot, after its true earlier chunks. "bidirectional":
    of all chunks of a shot together, as in the published code.
    """

    def __post_init__(self) -> None:
        refuse_unknown_words(self)
        require_within(self, 0, inf, ("guidance", "context_guidance"))
        require_within(self, 1, inf, ("substeps",))

    def check(self, recipe: Recipe[Any, Any, Any]) -> None:
        """Raises ValueError for timesteps that the schedule does not have."""
        FlowSchedule(shift=recipe.model.shift).student_sigmas(self.student_steps)


OdePairsRecipe = Recipe[ModelConfig, StoryPoolConfig | ShardsConfig, OdePairsConfig]


class OdePairsStage:
    """A `Stage` that writes a file of ODE pairs per step."""

    def __init__(
        self,
        recipe: OdePairsRecipe,
        source: DataSource[ShotBatch],
        model: TextConditionedDiT,
        directory: Path,
        parallel: ParallelConfig | None = None,
    ) -> None:
        """Creates the stage; raises ValueError for settings that only a stage that trains can use.

        Args:
            recipe: Recipe of the run; a file holds one of its batches.
            source: The shots that give conditioning and history.
            model: The teacher, frozen in place.
            directory: Directory of the files.
            parallel: How steps are computed.
        """
        self.recipe, self.source, self.parallel = recipe, source, parallel or ParallelConfig()
        self.parallel.refuse(("activation_checkpointing", "compile"), "making ODE pairs learns nothing")
        self.parallel.shares(self.batch_size)
        self.model = model.eval().requires_grad_(False)
        self._made_by = digest_of(self.model.dit.state_dict())
        self.directory = directory
        self.schedule = FlowSchedule(shift=recipe.model.shift)
        self.state = NoState()

    @property
    def batch_size(self) -> int:
        """Number of samples of a step."""
        return self.recipe.data.batch_size

    @torch.no_grad()
    def step(self, step: int) -> Mapping[str, float]:
        """Writes file number `step`."""
        own = [self.make(step, samples) for samples in self.parallel.shares(self.batch_size)]
        found = self.parallel.dist_context.gather(own)
        if found is None:
            return {}
        pairs = OdePairs.joined([part for parts in found for part in parts])
        pairs.write(self.directory / f"pairs_{step:06d}.safetensors", made_by=self._made_by)
        return {"pairs": float(pairs.states.shape[0]), "std": pairs.states[:, -1].std().item()}

    @torch.no_grad()
    def make(self, step: int, samples: range | None = None) -> OdePairs:
        """Returns ODE pairs of a step: of one chunk of each shot, or of all of it; for all samples or some.

        The pairs are on the CPU, whatever the teacher's device.
        """
        config, seed = self.recipe.stage, self.recipe.train.seed
        samples = range(self.batch_size) if samples is None else samples
        dit, device = self.model.dit, self.model.device
        batch = self.source.batch(step, samples)
        size = dit.config.chunk_latent_frames
        num_chunks = batch.x0.shape[2] // size
        rng = numpy_rng(seed, "pairs/chunk", step)
        whole = config.flow == "bidirectional"
        first, length = (0, num_chunks) if whole else (int(rng.integers(num_chunks)), 1)
        history = batch.x0[:, :, : first * size]
        given = batch.conditioning
        if given.turn_frame is not None:
            # The history is committed under the chunk's caption, as a steered session does it.
            given = replace(given, target_caption=given.captions_at(first * size), turn_frame=None)
        conditioning = given.to(device)
        text = self.model.embed(batch.captions)
        uncond = self.model.embed([[""] * len(rows) for rows in batch.captions])
        shape = (batch.x0.shape[1], length * size, *batch.x0.shape[3:])
        noise = sample_noise(shape, seed, "pairs/noise", (step,), samples).to(device)
        with multiplying(self.recipe.train.matmul_dtype, device):
            clean = history.to(device)

            def velocity_of(cond: Conditioning, text: Tensor) -> VelocityFunction:
                if whole:
                    return partial(shot_velocity, dit, cond, text)
                return CausalVelocity(dit, cond, text, clean)

            velocity = guided_velocity(
                velocity_of,
                conditioning,
                text,
                uncond,
                captions=config.guidance,
                context=config.context_guidance,
            )
            states = list(euler_states(velocity, noise, self._levels()))[:: config.substeps]
        return OdePairs(
            states=torch.stack(states, dim=1).cpu(),
            history=history,
            conditioning=given,
            captions=batch.captions,
        )

    def training_data(self, step: int) -> dict[str, Any]:
        """Returns an empty mapping, because a step trains nothing and cannot be refused."""
        del step
        return {}

    def _levels(self) -> Float[Tensor, " n"]:
        """Returns the student's levels and zero, with evenly spaced ones between."""
        kept = [*self.schedule.student_sigmas(self.recipe.stage.student_steps).tolist(), 0.0]
        substeps = self.recipe.stage.substeps
        levels: list[float] = []
        for here, there in pairwise(kept):
            levels += [here + (there - here) * part / substeps for part in range(substeps)]
        return torch.tensor([*levels, 0.0])

    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        """Writes nothing, because the pairs are the result."""
        del step, directory
        return {}


class NoState:
    """The state of a stage that trains nothing: the result of a step is its file."""

    def init_optimizer_state(self) -> None:
        """Does nothing, because there is no optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads an empty state; raises ValueError for any other, which is of another recipe."""
        if state:
            raise ValueError(f"ODE pairs have no state, but the checkpoint holds {', '.join(state)}")


class CausalVelocity:
    """The velocity of a chunk after a clean history, with a KV cache that is filled once."""

    def __init__(
        self,
        dit: DiT,
        conditioning: Conditioning,
        text: Float[Tensor, "b s n d"],
        history: Float[Tensor, "b c f h w"],
    ) -> None:
        self.dit = dit
        config: DiTConfig = dit.config
        grid = token_grid(conditioning.context, config)
        self.cache = DualCache(
            config, conditioning.context.shape[0], grid, device=conditioning.context.device
        )
        self.text = dit.text_cache(text)
        self._commit(conditioning.context, rope_table(conditioning.positions, grid, config), "global")
        size = config.chunk_latent_frames
        num_chunks = history.shape[2] // size
        for chunk in range(num_chunks):
            clean = history[:, :, chunk * size : (chunk + 1) * size]
            self._commit(clean, rope_table(conditioning.chunk(chunk, config), grid, config), "local")
        self.rope = rope_table(conditioning.chunk(num_chunks, config), grid, config)

    def __call__(
        self, noisy: Float[Tensor, "b c f h w"], sigma: Float[Tensor, "b f"]
    ) -> Float[Tensor, "b c f h w"]:
        """Returns the velocity of the noisy chunk."""
        return self.dit(noisy, sigma, self.text, self.rope, cache=self.cache)

    def _commit(self, clean: Tensor, rope: Any, write: Any) -> None:
        levels = clean.new_zeros(clean.shape[0], clean.shape[2])
        self.dit(clean, levels, self.text, rope, cache=self.cache, write=write)
