"""Causal initialisation: a copy of the teacher learns to jump from any kept state of a trajectory to its end.

Trajectories of one chunk start from one level; of whole shots, each chunk has its own, so that the student
sees a history of any cleanness, as published. The text encoder is the teacher's, frozen.

Source: ODE regression of CausVid (arXiv 2412.07772) and arXiv 2603.25746, on pairs from a causal teacher
with a clean history (arXiv 2602.02214) or from a bidirectional one; see `ode_pairs`.
"""

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor

from shotstream.data.checks import require_decay, require_positive, require_within
from shotstream.data.ode_pairs import OdePairs
from shotstream.diffusion.flow import x0_from_velocity
from shotstream.diffusion.schedule import FlowSchedule
from shotstream.losses.ode_regression import ode_regression_loss
from shotstream.model.positions import context_positions
from shotstream.streaming.conditioning import Conditioning, full_pass
from shotstream.training.ema import Ema
from shotstream.training.keys import draws
from shotstream.training.optimisers import ClippedAdamW, MuonAdamW
from shotstream.training.parallelize import Execution, whole_state
from shotstream.training.precision import MatmulDtype, multiplying, require_matmul_dtype
from shotstream.training.rates import rate_factor
from shotstream.training.stages.ode_pairs import OdePairsTraining
from shotstream.training.stages.teacher import TheatreModel, shot_mask

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalInitTraining:
    """The recipe of a causal initialisation."""

    pairs: OdePairsTraining
    """How the pairs were made."""
    num_steps: int
    """Steps of the run, which a recipe gives from its loop."""
    seed: int = 2
    """Of everything that is drawn."""
    learning_rate: float = 2e-4
    """AdamW's; hidden matrices go to Muon, at three times it."""
    optimiser: Literal["muon", "adamw"] = "muon"
    """"adamw": AdamW without momentum for everything, as the published code has it."""
    max_norm: float = 1.0
    """Gradients are clipped to this norm."""
    decays: bool = True
    """Whether the learning rate falls to zero over the run."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises from zero."""
    ema_decay: float = 0.995
    """Decay per step of the averaged weights, which are what is used afterwards."""
    max_bad_files: int = 4
    """Files of pairs that may be unreadable or hold numbers that are none; each is named and skipped."""
    matmul_dtype: MatmulDtype = "float32"
    """What linear layers compute in; "auto" is bfloat16 where the device multiplies it faster."""

    def __post_init__(self) -> None:
        require_matmul_dtype(self.matmul_dtype)
        require_within(self, 0, inf, ("seed", "max_bad_files"))
        require_within(self, 1, inf, ("num_steps", "warmup_steps"))
        require_positive(self, ("learning_rate", "max_norm"))
        if self.optimiser not in ("muon", "adamw"):
            raise ValueError(f"optimiser is {self.optimiser!r}; give muon or adamw")
        require_decay(self, ("ema_decay",))

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at a step; see `rates.py`."""
        return rate_factor(
            step,
            num_steps=self.num_steps,
            warmup_steps=self.warmup_steps,
            decay_steps=self.num_steps if self.decays else 1,
        )


class CausalInitStage:
    """A `Stage` that trains a student on ODE pairs."""

    def __init__(
        self,
        config: CausalInitTraining,
        teacher: TheatreModel,
        files: list[Path],
        *,
        film: Callable[[TheatreModel, int, Path], Mapping[str, float]] | None = None,
        execution: Execution | None = None,
    ) -> None:
        """The student starts as a copy of `teacher`, which is changed in place.

        Args:
            config: the recipe.
            teacher: where the student begins, on the device that trains it.
            files: of pairs.
            film: draws and scores what the averaged student films; see `Stage.preview`.
            execution: how steps are computed.

        Raises:
            ValueError: there are no pairs.
        """
        if not files:
            raise ValueError("there are no ODE pairs; run the recipe that makes them first")
        self.config, self.execution = config, execution or Execution()
        self.model = teacher
        self.model.text.eval().requires_grad_(False)
        self._blank = copy.deepcopy(teacher)
        self._blank.dit.to("meta")
        self.execution.shares(self.batch_size)
        self.execution.parallelize(self.model.dit)
        self.files, self._film = files, film
        self._bad: set[Path] = set()
        schedule = FlowSchedule(shift=config.pairs.teacher.shift)
        self.sigmas = torch.cat([schedule.student_sigmas(config.pairs.student_steps), torch.zeros(1)])
        self.ema = Ema(self.model.dit, config.ema_decay)
        self.optimiser = _optimiser(config, self.model)

    @property
    def batch_size(self) -> int:
        """Samples of a step: those of a file, if it was made as the recipe says."""
        return self.config.pairs.teacher.batch_size

    def step(self, step: int) -> Mapping[str, float]:
        """One step; see `Stage.step`."""
        pairs, chosen = self._draw(step)

        num_noised = (chosen < len(self.sigmas) - 1).float().sum().item() / len(chosen)

        def loss_of(samples: range) -> Tensor:
            return self.loss(part_of(pairs, samples), chosen[list(samples)], num_noised=num_noised)

        loss = self.execution.backward(len(chosen), loss_of, "student's", step)
        norm = self.optimiser.step(self.config.rate(step))
        self.ema.update(self.model.dit)
        return {"loss": loss, "norm": norm.item()}

    def inputs(self, step: int) -> dict[str, Any]:
        """The pairs of a step and the level that each sample starts from."""
        pairs, chosen = self._draw(step)
        return {
            "states": pairs.states,
            "history": pairs.history,
            "context": pairs.conditioning.context,
            "captions": pairs.captions,
            "levels": chosen,
        }

    def _draw(self, step: int) -> tuple[OdePairs, Int[Tensor, "b n"]]:
        """The pairs of a step, and the state that each chunk of a sample starts from: any of the noisy ones,
        and where another chunk follows, the clean one too.
        """
        pairs, levels = self._read(step), len(self.sigmas) - 1
        num_chunks = pairs.states.shape[3] // self.model.dit.config.chunk_latent_frames
        chosen: list[list[int]] = []
        for sample in range(len(pairs.states)):
            rng = draws(self.config.seed, "init/level", step, sample)
            last = num_chunks - 1
            chosen.append([int(rng.integers(levels + (chunk < last))) for chunk in range(num_chunks)])
        return pairs, torch.tensor(chosen)

    def _read(self, step: int) -> OdePairs:
        """The pairs of a step: a file of an order that is new in every epoch, or the next good one after it.

        Raises:
            ValueError: more files are bad than `max_bad_files`, or all are.
        """
        epoch, index = divmod(step, len(self.files))
        order = draws(self.config.seed, "init/order", epoch).permutation(len(self.files))
        for place in range(len(self.files)):
            path = self.files[int(order[(index + place) % len(order)])]
            if path in self._bad:
                continue
            try:
                return _checked(OdePairs.read(path))
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                self._bad.add(path)
                log.warning(
                    "%s is skipped: %s (%d of at most %d bad files)",
                    path, " ".join(str(error).split()), len(self._bad), self.config.max_bad_files,
                )  # fmt: skip
                if len(self._bad) > self.config.max_bad_files:
                    raise ValueError(
                        f"{len(self._bad)} files of pairs are bad, {path} the last; make them again, or "
                        "allow more with stage.max_bad_files"
                    ) from error
        raise ValueError(f"no file of pairs in {self.files[0].parent} is good; make them again")

    def loss(
        self, pairs: OdePairs, chosen: Int[Tensor, "b n"], *, num_noised: float | None = None
    ) -> Float[Tensor, ""]:
        """The squared error of the data predicted from the chosen state of each sample's chunks.

        Args:
            pairs: on the CPU.
            chosen: for each chunk the place of its state in the trajectory.
            num_noised: chunks of a sample that start from noise, on average over the effective batch, so that
                means over parts of it average to the mean over all; None: these are all.
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
        with multiplying(self.config.matmul_dtype, device):
            velocity = self.model.dit(inputs.x, inputs.sigma, text, inputs.positions, mask=mask)
        predicted = x0_from_velocity(noisy, velocity[:, :, -noisy.shape[2] :], sigma)
        counted = None if num_noised is None else num_noised * size * len(chosen)
        return ode_regression_loss(predicted, x0, sigma, num_noised=counted)

    def averaged(self) -> TheatreModel:
        """The student with averaged weights, in eval mode."""
        student = copy.deepcopy(self._blank)
        student.dit.to_empty(device=self.model.device)
        student.load_state_dict(whole_state(self.model.state_dict()))
        self.ema.copy_to(student.dit)
        return student.eval()

    @torch.no_grad()
    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        """Held-out stories filmed with the averaged weights; their loss at each level, on the first file."""
        averaged = self.averaged()
        if not self.execution.world.leads:
            return {}
        pairs = self._read(0)
        own, self.model = self.model, averaged
        shape = pairs.states.shape[0], pairs.states.shape[3] // self.model.dit.config.chunk_latent_frames
        losses = {
            f"loss_{level}": self.loss(pairs, torch.full(shape, level)).item()
            for level in range(len(self.sigmas) - 1)
        }
        self.model = own
        return losses if self._film is None else {**losses, **self._film(averaged, step, directory)}

    def prime(self) -> None:
        """See `Stage.prime`."""
        self.optimiser.prime()

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


