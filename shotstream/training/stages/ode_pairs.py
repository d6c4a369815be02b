"""Makes ODE pairs: a teacher integrates its flow from noise to data, and the student's levels are kept.

By default the teacher is causal and its history is clean (teacher forcing), as the student's will be: each
noisy chunk then has one end under the teacher's own flow, which a bidirectional teacher cannot promise a
causal student (Causal Forcing, arXiv 2602.02214). With `flow="bidirectional"` it is as published (arXiv
2603.25746): whole shots at once, without a mask. Each step of this stage writes one file; a resumed run goes
on with the next.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.data.checks import require_within
from shotstream.data.latents import LatentPool
from shotstream.data.ode_pairs import OdePairs, digest_of
from shotstream.diffusion.samplers import VelocityFunction, euler_states
from shotstream.diffusion.schedule import STUDENT_STEPS, FlowSchedule
from shotstream.model.config import DiTConfig
from shotstream.model.dit import DiT
from shotstream.model.dual_cache import DualCache
from shotstream.model.rope import rope_table
from shotstream.streaming.conditioning import Conditioning, stack_conditioning
from shotstream.training.keys import draws, sample_noise
from shotstream.training.parallelize import Execution
from shotstream.training.precision import MatmulDtype, multiplying, require_matmul_dtype
from shotstream.training.stages.teacher import (
    ShotSource,
    TeacherTraining,
    TheatreModel,
    draw_batch,
    token_grid,
)
from shotstream.training.velocity import guided_velocity, shot_velocity

Flow = Literal["causal", "bidirectional"]
"""Whose trajectories: one chunk's after a clean history, or a whole shot's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OdePairsTraining:
    """The recipe of a set of ODE pairs."""

    teacher: TeacherTraining
    """How the teacher was trained; batches are drawn as there, from other seeds. A file holds one batch."""
    seed: int = 1
    """Of everything that is drawn."""
    student_steps: tuple[int, ...] = STUDENT_STEPS
    """Levels that are kept, of 1000 and before the schedule warps them; the end is kept too."""
    substeps: int = 4
    """Euler steps between two of them."""
    guidance: float = 1.5
    """Scale of the guidance by captions that the trajectories follow; 1: none."""
    context_guidance: float = 1.0
    """Scale of the guidance by context, see `guided_velocity`; 1: none, as published."""
    flow: Flow = "causal"
    """"causal": a chunk of a shot, after its true earlier chunks. "bidirectional": all chunks of it at once,
    as the published code has it."""
    matmul_dtype: MatmulDtype = "float32"
    """What linear layers compute in; "auto" is bfloat16 where the device multiplies it faster."""

    def __post_init__(self) -> None:
        if self.flow not in get_args(Flow):
            raise ValueError(f"flow is {self.flow!r}; give {' or '.join(get_args(Flow))}")
        require_matmul_dtype(self.matmul_dtype)
        require_within(self, 0, inf, ("seed", "guidance", "context_guidance"))
        require_within(self, 1, inf, ("substeps",))
        FlowSchedule(shift=self.teacher.shift).student_sigmas(self.student_steps)


