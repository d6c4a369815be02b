"""Who may attend to whom when a whole shot is seen in one pass: one rule, three forms of it.

The rule, on chunks: context attends to context; a chunk attends to the context, to itself and to the
chunks before it, as far back as the window reaches. Inside a chunk attention is bidirectional. Frames past
the last whole chunk form a last, shorter chunk of their own.

The forms compute the same attention. "slices" runs plain attention per chunk over contiguous ranges of keys
and never builds a mask: the default, and the fastest where a chunk has many tokens. "dense" is a boolean
matrix. "block" is a FlexAttention BlockMask, compiled on CUDA.

Source: section 4 of arXiv 2603.25746.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from shotstream.geometry import TokenGrid
from shotstream.model.config import DiTConfig

MaskForm = Literal["slices", "dense", "block"]


class QuerySlice(NamedTuple):
    """Consecutive query tokens that share their keys, and the token ranges of those keys."""

    queries: slice
    keys: tuple[slice, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalMask:
    """The causal rule for one sequence [context | shot]. Hashable: its forms are built once per device."""

    num_context_frames: int
    num_target_frames: int
    """Latent frames of the shot."""
    chunk_latent_frames: int
    tokens_per_frame: int
    window_chunks: int | None = None
    """Chunks that a chunk attends to, itself included; None for all."""
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
        if self.form not in get_args(MaskForm):
            raise ValueError(f"form is {self.form!r}; give one of {get_args(MaskForm)}")

    @classmethod
    def for_shot(
        cls, config: DiTConfig, grid: TokenGrid, num_target_frames: int, *, form: MaskForm = "slices"
    ) -> "CausalMask":
        """The mask of a full context and a shot, with the window that streaming will use."""
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
        """Latent frames of the sequence, context included."""
        return self.num_context_frames + self.num_target_frames

    @property
    def num_tokens(self) -> int:
        """Tokens of the sequence."""
        return self.num_frames * self.tokens_per_frame

    def allows(self, query_group: int, key_group: int) -> bool:
        """The rule itself, on groups of frames: group 0 is the context, 1 the first chunk."""
        in_window = self.window_chunks is None or query_group - key_group < self.window_chunks
        return key_group == 0 or (query_group >= key_group and in_window)

    def token_groups(self, device: torch.device | str = "cpu") -> Int[Tensor, " n"]:
        """The group of every token."""
        frame = torch.arange(self.num_tokens, device=device) // self.tokens_per_frame
        return ((frame - self.num_context_frames) // self.chunk_latent_frames + 1).clamp_min(0)

    def dense(self, device: torch.device | str = "cpu") -> Bool[Tensor, "n n"]:
        """The rule as a matrix [query token, key token], True where attention is allowed."""
        return _dense(self, torch.device(device))

    def block_mask(self, device: torch.device | str = "cpu") -> BlockMask:
        """The rule for `flex_attention`."""
        return _block_mask(self, torch.device(device))

    def slices(self) -> tuple[QuerySlice, ...]:
        """The rule as contiguous ranges: every query token once, in order."""
        ranges = self._group_ranges()
        return tuple(
            QuerySlice(queries, _merge([keys for key, keys in enumerate(ranges) if self.allows(query, key)]))
            for query, queries in enumerate(ranges)
            if queries.stop > queries.start
        )

    def group_table(self, device: torch.device | str = "cpu") -> Bool[Tensor, "g g"]:
        """The rule on every pair of groups, [query, key]."""
        groups = range(len(self._group_ranges()))
        return torch.tensor([[self.allows(query, key) for key in groups] for query in groups], device=device)

    def _group_ranges(self) -> list[slice]:
        """Tokens of every group; the context's range is empty where there is none."""
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


# Both caches outlive the caller: a tensor first made in inference mode could never be used for training.
@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _dense(mask: CausalMask, device: torch.device) -> Tensor:
    groups = mask.token_groups(device)
    return mask.group_table(device)[groups[:, None], groups[None, :]]


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _block_mask(mask: CausalMask, device: torch.device) -> BlockMask:
    # The rule enters as a table to look up: a traced function must not run Python of ours.
    groups, table = mask.token_groups(device), mask.group_table(device)
    num_tokens = mask.num_tokens
    return create_block_mask(
        lambda _batch, _head, query, key: table[groups[query], groups[key]],
        None,
        None,
        num_tokens,
        num_tokens,
        device=device,
    )
