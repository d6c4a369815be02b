"""Options of inference, in full: what is given up for memory, what computes, what is compiled.

Nobody is asked for these one by one: `choice` makes them of what a person wants and what the machine is.
docs/performance.md says what each saves and costs.
"""

from dataclasses import dataclass

import torch

from shotstream.configs import refuse_unknown_words
from shotstream.model.attention import AttentionName
from shotstream.model.quantized import WeightFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceOptions:
    """Options of inference; the defaults keep every bit, with torch's own attention and nothing compiled.

    Raises:
        ValueError: Options that exclude each other.
    """

    weights: WeightFormat | None = None
    """What the linear layers of the transformer's blocks are kept in; None: what they are computed in."""
    float8_cache: bool = False
    """Whether keys and values are kept in float8 (e4m3) between passes."""
    offload_text: bool = False
    """Whether Wan's text encoder stays in main memory and its layers visit the device one by one."""
    attention: AttentionName = "sdpa"
    """What computes the transformer's self-attention; "eight-bit" also keeps keys and values so."""
    compile: bool = False
    """Whether the transformer's blocks are compiled."""
    compile_decoder: bool = False
    """Whether Wan's decoder is compiled, for a shot's first chunk and for the later ones. Not chosen, since
    its own kernels fuse what a compiler would; `bench all` asks whether that holds."""
    chunk_decode: bool = False
    """Whether a chunk's latent frames go through Wan's decoder together, instead of one after the other."""
    cudnn_benchmark: bool = False
    """Whether cuDNN tries its algorithms for each new shape of a convolution and keeps the fastest. It is a
    setting of the process, and stays on when the pipeline is gone."""
    num_threads: int | None = None
    """Threads that a CPU computes with, also a setting of the process; None: as many as it has now."""
    overlap_chunks: bool = False
    """Whether a chunk is denoised while the one before is decoded and used; see `chunk_prefetcher`."""
    codec_device: str | None = None
    """Where the codec and the text encoder are, for example cuda:1; None: where the transformer is."""

    def __post_init__(self) -> None:
        refuse_unknown_words(self)
        if self.float8_cache and self.attention == "eight-bit":
            raise ValueError(
                "attention in eight bits keeps keys and values so itself; leave float8_cache out"
            )

    def check_for_group(self) -> None:
        """ValueError for options that several processes, which make each chunk together, cannot have."""
        if self.overlap_chunks:
            raise ValueError(
                "several processes make each chunk together, when it is asked for; do not overlap"
            )
        if self.compile:
            raise ValueError("several processes exchange tensors within each block, which cannot be compiled")

    @property
    def cache_dtype(self) -> torch.dtype | None:
        """The dtype of keys and values between passes; None: that of the transformer."""
        if self.attention == "eight-bit":
            return torch.int8
        return torch.float8_e4m3fn if self.float8_cache else None

    @property
    def of_wan_decoder(self) -> bool:
        """Whether one is set that only Wan's decoder knows."""
        return self.compile_decoder or self.chunk_decode

    @property
    def needs_warm_up(self) -> bool:
        """Whether a first pass does more than a later one: it compiles, or tries algorithms."""
        return self.compile or self.compile_decoder or self.cudnn_benchmark

    @property
    def suffix(self) -> str:
        """Tells the films made with it from those made without; empty where they differ by rounding alone."""
        weights = [f"{self.weights} weights"] if self.weights else []
        cache = ["float8 cache"] if self.float8_cache else []
        attention = ["8-bit attention"] if self.attention == "eight-bit" else []
        changes = weights + cache + attention
        return f" ({', '.join(changes)})" if changes else ""


DEFAULT_INFERENCE_OPTIONS = InferenceOptions()
