"""Geometry of a video in pixels, latents, chunks and tokens, and all conversions between them.

Only this file has the codec's strides (4 in time, 8 in space), the transformer's patch size (2) and the chunk
(3 latent frames): a 480x832 frame is 60x104 latents and 30x52 = 1560 tokens. It converts sizes; it never
resizes or crops.

Source: Wan2.1's causal video codec (its first latent frame is one video frame, every later one four) and
section 4 of arXiv 2603.25746 (chunks of 3 latent frames).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PixelSize:
    """Height and width of a video frame in pixels."""

    height: int
    width: int

    def __post_init__(self) -> None:
        _require_positive(self)


@dataclass(frozen=True, slots=True)
class LatentSize:
    """Height and width of a latent frame in latents."""

    height: int
    width: int

    def __post_init__(self) -> None:
        _require_positive(self)


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """Height and width of a latent frame in tokens; tokens are in row-major order."""

    height: int
    width: int

    def __post_init__(self) -> None:
        _require_positive(self)

    @property
    def num_tokens(self) -> int:
        """Number of tokens in one latent frame."""
        return self.height * self.width


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoGeometry:
    """The strides of a codec and of the transformer that uses it.

    A shot of `n` latent frames has `1 + temporal_stride * (n - 1)` video frames, because the first latent
    frame of every shot holds a single video frame.
    """

    temporal_stride: int = 4
    """Number of video frames per latent frame, after the first."""
    spatial_stride: int = 8
    """Number of pixels per latent, in height and in width."""
    patch_size: int = 2
    """Number of latents per token, in height and in width."""
    chunk_latent_frames: int = 3
    """Number of latent frames that are denoised together."""
    first_chunk_latent_frames: int = 0
    """Number of latent frames of a shot's first chunk; 0: as of the others."""

    def __post_init__(self) -> None:
        for name in ("temporal_stride", "spatial_stride", "patch_size", "chunk_latent_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.first_chunk_latent_frames <= self.chunk_latent_frames:
            raise ValueError(
                f"first_chunk_latent_frames is {self.first_chunk_latent_frames}; allowed are 0 to "
                f"{self.chunk_latent_frames}"
            )

    @property
    def num_missing_latent_frames(self) -> int:
        """Number of latent frames by which a shot's first chunk is shorter than the others."""
        return self.chunk_latent_frames - (self.first_chunk_latent_frames or self.chunk_latent_frames)

    def latent_size(self, pixels: PixelSize) -> LatentSize:
        """Returns the size of a frame in latents; raises ValueError unless the stride divides it."""
        _require_multiple(pixels, self.spatial_stride, "pixels")
        return LatentSize(pixels.height // self.spatial_stride, pixels.width // self.spatial_stride)

    def pixel_size(self, latents: LatentSize) -> PixelSize:
        """Returns the size of a latent frame in pixels."""
        return PixelSize(latents.height * self.spatial_stride, latents.width * self.spatial_stride)

    def token_grid(self, latents: LatentSize) -> TokenGrid:
        """Returns the size of a latent frame in tokens; raises ValueError unless the patch divides it."""
        _require_multiple(latents, self.patch_size, "latents")
        return TokenGrid(latents.height // self.patch_size, latents.width // self.patch_size)

    def num_latent_frames(self, num_frames: int) -> int:
        """Returns the number of latent frames of a clip.

        Raises:
            ValueError: `num_frames` is not 1 + a multiple of `temporal_stride`.
        """
        whole, rest = divmod(num_frames - 1, self.temporal_stride)
        if num_frames < 1 or rest:
            near = 1 + max(whole, 0) * self.temporal_stride
            raise ValueError(
                f"{num_frames} frames do not fill whole latent frames; "
                f"give 1 + a multiple of {self.temporal_stride}, for example {near}"
            )
        return 1 + whole

    def num_frames(self, num_latent_frames: int) -> int:
        """Returns the number of video frames that `num_latent_frames` (at least 1) decode to."""
        if num_latent_frames < 1:
            raise ValueError(f"{num_latent_frames} latent frames; a clip has at least 1")
        return 1 + (num_latent_frames - 1) * self.temporal_stride

    def num_chunks(self, num_latent_frames: int) -> int:
        """Returns the number of chunks of a shot; ValueError unless latent frames fill whole chunks."""
        whole, rest = divmod(num_latent_frames + self.num_missing_latent_frames, self.chunk_latent_frames)
        if whole < 1 or rest:
            near = max(whole, 1) * self.chunk_latent_frames - self.num_missing_latent_frames
            kind = f"a multiple of {self.chunk_latent_frames}"
            if self.num_missing_latent_frames:
                kind = f"{self.first_chunk_latent_frames} + {kind}"
            raise ValueError(
                f"{num_latent_frames} latent frames do not fill whole chunks; give {kind}, for example {near}"
            )
        return whole

    def shot_num_latent_frames(self, num_chunks: int) -> int:
        """Returns the number of latent frames of a shot of `num_chunks` (at least 1) chunks."""
        if num_chunks < 1:
            raise ValueError(f"{num_chunks} chunks; a shot has at least 1")
        return num_chunks * self.chunk_latent_frames - self.num_missing_latent_frames

    def shot_num_frames(self, num_chunks: int) -> int:
        """Returns the number of video frames of a shot of `num_chunks` (at least 1) chunks."""
        return self.num_frames(self.shot_num_latent_frames(num_chunks))

    def nearest_num_chunks(self, num_frames: int) -> int:
        """Returns the number of chunks (at least 1) of the shot whose length is nearest to `num_frames`.

        Of two shots at the same distance it is the shorter one.
        """
        chunk_frames = self.temporal_stride * self.chunk_latent_frames
        # A shot of n chunks has n * chunk_frames frames, less all but one of a latent frame, and less what
        # its first chunk lacks.
        whole = num_frames + self.temporal_stride * (1 + self.num_missing_latent_frames) - 1
        return max(1, -(-2 * whole // chunk_frames) // 2)

    def chunk_num_frames(self, chunk_index: int) -> int:
        """Returns the number of video frames that chunk `chunk_index` of a shot, from 0, decodes to.

        The first chunk has fewer frames than the others.
        """
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
"""Frame size that the published weights were trained at."""
