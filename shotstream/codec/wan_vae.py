"""The Wan2.1 video autoencoder as a `Codec`, over diffusers' `AutoencoderKLWan`.

Ours is what diffusers leaves out: the normalisation of latents, and a streamed decode whose state is a value
instead of fields of the module (`wan_decoder.py`). diffusers comes with the `wan` extra and is imported only
when a codec is built. It does not sample the posterior, tile, or resize.

Source: Wan2.1 (arXiv 2503.20314): the posterior's mean, normalised per channel by the published statistics.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.codec.codec import DecodeState
from shotstream.codec.wan_decoder import Memory, WanDecoder
from shotstream.geometry import WAN_GEOMETRY, PixelSize, VideoGeometry

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

_PUBLISHED_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
_PUBLISHED_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class WanVAEConfig:
    """Widths of the autoencoder; the defaults are the published Wan2.1 VAE's."""

    dim: int = 96
    """Channels at full resolution."""
    latent_channels: int = 16
    """Channels of a latent frame."""
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Channels of each level, in multiples of `dim`; one spatial halving between levels."""
    num_res_blocks: int = 2
    """Residual blocks of each encoder level; the decoder has one more."""
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    """Whether each halving in space also halves time."""
    latents_mean: tuple[float, ...] = _PUBLISHED_MEAN
    """Mean of each latent channel before normalisation."""
    latents_std: tuple[float, ...] = _PUBLISHED_STD
    """Standard deviation of each latent channel before normalisation."""

    def __post_init__(self) -> None:
        if min(self.dim, self.latent_channels, self.num_res_blocks, *self.dim_mult) < 1:
            raise ValueError("dim, latent_channels, num_res_blocks and dim_mult must be at least 1")
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(
                f"temporal_downsample has {len(self.temporal_downsample)} entries; "
                f"it needs one between each two of the {len(self.dim_mult)} levels of dim_mult"
            )
        for name in ("latents_mean", "latents_std"):
            if len(getattr(self, name)) != self.latent_channels:
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries; it needs {self.latent_channels}, "
                    "one per latent channel"
                )
        if min(self.latents_std) <= 0:
            raise ValueError("latents_std must be positive")

    @property
    def temporal_stride(self) -> int:
        """Video frames per latent frame after the first."""
        return 2 ** sum(self.temporal_downsample)

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent, in height and in width."""
        return 2 ** (len(self.dim_mult) - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class WanDecoding:
    """How the decoder is run; what comes out differs by rounding alone. docs/performance.md says what each
    gives.
    """

    latents_per_pass: int = 1
    """Most latent frames that go through the layers together. With 1 frames are the same to the bit however
    a video is cut into calls; memory grows with it."""
    channels_last: bool = False
    """Whether the channels of a pixel lie together in memory."""
    compile: bool = False
    """Whether it is compiled: once for a video's first latent frames and once for those that follow, for
    each number of them in a pass and each size."""

    def __post_init__(self) -> None:
        if self.latents_per_pass < 1:
            raise ValueError(f"latents_per_pass is {self.latents_per_pass}; it must be at least 1")


DEFAULT_DECODING = WanDecoding()


class WanVAE:
    """A `Codec`: frozen weights on one device, in one dtype; no state between calls."""

    def __init__(
        self,
        config: WanVAEConfig,
        module: "AutoencoderKLWan",
        geometry: VideoGeometry = WAN_GEOMETRY,
        decoding: WanDecoding = DEFAULT_DECODING,
    ) -> None:
        strides = (config.temporal_stride, config.spatial_stride)
        if strides != (geometry.temporal_stride, geometry.spatial_stride):
            raise ValueError(
                f"the VAE's strides (time, space) are {strides}, the geometry's "
                f"({geometry.temporal_stride}, {geometry.spatial_stride}); give them the same"
            )
        self._config = config
        self._geometry = geometry
        self._module: Any = module.eval().requires_grad_(False)
        self._decoding = decoding
        decoder = WanDecoder(module, channels_last=decoding.channels_last)
        self._decode_first, self._decode_following = decoder.first, decoder.following
        if decoding.compile:
            self._decode_first = torch.compile(decoder.first, fullgraph=True, dynamic=False)
            self._decode_following = torch.compile(decoder.following, fullgraph=True, dynamic=False)
        self._mean = torch.tensor(config.latents_mean, device=self.device).view(1, -1, 1, 1, 1)
        self._std = torch.tensor(config.latents_std, device=self.device).view(1, -1, 1, 1, 1)

    @classmethod
    def from_tensors(
        cls,
        config: WanVAEConfig,
        tensors: Mapping[str, Tensor],
        *,
        geometry: VideoGeometry = WAN_GEOMETRY,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        decoding: WanDecoding = DEFAULT_DECODING,
    ) -> "WanVAE":
        """The codec with the given weights, under diffusers' names.

        Raises:
            ValueError: diffusers is not installed; the strides differ from the geometry's.
            RuntimeError: A name is missing or unexpected, or a shape differs.
        """
        module = _build_on_meta(config)
        placed = {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()}
        module.load_state_dict(placed, strict=True, assign=True)
        return cls(config, module, geometry, decoding)

    @property
    def geometry(self) -> VideoGeometry:
        """Strides between pixels, latents and tokens."""
        return self._geometry

    @property
    def latent_channels(self) -> int:
        """Channels of a latent frame."""
        return self._config.latent_channels

    @property
    def device(self) -> torch.device:
        """Where the weights are and the work is done."""
        return self._module.quant_conv.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights and of the convolutions; normalisation is float32."""
        return self._module.quant_conv.weight.dtype

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b z latent_f latent_h latent_w"]:
        """Normalised float32 latents (the posterior's mean) of videos in [-1, 1].

        The statistics are applied in float32; the published training code applies them in the pixels' dtype.

        Raises:
            ValueError: The number of frames or the size does not fit the strides.
        """
        self._geometry.num_latent_frames(pixels.shape[2])
        self._geometry.latent_size(PixelSize(pixels.shape[3], pixels.shape[4]))
        posterior = self._module.encode(pixels.to(self.device, self.dtype)).latent_dist
        return (posterior.mode().float() - self._mean) / self._std

    def decode(self, latents: Float[Tensor, "b z latent_f latent_h latent_w"]) -> Float[Tensor, "b 3 f h w"]:
        """Float32 pixels in [-1, 1] of whole videos, from their first latent frame on."""
        return self.decode_stream(latents, None)[0]

    @torch.no_grad()
    def decode_stream(
        self, latents: Float[Tensor, "b z latent_f latent_h latent_w"], state: DecodeState | None
    ) -> tuple[Float[Tensor, "b 3 f h w"], DecodeState]:
        """Float32 pixels in [-1, 1] of the next latent frames, and the state that follows; see `Codec`.

        The state holds the last two frames of every causal convolution's input.
        """
        if latents.shape[2] < 1:
            raise ValueError("no latent frame to decode; give at least 1")
        raw = (latents.to(self.device, torch.float32) * self._std + self._mean).to(self.dtype)
        memory: Memory | None = None if state is None else state.features
        pieces: list[Tensor] = []
        for latent_frames in raw.split(self._decoding.latents_per_pass, dim=2):
            # Contiguous: the same arithmetic, to the bit, however a video is cut.
            latent_frames = latent_frames.contiguous()
            piece, memory = (
                self._decode_first(latent_frames)
                if memory is None
                else self._decode_following(latent_frames, memory)
            )
            pieces.append(piece)
        assert memory is not None
        num_before = 0 if state is None else state.num_latent_frames
        following = DecodeState(num_latent_frames=num_before + raw.shape[2], features=memory)
        return torch.cat(pieces, dim=2).float().clamp(-1, 1), following


def _build_on_meta(config: WanVAEConfig) -> "AutoencoderKLWan":
    try:
        from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    except ImportError as error:
        raise ValueError(
            "the Wan2.1 VAE needs diffusers; install it with: pip install 'shotstream[wan]'"
        ) from error
    with torch.device("meta"):
        return AutoencoderKLWan(
            base_dim=config.dim,
            z_dim=config.latent_channels,
            dim_mult=list(config.dim_mult),
            num_res_blocks=config.num_res_blocks,
            temperal_downsample=list(config.temporal_downsample),
            latents_mean=list(config.latents_mean),
            latents_std=list(config.latents_std),
        )


def wan_vae_shapes(config: WanVAEConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that `WanVAE.from_tensors` takes; ValueError without diffusers."""
    return {name: tuple(tensor.shape) for name, tensor in _build_on_meta(config).state_dict().items()}