def _optimiser(config: CausalInitTraining, model: TheatreModel) -> MuonAdamW | ClippedAdamW:
    if config.optimiser == "adamw":
        return ClippedAdamW(model.dit.parameters(), config.learning_rate, config.max_norm)
    return MuonAdamW(
        model.dit.named_parameters(),
        learning_rate=config.learning_rate,
        max_norm=config.max_norm,
        adamw_names=("head", "text_embedding", "time_embedding"),
    )


def part_of(pairs: OdePairs, samples: range) -> OdePairs:
    """Some samples of a batch of pairs."""
    rows = slice(samples.start, samples.stop)
    given, positions = pairs.conditioning, pairs.conditioning.positions
    return OdePairs(
        states=pairs.states[rows],
        history=pairs.history[rows],
        conditioning=Conditioning(
            context=given.context[rows],
            positions=context_positions(positions.shot_phase[rows], positions.caption_index[rows]),
            target_phase=given.target_phase[rows],
            target_caption=given.target_caption[rows],
        ),
        captions=pairs.captions[rows],
    )


def _checked(pairs: OdePairs) -> OdePairs:
    """The pairs; ValueError when they cannot be learnt from."""
    if not all(value.isfinite().all() for value in (pairs.states, pairs.history, pairs.conditioning.context)):
        raise ValueError("it holds numbers that are not finite")
    return pairs
