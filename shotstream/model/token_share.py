"""The protocol of processes that compute one pass together; the network itself knows no process.

Every process has all weights. It computes a share of each frame's tokens and, in self-attention, all tokens
for a share of the heads. `streaming/sequence_parallel.py` does it with torch.distributed.

Source: DeepSpeed-Ulysses (arXiv 2309.14509).
"""

from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from shotstream.model.attention import Attend
from shotstream.model.rope import RopeTable


class TokenShare(Protocol):
    """A process's share of a pass; carries no gradient."""

    @property
    def num_heads(self) -> int:
        """Heads that this process attends with: what its dual caches hold."""
        ...

    def scatter(
        self, tokens: Float[Tensor, "b f p d"], rope: RopeTable
    ) -> tuple[Float[Tensor, "b f q d"], RopeTable]:
        """This process's tokens of every frame, and their rotations."""
        ...

    def gather(self, tokens: Float[Tensor, "b f q d"]) -> Float[Tensor, "b f p d"]:
        """Gathers all processes' tokens, in the order of `scatter`'s; the same bits everywhere."""
        ...

    def over(self, attend: Attend) -> Attend:
        """`attend`, called with all tokens and this process's heads, for its own tokens and all heads.

        `attend` gets the tokens in another order than the frames', always the same for as many frames.
        """
        ...
