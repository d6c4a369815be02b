"""Keys and values of what a chunk may look back at: the context, and the chunks of its own shot.

One buffer per layer, allocated once: [context | shot]. A pass reads one contiguous range of it, in which
order does not matter because positions are already in the keys. A pass either reads or writes:

- a denoise pass of chunk c reads the context and the committed chunks of its window. Its own keys go to
  chunk c's free place, so that the range stays contiguous, and mean nothing to anybody afterwards;
- a commit pass ("global": the context; "local": a finished chunk) makes its keys and values last.

A layer's keys and values are kept as they are, perhaps in fewer bits and widened for each pass, or rounded
once, when they are written, for attention in eight bits; see `eight_bit_attention`.

Chunk c lives in slot c mod `window_chunks`: past the window, a chunk takes the slot of the one that has just
left it. With gradients enabled nothing is written: keys are concatenated, and none flows back through here.
Lengths are Python integers; no pass waits for the device.

Source: the dual cache of arXiv 2603.25746, section 4.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from shotstream.geometry import TokenGrid
from shotstream.model.attention import Attend
from shotstream.model.config import DiTConfig
from shotstream.model.eight_bit_attention import EightBitKeysValues

Write = Literal["global", "local"]


class KeysValues(NamedTuple):
    """Keys (after RoPE) and values, "b n heads k"."""

    keys: Tensor
    values: Tensor

    def part(self, tokens: slice) -> "KeysValues":
        """Views of some tokens."""
        return KeysValues(self.keys[:, tokens], self.values[:, tokens])


LayerCache = KeysValues | EightBitKeysValues
"""What a cache keeps of one layer: tensors, of which `part` gives some tokens."""


@dataclass(frozen=True, slots=True)
class CacheSnapshot:
    """A snapshot of a cache, detached from it."""

    num_context_frames: int
    num_chunks: int
    layers: tuple[LayerCache, ...]


@dataclass(frozen=True, slots=True)
class CachePass:
    """The ranges of one pass over the network. Made by `DualCache.begin`, closed by `DualCache.finish`."""

    cache: "DualCache"
    write: Write | None
    num_frames: int
    chunk_index: int | None
    others: tuple[slice, ...]
    """What the pass reads besides its own tokens."""
    own: slice | None
    """Where its own keys are put; None to concatenate instead."""
    whole: slice
    """`others` and `own` together."""
    version: int

    def attend(
        self, layer: LayerCache, queries: Tensor, keys: Tensor, values: Tensor, attention: Attend
    ) -> Tensor:
        """Attention of queries to all that the pass attends to; `attention` is for keys kept as they are."""
        if isinstance(layer, KeysValues):
            return attention(queries, *self.join(layer, keys, values))
        if self.own is not None:
            layer.write(keys, values, self.own, is_context=self.write == "global")
            return layer.attend(queries, self.whole)
        joined, own = _joined(layer, self.others, keys.shape[1])
        joined.write(keys, values, own, is_context=False)
        return joined.attend(queries, slice(0, own.stop))

    def join(self, layer: KeysValues, keys: Tensor, values: Tensor) -> KeysValues:
        """The keys and values that the pass attends to in a layer, its own included."""
        if self.own is None:
            return self._concatenate(layer, keys, values)
        for stored, new in zip(layer, (keys, values), strict=True):
            stored[:, self.own] = new
        # A copy only where the cache is kept in fewer bits than the network computes in.
        return KeysValues(*(stored.to(keys.dtype) for stored in layer.part(self.whole)))

    def _concatenate(self, layer: KeysValues, keys: Tensor, values: Tensor) -> KeysValues:
        if self.version != self.cache.version:
            raise RuntimeError(
                "the cache lost keys that a checkpointed pass needs to be recomputed; "
                "run backward before the cache is reset, restored or moves past its window"
            )
        return KeysValues(
            *(
                torch.cat([*(stored[:, part] for part in self.others), new.to(stored.dtype)], dim=1)
                for stored, new in zip(layer, (keys, values), strict=True)
            )
        )


class DualCache:
    """The state of one shot in the making. One network serves any number of caches."""

    def __init__(
        self,
        config: DiTConfig,
        batch: int,
        token_grid: TokenGrid,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        num_heads: int | None = None,
    ) -> None:
        """An empty cache: nothing is committed yet.

        Args:
            config: Of the network.
            batch: Films made at once.
            token_grid: Of their pictures.
            dtype: What keys and values are kept in; fewer bits than the network's save memory, not time.
                int8 is for attention in eight bits, which saves both: two bytes and a half of a hundredth
                for a key's and a value's number. Such a cache takes no pass with gradients.
            device: Where.
            num_heads: Heads whose keys it holds; None: all.
        """
        self.config = config
        self.batch = batch
        self.token_grid = token_grid
        self._chunk_tokens = config.chunk_latent_frames * token_grid.num_tokens
        self._shot_start = config.num_context_frames * token_grid.num_tokens
        num_tokens = self._shot_start + config.window_chunks * self._chunk_tokens
        shape = (batch, num_tokens, num_heads or config.num_heads, config.head_dim)
        self.layers: tuple[LayerCache, ...] = tuple(
            EightBitKeysValues.empty(*shape, device)
            if dtype == torch.int8
            else KeysValues(*(torch.zeros(shape, dtype=dtype, device=device) for _ in range(2)))
            for _ in range(config.num_layers)
        )
        self.version = 0
        """Counts the moments at which keys that an earlier pass read may have gone."""
        self._num_context_frames = 0
        self._num_chunks = 0
        self._set_aside: tuple[LayerCache, ...] | None = None
        """The chunk that last left the window, while a denoise pass uses its slot."""

    @property
    def num_context_frames(self) -> int:
        """Context frames committed."""
        return self._num_context_frames

    @property
    def num_chunks(self) -> int:
        """Chunks of the current shot committed, those past the window included."""
        return self._num_chunks

    def context(self, layer: int) -> LayerCache:
        """Views of the committed context in one layer."""
        return self.layers[layer].part(self._context_range())

    def reset(self) -> None:
        """Forget the context and the shot."""
        self._num_context_frames = 0
        self.reset_local()

    def reset_local(self) -> None:
        """Forget the chunks of the shot and keep the context."""
        self._num_chunks = 0
        self._set_aside = None
        self.version += 1

    def snapshot(self) -> CacheSnapshot:
        """A copy of everything committed."""
        self._put_back()
        used = self._used_range(self._num_context_frames, self._num_chunks)
        return CacheSnapshot(self._num_context_frames, self._num_chunks, self._copy(used))

    @torch.no_grad()
    def restore(self, snapshot: CacheSnapshot) -> None:
        """Become what `snapshot` holds. ValueError when it was taken from a cache of another shape."""
        used = self._used_range(snapshot.num_context_frames, snapshot.num_chunks)
        held = [tuple(saved.shape) for layer in snapshot.layers for saved in layer]
        room = [tuple(stored.shape) for layer in self.layers for stored in layer.part(used)]
        if held != room or type(snapshot.layers[0]) is not type(self.layers[0]):
            raise ValueError("the snapshot belongs to a cache of another shape")
        self.reset()
        self._num_context_frames, self._num_chunks = snapshot.num_context_frames, snapshot.num_chunks
        self._paste(used, snapshot.layers)

    def begin(self, num_frames: int, chunk_index: int | None, write: Write | None) -> CachePass:
        """The pass over `num_frames` latent frames; `chunk_index` says which chunk they are.

        Raises ValueError for a pass that the cache cannot serve: a chunk that skips one, a chunk whose
        window is gone, more context than there is room for, a commit with gradients enabled.
        """
        if write is not None and torch.is_grad_enabled():
            raise ValueError("a commit pass carries no gradient; run it under torch.no_grad()")
        if torch.is_grad_enabled() and isinstance(self.layers[0], EightBitKeysValues):
            raise ValueError("a cache in eight bits takes no pass with gradients; keep whole keys to train")
        if write == "global":
            return self._begin_context(num_frames)
        return self._begin_chunk(num_frames, chunk_index, write)

    def finish(self, done: CachePass) -> None:
        """Make a commit pass last, once every layer has written; a denoise pass leaves no trace."""
        if done.write == "global":
            self._num_context_frames = done.num_frames
        elif done.write == "local":
            assert done.chunk_index is not None
            self._num_chunks = done.chunk_index + 1
            self._set_aside = None

    def _begin_context(self, num_frames: int) -> CachePass:
        if not 1 <= num_frames <= self.config.num_context_frames:
            raise ValueError(f"{num_frames} context frames; give 1..{self.config.num_context_frames}")
        self._num_context_frames = 0
        self.version += 1
        # The context ends where the shot begins, so that a shorter one leaves no gap between them.
        own = slice(self._shot_start - num_frames * self.token_grid.num_tokens, self._shot_start)
        return CachePass(self, "global", num_frames, None, (), own, own, self.version)

    def _begin_chunk(self, num_frames: int, chunk: int | None, write: Write | None) -> CachePass:
        if chunk is None or num_frames != self.config.chunk_latent_frames:
            raise ValueError(
                "a pass over a shot's cache takes the frames of one whole chunk: build its positions with "
                f"chunk_positions (got chunk {chunk} of {num_frames} frames)"
            )
        committed, window = self._num_chunks, self.config.window_chunks
        if chunk > committed:
            raise ValueError(f"chunk {chunk} follows {committed} committed chunks; commit those between")
        if committed > window and chunk < committed - 1:
            raise ValueError(
                f"the window of chunk {chunk} is gone after {committed} chunks; restore a snapshot"
            )
        if chunk < committed:
            self._put_back()
        in_place = write is not None or (chunk == committed and not torch.is_grad_enabled())
        if in_place and chunk == committed and chunk >= window:
            self._set_oldest_aside()
        if write is not None and (chunk < committed or chunk >= window):
            self.version += 1
        if write is not None:
            # Until it is finished the chunk counts as missing, and so do chunks made after its old version.
            self._num_chunks = chunk
        own = self._slot(chunk)
        context = self._context_range()
        end = self._slot(min(chunk, window - 1)).stop
        others = (slice(context.start, own.start), slice(own.stop, end))
        return CachePass(
            self,
            write,
            num_frames,
            chunk,
            tuple(part for part in others if part.start < part.stop),
            own if in_place else None,
            slice(context.start, end),
            self.version,
        )

    @torch.no_grad()
    def _set_oldest_aside(self) -> None:
        """Copy the chunk that the next one replaces: the last chunk, if made again, still needs it."""
        if self._set_aside is None:
            self._set_aside = self._copy(self._slot(self._num_chunks))
            self.version += 1

    @torch.no_grad()
    def _put_back(self) -> None:
        if self._set_aside is not None:
            self._paste(self._slot(self._num_chunks), self._set_aside)
            self._set_aside = None

    def _copy(self, tokens: slice) -> tuple[LayerCache, ...]:
        return tuple(type(layer)(*(x.clone() for x in layer.part(tokens))) for layer in self.layers)

    def _paste(self, tokens: slice, copied: tuple[LayerCache, ...]) -> None:
        parts = chain.from_iterable(layer.part(tokens) for layer in self.layers)
        for stored, saved in zip(parts, chain.from_iterable(copied), strict=True):
            stored.copy_(saved)

    def _slot(self, chunk: int) -> slice:
        start = self._shot_start + (chunk % self.config.window_chunks) * self._chunk_tokens
        return slice(start, start + self._chunk_tokens)

    def _context_range(self) -> slice:
        return slice(self._used_range(self._num_context_frames, 0).start, self._shot_start)

    def _used_range(self, num_context_frames: int, num_chunks: int) -> slice:
        start = self._shot_start - num_context_frames * self.token_grid.num_tokens
        stored_chunks = min(num_chunks, self.config.window_chunks)
        return slice(start, self._shot_start + stored_chunks * self._chunk_tokens)


def _joined(
    layer: EightBitKeysValues, parts: tuple[slice, ...], num_own: int
) -> tuple[EightBitKeysValues, slice]:
    """A copy of some parts, one after the other, with room for more tokens behind them, and that room."""
    batch, heads, _, width = layer.keys.shape
    start = sum(part.stop - part.start for part in parts)
    joined = EightBitKeysValues.empty(batch, start + num_own, heads, width, layer.keys.device)
    joined.centre.copy_(layer.centre)
    at = 0
    for part in parts:
        there = slice(at, at + part.stop - part.start)
        for new, stored in zip(joined.part(there), layer.part(part), strict=True):
            new.copy_(stored)
        at = there.stop
    return joined, slice(start, start + num_own)
