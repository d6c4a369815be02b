"""What must a training step cost? Counted, not measured: operations and bytes of the 1.3B stages.

The networks are built on the device meta, which computes nothing, and the very functions that the stages
call are run there under torch's counter of operations, and under hooks that see what the backward pass
would need. So it is arithmetic over the code as it is, on no hardware. Multiplications and additions in
matrix products and attention are counted, as two operations; nothing else is, and neither are the codec and
the optimisers. Recomputed blocks are counted apart: they are work of the machine, not of the model.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from shotstream.diffusion.schedule import FlowSchedule
from shotstream.geometry import LatentSize
from shotstream.model.config import DiTConfig
from shotstream.model.dit import DiT
from shotstream.streaming.conditioning import Conditioning, first_shot
from shotstream.training.stages.dmd import DmdTraining, student_rollout
from shotstream.training.stages.teacher import TeacherTraining, token_grid
from shotstream.training.velocity import shot_velocity

_FLOAT32_BYTES, _BFLOAT16_BYTES = 4, 2
_META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class StepCost:
    """Of one step, for each sample of its batch; `state_bytes` whatever the batch."""

    flops: float
    """Of the model, the backward passes included."""
    recomputed_flops: float
    """Of blocks that are computed again in backward passes."""
    activation_bytes: int
    """What the backward pass over whole shots needs, apart from parameters, where nothing is recomputed."""
    input_bytes: int
    """The inputs of all blocks, for which activations can be recomputed."""
    cache_bytes: int
    """Keys and values of the dual cache."""
    state_bytes: int
    """Parameters, gradients, moments and averages of all networks, in float32; shared out over all GPUs."""
    num_layers: int
    """Of the network."""

    @property
    def checkpointed_bytes(self) -> int:
        """What a backward pass needs at once when blocks are recomputed: their inputs, and all of one."""
        return self.input_bytes + self.activation_bytes // self.num_layers


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """What is trained on."""

    latent_size: LatentSize
    num_chunks: int
    num_captions: int = 3
    """Caption rows of a sample: of the shots kept, and its own."""


def teacher_step(training: TeacherTraining, shot: Shot) -> StepCost:
    """Of a bidirectional step of the teacher."""
    return _of_all_layers(training.dit, lambda dit: _teacher_step(replace(training, dit=dit), shot))


def _teacher_step(training: TeacherTraining, shot: Shot) -> StepCost:
    scene = _Scene(training.dit, shot)
    dit = scene.network(lambda name: training.learns == "all" or ".self_attn." in name)
    step = scene.count(dit, lambda: scene.velocity(dit))
    parameters = sum(value.numel() for value in dit.parameters())
    learning = sum(value.numel() for value in dit.parameters() if value.requires_grad)
    # Parameters and their averages; of what learns, a gradient and two moments.
    states = _FLOAT32_BYTES * (2 * parameters + 3 * learning)
    return StepCost(step.flops, step.recomputed, *scene.saved_bytes(dit), 0, states, training.dit.num_layers)


def matching_step(training: DmdTraining, shot: Shot, num_filmed: int = 0) -> StepCost:
    """Of a step of distribution matching: the fake score's updates and one of the student; all of both learn.

    Args:
        training: the recipe.
        shot: what is learnt.
        num_filmed: shots that the student films before it, for a history of its own.
    """

    def of(dit: DiTConfig) -> StepCost:
        teacher = replace(training.teacher, dit=dit)
        return _matching_step(replace(training, teacher=teacher), shot, num_filmed)

    return _of_all_layers(training.teacher.dit, of)


def _of_all_layers(dit: DiTConfig, cost_of: Callable[[DiTConfig], StepCost]) -> StepCost:
    """The cost at the full depth, from those at depths 1 and 2: blocks are alike, and counting takes long."""
    one, two = (cost_of(replace(dit, num_layers=depth)) for depth in (1, 2))
    values = {
        field.name: getattr(one, field.name)
        + (dit.num_layers - 1) * (getattr(two, field.name) - getattr(one, field.name))
        for field in fields(StepCost)
    }
    return StepCost(**values)


def _matching_step(training: DmdTraining, shot: Shot, num_filmed: int) -> StepCost:
    config = training.teacher.dit
    scene = _Scene(config, shot)
    dit = scene.network(lambda _: True)
    sigmas = FlowSchedule(shift=training.teacher.shift).student_sigmas(training.student_steps).to(_META)
    ends = (0, len(training.student_steps) - 1)

    def rolled(exit_step: int) -> Tensor:
        rollout = student_rollout(dit, scene.conditioning, scene.text, sigmas, seeds=[0], dtype=scene.dtype)
        return torch.cat(list(rollout.chunks(shot.num_chunks, [exit_step] * shot.num_chunks)), dim=2)

    # Exit steps are drawn evenly, and the cost is linear in them: the mean of the first and the last.
    learnt = [scene.count(dit, partial(rolled, end)) for end in ends]
    fake = scene.count(dit, lambda: scene.velocity(dit))
    with torch.no_grad():
        filmed = [scene.count(dit, partial(rolled, end)).flops for end in ends]
        asked = scene.count(dit, lambda: scene.velocity(dit)).flops
    guided = (training.guidance != 1.0) + (training.context_guidance != 1.0)
    num_asked = 2 + guided  # the fake score, and the teacher, guided
    flops = training.fake_updates * (sum(filmed) / 2 + fake.flops)
    flops += sum(one.flops for one in learnt) / 2 + num_asked * asked + num_filmed * filmed[-1]
    recomputed = training.fake_updates * fake.recomputed + sum(one.recomputed for one in learnt) / 2
    parameters = sum(value.numel() for value in dit.parameters())
    seen = config.num_context_frames + config.window_chunks * config.chunk_latent_frames
    cached = 2 * config.num_layers * config.dim * seen * token_grid(scene.noisy, config).num_tokens
    # The student with its average, the fake score, each with a gradient and two moments, and the teacher.
    states = _FLOAT32_BYTES * parameters * (5 + 4 + 1)
    return StepCost(
        flops,
        recomputed,
        *scene.saved_bytes(dit),
        cached * _BFLOAT16_BYTES,
        states,
        config.num_layers,
    )


class _Scene:
    """Inputs of a sample, and what networks do with them, on meta; in half precision, as autocast has it."""

    def __init__(self, config: DiTConfig, shot: Shot) -> None:
        self.config, self.dtype = config, torch.bfloat16
        self.conditioning: Conditioning = first_shot(config, shot.latent_size, device=_META)
        num_frames = shot.num_chunks * config.chunk_latent_frames
        shape = (1, config.latent_channels, num_frames, *self.conditioning.context.shape[-2:])
        self.noisy = torch.empty(shape, device=_META)
        self.sigma = torch.empty(1, num_frames, device=_META)
        self.text = torch.empty(1, shot.num_captions, config.text_length, config.text_dim, device=_META)

    def network(self, learns: Callable[[str], bool]) -> DiT:
        with _META:
            dit = DiT(self.config).to(self.dtype)
        for name, parameter in dit.named_parameters():
            parameter.requires_grad_(learns(name))
        return dit

    def velocity(self, dit: DiT) -> Tensor:
        return shot_velocity(dit, self.conditioning, self.text, self.noisy, self.sigma)

    def count(self, dit: DiT, function: Callable[[], Tensor]) -> "_Count":
        """What a function costs, its backward pass included if it has one."""
        flops: list[float] = []
        for checkpointed in (False, True):
            dit.activation_checkpointing = checkpointed
            with FlopCounterMode(display=False) as counter:
                result = function()
                if result.requires_grad:
                    result.float().square().mean().backward()
            flops.append(float(counter.get_total_flops()))
        return _Count(flops[0], flops[1] - flops[0])

    def saved_bytes(self, dit: DiT) -> tuple[int, int]:
        """`StepCost.activation_bytes` and `input_bytes`.

        The weights of attention are left out, which only this device has as a matrix.
        """
        per_frame = token_grid(self.noisy, self.config).num_tokens
        num_tokens = (self.noisy.shape[2] + self.config.num_context_frames) * per_frame
        parameters = {_identity(value.untyped_storage()) for value in dit.parameters()}
        seen: dict[int, tuple[int, torch.UntypedStorage]] = {}
        largest = num_tokens * max(self.config.ffn_dim, self.config.dim) * _FLOAT32_BYTES

        def keep(value: Tensor) -> Tensor:
            storage = value.untyped_storage()
            if _identity(storage) not in parameters and storage.nbytes() <= largest:
                seen[_identity(storage)] = storage.nbytes(), storage
            return value

        dit.activation_checkpointing = False
        with saved_tensors_hooks(keep, lambda value: value):
            self.velocity(dit)
        inputs = self.config.num_layers * num_tokens * self.config.dim * _BFLOAT16_BYTES
        return sum(size for size, _ in seen.values()), inputs


class _Count(NamedTuple):
    flops: float
    recomputed: float


def _identity(storage: torch.UntypedStorage) -> int:
    """What tells storages apart where they have no address."""
    return storage._cdata  # pyright: ignore[reportPrivateUsage]
