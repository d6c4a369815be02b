"""Trains the theatre's codec: encode clips, disturb the latents, name every pixel's colour.

The noise on the latents is the regulariser: channels must carry what survives it, and the decoder learns to
clean what a generator leaves behind. The loss is the cross-entropy of the palette colour, in float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from shotstream.codec.patch_codec import PatchCodec, PatchCodecConfig
from shotstream.codec.pixels import from_levels, to_levels
from shotstream.data.checks import require_decay, require_positive, require_within
from shotstream.geometry import WAN_GEOMETRY as _GEOMETRY
from shotstream.theatre.palette import RGB, to_rgb
from shotstream.theatre.render import frame_at
from shotstream.theatre.world import sample_story
from shotstream.training.checkpoint import load_checkpoint
from shotstream.training.ema import Ema
from shotstream.training.keys import draws, sample_noise, tensor_draws
from shotstream.training.optimisers import MuonAdamW
from shotstream.training.parallelize import Execution, whole_state
from shotstream.training.rates import rate_factor

_CLIP_FRAMES = _GEOMETRY.shot_num_frames(1)
_CELL_PIXELS = _GEOMETRY.temporal_stride * _GEOMETRY.spatial_stride**2
# Latent frames of a shot that a clip may start at.
_NUM_STARTS = 9
# Steps over which the learning rate rises from zero.
_WARMUP_STEPS = 30
# Keys the clips of every preview; no run is that long.
_PREVIEW_STEP = 2**31 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecTraining:
    """The recipe of a codec."""

    codec: PatchCodecConfig
    """Sizes of the codec."""
    num_steps: int
    """Steps of the run, over which the learning rate falls to zero; a recipe gives it from its loop."""
    seed: int = 0
    """Of everything that is drawn."""
    batch_size: int = 16
    """Clips per step, of two latent groups each: frame 4k and the eight after it."""
    learning_rate: float = 5e-3
    """AdamW's; hidden matrices go to Muon, at three times it."""
    pixels_per_cell: int = 48
    """Pixels, of those that one latent stands for, that a step looks at, drawn anew each step."""
    max_noise: float = 0.7
    """Scale of the noise on latents is uniform in [0, max_noise], in standard deviations."""
    ema_decay: float = 0.999
    """Decay per step of the averaged weights, which are what is used afterwards."""

    def __post_init__(self) -> None:
        require_within(self, 0, inf, ("seed", "max_noise"))
        require_within(self, 1, inf, ("num_steps", "batch_size"))
        require_within(self, 1, _CELL_PIXELS, ("pixels_per_cell",))
        require_positive(self, ("learning_rate",))
        require_decay(self, ("ema_decay",))

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at a step; see `rates.py`."""
        return rate_factor(
            step, num_steps=self.num_steps, warmup_steps=_WARMUP_STEPS, decay_steps=self.num_steps
        )


class CodecStage:
    """A `Stage` that trains a `PatchCodec`."""

    def __init__(
        self,
        config: CodecTraining,
        device: torch.device | str = "cpu",
        execution: Execution | None = None,
    ) -> None:
        """ValueError for a way of computing that a codec does not have."""
        torch.manual_seed(config.seed)  # the initial weights
        self.config, self.execution = config, execution or Execution()
        self.execution.refuse(
            ("accumulation", "samples_at_once"), "the codec normalises latents over its whole batch at once"
        )
        self.execution.refuse(("activation_checkpointing", "compile"), "the codec is no transformer")
        self.execution.shares(config.batch_size)
        self.device = torch.device(device)
        self.codec = PatchCodec(config.codec, torch.from_numpy(RGB)).to(self.device)
        if self.execution.world.size > 1:
            self.codec.normalise = _SharedNorm(self.codec.normalise)
            self.execution.shard(self.codec, methods=("encode", "decode_cell_logits"))
        self.ema = Ema(self.codec, config.ema_decay)
        self.optimiser = MuonAdamW(
            self.codec.named_parameters(),
            learning_rate=config.learning_rate,
            adamw_names=("latent", "colours", "previous"),
        )

    @property
    def batch_size(self) -> int:
        """Samples of a step."""
        return self.config.batch_size

    def batch(self, step: int, samples: range) -> tuple[Tensor, Tensor]:
        """Colour indices `[b, f, h, w]` and pixels in [-1, 1] `[b, 3, f, h, w]` of some of a step's clips.

        No clip shows a pair of species and colour that is held out.
        """
        clips = []
        for sample in samples:
            rng = draws(self.config.seed, "codec/clip", step, sample)
            shot = sample_story(rng, 1, held_out=False).shots[0]
            start = _GEOMETRY.temporal_stride * int(rng.integers(_NUM_STARTS))
            clips.append(np.stack([frame_at(shot, start + frame) for frame in range(_CLIP_FRAMES)]))
        indices = torch.from_numpy(np.stack(clips))
        pixels = from_levels(torch.from_numpy(to_rgb(np.stack(clips)))).permute(0, 4, 1, 2, 3)
        return indices, pixels

    def step(self, step: int) -> Mapping[str, float]:
        """One step; see `Stage.step`."""
        self.codec.train()
        right: list[Tensor] = []

        def loss_of(samples: range) -> Tensor:
            loss, share = self._loss(step, samples)
            right.append(share)
            return loss

        loss = self.execution.backward(self.batch_size, loss_of, "codec's", step)
        self.optimiser.step(self.config.rate(step))
        self.ema.update(self.codec)
        share = self.execution.world.mean(torch.stack(right).mean())
        return {"loss": loss, "pixels_right": share.item()}

    def _loss(self, step: int, samples: range) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The cross-entropy of some of a step's clips, and the share of pixels that are right."""
        seed = self.config.seed
        indices, pixels = (value.to(self.device) for value in self.batch(step, samples))
        latents = self.codec.encode(pixels)
        scales = [draws(seed, "codec/scale", step, sample).random() for sample in samples]
        scale = torch.tensor(scales, dtype=torch.float32)[:, None, None, None, None] * self.config.max_noise
        noise = scale * sample_noise(latents.shape[1:], seed, "codec/noise", (step,), samples)
        noisy = latents + noise.to(self.device)
        order = torch.randperm(_CELL_PIXELS, generator=tensor_draws(seed, "codec/pixels", step))
        chosen = order[: self.config.pixels_per_cell].to(self.device)
        logits = self.codec.decode_cell_logits(noisy, self.codec.before(noisy), chosen).flatten(0, -2)
        targets = _cells(indices)[..., chosen].flatten().long()
        right = (logits.detach().argmax(-1) == targets).float().mean()
        return F.cross_entropy(logits, targets), right

    def inputs(self, step: int) -> dict[str, Any]:
        """This process's clips of a step, as colour indices."""
        return {"clips": [self.batch(step, samples)[0] for samples in self.execution.shares(self.batch_size)]}

    def averaged(self) -> PatchCodec:
        """The codec with averaged weights, on the CPU and in eval mode."""
        codec = PatchCodec(self.config.codec)
        codec.load_state_dict(whole_state(self.codec.state_dict()))
        self.ema.copy_to(codec)
        return codec.eval()

    @torch.no_grad()
    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        """Truth beside reconstruction; returns the share of right pixels, without and with noise 0.4."""
        codec = self.averaged()
        if not self.execution.world.leads:
            return {}
        indices, pixels = self.batch(_PREVIEW_STEP, range(self.batch_size))
        latents = codec.encode(pixels)
        generator = torch.Generator().manual_seed(0)
        disturbed = latents + 0.4 * torch.randn(latents.shape, generator=generator)
        truth = torch.from_numpy(to_rgb(indices.numpy()))
        scores: dict[str, float] = {}
        rows = [truth[:, :: _GEOMETRY.temporal_stride]]
        for name, value in (("clean", latents), ("noisy", disturbed)):
            decoded = to_levels(codec.decode(value)).permute(0, 2, 3, 4, 1)
            scores[f"right_{name}"] = (decoded == truth).all(-1).float().mean().item()
            rows.append(decoded[:, :: _GEOMETRY.temporal_stride])
        sheet = np.concatenate(
            [np.concatenate([r[:, t].numpy() for r in rows for t in range(r.shape[1])], axis=2)], axis=0
        )
        picture = np.concatenate(list(sheet), axis=0)
        Image.fromarray(picture).resize((picture.shape[1] * 2, picture.shape[0] * 2), 0).save(
            directory / f"preview_{step:07d}.png"
        )
        return scores

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


