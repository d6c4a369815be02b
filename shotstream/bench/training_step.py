"""Operations of a training step of the 1.3B stages; counted, not measured.

The networks are built on the meta device, which computes nothing, and the functions of the stages run there
under torch's counter of operations. The counts are therefore those of the actual code, without hardware.
Multiplications and additions in matrix products and attention are counted, as two operations; nothing else
is, nor are the codec and the optimizers. Recomputed blocks are counted separately: they are work of the
machine, not of the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from shotstream.diffusion.schedule import FlowSchedule
from shotstream.geometry import LatentSize
from shotstream.model.config import DiTConfig
from shotstream.model.dit import DiT
from shotstream.streaming.conditioning import Conditioning, first_shot_conditioning
from shotstream.training.causal_masks import token_grid
from shotstream.training.lora import attach_adapters
from shotstream.training.stages.dmd import DmdConfig, DmdRecipe, student_rollout
from shotstream.training.stages.inter_shot import InterShotConfig
from shotstream.training.stages.teacher import TeacherRecipe
from shotstream.training.velocity import shot_velocity

_META = torch.device("meta")


class StepCost(NamedTuple):
    """Operations of one step per sample of its batch."""

    flops: float
    """Number of the model's operations, including the backward passes."""
    recomputed_flops: float
    """Number of operations of blocks that are recomputed in backward passes."""


