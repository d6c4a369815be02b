"""The causal attention mask for a whole shot in one pass: one rule, in two forms.

The rule, on chunks: context attends to context; a chunk attends to the context, to itself and to the chunks
before it within the window. Inside a chunk attention is bidirectional. Frames after the last whole chunk form
a last, shorter chunk.

Both forms compute the same attention. "slices" runs plain attention per chunk over contiguous ranges of keys
and never builds a mask: it is the default, and the fastest if a chunk has many tokens. "block" is a
FlexAttention BlockMask, compiled on CUDA. Neither allocates a matrix of tokens by tokens: at 480x832 a shot
of seven chunks has 42,120 tokens, and such a matrix 1.8 GB.

Source: section 4 of arXiv 2603.25746.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from shotstream.configs import refuse_unknown_words
from shotstream.geometry import TokenGrid
from shotstream.model.config import DiTConfig

MaskForm = Literal["slices", "block"]

_BLOCK = 128
"""Number of queries and of keys in a FlexAttention block."""


class QuerySlice(NamedTuple):
    """Consecutive query tokens that share their keys, and the token ranges of these keys."""

    queries: slice
    keys: tuple[slice, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalMask:
    """The causal mask of one sequence [context | shot]. Hashable: its blocks are computed once per device."""

    num_context_frames: int
    num_target_frames: int
    """Number of latent frames of the shot."""
    chunk_latent_frames: int
    tokens_per_frame: int
    window_chunks: int | None = None
    """Number of chunks that a chunk attends to, including itself; None for all."""
    form: MaskForm = "slices"

    def __post_init__(self) -> None:
        least = {
            "num_context_frames": 0,
            "num_target_frames": 1,
            "chunk_latent_frames": 1,
            "tokens_per_frame": 1,
        }
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {minimum}")
        if self.window_chunks is not None and self.window_chunks < 1:
            raise ValueError(f"window_chunks is {self.window_chunks}; give at least 1, or None for no window")
        refuse_unknown_words(self)

    @classmethod
    def for_shot(
        cls, config: DiTConfig, grid: TokenGrid, num_target_frames: int, *, form: MaskForm = "slices"
    ) -> "CausalMask":
        """Returns the mask of a full context and a shot, with the window of streaming."""
        return cls(
            num_context_frames=config.num_context_frames,
            num_target_frames=num_target_frames,
            chunk_latent_frames=config.chunk_latent_frames,
            tokens_per_frame=grid.num_tokens,
            window_chunks=config.window_chunks,
            form=form,
        )

    @property
    def num_frames(self) -> int:
        """Number of latent frames of the sequence, with the context."""
        return self.num_context_frames + self.num_target_frames

    @property
    def num_tokens(self) -> int:
        """Number of tokens of the sequence."""
        return self.num_frames * self.tokens_per_frame

    def allows(self, query_group: int, key_group: int) -> bool:
        """Returns the rule for groups of frames: group 0 is the context, 1 the first chunk."""
        in_window = self.window_chunks is None or query_group - key_group < self.window_chunks
        return key_group == 0 or (query_group >= key_group and in_window)

    def token_groups(self, device: torch.device | str = "cpu") -> Int[Tensor, " n"]:
        """Returns the group of every token."""
        frame = torch.arange(self.num_tokens, device=device) // self.tokens_per_frame
        return ((frame - self.num_context_frames) // self.chunk_latent_frames + 1).clamp_min(0)

    def block_mask(self, device: torch.device | str = "cpu") -> BlockMask:
        """Returns the mask for `flex_attention`."""
        return _block_mask(self, torch.device(device))

    def slices(self) -> tuple[QuerySlice, ...]:
        """Returns the mask as contiguous ranges: every query token once, in order."""
        ranges = self._group_ranges()
        return tuple(
            QuerySlice(queries, _merge([keys for key, keys in enumerate(ranges) if self.allows(query, key)]))
            for query, queries in enumerate(ranges)
            if queries.stop > queries.start
        )

    def blocks(self, device: torch.device | str = "cpu") -> tuple[Bool[Tensor, "n n"], Bool[Tensor, "n n"]]:
        """Returns the blocks of [query, key] tokens that are partly allowed, and the fully allowed ones.

        A block that extends past the last token is never completely allowed.
        """
        edges = torch.tensor([(part.start, part.stop) for part in self._group_ranges()], device=device)
        first = torch.arange(0, self.num_tokens, _BLOCK, device=device)[:, None]
        holds = ((edges[:, 0] < first + _BLOCK) & (edges[:, 1] > first)).float()  # block, group
        table = self.group_table(device).float()
        allowed = holds @ table @ holds.T > 0
        forbidden = holds @ (1 - table) @ holds.T > 0
        ends = (first + _BLOCK <= self.num_tokens).squeeze(1)
        whole = allowed & ~forbidden & ends[:, None] & ends[None, :]
        return allowed & ~whole, whole

    def group_table(self, device: torch.device | str = "cpu") -> Bool[Tensor, "g g"]:
        """Returns the rule for every pair of groups, [query, key]."""
        groups = range(len(self._group_ranges()))
        return torch.tensor([[self.allows(query, key) for key in groups] for query in groups], device=device)

    def _group_ranges(self) -> list[slice]:
        """Returns the token range of every group; the context's is empty if there is none."""
        starts = range(self.num_context_frames, self.num_frames, self.chunk_latent_frames)
        edges = [frame * self.tokens_per_frame for frame in (0, *starts, self.num_frames)]
        return [slice(first, last) for first, last in pairwise(edges)]


def _merge(ranges: list[slice]) -> tuple[slice, ...]:
    merged: list[slice] = []
    for part in ranges:
        if part.start == part.stop:
            continue
        if merged and merged[-1].stop == part.start:
            merged[-1] = slice(merged[-1].start, part.stop)
        else:
            merged.append(part)
    return tuple(merged)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # cached outside inference mode, whose tensors cannot be used for training
def _block_mask(mask: CausalMask, device: torch.device) -> BlockMask:
    # The rule is a lookup table, because a traced function must not call Python code.
    groups, table = mask.token_groups(device), mask.group_table(device)
    part, whole = (_listed(blocks) for blocks in mask.blocks(device))
    return BlockMask.from_kv_blocks(
        *part,
        *whole,
        BLOCK_SIZE=_BLOCK,
        mask_mod=lambda _batch, _head, query, key: table[groups[query], groups[key]],
        seq_lengths=(mask.num_tokens, mask.num_tokens),
    )


def _listed(blocks: Bool[Tensor, "n n"]) -> tuple[Int[Tensor, "1 1 n"], Int[Tensor, "1 1 n n"]]:
    """Returns the number of key blocks of each query block, and their indices, these first and in order."""
    places = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(dim=-1, dtype=torch.int32)[None, None], places.to(torch.int32)[None, None]