class _SharedNorm(nn.BatchNorm1d):
    """Batch normalisation over the batch of all processes; torch's own needs a GPU for that."""

    def __init__(self, plain: nn.BatchNorm1d) -> None:
        momentum = plain.momentum
        assert momentum is not None and not plain.affine
        super().__init__(plain.num_features, plain.eps, momentum, affine=False)
        self.load_state_dict(plain.state_dict())

    def forward(self, input: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        count = len(input) * dist.get_world_size()
        mean = _SummedOverProcesses.apply(input.sum(0)) / count
        centred = input - mean
        variance = _SummedOverProcesses.apply(centred.square().sum(0)) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return centred * torch.rsqrt(variance + self.eps)


class _SummedOverProcesses(torch.autograd.Function):
    """A sum to which every process's loss owes something: gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        return _summed(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return _summed(gradients[0])


def _summed(value: Tensor) -> Tensor:
    total = value.clone()
    dist.all_reduce(total)
    return total


def _cells(indices: Tensor) -> Tensor:
    """Values of frames `[b, f, h, w]` by the latent that stands for them; the first frame fills its own."""
    time, space = _GEOMETRY.temporal_stride, _GEOMETRY.spatial_stride
    groups = torch.cat([indices[:, :1].expand(-1, time - 1, -1, -1), indices], dim=1)
    return rearrange(groups, "b (f t) (h i) (w j) -> b f h w (t i j)", t=time, i=space, j=space)


def codec_from_run(checkpoint: Path, config: PatchCodecConfig) -> PatchCodec:
    """The averaged codec of a run, frozen."""
    stage = CodecStage(CodecTraining(codec=config, num_steps=1))
    _, state = load_checkpoint(checkpoint)
    stage.load_state_dict({key: value for key, value in state.items() if key != "optimiser"})
    return stage.averaged().requires_grad_(False)
