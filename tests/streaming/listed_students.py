"""Students by lists: the slow way to run them, straight from the description of their passes.

Keys (before RoPE) and values of all frames are kept for ever, and every pass says which frames it feeds, at
which positions, and the list of (frame, position) that it attends to. Nothing is in slots, evicted or rotated
in advance, so that it can be wrong only where the description is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from shotstream.diffusion.schedule import StepLevels, step_levels
from shotstream.geometry import TokenGrid
from shotstream.model.attention import Attend
from shotstream.model.cross_attention import TextCache
from shotstream.model.dit import DiT
from shotstream.model.positions import FramePositions
from shotstream.model.rope import apply_rope, rope_table
from shotstream.model.student_rules import StudentRules

Keys = list[tuple[Tensor, Tensor]]
"""Keys before RoPE and values of one frame in every layer."""
Listed = Sequence[tuple[Keys, int]]


@dataclass
class ListedPass:
    """A pass: the list that it attends to before its own frames."""

    cache: "ListedCache"
    seen: Keys = field(default_factory=list)

    def attends(self, attention: Attend) -> list[Attend]:
        """One layer after the other."""
        return [self._layer(layer, attention) for layer in range(self.cache.dit.config.num_layers)]

    def _layer(self, layer: int, attention: Attend) -> Attend:
        def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            self.seen.append((keys.clone(), values.clone()))
            old = [
                (apply_rope(held[layer][0], self.cache.rope([at])), held[layer][1])
                for held, at in self.cache.attended
            ]
            own = apply_rope(keys, self.cache.rope(self.cache.positions))
            return attention(
                queries,
                torch.cat([*(part for part, _ in old), own], dim=1),
                torch.cat([*(part for _, part in old), values], dim=1),
            )

        return attend


class ListedCache:
    """What a network needs of a cache; `feed` is how a pass is run."""

    def __init__(self, dit: DiT, grid: TokenGrid) -> None:
        self.dit, self.token_grid, self.batch = dit, grid, 1
        self.attended: Listed = ()
        self.positions: Sequence[int] = ()
        self.seen: Keys = []

    def rope(self, positions: Sequence[int]):
        frames = torch.tensor([list(positions)])
        zeros = torch.zeros_like(frames)
        table = rope_table(FramePositions(frames, zeros, zeros), self.token_grid, self.dit.config)
        return replace(table, turns_keys=False)

    def begin(self, num_frames: int, chunk_index: int | None, write: object) -> ListedPass:
        del num_frames, chunk_index, write
        return ListedPass(self)

    def finish(self, done: ListedPass) -> None:
        self.seen = done.seen

    def feed(
        self, x: Tensor, told: Tensor, text: TextCache, positions: Sequence[int], attended: Listed
    ) -> tuple[Tensor, list[Keys]]:
        """The velocity, and each frame's keys and values."""
        self.attended, self.positions = attended, positions
        velocity = self.dit(x, told, text, self.rope(positions), cache=self)
        tokens = self.token_grid.num_tokens
        frames = [
            [(k[:, at : at + tokens], v[:, at : at + tokens]) for k, v in self.seen]
            for at in range(0, tokens * x.shape[2], tokens)
        ]
        return velocity, frames


