"""The protocol of video codecs: strides, channels, encode, decode, streamed decode.

A codec is causal in time: the first latent frame stands for one video frame, every later one for
`geometry.temporal_stride` of them, and a latent frame never depends on a later one. It holds no state between
calls: the state of a streamed decode is an argument and a result, so that one codec serves many sessions, and
a session is forked by keeping a reference.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from shotstream.geometry import VideoGeometry


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeState:
    """The state of a streamed decode.

    It is never mutated: each call returns a new one, and old ones stay valid.
    """

    num_latent_frames: int
    """Number of latent frames decoded so far, at least 1."""
    features: tuple[Tensor, ...] = ()
    """Tensors that the codec needs in its next call; their layout is the codec's own."""

    def __post_init__(self) -> None:
        if self.num_latent_frames < 1:
            raise ValueError(
                f"a decode state stands after at least 1 latent frame, got {self.num_latent_frames}; "
                "pass None to begin a shot"
            )


@runtime_checkable
class StreamDecoder(Protocol):
    """A decoder that turns latents into pixels piece by piece."""

    def decode_stream(
        self, latents: Float[Tensor, "b z latent_f latent_h latent_w"], state: DecodeState | None
    ) -> tuple[Float[Tensor, "b 3 f h w"], DecodeState]:
        """Returns pixels and the next state; see `Codec.decode_stream`."""
        ...


@runtime_checkable
class Codec(Protocol):
    """A causal video codec over normalised latents."""

    @property
    def geometry(self) -> VideoGeometry:
        """Strides between pixels, latents and tokens."""
        ...

    @property
    def latent_channels(self) -> int:
        """Number of channels of a latent frame."""
        ...

    def encode(self, pixels: Float[Tensor, "b 3 f h w"]) -> Float[Tensor, "b z latent_f latent_h latent_w"]:
        """Returns normalised float32 latents of videos in [-1, 1], without sampling.

        The videos of a batch are encoded independently.

        Raises:
            ValueError: The number of frames or the size does not fit the strides.
        """
        ...

    def decode(self, latents: Float[Tensor, "b z latent_f latent_h latent_w"]) -> Float[Tensor, "b 3 f h w"]:
        """Returns float32 pixels in [-1, 1] of complete videos, from their first latent frame on."""
        ...

    def decode_stream(
        self, latents: Float[Tensor, "b z latent_f latent_h latent_w"], state: DecodeState | None
    ) -> tuple[Float[Tensor, "b 3 f h w"], DecodeState]:
        """Returns float32 pixels in [-1, 1] of the next latent frames of a video, and the next state.

        For consecutive pieces of a video, the results joined are those of `decode` for the whole.

        Args:
            latents: The next latent frames, one or more.
            state: The state that the previous call returned. None begins a video: its first latent frame
                gives one video frame.
        """
        ...
