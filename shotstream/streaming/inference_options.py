"""The complete inference options: memory savings, kernels and compilation.

Users do not set these one by one: `choice` derives them from the user's options and the machine.
docs/performance.md has the savings and costs of each.
"""

from dataclasses import dataclass

import torch

from shotstream.configs import refuse_unknown_words
from shotstream.model.attention import AttentionName
from shotstream.model.quantized import WeightFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceOptions:
    """Options of inference.

    With the defaults nothing is approximated or compiled, and torch's own attention is used.

    Raises:
        ValueError: Some options exclude each other.
    """

    weights: WeightFormat | None = None
    """Format of the linear layers in the transformer's blocks; None: the dtype of the computation."""
    float8_cache: bool = False
    """Whether keys and values are stored in float8 (e4m3) between passes."""
    offload_text: bool = False
    """Whether Wan's text encoder stays in main memory, and its layers are copied to the device one by one."""
    attention: AttentionName = "sdpa"
    """Kernel of the transformer's self-attention; "eight-bit" also stores keys and values in 8 bits."""
    compile: bool = False
    """Whether the transformer's blocks are compiled."""
    compile_decoder: bool = False
    """Whether Wan's decoder is compiled, for a shot's first chunk and for later ones. Never chosen
    automatically, because its own kernels fuse the same operations; `bench all` measures whether that
    holds.
    """
    chunk_decode: bool = False
    """Whether a chunk's latent frames go through Wan's decoder together, instead of one after the other."""
    cudnn_benchmark: bool = False
    """Whether cuDNN tries its algorithms for each new shape of a convolution and uses the fastest. It is a
    setting of the process, and stays on when the pipeline is deleted.
    """
    num_threads: int | None = None
    """Number of CPU threads, also a setting of the process; None: not changed."""
    overlap_chunks: bool = False
    """Whether a chunk is denoised while the previous one is decoded and used; see `chunk_prefetcher`."""
    codec_device: str | None = None
    """Device of the codec and the text encoder, for example cuda:1; None: that of the transformer."""

    def __post_init__(self) -> None:
        refuse_unknown_words(self)
        if self.float8_cache and self.attention == "eight-bit":
            raise ValueError(
                "attention in eight bits keeps keys and values so itself; leave float8_cache out"
            )

    def check_for_group(self) -> None:
        """Raises ValueError for options that an inference group does not support."""
        if self.overlap_chunks:
            raise ValueError(
                "several processes make each chunk together, when it is asked for; do not overlap"
            )
        if self.compile:
            raise ValueError("several processes exchange tensors within each block, which cannot be compiled")

    @property
    def cache_dtype(self) -> torch.dtype | None:
        """Dtype of keys and values between passes; None: that of the transformer."""
        if self.attention == "eight-bit":
            return torch.int8
        return torch.float8_e4m3fn if self.float8_cache else None

    @property
    def of_wan_decoder(self) -> bool:
        """Whether an option is set that only Wan's decoder supports."""
        return self.compile_decoder or self.chunk_decode

    @property
    def needs_warm_up(self) -> bool:
        """Whether a first pass does more than later ones: it compiles, or tries algorithms."""
        return self.compile or self.compile_decoder or self.cudnn_benchmark

    @property
    def suffix(self) -> str:
        """Suffix that distinguishes films made with these options; empty if they differ by rounding alone."""
        weights = [f"{self.weights} weights"] if self.weights else []
        cache = ["float8 cache"] if self.float8_cache else []
        attention = ["8-bit attention"] if self.attention == "eight-bit" else []
        changes = weights + cache + attention
        return f" ({', '.join(changes)})" if changes else ""


DEFAULT_INFERENCE_OPTIONS = InferenceOptions()
