"""The theatre's codec: causal patches of 8x8 pixels and 4 frames, decoded to a palette colour for each pixel.

All layers are dense and at latent resolution, so that it runs far faster than real time on two CPU cores. The
encoder sees one cell at a time; the decoder also sees neighbouring cells and earlier groups of frames. A
decoder may have a finish: layers on each cell alone, whose input is the latents around it and the result of
the earlier layers. They are cheap, and can be trained on a few cells of many pictures. Latents have zero mean
and unit variance per channel by construction (running statistics), and the decoder is trained on noisy ones:
a latent that is nearly right gives exactly the right pixels. The output has palette colours only.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from shotstream.geometry import VideoGeometry
from shotstream.sizes import refuse_sizes
from shotstream.vae.codec import DecodeState
from shotstream.vae.pixels import from_uint8


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchCodecConfig:
    """Sizes of a patch codec; all are at least 1 except `num_finish_layers`."""

    num_colours: int
    """Number of colours of the palette."""
    latent_channels: int = 16
    """Number of channels of a latent frame."""
    dim: int = 192
    """Width of encoder and decoder."""
    num_encoder_layers: int = 3
    """Number of residual layers of the encoder."""
    num_decoder_layers: int = 4
    """Number of residual layers of the decoder, which also see the eight neighbouring cells."""
    colour_dim: int = 12
    """Length of the vector of a pixel from which the logits of the colours are computed."""
    num_past: int = 1
    """Number of earlier latent frames that the decoder sees; before a video's first frame, that frame
    itself.
    """
    num_finish_layers: int = 0
    """Number of residual layers on each cell after the decoder's others; 0: no finish."""
    finish_dim: int = 256
    """Width of the finish."""
    num_pictures: int = 4
    """Number of pictures in a group of four frames, each held equally long: 1, 2 or 4."""

    def __post_init__(self) -> None:
        refuse_sizes(
            self,
            (
                "num_colours",
                "latent_channels",
                "dim",
                "num_encoder_layers",
                "num_decoder_layers",
                "colour_dim",
                "num_past",
                "finish_dim",
            ),
        )
        refuse_sizes(self, ["num_finish_layers"], least=0)
        if self.num_pictures not in (1, 2, 4):
            raise ValueError(f"num_pictures is {self.num_pictures}; a group of four frames shows 1, 2 or 4")


