"""The dual KV cache: keys and values of the context, and of earlier chunks of the same shot.

There is one buffer per layer, allocated once: [context | shot]. A pass reads one contiguous range of it, in
any order, because positions are already in the keys. A pass either reads or writes:

- a denoise pass of chunk c reads the context and the committed chunks of its window. Its own keys go to
  chunk c's free slot, so that the range is contiguous; no later pass reads them;
- a commit pass ("global": the context; "local": a finished chunk) stores its keys and values.

The keys and values of a layer are stored in a given dtype, perhaps with fewer bits and converted for each
pass; or they are rounded once, when written, for 8-bit attention, see `eight_bit_attention`.

Chunk c is in slot c mod `window_chunks`: beyond the window, a chunk takes the slot of the one that has just
left it. With gradients enabled nothing is written: keys are concatenated, and no gradient flows through the
cache. Lengths are Python integers; no pass waits for the device.

Source: the dual cache of arXiv 2603.25746, section 4.
"""

from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from shotstream.geometry import TokenGrid
from shotstream.model.attention import Attend
from shotstream.model.config import DiTConfig
from shotstream.model.eight_bit_attention import EightBitKeysValues
from shotstream.model.key_cache import Write


class KeysValues(NamedTuple):
    """Keys (after RoPE) and values of one layer, "b n heads k"."""

    keys: Tensor
    values: Tensor

    def part(self, tokens: slice) -> "KeysValues":
        """Returns views of a range of tokens."""
        return KeysValues(self.keys[:, tokens], self.values[:, tokens])


LayerCache = KeysValues | EightBitKeysValues
"""The cache of one layer: tensors, with a method `part` for a range of tokens."""


@dataclass(frozen=True, slots=True)
class CacheSnapshot:
    """A copy of the committed keys and values of a cache."""

    num_context_frames: int
    first_chunk: int
    num_chunks: int
    layers: tuple[LayerCache, ...]


