"""Sequence parallelism: processes share the tokens of a pass, and exchange them for heads in attention.

There are two exchanges per layer: queries, keys and values of a process's own tokens are sent by heads, and
the result of attention comes back by tokens. Shares may be uneven, so any number of processes up to the
numbers of heads and of tokens per frame is possible; even shares are the most efficient. Gradients are not
supported: training splits batches instead.

Source: DeepSpeed-Ulysses (arXiv 2309.14509).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import prod

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from shotstream.geometry import TokenGrid
from shotstream.model.attention import Attend
from shotstream.model.config import DiTConfig
from shotstream.model.rope import RopeTable


class HeadParallel:
    """A `TokenShare` over the processes of a group."""

    def __init__(self, config: DiTConfig, grid: TokenGrid, group: dist.ProcessGroup | None = None) -> None:
        """Creates the share of this process, without communication.

        Args:
            config: Sizes of the transformer.
            grid: Size of a latent frame in tokens.
            group: The processes; None: all.

        Raises:
            ValueError: There are more processes than heads or than tokens in a frame.
        """
        self._group = group
        self._rank, self._size = dist.get_rank(group), dist.get_world_size(group)
        if self._size > min(config.num_heads, grid.num_tokens):
            raise ValueError(
                f"{self._size} processes cannot share {config.num_heads} heads and {grid.num_tokens} tokens "
                "a frame; start fewer"
            )
        self._heads = shares(config.num_heads, self._size)
        self._tokens = shares(grid.num_tokens, self._size)

    @property
    def num_heads(self) -> int:
        """Number of heads that this process attends with."""
        return len(self._heads[self._rank])

    def scatter(
        self, tokens: Float[Tensor, "b f p d"], rope: RopeTable
    ) -> tuple[Float[Tensor, "b f q d"], RopeTable]:
        """Returns this process's tokens of every frame, and their rotations."""
        if torch.is_grad_enabled():
            raise ValueError("a pass shared by processes carries no gradient; run it under torch.no_grad()")
        own = _as_slice(self._tokens[self._rank])
        num_frames = tokens.shape[1]
        cos, sin = (
            table.unflatten(1, (num_frames, -1))[:, :, own].flatten(1, 2) for table in (rope.cos, rope.sin)
        )
        return tokens[:, :, own], replace(rope, cos=cos, sin=sin)

    def gather(self, tokens: Float[Tensor, "b f q d"]) -> Float[Tensor, "b f p d"]:
        """Returns the tokens of all processes in their original order; bit-identical in all processes."""
        batch, num_frames, _, width = tokens.shape
        shapes = [(batch, num_frames, len(share), width) for share in self._tokens]
        return torch.cat(self._exchange([tokens] * self._size, shapes), dim=2)

    def over(self, attend: Attend) -> Attend:
        """Returns an attention function for this process's tokens and all heads; see `TokenShare.over`."""
        return partial(self._attend, attend=attend)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, *, attend: Attend) -> Tensor:
        batch, num_own, _, width = queries.shape
        num_frames = num_own // len(self._tokens[self._rank])
        numbers = [num_frames * len(share) for share in self._tokens]
        # Tokens first, so that the parts from all processes are contiguous.
        packed = torch.stack((queries, keys, values)).permute(2, 0, 1, 3, 4)  # n 3 b heads k
        arrived = self._exchange(
            [packed[..., _as_slice(share), :] for share in self._heads],
            [(number, 3, batch, self.num_heads, width) for number in numbers],
        )
        gathered = attend(*torch.cat(arrived).permute(1, 2, 0, 3, 4).unbind(0))  # b n heads k, all n
        returned = self._exchange(
            list(gathered.split(numbers, dim=1)),
            [(batch, num_own, len(share), width) for share in self._heads],
        )
        return torch.cat(returned, dim=2)

    def _exchange(self, parts: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Sends part j to process j; returns the parts from all processes, of shape i from process i."""
        sent = torch.cat([part.flatten() for part in parts])
        num_sent, num_received = [part.numel() for part in parts], [prod(shape) for shape in shapes]
        received = sent.new_empty(sum(num_received))
        dist.all_to_all_single(received, sent, num_received, num_sent, group=self._group)
        return [piece.view(shape) for piece, shape in zip(received.split(num_received), shapes, strict=True)]


def shares(count: int, num_processes: int) -> tuple[range, ...]:
    """Returns `count` items as consecutive shares, one per process, as even as possible."""
    edges = [count * process // num_processes for process in range(num_processes + 1)]
    return tuple(range(first, last) for first, last in pairwise(edges))


def _as_slice(share: range) -> slice:
    return slice(share.start, share.stop)
