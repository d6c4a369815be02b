"""The Wan2.1 video autoencoder as a `Codec`: for complete videos, or streamed with an explicit state.

It does not sample the posterior, tile, or resize, and needs no library but torch to compute.

Source: Wan2.1 (arXiv 2503.20314): the posterior's mean, normalised per channel by the published statistics.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from shotstream.geometry import WAN_GEOMETRY, PixelSize, VideoGeometry
from shotstream.vae.codec import DecodeState
from shotstream.vae.wan_decoder import WanDecoder
from shotstream.vae.wan_encoder import WanEncoder
from shotstream.vae.wan_layers import Memory
from shotstream.vae.wan_modules import WanTensors, WanVAEConfig, wan_vae_shapes

__all__ = ["DEFAULT_DECODING", "WanDecoding", "WanVAE", "WanVAEConfig", "wan_vae_shapes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WanDecoding:
    """Options of the decoder. They change results by rounding alone.

    docs/performance.md has their effect on speed and memory.
    """

    latents_per_pass: int = 1
    """Maximum number of latent frames that go through the layers together, at least 1; memory use grows with
    it. With 1, frames are bit-identical however a video is split into calls.
    """
    compile: bool = False
    """Whether to compile the decoder: once for a video's first latent frames and once for those that follow,
    for each number of them in a pass and each size.
    """

    def __post_init__(self) -> None:
        if self.latents_per_pass < 1:
            raise ValueError(f"latents_per_pass is {self.latents_per_pass}; it must be at least 1")


DEFAULT_DECODING = WanDecoding()


class WanVAE:
    """Wan2.1's codec: frozen weights on one device, in one dtype; no state between calls."""

    def __init__(
        self,
        config: WanVAEConfig,
        tensors: WanTensors,
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
        self._tensors = tensors
        self._decoding = decoding
        self._encoder, decoder = WanEncoder(tensors), WanDecoder(tensors)
        self._decode_first, self._decode_following = decoder.first, decoder.following
        if decoding.compile:
            self._decode_first = torch.compile(decoder.first, fullgraph=True, dynamic=False)
            self._decode_following = torch.compile(decoder.following, fullgraph=True, dynamic=False)
        self._mean = torch.tensor(config.latents_mean, device=self.device)
        self._std = torch.tensor(config.latents_std, device=self.device)

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
        """Returns the codec with the given weights, under the names that diffusers gives them.

        Raises:
            ValueError: Names or shapes differ from the config's, or its strides from the geometry's.
        """
        placed = {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()}
        return cls(config, WanTensors.of(config, placed), geometry, decoding)

    @property
    def geometry(self) -> VideoGeometry:
        """Strides between pixels, latents and tokens."""
        return self._geometry

    @property
    def latent_channels(self) -> int:
        """Number of channels of a latent frame."""
        return self._config.latent_channels

    @property
    def device(self) -> torch.device:
        """Device of the weights and of all computation."""
        return self._tensors.quant_conv.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights and of the convolutions; normalisation is float32."""
        return self._tensors.quant_conv.weight.dtype

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b z latent_f latent_h latent_w"]:
        """Returns normalised float32 latents (the posterior's mean) of videos in [-1, 1].

        The statistics are applied in float32; the published training code applies them in the pixels' dtype.

        Raises:
            ValueError: The number of frames or the size does not fit the strides.
        """
        self._geometry.num_latent_frames(pixels.shape[2])
        self._geometry.latent_size(PixelSize(pixels.shape[3], pixels.shape[4]))
        num_more = pixels.shape[2] - 1
        frames = rearrange(pixels.to(self.device, self.dtype), "b c f h w -> b f h w c")
        first, memory = self._encoder.first(_dense(frames[:, :1]), remembers=num_more > 0)
        pieces = [first]
        # One latent frame at a time, so that memory use does not grow with the video.
        for piece in frames[:, 1:].split(self._geometry.temporal_stride, dim=1) if num_more else ():
            latents, memory = self._encoder.following(_dense(piece), memory)
            pieces.append(latents)
        normalised = (torch.cat(pieces, dim=1).float() - self._mean) / self._std
        return rearrange(normalised, "b f h w z -> b z f h w").contiguous()

    def decode(self, latents: Float[Tensor, "b z latent_f latent_h latent_w"]) -> Float[Tensor, "b 3 f h w"]:
        """Returns float32 pixels in [-1, 1] of complete videos, from their first latent frame on."""
        return self.decode_stream(latents, None)[0]

    @torch.no_grad()
    def decode_stream(
        self, latents: Float[Tensor, "b z latent_f latent_h latent_w"], state: DecodeState | None
    ) -> tuple[Float[Tensor, "b 3 f h w"], DecodeState]:
        """Returns float32 pixels in [-1, 1] of the next latent frames, and the next state; see `Codec`.

        The state holds the last two frames of every causal convolution's input.
        """
        if latents.shape[2] < 1:
            raise ValueError("no latent frame to decode; give at least 1")
        placed = rearrange(latents.to(self.device, torch.float32), "b z f h w -> b f h w z")
        raw = (placed * self._std + self._mean).to(self.dtype)
        memory: Memory | None = None if state is None else state.features
        pieces: list[Tensor] = []
        for latent_frames in raw.split(self._decoding.latents_per_pass, dim=1):
            # Contiguous, so that arithmetic and compiled function are the same however a video is split.
            latent_frames = _dense(latent_frames)
            piece, memory = (
                self._decode_first(latent_frames)
                if memory is None
                else self._decode_following(latent_frames, memory)
            )
            pieces.append(piece)
        assert memory is not None
        num_before = 0 if state is None else state.num_latent_frames
        following = DecodeState(num_latent_frames=num_before + raw.shape[1], features=memory)
        pixels = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
        return rearrange(pixels, "b f h w c -> b c f h w"), following


def _dense(x: Tensor) -> Tensor:
    """Returns a contiguous copy, also with standard strides for axes that have one element."""
    return x.clone(memory_format=torch.contiguous_format)
