"""The decoder stage of the theatre: trains the finish of a codec's decoder; latents do not change.

The finish sees one cell and its surroundings, so a step needs only a few cells of each picture: those that
show an actor, most of them in wide shots and in motion, which are a twentieth of all pixels and have the most
errors left. The decoder's other layers are frozen, like the encoder. Noise and loss are those of the codec
stage.
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
from jaxtyping import Float, UInt8
from torch import Tensor

from shotstream.data.checks import require_positive, require_within
from shotstream.data.rendered_clips import ActorClips, ActorClipsConfig
from shotstream.data.rng import numpy_rng, sample_noise, torch_rng
from shotstream.geometry import WAN_GEOMETRY as _GEOMETRY
from shotstream.theatre.palette import RGB
from shotstream.training.parallelize import ParallelConfig
from shotstream.training.recipe import Recipe
from shotstream.training.train_state import TrainState
from shotstream.vae.patch_codec import PatchCodec, PatchCodecConfig
from shotstream.vae.pixels import from_uint8

_LEARNT: Final = ("finish", "head.", "colours.")
# Key of the clips of every preview; no run has this many steps.
_PREVIEW_STEP: Final = 2**31 - 1
_NUM_PREVIEWED: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """Configuration of the decoder stage."""

    cells_per_clip: int = 64
    """Number of cells of a clip in the loss of a step, at least 1; those with an actor are first."""
    pixels_per_cell: int = 48
    """Number of random pixels of each cell in the loss of a step, at least 1."""
    figure_weight: float = 3.0
    """Weight of an actor's pixels, and of those next to them, relative to others; above 0."""
    max_noise: float = 0.7
    """Maximum scale of the noise on latents, in standard deviations; the scale is uniform in [0,
    max_noise].
    """

    def __post_init__(self) -> None:
        require_within(self, 0, inf, ("max_noise",))
        require_within(self, 1, inf, ("cells_per_clip", "pixels_per_cell"))
        require_positive(self, ("figure_weight",))

    def check(self, recipe: Recipe[Any, Any, Any]) -> None:
        """Raises ValueError for a codec without a finish, or an unsupported precision."""
        if not recipe.model.num_finish_layers:
            raise ValueError("model.num_finish_layers is 0: there is nothing to train")
        recipe.refuse_matmul_dtype("the finish is trained in float32")


DecoderRecipe = Recipe[PatchCodecConfig, ActorClipsConfig, DecoderConfig]


class DecoderStage:
    """A `Stage` that trains the finish of a `PatchCodec`; the encoder is that of its input."""

    def __init__(
        self,
        recipe: DecoderRecipe,
        source: ActorClips,
        plain: PatchCodec,
        device: torch.device | str = "cpu",
        parallel: ParallelConfig | None = None,
    ) -> None:
        """Creates the stage.

        Raises:
            ValueError: A parallel setting is not supported, or the codec is not the recipe's.
        """
        torch.manual_seed(recipe.train.seed)  # the initial weights
        self.recipe, self.source, self.parallel = recipe, source, parallel or ParallelConfig()
        if self.parallel.dist_context.world_size > 1:
            raise ValueError("a decoder is finished by one process")
        self.parallel.refuse(
            ("accumulation", "samples_at_once", "activation_checkpointing", "compile"), "the finish is small"
        )
        self.device = torch.device(device)
        self.codec = finished(plain, recipe.model).to(self.device)
        _free_the_finish(self.codec)
        self.state = TrainState(
            self.codec,
            recipe.optimizer,
            recipe.train.num_steps,
            adamw_names=("finish_in", "head", "colours"),
        )

    @property
    def batch_size(self) -> int:
        """Number of samples of a step."""
        return self.recipe.data.batch_size

    @torch.no_grad()
    def _latents(self, pictures: UInt8[Tensor, "b p h w"]) -> Float[Tensor, "b z latent_f latent_h latent_w"]:
        """Returns the latents of clips; the encoder gets every frame."""
        num_pictures = self.recipe.model.num_pictures
        held = _GEOMETRY.temporal_stride // num_pictures
        frames = torch.cat(
            [pictures[:, :1], pictures[:, num_pictures:].repeat_interleave(held, dim=1)], dim=1
        )
        pixels = from_uint8(torch.from_numpy(RGB)[frames.long()]).permute(0, 4, 1, 2, 3)
        return self.codec.encode(pixels.to(self.device))

    def step(self, step: int) -> Mapping[str, float]:
        """Runs one step; see `Stage.step`."""
        right: list[float] = []

        def loss_of(samples: range) -> Tensor:
            assert len(samples) == self.batch_size
            loss, share = self._loss(step)
            right.append(share)
            return loss

        loss = self.parallel.backward(self.batch_size, loss_of, "decoder's", step)
        self.state.step(step)
        return {"loss": loss, "figures_right": right[0]}

    def _loss(self, step: int) -> tuple[Float[Tensor, ""], float]:
        """Returns the weighted cross-entropy of a step's cells, and the share of correct actors' pixels."""
        config, seed = self.recipe.stage, self.recipe.train.seed
        samples = range(self.batch_size)
        pictures, figures = self.source.batch(step, samples)
        latents = self._latents(pictures)
        scales = [numpy_rng(seed, "decoder/scale", step, sample).random() for sample in samples]
        scale = torch.tensor(scales, dtype=torch.float32)[:, None, None, None, None] * config.max_noise
        noise = scale * sample_noise(latents.shape[1:], seed, "decoder/noise", (step,), samples)
        noisy = latents + noise.to(self.device)
        with torch.no_grad():
            around = self.codec.surroundings(noisy, self.codec.before(noisy)).flatten(1, 3)
        generator = torch_rng(seed, "decoder/cells", step)
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
            t=self.recipe.model.num_pictures, i=side, j=side,
        )  # fmt: skip

    def training_data(self, step: int) -> dict[str, Any]:
        """Returns a step's clips, as palette indices."""
        return {"pictures": self.source.batch(step, range(self.batch_size)).pictures}

    def averaged(self) -> PatchCodec:
        """Returns the codec with averaged weights, on the CPU and in eval mode."""
        return self.state.averaged(PatchCodec(self.recipe.model))

    @torch.no_grad()
    def preview(self, step: int, directory: Path) -> Mapping[str, float]:  # noqa: ARG002
        """Returns the share of actors' pixels that are correct in held-out clips, by framing."""
        codec, found = self.averaged(), dict[str, list[float]]()
        for sample in range(_NUM_PREVIEWED):
            shot, pictures, figures = self.source.clip(_PREVIEW_STEP, sample, held_out=True)
            latents = self._latents(pictures[None]).cpu()
            logits = codec.decode_logits(latents, codec.before(latents))
            right = (logits.argmax(dim=-1).flatten(0, 2) == pictures)[figures]
            if len(right):
                found.setdefault(f"right_{shot.framing}", []).append(right.float().mean().item())
        return {name: float(np.mean(values)) for name, values in found.items()}


def finished(plain: PatchCodec, config: PatchCodecConfig) -> PatchCodec:
    """Returns a codec with a finish that has no effect yet.

    It decodes like `plain`, except for held pictures: such a picture starts as the mean of the logits of
    `plain` for its frames.

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
    """Freezes all parameters except those of the finish."""
    for name, parameter in codec.named_parameters():
        parameter.requires_grad_(name.startswith(_LEARNT))
