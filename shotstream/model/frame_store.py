"""The frame store: keys and values of a shot's frames, for students without a context.

There is one buffer per layer, allocated once: [bank | sink | window]. Frame f of the window is in slot f mod
the window's size, so that a frame takes the slot of the one that has just left. A pass writes its own keys
and values into its frames' slots and reads one contiguous range, in any order, because positions are in the
keys. Nothing is copied or gathered for a pass. Frames that can never be attended to again are gone.

If positions are places in the window, keys are also kept before RoPE, and those of earlier frames are rotated
once per chunk. If chunks are denoised together, a denoise pass writes nothing: its frames are more than the
next chunk, and it reads the first frames at positions of its own, so that its keys are concatenated.

No gradient flows through it, and processes cannot share it.

Source: the rules of `StudentRules`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from shotstream.geometry import TokenGrid
from shotstream.model.attention import Attend
from shotstream.model.config import DiTConfig
from shotstream.model.cross_attention import TextCache
from shotstream.model.key_cache import Write
from shotstream.model.memory_bank import MemoryBank
from shotstream.model.positions import FramePositions
from shotstream.model.rope import RopeTable, apply_rope, rope_table
from shotstream.model.student_rules import StudentRules
from shotstream.transfer import send


class FrameLayer(NamedTuple):
    """Keys and values of one layer, "b n heads k"."""

    keys: Tensor
    """Keys after RoPE, as passes attend to them."""
    values: Tensor
    unturned: Tensor | None
    """Keys of the window before RoPE; None if positions are not places."""
    anchor: tuple[Tensor, Tensor] | None
    """Keys before RoPE and values of the first frames, if their positions move; else None."""


class _Fed(NamedTuple):
    """The frames of a pass."""

    first: int
    end: int
    slots: Sequence[int]
    """Slot of each in the window."""
    positions: Sequence[int]


@dataclass(frozen=True, slots=True)
class FramePass:
    """One forward pass over a store, from `FrameStore.begin` to `FrameStore.finish`."""

    store: "FrameStore"
    write: Write | None
    num_frames: int
    rope: RopeTable
    """Rotations of its own frames."""
    own: tuple[tuple[slice, slice], ...]
    """Slots of the window, in tokens, and the range of its own tokens that is written to each."""
    read: slice
    """Range of the buffer that it attends to, which contains its own tokens."""
    past: tuple[slice, ...] | None = None
    """Ranges to concatenate with its own tokens instead; it then writes nothing."""
    anchor: RopeTable | None = None
    """Rotations of the moving first frames, which it attends to besides; None: there are none."""

    def attends(self, attention: Attend) -> list[Attend]:
        """Returns each layer's attention over all keys of the pass."""
        return [partial(self._attend, layer=layer, attention=attention) for layer in self.store.layers]

    def _attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, *, layer: FrameLayer, attention: Attend
    ) -> Tensor:
        turned = keys if self.rope.turns_keys else apply_rope(keys, self.rope)
        if self.past is not None:
            return attention(queries, *self._joined(layer, self.past, turned, values))
        for there, here in self.own:
            window = self.store.window_of(layer)
            window.keys[:, there] = turned[:, here]
            window.values[:, there] = values[:, here]
            if self.write is not None and layer.unturned is not None:
                layer.unturned[:, there] = keys[:, here]
        if self.write == "local" and layer.anchor is not None and self.store.num_frames == 0:
            for stored, new in zip(layer.anchor, (keys, values), strict=True):
                stored.copy_(new[:, : stored.shape[1]])
        # These copy only if the store has fewer bits than the network's dtype.
        return attention(
            queries, layer.keys[:, self.read].to(keys.dtype), layer.values[:, self.read].to(keys.dtype)
        )

    def _joined(
        self, layer: FrameLayer, past: tuple[slice, ...], keys: Tensor, values: Tensor
    ) -> list[Tensor]:
        parts = [(layer.keys[:, part], layer.values[:, part]) for part in past]
        if self.anchor is not None and layer.anchor is not None:
            first_keys, first_values = layer.anchor
            parts.insert(0, (apply_rope(first_keys.to(keys.dtype), self.anchor), first_values))
        parts.append((keys, values))
        return [torch.cat([part.to(keys.dtype) for part in of], dim=1) for of in zip(*parts, strict=True)]


