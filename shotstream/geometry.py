"""Sizes of a video as pixels, latents, chunks and tokens, and every conversion between them.

The only file that knows the codec's strides (4 in time, 8 in space), the transformer's patch (2) and the
chunk (3 latent frames): a 480x832 frame is 60x104 latents and 30x52 = 1560 tokens. It converts; it never
resizes or crops.

Source: Wan2.1's causal video codec (its first latent frame is one video frame, every later one four) and
section 4 of arXiv 2603.25746 (chunks of 3 latent frames).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PixelSize:
    """Extent of a video frame in pixels."""

    height: int
    width: int

    def __post_init__(self) -> None:
        _require_positive(self)


@dataclass(frozen=True, slots=True)
class LatentSize:
    """Extent of a latent frame."""

    height: int
    width: int

    def __post_init__(self) -> None:
        _require_positive(self)


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """Extent of one latent frame in tokens, row-major."""

    height: int
    width: int

    def __post_init__(self) -> None:
        _require_positive(self)

    @property
    def num_tokens(self) -> int:
        """Tokens in one latent frame."""
        return self.height * self.width


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoGeometry:
    """Strides of a codec and of the transformer above it.

    A shot of `n` latent frames has `1 + temporal_stride * (n - 1)` video frames, because the first latent
    frame of every shot holds a single video frame.
    """

    temporal_stride: int = 4
    """Video frames per latent frame after the first."""
    spatial_stride: int = 8
    """Pixels per latent, in height and in width."""
    patch_size: int = 2
    """Latents per token, in height and in width."""
    chunk_latent_frames: int = 3
    """Latent frames denoised together."""

    def __post_init__(self) -> None:
        for name in ("temporal_stride", "spatial_stride", "patch_size", "chunk_latent_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def latent_size(self, pixels: PixelSize) -> LatentSize:
        """Latent extent of a frame; ValueError when the codec's stride does not divide it."""
        _require_multiple(pixels, self.spatial_stride, "pixels")
        return LatentSize(pixels.height // self.spatial_stride, pixels.width // self.spatial_stride)

    def pixel_size(self, latents: LatentSize) -> PixelSize:
        """Pixel extent of a latent frame."""
        return PixelSize(latents.height * self.spatial_stride, latents.width * self.spatial_stride)

    def token_grid(self, latents: LatentSize) -> TokenGrid:
        """Token extent of a latent frame; ValueError when the patch does not divide it."""
        _require_multiple(latents, self.patch_size, "latents")
        return TokenGrid(latents.height // self.patch_size, latents.width // self.patch_size)

    def num_latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip; ValueError unless it has 1 + a multiple of `temporal_stride` frames."""
        whole, rest = divmod(num_frames - 1, self.temporal_stride)
        if num_frames < 1 or rest:
            near = 1 + max(whole, 0) * self.temporal_stride
            raise ValueError(
                f"{num_frames} frames do not fill whole latent frames; "
                f"give 1 + a multiple of {self.temporal_stride}, for example {near}"
            )
        return 1 + whole

    def num_frames(self, num_latent_frames: int) -> int:
        """Video frames that `num_latent_frames` (at least 1) decode to."""
        if num_latent_frames < 1:
            raise ValueError(f"{num_latent_frames} latent frames; a clip has at least 1")
        return 1 + (num_latent_frames - 1) * self.temporal_stride

    def num_chunks(self, num_latent_frames: int) -> int:
        """Chunks of a shot; ValueError unless its latent frames fill whole chunks."""
        whole, rest = divmod(num_latent_frames, self.chunk_latent_frames)
        if whole < 1 or rest:
            near = max(whole, 1) * self.chunk_latent_frames
            raise ValueError(
                f"{num_latent_frames} latent frames do not fill whole chunks; "
                f"give a multiple of {self.chunk_latent_frames}, for example {near}"
            )
        return whole

    def shot_num_latent_frames(self, num_chunks: int) -> int:
        """Latent frames of a shot of `num_chunks` (at least 1) chunks."""
        if num_chunks < 1:
            raise ValueError(f"{num_chunks} chunks; a shot has at least 1")
        return num_chunks * self.chunk_latent_frames

    def shot_num_frames(self, num_chunks: int) -> int:
        """Video frames of a shot of `num_chunks` (at least 1) chunks."""
        return self.num_frames(self.shot_num_latent_frames(num_chunks))

    def nearest_num_chunks(self, num_frames: int) -> int:
        """Chunks (at least 1) of the shot whose length comes nearest to `num_frames`, the shorter of two."""
        chunk_frames = self.temporal_stride * self.chunk_latent_frames
        # A shot of n chunks has n * chunk_frames frames, less all but one of a latent frame.
        return max(1, -(-2 * (num_frames + self.temporal_stride - 1) // chunk_frames) // 2)

    def chunk_num_frames(self, chunk_index: int) -> int:
        """Video frames that chunk `chunk_index` (from 0) of a shot decodes to: fewer in the first chunk."""
        if chunk_index < 0:
            raise ValueError(f"chunk index {chunk_index}; the first chunk is 0")
        before = self.shot_num_frames(chunk_index) if chunk_index else 0
        return self.shot_num_frames(chunk_index + 1) - before


WAN_GEOMETRY = VideoGeometry()
"""The strides of Wan2.1 and of the published ShotStream weights; the theatre shares them."""


def _require_positive(size: PixelSize | LatentSize | TokenGrid) -> None:
    if size.height < 1 or size.width < 1:
        raise ValueError(f"{size} is empty; height and width must be at least 1")


def _require_multiple(size: PixelSize | LatentSize, step: int, unit: str) -> None:
    if size.height % step or size.width % step:
        near = tuple(max(round(extent / step), 1) * step for extent in (size.height, size.width))
        raise ValueError(
            f"{size.height}x{size.width} {unit} are not multiples of {step}; "
            f"the nearest size is {near[0]}x{near[1]}"
        )


WAN_FRAME_SIZE = PixelSize(480, 832)
"""What the published weights were trained at."""
