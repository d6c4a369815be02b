"""The codec stage of the theatre: encodes clips, adds noise to latents, and predicts pixel colours.

The noise on the latents is the regulariser: channels must carry information that survives it, and the decoder
learns to correct small errors of a generator. The loss is the cross-entropy of the palette colour, in
float32.
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

from shotstream.data.batches import DataSource
from shotstream.data.checks import require_within
from shotstream.data.rendered_clips import ClipBatch, ClipsConfig
from shotstream.data.rng import numpy_rng, sample_noise, torch_rng
from shotstream.geometry import WAN_GEOMETRY as _GEOMETRY
from shotstream.theatre.palette import RGB, to_rgb
from shotstream.training.parallelize import ParallelConfig
from shotstream.training.recipe import Recipe
from shotstream.training.train_state import TrainState
from shotstream.vae.patch_codec import PatchCodec, PatchCodecConfig
from shotstream.vae.pixels import to_uint8

_CELL_PIXELS = _GEOMETRY.temporal_stride * _GEOMETRY.spatial_stride**2
# Key of the clips of every preview; no run has this many steps.
_PREVIEW_STEP = 2**31 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecConfig:
    """Configuration of the codec stage."""

    pixels_per_cell: int = 48
    """Number of random pixels of each latent cell in the loss of a step, at least 1."""
    max_noise: float = 0.7
    """Maximum scale of the noise on latents, in standard deviations; the scale is uniform in [0,
    max_noise].
    """

    def __post_init__(self) -> None:
        require_within(self, 0, inf, ("max_noise",))
        require_within(self, 1, _CELL_PIXELS, ("pixels_per_cell",))

    def check(self, recipe: Recipe[Any, Any, Any]) -> None:
        """Raises ValueError for a precision that the codec does not support."""
        recipe.refuse_matmul_dtype("the codec is trained in float32")


CodecRecipe = Recipe[PatchCodecConfig, ClipsConfig, CodecConfig]


class CodecStage:
    """A `Stage` that trains a `PatchCodec`."""

    def __init__(
        self,
        recipe: CodecRecipe,
        source: DataSource[ClipBatch],
        device: torch.device | str = "cpu",
        parallel: ParallelConfig | None = None,
    ) -> None:
        """Creates the stage; raises ValueError for parallel settings that it does not support."""
        torch.manual_seed(recipe.train.seed)  # the initial weights
        self.recipe, self.source, self.parallel = recipe, source, parallel or ParallelConfig()
        self.parallel.refuse(
            ("accumulation", "samples_at_once"), "the codec normalises latents over its whole batch at once"
        )
        self.parallel.refuse(("activation_checkpointing", "compile"), "the codec is no transformer")
        self.parallel.shares(self.batch_size)
        self.device = torch.device(device)
        self.codec = PatchCodec(recipe.model, torch.from_numpy(RGB)).to(self.device)
        if self.parallel.dist_context.world_size > 1:
            self.codec.normalise = _SharedNorm(self.codec.normalise)
            self.parallel.shard(self.codec, methods=("encode", "decode_cell_logits"))
        self.state = TrainState(
            self.codec,
            recipe.optimizer,
            recipe.train.num_steps,
            adamw_names=("latent", "colours", "previous"),
        )

    @property
    def batch_size(self) -> int:
        """Number of samples of a step."""
        return self.recipe.data.batch_size

    def step(self, step: int) -> Mapping[str, float]:
        """Runs one step; see `Stage.step`."""
        self.codec.train()
        right: list[Tensor] = []

        def loss_of(samples: range) -> Tensor:
            loss, share = self._loss(step, samples)
            right.append(share)
            return loss

        loss = self.parallel.backward(self.batch_size, loss_of, "codec's", step)
        self.state.step(step)
        share = self.parallel.dist_context.mean(torch.stack(right).mean())
        return {"loss": loss, "pixels_right": share.item()}

    def _loss(self, step: int, samples: range) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Returns the cross-entropy of some of a step's clips, and the share of correct pixels."""
        stage, seed = self.recipe.stage, self.recipe.train.seed
        indices, pixels = (value.to(self.device) for value in self.source.batch(step, samples))
        latents = self.codec.encode(pixels)
        scales = [numpy_rng(seed, "codec/scale", step, sample).random() for sample in samples]
        scale = torch.tensor(scales, dtype=torch.float32)[:, None, None, None, None] * stage.max_noise
        noise = scale * sample_noise(latents.shape[1:], seed, "codec/noise", (step,), samples)
        noisy = latents + noise.to(self.device)
        order = torch.randperm(_CELL_PIXELS, generator=torch_rng(seed, "codec/pixels", step))
        chosen = order[: stage.pixels_per_cell].to(self.device)
        logits = self.codec.decode_cell_logits(noisy, self.codec.before(noisy), chosen).flatten(0, -2)
        targets = _cells(indices)[..., chosen].flatten().long()
        right = (logits.detach().argmax(-1) == targets).float().mean()
        return F.cross_entropy(logits, targets), right

    def training_data(self, step: int) -> dict[str, Any]:
        """Returns this process's clips of a step, as palette indices."""
        shares = self.parallel.shares(self.batch_size)
        return {"clips": [self.source.batch(step, samples).indices for samples in shares]}

    def averaged(self) -> PatchCodec:
        """Returns the codec with averaged weights, on the CPU and in eval mode."""
        return self.state.averaged(PatchCodec(self.recipe.model))

    @torch.no_grad()
    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        """Writes truth beside reconstruction; returns the share of correct pixels, with and without noise."""
        codec = self.averaged()
        if not self.parallel.dist_context.is_main_process:
            return {}
        indices, pixels = self.source.batch(_PREVIEW_STEP, range(self.batch_size))
        latents = codec.encode(pixels)
        generator = torch.Generator().manual_seed(0)
        disturbed = latents + 0.4 * torch.randn(latents.shape, generator=generator)
        truth = torch.from_numpy(to_rgb(indices.numpy()))
        scores: dict[str, float] = {}
        rows = [truth[:, :: _GEOMETRY.temporal_stride]]
        for name, value in (("clean", latents), ("noisy", disturbed)):
            decoded = to_uint8(codec.decode(value)).permute(0, 2, 3, 4, 1)
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


class _SharedNorm(nn.BatchNorm1d):
    """Batch normalisation over the batch of all processes; torch's own supports only GPUs."""

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
    """A sum over processes whose gradients are summed as well, because every process's loss depends on it."""

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
    """Returns values of frames `[b, f, h, w]` by latent cell; the first frame is repeated to fill a group."""
    time, space = _GEOMETRY.temporal_stride, _GEOMETRY.spatial_stride
    groups = torch.cat([indices[:, :1].expand(-1, time - 1, -1, -1), indices], dim=1)
    return rearrange(groups, "b (f t) (h i) (w j) -> b f h w (t i j)", t=time, i=space, j=space)
