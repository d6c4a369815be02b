"""Finishes a theatre codec's decoder: the encoder stays, so that latents and what was learnt on them do too.

The finish sees one cell and what stands around it, so a step needs few cells of each picture: those that show
an actor, most of them in wide shots and in motion, which are a twentieth of all pixels and were learnt last.
The layers that look around are frozen with the encoder. Noise and loss are those of the codec's own training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from shotstream.codec.patch_codec import PatchCodec, PatchCodecConfig
from shotstream.codec.pixels import from_levels
from shotstream.data.checks import require_decay, require_positive, require_within
from shotstream.geometry import WAN_GEOMETRY as _GEOMETRY
from shotstream.theatre.cast import Action
from shotstream.theatre.palette import RGB
from shotstream.theatre.render import FRAMINGS, Shot, frame_at
from shotstream.theatre.world import sample_story
from shotstream.training.checkpoint import load_checkpoint
from shotstream.training.ema import Ema
from shotstream.training.keys import draws, sample_noise, tensor_draws
from shotstream.training.optimisers import MuonAdamW
from shotstream.training.parallelize import Execution
from shotstream.training.rates import rate_factor

_MOVING: Final[frozenset[Action]] = frozenset(("walks", "jumps", "dances"))
_LEARNT: Final = ("finish", "head.", "colours.")
# Latent frames of a shot that a clip may start at.
_NUM_STARTS: Final = 9
# Keys the clips of every preview; no run is that long.
_PREVIEW_STEP: Final = 2**31 - 1
_NUM_PREVIEWED: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderTraining:
    """The recipe of a decoder's finish."""

    codec: PatchCodecConfig
    """Sizes of the finished codec; its encoder and the layers that look around are as the input's."""
    num_steps: int
    """Steps of the run, which a recipe gives from its loop; see `rates.py`."""
    decay_steps: int
    """Steps at the end over which the learning rate falls to zero."""
    seed: int = 0
    """Of everything that is drawn."""
    batch_size: int = 24
    """Clips per step."""
    num_latent_frames: int = 4
    """Latent frames of a clip."""
    framing_weights: tuple[float, ...] = (1.0, 0.9, 0.3)
    """How often a shot that is drawn is kept: wide, medium, close-up."""
    still_weight: float = 0.4
    """The same factor for shots in which nobody walks, jumps or dances."""
    cells_per_clip: int = 64
    """Cells of a clip that a step looks at, those with an actor first."""
    pixels_per_cell: int = 48
    """Pixels of a cell that a step looks at, drawn anew each step."""
    figure_weight: float = 3.0
    """Weight of an actor's pixels, and of those beside them, against others."""
    learning_rate: float = 1.5e-3
    """AdamW's; hidden matrices go to Muon, at three times it."""
    warmup_steps: int = 30
    """Steps over which the learning rate rises from zero."""
    max_noise: float = 0.7
    """Scale of the noise on latents is uniform in [0, max_noise], in standard deviations."""
    ema_decay: float = 0.995
    """Decay per step of the averaged weights, which are what is used afterwards."""

    def __post_init__(self) -> None:
        require_within(self, 0, inf, ("seed", "max_noise"))
        counts = ("num_steps", "decay_steps", "batch_size", "num_latent_frames", "warmup_steps")
        require_within(self, 1, inf, (*counts, "cells_per_clip", "pixels_per_cell"))
        require_within(self, 0, 1, ("framing_weights", "still_weight"))
        require_positive(self, ("learning_rate", "figure_weight"))
        require_decay(self, ("ema_decay",))
        if not self.codec.num_finish_layers:
            raise ValueError("codec.num_finish_layers is 0: there is nothing to train")
        if len(self.framing_weights) != len(FRAMINGS) or not sum(self.framing_weights):
            raise ValueError(
                f"framing_weights is {self.framing_weights!r}; give one for each of {', '.join(FRAMINGS)}, "
                "not all of them 0"
            )

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at a step; see `rates.py`."""
        return rate_factor(
            step, num_steps=self.num_steps, warmup_steps=self.warmup_steps, decay_steps=self.decay_steps
        )


class DecoderStage:
    """A `Stage` that trains the finish of a `PatchCodec`."""

    def __init__(
        self,
        config: DecoderTraining,
        plain: PatchCodec,
        device: torch.device | str = "cpu",
        execution: Execution | None = None,
    ) -> None:
        """ValueError for a way of computing that it does not have, or another codec than the recipe's."""
        torch.manual_seed(config.seed)  # the initial weights
        self.config, self.execution = config, execution or Execution()
        if self.execution.world.size > 1:
            raise ValueError("a decoder is finished by one process")
        self.execution.refuse(
            ("accumulation", "samples_at_once", "activation_checkpointing", "compile"), "the finish is small"
        )
        self.device = torch.device(device)
        self.codec = finished(plain, config.codec).to(self.device)
        _free_the_finish(self.codec)
        self.ema = Ema(self.codec, config.ema_decay)
        self.optimiser = MuonAdamW(
            self.codec.named_parameters(),
            learning_rate=config.learning_rate,
            adamw_names=("finish_in", "head", "colours"),
        )

    @property
    def batch_size(self) -> int:
        """Samples of a step."""
        return self.config.batch_size

    def batch(self, step: int) -> tuple[UInt8[Tensor, "b p h w"], Bool[Tensor, "b p h w"]]:
        """Colour indices of the pictures of a step's clips, and where their actors are.

        No clip shows a pair of species and colour that is held out.
        """
        clips = [self._clip(step, sample, held_out=False) for sample in range(self.batch_size)]
        return torch.stack([clip[1] for clip in clips]), torch.stack([clip[2] for clip in clips])

    def _clip(self, step: int, sample: int, *, held_out: bool) -> tuple[Shot, Tensor, Tensor]:
        """A shot, and of a clip of it the pictures' colours and where its actors are."""
        rng = draws(self.config.seed, "decoder/clip", step, sample)
        shot = sample_story(rng, 1, held_out=held_out).shots[0]
        while rng.random() >= self._weight(shot):
            shot = sample_story(rng, 1, held_out=held_out).shots[0]
        first = _GEOMETRY.temporal_stride * int(rng.integers(_NUM_STARTS))
        held = _GEOMETRY.temporal_stride // self.config.codec.num_pictures
        num_frames = _GEOMETRY.temporal_stride * (self.config.num_latent_frames - 1)
        frames = [first, *range(first + 1, first + 1 + num_frames, held)]
        drawn = np.stack([frame_at(shot, frame) for frame in frames])
        empty = np.stack([frame_at(shot, frame, empty=True) for frame in frames])
        copies = [self.config.codec.num_pictures, *[1] * (len(frames) - 1)]
        pictures, figures = (value.repeat(copies, axis=0) for value in (drawn, drawn != empty))
        return shot, torch.from_numpy(pictures), torch.from_numpy(figures)

    def _weight(self, shot: Shot) -> float:
        moving = any(performance.action in _MOVING for performance in shot.performances)
        weight = self.config.framing_weights[FRAMINGS.index(shot.framing)]
        return weight * (1.0 if moving else self.config.still_weight)

    @torch.no_grad()
    def _latents(self, pictures: UInt8[Tensor, "b p h w"]) -> Float[Tensor, "b z latent_f latent_h latent_w"]:
        """Latents of clips; the encoder sees every frame of them."""
        num_pictures = self.config.codec.num_pictures
        held = _GEOMETRY.temporal_stride // num_pictures
        frames = torch.cat(
            [pictures[:, :1], pictures[:, num_pictures:].repeat_interleave(held, dim=1)], dim=1
        )
        pixels = from_levels(torch.from_numpy(RGB)[frames.long()]).permute(0, 4, 1, 2, 3)
        return self.codec.encode(pixels.to(self.device))

    def step(self, step: int) -> Mapping[str, float]:
        """One step; see `Stage.step`."""
        right: list[float] = []

        def loss_of(samples: range) -> Tensor:
            assert len(samples) == self.batch_size
            loss, share = self._loss(step)
            right.append(share)
            return loss

        loss = self.execution.backward(self.batch_size, loss_of, "decoder's", step)
        self.optimiser.step(self.config.rate(step))
        self.ema.update(self.codec)
        return {"loss": loss, "figures_right": right[0]}

    def _loss(self, step: int) -> tuple[Float[Tensor, ""], float]:
        """The weighted cross-entropy of a step's cells, and the share of actors' pixels that are right."""
        config, seed = self.config, self.config.seed
        pictures, figures = self.batch(step)
        samples = range(self.batch_size)
        latents = self._latents(pictures)
        scales = [draws(seed, "decoder/scale", step, sample).random() for sample in samples]
        scale = torch.tensor(scales, dtype=torch.float32)[:, None, None, None, None] * config.max_noise
        noise = scale * sample_noise(latents.shape[1:], seed, "decoder/noise", (step,), samples)
        noisy = latents + noise.to(self.device)
        with torch.no_grad():
            around = self.codec.surroundings(noisy, self.codec.before(noisy)).flatten(1, 3)
        generator = tensor_draws(seed, "decoder/cells", step)
        near = F.max_pool2d(figures.float(), 3, stride=1, padding=1)
        targets, weights = self._cells(pictures).long(), self._cells(near)
        order = torch.rand(weights.shape[:2], generator=generator) + weights.amax(dim=-1)
        cells = order.topk(min(config.cells_per_clip, order.shape[1]), dim=1).indices[..., None]
        pixels = torch.randperm(targets.shape[-1], generator=generator)[: config.pixels_per_cell]
        targets = targets.take_along_dim(cells, dim=1)[..., pixels].to(self.device)
        weights = weights.take_along_dim(cells, dim=1)[..., pixels].to(self.device)
        cells, pixels = cells.to(self.device), pixels.to(self.device)
        logits = self.codec.finished_logits(around.take_along_dim(cells, dim=1), pixels)
        right = (logits.detach().argmax(dim=-1) == targets).float()
        losses = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none").view_as(weights)
        weighted = 1 + (config.figure_weight - 1) * weights
        share = (right * weights).sum() / weights.sum().clamp(min=1)
        return (losses * weighted).sum() / weighted.sum(), share.item()

    def _cells(self, pictures: Tensor) -> Tensor:
        side = _GEOMETRY.spatial_stride
        return rearrange(
            pictures, "b (f t) (h i) (w j) -> b (f h w) (t i j)",
            t=self.config.codec.num_pictures, i=side, j=side,
        )  # fmt: skip

    def inputs(self, step: int) -> dict[str, Any]:
        """A step's clips, as colour indices."""
        return {"pictures": self.batch(step)[0]}

    def averaged(self) -> PatchCodec:
        """The codec with averaged weights, on the CPU and in eval mode."""
        codec = PatchCodec(self.config.codec)
        codec.load_state_dict({name: value.cpu() for name, value in self.codec.state_dict().items()})
        self.ema.copy_to(codec)
        return codec.eval()

    @torch.no_grad()
    def preview(self, step: int, directory: Path) -> Mapping[str, float]:  # noqa: ARG002
        """The share of actors' pixels that are right in held-out clips, by framing."""
        codec, found = self.averaged(), dict[str, list[float]]()
        for sample in range(_NUM_PREVIEWED):
            shot, pictures, figures = self._clip(_PREVIEW_STEP, sample, held_out=True)
            latents = self._latents(pictures[None]).cpu()
            logits = codec.decode_logits(latents, codec.before(latents))
            right = (logits.argmax(dim=-1).flatten(0, 2) == pictures)[figures]
            if len(right):
                found.setdefault(f"right_{shot.framing}", []).append(right.float().mean().item())
        return {name: float(np.mean(values)) for name, values in found.items()}

    def prime(self) -> None:
        """See `Stage.prime`."""
        self.optimiser.prime()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {
            "weights": self.codec.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self.codec.load_state_dict(state["weights"])
        self.ema.load_state_dict(state["ema"])
        if "optimiser" in state:
            self.optimiser.load_state_dict(state["optimiser"])


def finished(plain: PatchCodec, config: PatchCodecConfig) -> PatchCodec:
    """A codec with a finish that does nothing yet: it decodes as `plain`, but for pictures that are held.

    Those begin as the mean of what `plain` would say of their frames.

    Raises:
        ValueError: `plain` has a finish, or other sizes than the config.
    """
    codec = PatchCodec(config)
    own, old = codec.state_dict(), plain.state_dict()
    differing = [name for name in old if not name.startswith("head.") and own[name].shape != old[name].shape]
    if differing or plain.config.num_finish_layers:
        raise ValueError(f"the codec to finish is of {plain.config}, the recipe wants {config}")
    by_picture = (config.num_pictures, -1, plain.head.out_features // plain.config.num_pictures)
    head, bias = (value.unflatten(0, by_picture) for value in (plain.head.weight, plain.head.bias))
    with torch.no_grad():
        own.update({name: value for name, value in old.items() if not name.startswith("head.")})
        own["head.weight"] = torch.cat(
            [torch.zeros(own["head.weight"].shape[0], config.finish_dim), head.mean(dim=1).flatten(0, 1)],
            dim=1,
        )
        own["head.bias"] = bias.mean(dim=1).flatten()
        codec.load_state_dict(own)
    return codec.eval()


def _free_the_finish(codec: PatchCodec) -> None:
    """Lets that learn alone."""
    for name, parameter in codec.named_parameters():
        parameter.requires_grad_(name.startswith(_LEARNT))


def finished_from_run(checkpoint: Path, config: PatchCodecConfig) -> PatchCodec:
    """The averaged codec of a run, frozen."""
    _, state = load_checkpoint(checkpoint)
    codec = PatchCodec(config)
    _free_the_finish(codec)
    ema = Ema(codec, 0.0)
    codec.load_state_dict(state["weights"])
    ema.load_state_dict(state["ema"])
    ema.copy_to(codec)
    return codec.eval().requires_grad_(False)