class PatchCodec(nn.Module):
    """The codec of the theatre for flat-coloured pictures; a `Codec`."""

    def __init__(
        self, config: PatchCodecConfig, palette: UInt8[Tensor, "num_colours 3"] | None = None
    ) -> None:
        """Creates a codec with random weights.

        Args:
            config: The sizes.
            palette: RGB in 0..255; None if a checkpoint will provide it.
        """
        super().__init__()
        self.config = config
        self._geometry = VideoGeometry()
        cell_pixels = self._geometry.spatial_stride**2
        group_pixels = self._geometry.temporal_stride * cell_pixels
        dim = config.dim
        self.palette: Tensor
        self.register_buffer("palette", torch.zeros(config.num_colours, 3, dtype=torch.uint8))
        if palette is not None:
            self.palette.copy_(palette)
        self.embed = nn.Linear(3 * group_pixels, dim)
        self.encoder = nn.ModuleList(_CellLayer(dim) for _ in range(config.num_encoder_layers))
        self.to_latent = nn.Linear(dim, config.latent_channels)
        self.normalise = nn.BatchNorm1d(config.latent_channels, affine=False, momentum=0.02)
        self.from_latent = nn.Linear(config.latent_channels, dim)
        self.previous = nn.Linear(config.latent_channels, dim, bias=False)
        self.decoder = nn.ModuleList(_NeighbourLayer(dim) for _ in range(config.num_decoder_layers))
        self.head_norm = nn.LayerNorm(dim)
        seen = 0
        if config.num_finish_layers:
            around = (config.num_past + 1) * 9 * config.latent_channels
            self.finish_in = nn.Linear(around + dim, config.finish_dim)
            self.finish = nn.ModuleList(
                _CellLayer(config.finish_dim) for _ in range(config.num_finish_layers)
            )
            self.finish_norm = nn.LayerNorm(config.finish_dim)
            seen = config.finish_dim
        self.head = nn.Linear(seen + dim, config.num_pictures * cell_pixels * config.colour_dim)
        self.colours = nn.Linear(config.colour_dim, config.num_colours)

    @property
    def geometry(self) -> VideoGeometry:
        """Strides between pixels, latents and tokens."""
        return self._geometry

    @property
    def latent_channels(self) -> int:
        """Number of channels of a latent frame."""
        return self.config.latent_channels

    def encode(self, pixels: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b z latent_f latent_h latent_w"]:
        """Returns normalised float32 latents of videos in [-1, 1].

        In training mode the statistics of the batch are used and the running ones updated.

        Raises:
            ValueError: The number of frames or the size does not fit the strides.
        """
        cells = self._encode_cells(self._group(pixels.float()))
        flat = rearrange(cells, "b f h w z -> (b f h w) z")
        return rearrange(self.normalise(flat).reshape(cells.shape), "b f h w z -> b z f h w")

    def decode(self, latents: Float[Tensor, "b z latent_f latent_h latent_w"]) -> Float[Tensor, "b 3 f h w"]:
        """Returns float32 pixels in [-1, 1] of complete videos; each pixel is exactly a palette colour."""
        pixels, _ = self.decode_stream(latents, None)
        return pixels

    def decode_stream(
        self, latents: Float[Tensor, "b z latent_f latent_h latent_w"], state: DecodeState | None
    ) -> tuple[Float[Tensor, "b 3 f h w"], DecodeState]:
        """Returns the next frames of a video and the next state; see `Codec.decode_stream`."""
        before = self.before(latents) if state is None else state.features[0]
        indices = self.decode_logits(latents, before).argmax(dim=-1)
        held = self._geometry.temporal_stride // self.config.num_pictures
        colours = from_uint8(self.palette[indices])
        frames = repeat(colours, "b f t h w c -> b c (f t held) h w", held=held)
        if state is None:
            frames = frames[:, :, self._geometry.temporal_stride - 1 :]
        seen = latents.shape[2] + (state.num_latent_frames if state else 0)
        last = torch.cat([before, latents], dim=2)[:, :, -self.config.num_past :]
        return frames, DecodeState(num_latent_frames=seen, features=(last,))

    def before(
        self, latents: Float[Tensor, "b z latent_f latent_h latent_w"]
    ) -> Float[Tensor, "b z past latent_h latent_w"]:
        """Returns the padding before a video's first latent frame: that frame itself."""
        return latents[:, :, :1].expand(-1, -1, self.config.num_past, -1, -1)

    def decode_logits(
        self,
        latents: Float[Tensor, "b z latent_f latent_h latent_w"],
        before: Float[Tensor, "b z past latent_h latent_w"],
    ) -> Float[Tensor, "b latent_f t h w num_colours"]:
        """Returns the logits of every colour, for each picture of each latent frame.

        Args:
            latents: Latent frames in order.
            before: The latent frames before them; see `before` for those of a video's first.
        """
        stride = self._geometry.spatial_stride
        pixels = self.head(self._finished(self.surroundings(latents, before)))
        pixels = rearrange(
            pixels, "b f h w (t i j e) -> b f t (h i) (w j) e",
            t=self.config.num_pictures, i=stride, j=stride, e=self.config.colour_dim,
        )  # fmt: skip
        return self.colours(pixels)

    def decode_cell_logits(
        self,
        latents: Float[Tensor, "b z latent_f latent_h latent_w"],
        before: Float[Tensor, "b z past latent_h latent_w"],
        chosen: Int[Tensor, " chosen"],
    ) -> Float[Tensor, "b latent_f latent_h latent_w chosen num_colours"]:
        """Returns logits for the `chosen` pixels of each cell, which are numbered in (t, i, j) order."""
        return self.finished_logits(self.surroundings(latents, before), chosen)

    def finished_logits(
        self, surroundings: Float[Tensor, "*cells d"], chosen: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "*cells chosen num_colours"]:
        """Returns logits for the `chosen` pixels of any cells, from their `surroundings`."""
        dim = self.config.colour_dim
        weight = self.head.weight.unflatten(0, (-1, dim))[chosen].flatten(0, 1)
        bias = self.head.bias.unflatten(0, (-1, dim))[chosen].flatten()
        vectors = F.linear(self._finished(surroundings), weight, bias)
        return self.colours(vectors.unflatten(-1, (-1, dim)))

    def surroundings(
        self,
        latents: Float[Tensor, "b z latent_f latent_h latent_w"],
        before: Float[Tensor, "b z past latent_h latent_w"],
    ) -> Float[Tensor, "b latent_f latent_h latent_w d"]:
        """Returns the features that a cell is decoded from.

        Without a finish these are the decoder's output; with one, the latents around the cell and then that
        output.
        """
        past, num_frames = self.config.num_past, latents.shape[2]
        all_frames = rearrange(torch.cat([before.float(), latents.float()], dim=2), "b z f h w -> b f h w z")
        x = self.from_latent(all_frames[:, past:]) + self.previous(all_frames[:, past - 1 : -1])
        for layer in self.decoder:
            x = layer(x)
        x = self.head_norm(x)
        if not self.config.num_finish_layers:
            return x
        height, width = latents.shape[-2:]
        padded = F.pad(all_frames, (0, 0, 1, 1, 1, 1))
        around = [
            padded[:, past - age : past - age + num_frames, row : row + height, column : column + width]
            for age in range(past + 1)
            for row in range(3)
            for column in range(3)
        ]
        return torch.cat([*around, x], dim=-1)

    def _finished(self, surroundings: Float[Tensor, "*cells d"]) -> Float[Tensor, "*cells e"]:
        """Returns the features that the head reads."""
        if not self.config.num_finish_layers:
            return surroundings
        y = self.finish_in(surroundings)
        for layer in self.finish:
            y = layer(y)
        return torch.cat([self.finish_norm(y), surroundings[..., -self.config.dim :]], dim=-1)

    def _group(self, pixels: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b latent_f latent_h latent_w d"]:
        """Returns cells of four frames; the first frame is repeated to fill a group of its own."""
        self._geometry.num_latent_frames(pixels.shape[2])
        stride, frames = self._geometry.spatial_stride, self._geometry.temporal_stride
        if pixels.shape[3] % stride or pixels.shape[4] % stride:
            raise ValueError(f"{pixels.shape[3]}x{pixels.shape[4]} pixels are not multiples of {stride}")
        first = pixels[:, :, :1].expand(-1, -1, frames - 1, -1, -1)
        padded = torch.cat([first, pixels], dim=2)
        return rearrange(padded, "b c (f t) (h i) (w j) -> b f h w (c t i j)", t=frames, i=stride, j=stride)

    def _encode_cells(
        self, cells: Float[Tensor, "b latent_f latent_h latent_w d"]
    ) -> Float[Tensor, "b latent_f latent_h latent_w z"]:
        x = self.embed(cells)
        for layer in self.encoder:
            x = layer(x)
        return self.to_latent(x)


class _CellLayer(nn.Module):
    """A residual layer on each cell alone."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 2 * dim)
        self.down = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x)), approximate="tanh"))


class _NeighbourLayer(nn.Module):
    """A residual layer that mixes each cell with its neighbours: depthwise 3x3, then a `_CellLayer`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.near = nn.Parameter(torch.randn(3, 3, dim) / 9)
        self.cell = _CellLayer(dim)

    def forward(self, x: Tensor) -> Tensor:
        # Nine shifted products are several times faster on a CPU than a depthwise convolution of this size.
        height, width = x.shape[-3:-1]
        padded = F.pad(x, (0, 0, 1, 1, 1, 1))
        for row in range(3):
            for column in range(3):
                x = torch.addcmul(
                    x, padded[..., row : row + height, column : column + width, :], self.near[row, column]
                )
        return self.cell(x)