class ListedStudent:
    """The rollout of one shot by lists."""

    def __init__(
        self,
        dit: DiT,
        rules: StudentRules,
        grid: TokenGrid,
        texts: Sequence[TextCache],
        noise: Callable[[int, int], Tensor],
    ) -> None:
        self.dit, self.rules, self.texts, self.noise = dit, rules, texts, noise
        self.cache = ListedCache(dit, grid)
        self.levels = step_levels(rules.steps, rules.shift, rules.step_scale)
        self.store: dict[int, Keys] = {}
        self.sink = {frame: frame for frame in range(rules.sink)}
        """Frame that is in each place of the sink."""
        self.bank: list[tuple[Keys, int]] = []
        self.candidate: tuple[Keys, int] | None = None
        self.clean: list[Tensor] = []
        self.text = texts[0]

    def run(self, num_chunks: int, switches: Mapping[int, bool]) -> Tensor:
        """All chunks; captions change before the chunks of `switches`, which say whether there is a cut."""
        size, segment = self.dit.config.chunk_latent_frames, 0
        for chunk in range(num_chunks):
            n = len(self.clean)
            if chunk in switches:
                segment += 1
                self.text = self.texts[segment]
            if self.rules.bank and chunk:
                self._record(chunk)
            if chunk in switches and self.rules.recache != "none" and n:
                self._recache(n)
            if self.rules.sink_ema < 1 and n >= self.rules.window:
                self._average(n)
            length = size if chunk else (self.rules.first_chunk_frames or size)
            self._chunk(chunk, n, length, is_cut=switches.get(chunk, False))
        return torch.cat(self.clean, dim=2)

    def _chunk(self, chunk: int, n: int, length: int, *, is_cut: bool) -> None:
        rules, e = self.rules, n + length
        listed, positions = self._list(n, e)
        if is_cut:
            positions = list(range(rules.cut_position, rules.cut_position + length))
        steps = rules.first_chunk_steps if chunk == 0 and rules.first_chunk_steps else rules.steps
        told, used = step_levels(steps, rules.shift, rules.step_scale)
        x = self.noise(chunk, 0)[:, :, :length]
        for step in range(len(steps)):
            velocity, _ = self.cache.feed(x, told[step].expand(1, length), self.text, positions, listed)
            x0 = (x.double() - used[step] * velocity.double()).float()
            if step + 1 < len(steps):
                s = used[step + 1].float()
                x = (1 - s) * x0 + s * self.noise(chunk, step + 1)[:, :, :length]
        _, frames = self.cache.feed(x0, torch.zeros(1, length), self.text, positions, listed)
        self.store.update(zip(range(n, e), frames, strict=True))
        self.clean += x0.split(1, dim=2)
        if rules.bank_rule == "every_chunk" or chunk % rules.record_interval == 0:
            self.candidate = (frames[0], n)

    def _list(self, n: int, e: int) -> tuple[list[tuple[Keys, int]], list[int]]:
        """What a pass over [n, e) attends to besides itself, and its own positions."""
        rules = self.rules
        recent = range(max(rules.sink, e - (rules.window - rules.sink)), n)
        frames = [self.sink[place] for place in range(min(rules.sink, n))] + list(recent)
        if rules.rope == "cache_relative":
            places = list(range(len(frames)))
            own = list(range(len(frames), len(frames) + e - n))
        else:
            places, own = frames, list(range(n, e))
        attended = [(self.store[frame], at) for frame, at in zip(frames, places, strict=True)]
        return [*attended, *self.bank], own

    def _recache(self, n: int) -> None:
        """LongLive's way: it feeds all frames of a window, and keeps those that it needs."""
        rules = self.rules
        first = max(0, n - rules.window)
        fed = torch.cat(self.clean[first:n], dim=2)
        relative = rules.rope == "cache_relative"
        positions = list(range(n - first)) if relative else list(range(first, n))
        keeps = n > rules.window and rules.recache == "window_keep_sink"
        if keeps:
            # The oldest frames query, but nothing attends to their keys: the same as not feeding them.
            fed, positions = fed[:, :, rules.sink :], positions[rules.sink :]
            listed = [(self.store[frame], place) for place, frame in self.sink.items()]
        else:
            listed = []
        _, frames = self.cache.feed(
            fed, torch.zeros(1, fed.shape[2]), self.text, positions, [*listed, *self.bank]
        )
        start = n - fed.shape[2]
        self.store.update(zip(range(start, n), frames, strict=True))
        if n > rules.window and not keeps:
            self.sink = {place: start + place for place in range(rules.sink)}

    def _average(self, n: int) -> None:
        rules = self.rules
        for place in range(rules.sink):
            gone = self.store[n - (rules.window - rules.sink) + place]
            mean = [
                tuple(rules.sink_ema * a + (1 - rules.sink_ema) * b for a, b in zip(old, new, strict=True))
                for old, new in zip(self.store[place], gone, strict=True)
            ]
            self.store[place] = mean  # pyright: ignore[reportArgumentType]

    def _record(self, chunk: int) -> None:
        place = (chunk - 1) // self.rules.record_interval
        assert self.candidate is not None
        if place < self.rules.bank:
            self.bank[place : place + 1] = [self.candidate]
            return
        # Only for a network of one layer, whose bank is the same in all layers.
        [captions] = [layer.keys[:, 0] for layer in self.text.layers]
        scores: list[float] = []
        for keys, at in self.bank:
            turned = apply_rope(keys[0][0], self.cache.rope([at]))
            products = torch.einsum("bshd,bnhd->bhsn", captions, turned) / turned.shape[-1] ** 0.5
            scores.append(products.mean().item())
        best = sorted(range(len(self.bank)), key=lambda at: -scores[at])[: self.rules.bank - 1]
        self.bank = [*(self.bank[at] for at in best), self.candidate]


def rolled_by_lists(
    dit: DiT,
    rules: StudentRules,
    grid: TokenGrid,
    text: TextCache,
    noise: Callable[[int, int], Tensor],
    num_chunks: int,
) -> Tensor:
    """A rolling student, window after window; every window commits its oldest chunk, finished or not."""
    cache, size = ListedCache(dit, grid), dit.config.chunk_latent_frames
    levels: StepLevels = step_levels(rules.steps, rules.shift, rules.step_scale)
    num_steps, store = len(rules.steps), dict[int, Keys]()
    inputs = {chunk: noise(chunk, 0) for chunk in range(num_chunks)}
    out: dict[int, Tensor] = {}
    for window in range(num_chunks + num_steps - 1):
        a, b = max(0, window - num_steps + 1), min(num_chunks - 1, window)
        chunks, first, end = range(a, b + 1), size * a, size * (b + 1)
        x = torch.cat([inputs[chunk] for chunk in chunks], dim=2)
        told, used = (
            torch.cat([part[window - chunk].expand(1, size) for chunk in chunks], dim=1) for part in levels
        )
        listed: Listed = []
        if a:
            num_past = max(0, min(first - rules.sink, rules.window - rules.sink - (end - first)))
            past = range(first - num_past, first)
            start = first - num_past - rules.sink
            listed = [(store[frame], start + frame) for frame in range(rules.sink)]
            listed += [(store[frame], frame) for frame in past]
        velocity, _ = cache.feed(x, told, text, range(first, end), listed)
        x0 = (x.double() - used[:, None, :, None, None] * velocity.double()).float()
        for chunk in chunks:
            out[chunk] = x0[:, :, size * (chunk - a) : size * (chunk - a + 1)]
            step = window - chunk
            if step + 1 < num_steps:
                s = levels.used[step + 1].float()
                inputs[chunk] = (1 - s) * out[chunk] + s * noise(chunk, step + 1)
        kept = range(max(0, first + size - rules.window), first) if a else range(0)
        _, frames = cache.feed(
            out[a],
            torch.zeros(1, size),
            text,
            range(first, first + size),
            [(store[frame], frame) for frame in kept],
        )
        store.update(zip(range(first, first + size), frames, strict=True))
    return torch.cat([out[chunk] for chunk in range(num_chunks)], dim=2)
