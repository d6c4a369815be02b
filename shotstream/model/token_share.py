"""The protocol of sequence parallelism: several processes compute one pass of the transformer together.

Every process has all weights. It computes a share of each frame's tokens and, in self-attention, all tokens
for a share of the heads. `streaming/sequence_parallel.py` implements it with torch.distributed; the network
does not depend on that.

Source: DeepSpeed-Ulysses (arXiv 2309.14509).
"""

from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from shotstream.model.attention import Attend
from shotstream.model.rope import RopeTable


class TokenShare(Protocol):
    """The share of a pass that this process computes; it supports no gradients."""

    @property
    def num_heads(self) -> int:
        """Number of heads that this process attends with, and that its dual caches hold."""
        ...

    def scatter(
        self, tokens: Float[Tensor, "b f p d"], rope: RopeTable
    ) -> tuple[Float[Tensor, "b f q d"], RopeTable]:
        """Returns this process's tokens of every frame, and their rotations."""
        ...

    def gather(self, tokens: Float[Tensor, "b f q d"]) -> Float[Tensor, "b f p d"]:
        """Returns the tokens of all processes in their original order; bit-identical in all processes."""
        ...

    def over(self, attend: Attend) -> Attend:
        """Returns an attention function for this process's tokens and all heads.

        It calls `attend` with all tokens and this process's heads. The tokens are in another order than the
        frames', always the same for a given number of frames.
        """
        ...