class FrameStore:
    """The frame store of one shot that is being generated. One network can use any number of stores."""

    def __init__(
        self,
        config: DiTConfig,
        rules: StudentRules,
        batch: int,
        token_grid: TokenGrid,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Creates an empty store.

        Args:
            config: Sizes of the transformer.
            rules: What passes attend to.
            batch: Number of films that are generated together.
            token_grid: Size of their latent frames in tokens.
            dtype: Dtype of stored keys and values, of floats.
            device: Device of the buffers.

        Raises:
            ValueError: The rules do not fit the chunks of the network, or the dtype is an integer.
        """
        rules.check_chunk(config.chunk_latent_frames)
        if not dtype.is_floating_point:
            raise ValueError(f"a frame store holds floats, not {dtype}; give another precision")
        self.rules = rules
        self.batch = batch
        self.token_grid = token_grid
        self._config = config
        self._tokens = token_grid.num_tokens
        self._sink = 0 if rules.rolling else rules.sink
        relative = rules.rope == "cache_relative"

        def room(num_frames: int) -> Tensor:
            shape = (batch, num_frames * self._tokens, config.num_heads, config.head_dim)
            return torch.zeros(shape, dtype=dtype, device=device)

        self.layers = tuple(
            FrameLayer(
                room(rules.bank + rules.window),
                room(rules.bank + rules.window),
                room(rules.window) if relative else None,
                (room(rules.sink), room(rules.sink)) if rules.rolling else None,
            )
            for _ in range(config.num_layers)
        )
        in_bank = self._range(0, rules.bank)
        banks = tuple((layer.keys[:, in_bank], layer.values[:, in_bank]) for layer in self.layers)
        self._bank = MemoryBank(banks, self._tokens, rules.record_interval) if rules.bank else None
        self.reset()

    @property
    def num_frames(self) -> int:
        """Number of committed frames, including those that are gone."""
        return self._num_frames

    @property
    def num_bytes(self) -> int:
        """Number of bytes of the buffers."""
        parts = [(*layer[:2], layer.unturned, *(layer.anchor or ())) for layer in self.layers]
        return sum(part.nbytes for layer in parts for part in layer if part is not None)

    @property
    def num_recached(self) -> int:
        """Number of the newest frames whose keys a "recache" pass computes again; 0: none.

        While no frame has left the window it is all frames. Later it is the window with or without the sink,
        which in the first case becomes the oldest frames of the window.
        """
        if self.rules.recache == "none":
            return 0
        if self._num_frames <= self.rules.window or self.rules.recache == "window":
            return min(self._num_frames, self.rules.window)
        return self.rules.window - self.rules.sink

    def reset(self) -> None:
        """Removes all frames."""
        self._num_frames = self._num_chunks = 0
        self._is_cut = False
        self._made: tuple[object, RopeTable] | None = None
        self._turned: _Fed | None = None
        """The pass that the window's keys are rotated for."""
        self._averages: list[tuple[Tensor, Tensor]] = []
        if self._bank is not None:
            self._bank.reset()

    def window_of(self, layer: FrameLayer) -> FrameLayer:
        """Returns a layer with views of the window, without the bank."""
        window = self._range(self.rules.bank, self.rules.window)
        return layer._replace(keys=layer.keys[:, window], values=layer.values[:, window])

    def start_chunk(self, text: TextCache, *, is_cut: bool = False) -> None:
        """Prepares the store for the next chunk; called once, before its first pass.

        Args:
            text: Keys of the chunk's caption.
            is_cut: Whether the chunk is the first one after a cut within the shot.

        Raises:
            ValueError: The model has no cuts within a shot.
        """
        if is_cut and not self.rules.cut_position:
            raise ValueError("this model has no cuts within a shot; begin another shot")
        self._is_cut = is_cut
        if self._bank is not None:
            self._bank.record(self._num_chunks, text)
        if self.rules.averages_sink and self._num_frames >= self.rules.window:
            self._average_sink(self.rules.sink_ema)

    def rope(self, num_frames: int, write: Write | None) -> RopeTable:
        """Returns the rotations of the frames of the next pass, see `begin`."""
        key = (self._num_frames, num_frames, write == "recache", self._is_cut)
        if self._made is None or self._made[0] != key:
            fed = self._fed(num_frames, write)
            turns_keys = self.rules.rope == "absolute"
            self._made = key, replace(self._rope_at(fed.positions), turns_keys=turns_keys)
        return self._made[1]

    def begin(self, num_frames: int, chunk_index: int | None, write: Write | None) -> FramePass:
        """Returns the pass over the next `num_frames` frames, or over the newest ones to recache them.

        Raises:
            ValueError: There are more frames than fit the window or were trained, gradients are enabled, or
                the pass is for another cache.
        """
        del chunk_index  # frames follow each other
        if torch.is_grad_enabled():
            raise ValueError("a frame store carries no gradient; run passes under torch.no_grad()")
        if write == "global":
            raise ValueError("this model has no context; its shots begin with their first chunk")
        if num_frames > self.rules.window or (write == "recache" and num_frames != self.num_recached):
            raise ValueError(f"a pass over {num_frames} frames; the window has {self.rules.window}")
        fed, rope = self._fed(num_frames, write), self.rope(num_frames, write)
        if 0 < self.rules.max_frames < fed.end:
            raise ValueError(
                f"frame {fed.end} of a shot; this model's positions were trained up to "
                f"{self.rules.max_frames} latent frames: begin another shot"
            )
        if self.rules.rolling and write is None:
            return self._rolling_pass(fed, rope)
        in_bank = 0 if self._bank is None else self._bank.num_frames
        in_window = min(fed.end, self.rules.window)
        if self.rules.rope == "cache_relative" and self._turned != fed:
            self._turn_window(fed.end, in_window)
            self._turned = fed
        read = self._range(self.rules.bank - in_bank, in_bank + in_window)
        return FramePass(self, write, num_frames, rope, self._runs(fed.slots), read)

    def finish(self, done: FramePass) -> None:
        """Completes a pass after all layers: commits what a commit pass has written; else does nothing."""
        if done.write != "local":
            return
        offers = self.rules.bank_rule == "every_chunk" or self._num_chunks % self.rules.record_interval == 0
        if self._bank is not None and offers:
            frame = self._range(self.rules.bank + self._slot(self._num_frames), 1)
            self._bank.offer(tuple((layer.keys[:, frame], layer.values[:, frame]) for layer in self.layers))
        self._num_frames += done.num_frames
        self._num_chunks += 1

    def _fed(self, num_frames: int, write: Write | None) -> _Fed:
        window = self.rules.window
        first = self._num_frames - (num_frames if write == "recache" else 0)
        end = first + num_frames
        slots = [self._slot(frame) for frame in range(first, end)]
        places = [self._place(frame, end) for frame in range(first, end)]
        if write == "recache" and end > window == num_frames:
            # The oldest frames become the sink, so that the others are where they were.
            slots[: self._sink], places = range(self._sink), list(range(window))
        if self._is_cut and write != "recache":
            places = [self.rules.cut_position + at for at in range(num_frames)]
        absolute = self.rules.rope != "cache_relative"
        return _Fed(first, end, tuple(slots), tuple(range(first, end) if absolute else places))

    def _rolling_pass(self, fed: _Fed, rope: RopeTable) -> FramePass:
        """Returns a denoise pass over several chunks: it attends to the first frames, some past, and itself.

        The first frames come directly before the past, whatever their distance.
        """
        fixed, num_frames = self.rules.sink, fed.end - fed.first
        num_past = max(0, min(fed.first - fixed, self.rules.window - fixed - num_frames))
        anchor = None
        if fed.first and fixed:
            at = fed.first - num_past - fixed
            anchor = self._rope_at(range(at, at + fixed))
        past = self._runs([self._slot(frame) for frame in range(fed.first - num_past, fed.first)])
        ranges = tuple(there for there, _ in past)
        return FramePass(self, None, num_frames, rope, (), slice(0), ranges, anchor)

    def _turn_window(self, end: int, in_window: int) -> None:
        """Rotates the stored keys by their frames' places in the window that ends before frame `end`."""
        places = [0] * in_window
        oldest = max(self._sink, end - (self.rules.window - self._sink))
        for frame in (*range(min(self._sink, end)), *range(oldest, end)):
            places[self._slot(frame)] = self._place(frame, end)
        table, tokens = self._rope_at(places), slice(0, in_window * self._tokens)
        for layer in self.layers:
            assert layer.unturned is not None
            layer.keys[:, tokens] = apply_rope(_precise(layer.unturned[:, tokens]), table)

    def _average_sink(self, factor: float) -> None:
        """Moves the sink towards the frames that leave the window now, in float32 or better.

        In bfloat16 most of an update would be rounded away.
        """
        sink = self._range(0, self._sink)
        leaving = self._slot(self._num_frames - (self.rules.window - self._sink))
        gone = self._range(leaving, self._sink)
        stored = [(layer.unturned, layer.values) for layer in self.layers]
        if not self._averages:
            first = [(keys[:, sink], values[:, sink]) for keys, values in stored if keys is not None]
            self._averages = [(_precise(keys).clone(), _precise(values).clone()) for keys, values in first]
        for averages, buffers in zip(self._averages, stored, strict=True):
            for average, buffer in zip(averages, buffers, strict=True):
                assert buffer is not None
                average.mul_(factor).add_(_precise(buffer[:, gone]), alpha=1 - factor)
                buffer[:, sink] = average

    def _slot(self, frame: int) -> int:
        fixed = self._sink
        return frame if frame < fixed else fixed + (frame - fixed) % (self.rules.window - fixed)

    def _place(self, frame: int, end: int) -> int:
        """Returns the place of a frame in the window that ends before frame `end`."""
        return frame if frame < self._sink else frame - max(0, end - self.rules.window)

    def _rope_at(self, positions: Sequence[int]) -> RopeTable:
        frames = send(torch.tensor([positions]), self.layers[0].keys.device)
        none = torch.zeros_like(frames)
        return rope_table(FramePositions(frames, none, none), self.token_grid, self._config)

    def _range(self, first: int, num_frames: int) -> slice:
        return slice(first * self._tokens, (first + num_frames) * self._tokens)

    def _runs(self, slots: Sequence[int]) -> tuple[tuple[slice, slice], ...]:
        """Returns runs of consecutive slots, in tokens, each with its range of the tokens of `slots`."""
        edges = [at for at, slot in enumerate(slots) if at == 0 or slot != slots[at - 1] + 1]
        return tuple(
            (self._range(slots[at], end - at), self._range(at, end - at))
            for at, end in pairwise([*edges, len(slots)])
        )


def _precise(x: Tensor) -> Tensor:
    """Returns a tensor in float32 or better; 8-bit formats have no arithmetic of their own."""
    return x.float() if x.dtype.itemsize < torch.float32.itemsize else x