@dataclass(frozen=True, slots=True)
class MatchingFlops:
    """Operations of the parts of distribution matching, per sample; all are linear in the exit step."""

    rolled: tuple[float, float]
    """Operations of a shot generated without gradients, ended at the first and at the last step."""
    learnt: tuple[float, float]
    """Operations with the student's gradient at that step, including its backward pass."""
    fake: float
    """Operations of the fake score's pass over a shot, and of its backward pass."""
    asked: float
    """Operations of all passes of the scores for the student's gradient."""
    recomputed: tuple[float, float]
    """Operations of blocks recomputed in the backward passes of `learnt` and of `fake`."""
    num_steps: int
    """Number of steps of the student."""

    def fake_update(self, exit_step: float) -> float:
        """Returns the operations of an update of the fake score on a shot ended at a step."""
        return self._at(self.rolled, exit_step) + self.fake

    def student_update(self, exit_step: float) -> float:
        """Returns the operations of an update of the student on a shot ended at a step."""
        return self._at(self.learnt, exit_step) + self.asked

    @property
    def filmed(self) -> float:
        """Operations of a shot generated for the history, with all steps."""
        return self.rolled[1]

    @property
    def mean_exit(self) -> float:
        """Mean exit step; exit steps are uniformly distributed."""
        return (self.num_steps - 1) / 2

    def _at(self, ends: tuple[float, float], exit_step: float) -> float:
        return ends[0] + (ends[1] - ends[0]) * exit_step / max(1, self.num_steps - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """The size of the training shots."""

    latent_size: LatentSize
    num_chunks: int
    num_captions: int = 3
    """Number of caption rows of a sample: those of context shots, and its own."""


def teacher_step(made: TeacherRecipe, shot: Shot) -> StepCost:
    """Returns the cost of a step of the bidirectional teacher."""
    learns_all = made.stage.learns == "all"
    return StepCost(
        *_of_all_layers(made.model.dit, lambda dit: _teacher_step(dit, shot, learns_all=learns_all))
    )


def _teacher_step(config: DiTConfig, shot: Shot, *, learns_all: bool) -> StepCost:
    sample = _Sample(config, shot)
    dit = sample.network(lambda name: learns_all or ".self_attn." in name)
    return sample.count(dit, lambda: sample.velocity(dit))


def _of_all_layers(dit: DiTConfig, cost_of: Callable[[DiTConfig], Sequence[float]]) -> list[float]:
    """Returns the values at full depth, from those at depths 1 and 2, since blocks are alike."""
    ends = (cost_of(replace(dit, num_layers=depth)) for depth in (1, 2))
    return [one + (dit.num_layers - 1) * (two - one) for one, two in zip(*ends, strict=True)]


def matching_step(made: DmdRecipe, shot: Shot, num_filmed: int = 0) -> StepCost:
    """Returns the cost of a step of distribution matching: the fake score's updates and one of the student.

    Args:
        made: The recipe.
        shot: Size of the target shot.
        num_filmed: Number of shots that the student generates before it, for its own history.
    """
    counted, updates = matching_flops(made, shot), made.stage.fake_updates
    flops = updates * counted.fake_update(counted.mean_exit)
    flops += counted.student_update(counted.mean_exit) + num_filmed * counted.filmed
    recomputed = updates * counted.recomputed[1] + counted.recomputed[0]
    return StepCost(flops, recomputed)


def _lora_rank(stage: DmdConfig) -> int:
    """Returns the rank of the trained adapters; 0: all weights of student and fake score are trained."""
    return stage.lora_rank if isinstance(stage, InterShotConfig) else 0


def matching_flops(made: DmdRecipe, shot: Shot) -> MatchingFlops:
    """Returns the operations of the parts of such a step; see `matching_step`."""
    stage = made.stage
    steps, lora_rank = tuple(stage.student_steps), _lora_rank(stage)
    values = _of_all_layers(made.model.dit, lambda dit: _matching_flops(dit, steps, lora_rank, shot))
    first, last, learnt_first, learnt_last, fake, fake_asked, teacher_asked, again, fake_again = values
    guided = (stage.guidance != 1.0) + (stage.context_guidance != 1.0)
    # One pass of the fake score, and the passes of the guided teacher.
    asked = fake_asked + (1 + guided) * teacher_asked
    return MatchingFlops(
        (first, last), (learnt_first, learnt_last), fake, asked, (again, fake_again), len(steps)
    )


@cache
def _matching_flops(
    config: DiTConfig, student_steps: tuple[int, ...], lora_rank: int, shot: Shot
) -> tuple[float, ...]:
    """Cached: counting takes many seconds, and most recipes differ in other numbers only."""
    sample = _Sample(config, shot, lora_rank)
    dit = sample.network(lambda _: True)
    # Every shift costs the same.
    sigmas = FlowSchedule(shift=1.0).student_sigmas(student_steps).to(_META)

    def rolled(exit_step: int) -> Tensor:
        rollout = student_rollout(
            dit, sample.conditioning, sample.text, sigmas, seeds=[0], dtype=sample.dtype
        )
        return torch.cat(list(rollout.chunks(shot.num_chunks, [exit_step] * shot.num_chunks)), dim=2)

    last = len(student_steps) - 1
    # At every exit step one pass has a gradient, so its recomputed blocks are counted once, and every step
    # before it is a pass without one, so that the first two exits tell all.
    learnt = sample.count(dit, partial(rolled, 0))
    fake = sample.count(dit, lambda: sample.velocity(dit))
    with torch.no_grad():
        first, second = (
            sample.count(dit, partial(rolled, min(step, last)), recompute=False).flops for step in (0, 1)
        )
        teacher = sample.network(lambda _: True, adapted=False)
        asked = [
            sample.count(network, partial(sample.velocity, network), recompute=False).flops
            for network in (dit, teacher)
        ]
    steps = last * (second - first)
    return (
        first, first + steps, learnt.flops, learnt.flops + steps, fake.flops, *asked,
        learnt.recomputed_flops, fake.recomputed_flops,
    )  # fmt: skip


class _Sample:
    """Inputs of a sample on the meta device, in half precision as with autocast, and passes of networks."""

    def __init__(self, config: DiTConfig, shot: Shot, lora_rank: int = 0) -> None:
        self.config, self.dtype, self._lora_rank = config, torch.bfloat16, lora_rank
        self.conditioning: Conditioning = first_shot_conditioning(config, shot.latent_size, device=_META)
        num_frames = shot.num_chunks * config.chunk_latent_frames
        shape = (1, config.latent_channels, num_frames, *self.conditioning.context.shape[-2:])
        self.noisy = torch.empty(shape, device=_META)
        self.sigma = torch.empty(1, num_frames, device=_META)
        self.text = torch.empty(1, shot.num_captions, config.text_length, config.text_dim, device=_META)

    @property
    def tokens_per_frame(self) -> int:
        return token_grid(self.noisy, self.config).num_tokens

    def network(self, learns: Callable[[str], bool], *, adapted: bool = True) -> DiT:
        with _META:
            dit = DiT(self.config)
            if self._lora_rank and adapted:
                attach_adapters(dit, rank=self._lora_rank, alpha=self._lora_rank, seed=0)
            dit.to(self.dtype)
        if not self._lora_rank:
            for name, parameter in dit.named_parameters():
                parameter.requires_grad_(learns(name))
        return dit

    def velocity(self, dit: DiT) -> Tensor:
        return shot_velocity(dit, self.conditioning, self.text, self.noisy, self.sigma)

    def count(self, dit: DiT, function: Callable[[], Tensor], *, recompute: bool = True) -> StepCost:
        """Returns the cost of a function, including its backward pass if it has one.

        Args:
            dit: The network that the function calls.
            function: What is counted.
            recompute: Whether recomputed blocks are counted too, which takes as long again.
        """
        flops: list[float] = []
        for checkpointed in (False, True) if recompute else (False,):
            dit.activation_checkpointing = checkpointed
            with FlopCounterMode(display=False) as counter:
                result = function()
                if result.requires_grad:
                    result.float().square().mean().backward()
            flops.append(float(counter.get_total_flops()))
        return StepCost(flops[0], flops[-1] - flops[0])