class OdePairsStage:
    """A `Stage` that writes a file of pairs per step."""

    def __init__(
        self,
        config: OdePairsTraining,
        model: TheatreModel,
        pool: LatentPool | ShotSource,
        directory: Path,
        execution: Execution | None = None,
    ) -> None:
        """ValueError for what only a stage that learns can do."""
        self.config, self.execution = config, execution or Execution()
        self.execution.refuse(("activation_checkpointing", "compile"), "making ODE pairs learns nothing")
        self._drawn = dataclasses.replace(config.teacher, seed=config.seed)
        self.execution.shares(self.batch_size)
        self.model = model.eval().requires_grad_(False)
        self._made_by = digest_of(self.model.dit.state_dict())
        self.pool = pool
        self.directory = directory
        self.schedule = FlowSchedule(shift=config.teacher.shift)

    @property
    def batch_size(self) -> int:
        """Samples of a step."""
        return self.config.teacher.batch_size

    @torch.no_grad()
    def step(self, step: int) -> Mapping[str, float]:
        """Writes pairs number `step`."""
        own = [self.make(step, samples) for samples in self.execution.shares(self.batch_size)]
        found = self.execution.world.gather(own)
        if found is None:
            return {}
        pairs = joined([part for parts in found for part in parts])
        pairs.write(self.directory / f"pairs_{step:06d}.safetensors", made_by=self._made_by)
        return {"pairs": float(pairs.states.shape[0]), "std": pairs.states[:, -1].std().item()}

    @torch.no_grad()
    def make(self, step: int, samples: range | None = None) -> OdePairs:
        """Draws shots and integrates a chunk of each or all of it; all samples of the step or some.

        The pairs are on the CPU, wherever the teacher is.
        """
        samples = range(self.batch_size) if samples is None else samples
        dit, device = self.model.dit, self.model.device
        batch = draw_batch(self.pool.at(step), self._drawn, step, samples=samples, keep_captions=True)
        size = dit.config.chunk_latent_frames
        num_chunks = batch.x0.shape[2] // size
        rng = draws(self.config.seed, "pairs/chunk", step)
        whole = self.config.flow == "bidirectional"
        first, length = (0, num_chunks) if whole else (int(rng.integers(num_chunks)), 1)
        history = batch.x0[:, :, : first * size]
        conditioning = batch.conditioning.to(device)
        text = self.model.embed(batch.captions)
        free = self.model.embed([[""] * len(rows) for rows in batch.captions])
        shape = (batch.x0.shape[1], length * size, *batch.x0.shape[3:])
        noise = sample_noise(shape, self.config.seed, "pairs/noise", (step,), samples).to(device)
        with multiplying(self.config.matmul_dtype, device):
            clean = history.to(device)

            def conditioned(seen: Conditioning, told: Tensor) -> VelocityFunction:
                if whole:
                    return partial(shot_velocity, dit, seen, told)
                return CausalVelocity(dit, seen, told, clean)

            velocity = guided_velocity(
                conditioned,
                conditioning,
                text,
                free,
                captions=self.config.guidance,
                context=self.config.context_guidance,
            )
            states = list(euler_states(velocity, noise, self._levels()))[:: self.config.substeps]
        return OdePairs(
            states=torch.stack(states, dim=1).cpu(),
            history=history,
            conditioning=batch.conditioning,
            captions=batch.captions,
        )

    def inputs(self, step: int) -> dict[str, Any]:
        """Nothing: a step learns nothing and refuses nothing."""
        del step
        return {}

    def _levels(self) -> Float[Tensor, " n"]:
        """The student's levels and zero, with evenly spaced ones between."""
        kept = [*self.schedule.student_sigmas(self.config.student_steps).tolist(), 0.0]
        levels: list[float] = []
        for here, there in pairwise(kept):
            levels += [
                here + (there - here) * part / self.config.substeps for part in range(self.config.substeps)
            ]
        return torch.tensor([*levels, 0.0])

    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        """Nothing to draw: the pairs are the product."""
        del step, directory
        return {}

    def prime(self) -> None:
        """Nothing: there is no optimiser."""

    def state_dict(self) -> dict[str, Any]:
        """Empty: a step leaves its file and nothing else."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load; ValueError when there is something, which is another recipe's."""
        if state:
            raise ValueError(f"ODE pairs have no state, but the checkpoint holds {', '.join(state)}")


def joined(parts: Sequence[OdePairs]) -> OdePairs:
    """Pairs of one step made in parts, as one batch."""
    return OdePairs(
        states=torch.cat([part.states for part in parts]),
        history=torch.cat([part.history for part in parts]),
        conditioning=stack_conditioning([part.conditioning for part in parts]),
        captions=[rows for part in parts for rows in part.captions],
    )


class CausalVelocity:
    """The velocity of the chunk after a clean history, through a cache that is filled once."""

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
        """Velocity of the noisy chunk."""
        return self.dit(noisy, sigma, self.text, self.rope, cache=self.cache)

    def _commit(self, clean: Tensor, rope: Any, write: Any) -> None:
        levels = clean.new_zeros(clean.shape[0], clean.shape[2])
        self.dit(clean, levels, self.text, rope, cache=self.cache, write=write)