@dataclass(frozen=True, slots=True)
class CachePass:
    """The token ranges of one forward pass, from `DualCache.begin` to `DualCache.finish`."""

    cache: "DualCache"
    write: Write | None
    num_frames: int
    chunk_index: int | None
    others: tuple[slice, ...]
    """Ranges that the pass reads besides its own tokens."""
    own: slice | None
    """Range that its own keys are written to; None to concatenate instead."""
    whole: slice
    """Range that covers `others` and `own`."""
    version: int

    def attends(self, attention: Attend) -> list[Attend]:
        """Returns each layer's attention over all keys of the pass.

        `attention` is used for caches that are not 8-bit.
        """
        return [partial(self._attend, layer=layer, attention=attention) for layer in self.cache.layers]

    def _attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, *, layer: LayerCache, attention: Attend
    ) -> Tensor:
        if isinstance(layer, KeysValues):
            return attention(queries, *self.join(layer, keys, values))
        if self.own is not None:
            layer.write(keys, values, self.own, is_context=self.write == "global")
            return layer.attend(queries, self.whole)
        joined, own = _joined(layer, self.others, keys.shape[1])
        joined.write(keys, values, own, is_context=False)
        return joined.attend(queries, slice(0, own.stop))

    def join(self, layer: KeysValues, keys: Tensor, values: Tensor) -> KeysValues:
        """Returns the keys and values that the pass attends to in a layer, including its own."""
        if self.own is None:
            return self._concatenate(layer, keys, values)
        for stored, new in zip(layer, (keys, values), strict=True):
            stored[:, self.own] = new
        # This copies only if the cache has fewer bits than the network's dtype.
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
    """The dual KV cache of one shot that is being generated. One network can use any number of caches."""

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
        """Creates an empty cache, without committed keys.

        Args:
            config: Sizes of the transformer.
            batch: Number of films that are generated together.
            token_grid: Size of their latent frames in tokens.
            dtype: Dtype of stored keys and values; one with fewer bits than the network's saves memory, not
                time. int8 is for 8-bit attention, which saves both: a key and a value need two bytes per
                channel, and 4 bytes per token and head for the key's step. Such a cache supports no pass with
                gradients.
            device: Device of the buffers.
            num_heads: Number of heads whose keys it holds; None: all.
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
        """Counter of the events after which keys that an earlier pass has read may be gone."""
        self._num_context_frames = 0
        self._first_chunk = 0
        """Chunk of the shot with which the committed ones begin."""
        self._num_chunks = 0
        self._set_aside: tuple[LayerCache, ...] | None = None
        """The chunk that last left the window, while a denoise pass uses its slot."""

    @property
    def num_bytes(self) -> int:
        """Number of bytes of the buffers."""
        return sum(stored.nbytes for layer in self.layers for stored in layer)

    @property
    def num_context_frames(self) -> int:
        """Number of committed context frames."""
        return self._num_context_frames

    @property
    def num_chunks(self) -> int:
        """Number of chunks of the current shot up to the last committed one."""
        return self._first_chunk + self._num_chunks

    def context(self, layer: int) -> LayerCache:
        """Returns views of the committed context in one layer."""
        return self.layers[layer].part(self._context_range())

    def reset(self) -> None:
        """Removes the context and the shot."""
        self._num_context_frames = 0
        self.reset_local()

    def reset_local(self, first_chunk: int = 0) -> None:
        """Removes the chunks of the shot and keeps the context; the next one committed is `first_chunk`.

        A shot of which chunks before `first_chunk` are forgotten goes on as if they had left the window.
        """
        self._first_chunk = first_chunk
        self._num_chunks = 0
        self._set_aside = None
        self.version += 1

    def snapshot(self) -> CacheSnapshot:
        """Returns a copy of everything committed."""
        self._put_back()
        used = self._used_range(self._num_context_frames, self._num_chunks)
        return CacheSnapshot(self._num_context_frames, self._first_chunk, self._num_chunks, self._copy(used))

    @torch.no_grad()
    def restore(self, snapshot: CacheSnapshot) -> None:
        """Restores a snapshot; raises ValueError if it was taken from a cache of another shape."""
        used = self._used_range(snapshot.num_context_frames, snapshot.num_chunks)
        held = [tuple(saved.shape) for layer in snapshot.layers for saved in layer]
        room = [tuple(stored.shape) for layer in self.layers for stored in layer.part(used)]
        if held != room or type(snapshot.layers[0]) is not type(self.layers[0]):
            raise ValueError("the snapshot belongs to a cache of another shape")
        self.reset()
        self._num_context_frames = snapshot.num_context_frames
        self._first_chunk, self._num_chunks = snapshot.first_chunk, snapshot.num_chunks
        self._paste(used, snapshot.layers)

    def begin(self, num_frames: int, chunk_index: int | None, write: Write | None) -> CachePass:
        """Returns the pass over `num_frames` latent frames, which are chunk `chunk_index` of the shot.

        Raises:
            ValueError: The cache cannot serve the pass: the chunk skips one, its window is gone, the context
                is too long, or a commit pass has gradients enabled.
        """
        if write is not None and torch.is_grad_enabled():
            raise ValueError("a commit pass carries no gradient; run it under torch.no_grad()")
        if torch.is_grad_enabled() and isinstance(self.layers[0], EightBitKeysValues):
            raise ValueError(
                "an 8-bit cache does not support gradients; train with a cache in full precision"
            )
        if write == "global":
            return self._begin_context(num_frames)
        return self._begin_chunk(num_frames, chunk_index, write)

    def finish(self, done: CachePass) -> None:
        """Completes a pass after all layers: commits what a commit pass has written; else does nothing."""
        if done.write == "global":
            self._num_context_frames = done.num_frames
        elif done.write == "local":
            assert done.chunk_index is not None
            self._num_chunks = done.chunk_index + 1 - self._first_chunk
            self._set_aside = None

    def _begin_context(self, num_frames: int) -> CachePass:
        if not 1 <= num_frames <= self.config.num_context_frames:
            raise ValueError(f"{num_frames} context frames; give 1..{self.config.num_context_frames}")
        self._num_context_frames = 0
        self.version += 1
        # The context ends where the shot begins, so that there is no gap after a shorter one.
        own = slice(self._shot_start - num_frames * self.token_grid.num_tokens, self._shot_start)
        return CachePass(self, "global", num_frames, None, (), own, own, self.version)

    def _begin_chunk(self, num_frames: int, chunk: int | None, write: Write | None) -> CachePass:
        if chunk is None or num_frames != self.config.chunk_latent_frames:
            raise ValueError(
                "a pass over a shot's cache takes the frames of one whole chunk: build its positions with "
                f"chunk_positions (got chunk {chunk} of {num_frames} frames)"
            )
        shot_chunk, first = chunk, self._first_chunk
        chunk, committed, window = chunk - first, self._num_chunks, self.config.window_chunks
        if chunk < 0:
            raise ValueError(f"chunk {shot_chunk} was forgotten; the cache begins with chunk {first}")
        if chunk > committed:
            raise ValueError(
                f"chunk {shot_chunk} follows {first + committed} committed chunks; commit those between"
            )
        if committed > window and chunk < committed - 1:
            raise ValueError(
                f"the window of chunk {shot_chunk} is gone after {first + committed} chunks; "
                "restore a snapshot"
            )
        if chunk < committed:
            self._put_back()
        in_place = write is not None or (chunk == committed and not torch.is_grad_enabled())
        if in_place and chunk == committed and chunk >= window:
            self._set_oldest_aside()
        if write is not None and (chunk < committed or chunk >= window):
            self.version += 1
        if write is not None:
            # Until the pass is finished, this chunk and later ones count as missing.
            self._num_chunks = chunk
        own = self._slot(chunk)
        context = self._context_range()
        end = self._slot(min(chunk, window - 1)).stop
        others = (slice(context.start, own.start), slice(own.stop, end))
        return CachePass(
            self,
            write,
            num_frames,
            shot_chunk,
            tuple(part for part in others if part.start < part.stop),
            own if in_place else None,
            slice(context.start, end),
            self.version,
        )

    @torch.no_grad()
    def _set_oldest_aside(self) -> None:
        """Copies the chunk that the next one overwrites.

        If the last chunk is generated again, it attends to the copied one.
        """
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
    """Returns a copy of some ranges, concatenated, with room for more tokens after them, and that room."""
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
