"""Configuration of the diffusion transformer: its sizes and conventions.

Source: Wan2.1-T2V-1.3B (arXiv 2503.20314) and section 4 of arXiv 2603.25746.
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, NamedTuple

from shotstream.configs import refuse_unknown_words
from shotstream.geometry import WAN_GEOMETRY
from shotstream.sizes import refuse_sizes

ContextSigma = Literal["clean", "target"]


class RotarySplit(NamedTuple):
    """Number of channels of a head that RoPE rotates for each axis; each is even."""

    temporal: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DiTConfig:
    """Sizes of a transformer, which teacher, student and fake score of a family share."""

    latent_channels: int
    """Number of channels of the codec's latents, for input and output."""
    dim: int
    """Width of the residual stream."""
    ffn_dim: int
    """Hidden width of the feed-forward layers."""
    num_heads: int
    """Number of attention heads, a divisor of `dim`."""
    num_layers: int
    """Number of transformer blocks."""
    text_dim: int
    """Width of the caption embeddings of the text encoder."""
    text_length: int
    """Number of rows of a caption embedding, including padding rows, which are attended to."""
    freq_dim: int = 256
    """Width of the sinusoidal embedding of sigma; even."""
    patch_size: int = WAN_GEOMETRY.patch_size
    """Number of latents per token, in height and in width."""
    eps: float = 1e-6
    """Constant added to variances by every normalisation."""
    phase_angle: float = 1 / 6
    """RoPE phase per shot: radians added to every temporal angle."""
    context_sigma: ContextSigma = "clean"
    """Noise level passed for clean context frames: 0, or the target's (published teacher and fake score).

    The transformer itself takes a level per frame; the code that builds its inputs reads this setting.
    """
    num_context_frames: int = 6
    """Number of context frames before a shot's own; target frames start at this position."""
    chunk_latent_frames: int = WAN_GEOMETRY.chunk_latent_frames
    """Number of latent frames that are denoised together."""
    window_chunks: int = 7
    """Number of chunks of the current shot that a chunk attends to, including itself."""

    def __post_init__(self) -> None:
        refuse_unknown_words(self)
        for field in fields(self):
            if field.type is int:
                refuse_sizes(self, [field.name], least=0 if field.name == "num_context_frames" else 1)
        if self.dim % self.num_heads or self.head_dim % 2 or self.head_dim < 6:
            raise ValueError(
                f"dim {self.dim} over {self.num_heads} heads; "
                "heads must divide dim into even widths of at least 6"
            )
        if self.freq_dim % 2:
            raise ValueError(f"freq_dim is {self.freq_dim}; it must be even")
        if not 0 < self.eps < 1:
            raise ValueError(f"eps is {self.eps}; it must be above 0 and below 1")

    def to_document(self) -> dict[str, Any]:
        """Returns the section of a bundle.

        It contains a removed setting, so that the bundle's SHA-256 is unchanged.
        """
        document: dict[str, Any] = {}
        for name, value in asdict(self).items():
            document[name] = value
            if name == "phase_angle":
                document["num_shot_embeddings"] = 0
        return document

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads

    @property
    def rotary_split(self) -> RotarySplit:
        """Numbers of channels for time, height and width.

        Height and width have a third of a head each, rounded down to pairs; time has the rest.
        """
        spatial = 2 * (self.head_dim // 6)
        return RotarySplit(self.head_dim - 2 * spatial, spatial, spatial)


def wan_14b() -> DiTConfig:
    """Returns the sizes of Wan2.1-T2V-14B."""
    return replace(wan_1_3b(), dim=5120, ffn_dim=13824, num_heads=40, num_layers=40)


def wan_1_3b(*, context_sigma: ContextSigma = "clean") -> DiTConfig:
    """Returns the sizes of Wan2.1-T2V-1.3B.

    The published ShotStream teacher and fake score use context_sigma "target".
    """
    return DiTConfig(
        latent_channels=16,
        dim=1536,
        ffn_dim=8960,
        num_heads=12,
        num_layers=30,
        text_dim=4096,
        text_length=512,
        context_sigma=context_sigma,
    )
