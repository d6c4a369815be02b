"""The rollout of a shot, chunk by chunk: one code for inference and for training on a student's output.

A shot starts with a commit pass over its context, which fills the global cache. Every chunk is then denoised
in a few steps that only read the caches, yielded, and committed to the local cache as clean latents when the
caller requests the next one; between two chunks the shot may get another caption (`steering`). Commit passes
have no gradients and caches hold detached values, so no gradient flows through the caches: if gradients are
enabled, each chunk has exactly one pass with a gradient, its exit step.

Students without a context have a frame store instead of the dual cache, and `StudentRules`: a first chunk of
its own, frames that are given, several chunks that are denoised together, keys that are computed again when
captions change.

It has no randomness, input, output or pixels. Latents are float32 between passes, whatever the network's
dtype.

Source: Self-Forcing (arXiv 2506.08009) and section 4 of arXiv 2603.25746. Unlike in the published code,
chunks after the first are not trained through the keys of earlier ones, and a commit pass gets clean latents
at level 0 in training as in inference.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import count

import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.diffusion.samplers import few_step, per_frame, rolling
from shotstream.diffusion.schedule import StepLevels
from shotstream.model.cross_attention import TextCache
from shotstream.model.dit import DiT
from shotstream.model.dual_cache import DualCache
from shotstream.model.frame_store import FrameStore
from shotstream.model.key_cache import Write
from shotstream.model.positions import FramePositions
from shotstream.model.rope import RopeTable, rope_table
from shotstream.streaming.chunk_prefetcher import CancelToken
from shotstream.streaming.conditioning import Conditioning
from shotstream.streaming.noise import NoiseSource
from shotstream.streaming.steering import CaptionSwitch, SwitchFunction, TurningCaptions
from shotstream.streaming.timing import Stopwatch

Observe = Callable[[int | None, int, Tensor], None]
"""Callback (chunk index, None for the context; step; velocity) after all passes except commits of chunks.

Of chunks that are denoised together it gets the index and the step of the oldest.
"""


@dataclass(frozen=True, slots=True)
class _Captions:
    """Captions in the forms that passes take."""

    text: Tensor | TextCache
    """As given, for passes with gradients."""
    keys: TextCache
    """Of all captions. Passes without gradients compute the captions' keys once, not once per pass."""
    own: TextCache
    """Of the shot's own caption, which all frames of a chunk have; only the context has others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Switched:
    """A change of captions that the next chunk begins with."""

    captions: _Captions
    is_cut: bool = False
    recaches: bool = True
    """Whether the keys of earlier frames are computed again, if the student's rules say so."""


class Rollout:
    """The generation of one shot: its conditioning, its noise, and the cache that it uses alone."""

    def __init__(
        self,
        dit: DiT,
        conditioning: Conditioning,
        text: Float[Tensor, "b s n d"] | TextCache,
        cache: DualCache | FrameStore,
        noise: NoiseSource,
        sigmas: Float[Tensor, " k"] | StepLevels,
        *,
        first_sigmas: StepLevels | None = None,
        stopwatch: Stopwatch | None = None,
        observe: Observe | None = None,
        switches: SwitchFunction | None = None,
    ) -> None:
        """Creates a rollout; nothing is computed yet.

        Args:
            dit: The student.
            conditioning: Context and positions; its batch is the rollout's. With a frame store, which has no
                context, only the given frames and the index of the shot's caption are used.
            text: Caption embeddings, whose projections then get gradients in the exit steps, or a text cache.
            cache: The KV cache, which is overwritten; it must fit the batch and the latents. A frame store
                has the student's rules.
            noise: Noise of every (chunk, step); of a shorter first chunk its first frames are used.
            sigmas: Descending noise levels of the student's steps, preferably on the network's device.
            first_sigmas: Levels of the first chunk; None: as all.
            stopwatch: Measures the parts "context", "denoise" and "commit".
            observe: Called with every velocity.
            switches: Captions that the shot gets between chunks, for passes without gradients; None: none,
                or those that the conditioning turns to.

        Raises:
            ValueError: The network does not take level 0 for its context, or the student cannot continue the
                given frames.
        """
        if dit.config.context_sigma != "clean":
            raise ValueError(
                "a rollout keeps the context in a cache, at level 0; "
                f"this network wants context_sigma {dit.config.context_sigma!r}: use its student"
            )
        self._dit = dit
        self._conditioning = conditioning
        self._cache = cache
        self._noise = noise
        self._sigmas = sigmas
        self._first_sigmas = sigmas if first_sigmas is None else first_sigmas
        self._given_sizes = _given_sizes(cache, conditioning.given, dit.config.chunk_latent_frames)
        self._stopwatch = stopwatch
        self._observe = observe
        self._cancel_token: CancelToken | None = None
        self._captions = self._prepared(text)
        self._switched: _Switched | None = None
        self._switches = switches
        if conditioning.turn_frame is not None:
            assert switches is None, "captions that a batch turns to are those of its conditioning"
            size = dit.config.chunk_latent_frames
            self._switches = TurningCaptions(conditioning, self._captions.keys, size)
        # The next chunk attends to one chunk less than the window holds.
        self._window: deque[tuple[int, Tensor, RopeTable]] = deque(maxlen=dit.config.window_chunks - 1)
        """Index, clean latents and rotations of the chunks that the next one attends to, in a dual cache."""
        self._recent: list[Tensor] = []
        """The newest frames, if their keys are computed again when captions change."""

    def chunks(
        self,
        num_chunks: int | None,
        exit_steps: Sequence[int] | None = None,
        *,
        cancel_token: CancelToken | None = None,
    ) -> Generator[Float[Tensor, "b c f h w"]]:
        """Yields clean latents, chunk by chunk; a chunk is committed when the next one is requested.

        Args:
            num_chunks: Length of the shot; None continues until the generator is closed. If the student
                denoises several chunks together, the last ones depend on it.
            exit_steps: For each chunk, the step at which denoising ends. That step has a gradient if
                gradients are enabled, and no other step ever has. None: all steps, without gradients.
            cancel_token: Ends the shot between two passes by raising `Cancelled`; None: never.

        Raises:
            ValueError: `exit_steps` does not have one step per chunk.
        """
        if exit_steps is not None and len(exit_steps) != num_chunks:
            raise ValueError(f"{len(exit_steps)} exit steps for {num_chunks} chunks; give one for each")
        self._cancel_token = cancel_token
        self._commit_before()
        if self._switches is not None:
            self._switch_to(self._switches(0))
        rolled = self._rolled(num_chunks)
        for chunk_index in count() if num_chunks is None else range(num_chunks):
            self._start_chunk()
            rope = self._chunk_rope(chunk_index)
            with self._part("denoise"):
                if rolled is not None:
                    with torch.no_grad():
                        x0 = next(rolled)
                else:
                    exit_step = None if exit_steps is None else exit_steps[chunk_index]
                    x0 = self._denoise(chunk_index, rope, exit_step)
            yield x0
            if num_chunks is None or chunk_index + 1 < num_chunks:
                with self._part("commit"), torch.no_grad():
                    self._commit_chunk(chunk_index, x0.detach(), rope)

    def switch(self, text: Float[Tensor, "b s n d"] | TextCache, *, is_cut: bool = False) -> None:
        """Changes the captions from the next chunk on; called between two chunks.

        The last chunk is still committed with the old captions. Keys and values of earlier frames stay, or
        are computed again with the new captions, as the student's rules say.

        Args:
            text: The new captions, in the order of the old ones.
            is_cut: Whether the next chunk is the first after a cut, for students with cuts within a shot.
        """
        self._switched = _Switched(captions=self._prepared(text), is_cut=is_cut)

    def _switch_to(self, switch: CaptionSwitch | None) -> None:
        """Changes the caption from the next chunk on."""
        if switch is not None:
            captions = replace(self._captions, own=switch.text)
            self._switched = _Switched(captions=captions, recaches=switch.recache)

    def _commit_chunk(self, chunk_index: int, x0: Tensor, rope: RopeTable) -> None:
        """Commits a chunk, and applies a change of captions after it.

        In a dual cache that recaches, the chunks that the next one attends to are committed again under its
        caption, the last one for the first time.
        """
        if self._switches is None:
            self._commit(x0, rope)
            return
        switch = self._switches(chunk_index + 1)
        if isinstance(self._cache, FrameStore):
            self._commit(x0, rope)
            self._switch_to(switch)
            return
        self._window.append((chunk_index, x0, rope))
        if switch is not None:
            self._captions = replace(self._captions, own=switch.text)
            if switch.recache and self._window:
                self._cache.reset_local(self._window[0][0])
                for _, earlier, its_rope in list(self._window)[:-1]:
                    self._commit(earlier, its_rope)
        self._commit(x0, rope)

    @torch.no_grad()
    def _prepared(self, text: Tensor | TextCache) -> _Captions:
        keys = text if isinstance(text, TextCache) else self._dit.text_cache(text)
        return _Captions(text, keys, keys.only(self._conditioning.captions_at(0)))

    @torch.no_grad()
    def _commit_before(self) -> None:
        """Fills the cache with what precedes the shot: its context, or given frames."""
        self._cache.reset()
        if not isinstance(self._cache, FrameStore):
            self._commit_context()
        elif self._conditioning.given is not None:
            with self._part("context"):
                for latents in self._conditioning.given.split(self._given_sizes, dim=2):
                    self._cache.start_chunk(self._captions.own)
                    self._commit(latents, self._cache.rope(latents.shape[2], "local"))

    def _commit_context(self) -> None:
        """Fills the global cache; the pass attends to the context alone."""
        with self._part("context"):
            context = self._conditioning.context
            velocity = self._dit(
                context,
                _clean(context),
                self._captions.keys,
                self._rope(self._conditioning.positions),
                cache=self._cache,
                write="global",
            )
        self._after_pass(None, 0, velocity)

    @torch.no_grad()
    def _start_chunk(self) -> None:
        """Applies a change of captions, and prepares a frame store for the next chunk."""
        switched, self._switched = self._switched, None
        if switched is not None:
            self._captions = switched.captions
        if isinstance(self._cache, FrameStore):
            self._cache.start_chunk(self._captions.own, is_cut=switched is not None and switched.is_cut)
            if switched is not None and switched.recaches and self._cache.num_recached:
                self._recache(self._cache, self._cache.num_recached)

    def _recache(self, store: FrameStore, num_frames: int) -> None:
        """Computes keys and values of the newest frames again, all in one pass."""
        newest = torch.cat(self._recent, dim=2)[:, :, -num_frames:]
        with self._part("commit"):
            self._pass(newest, _clean(newest), store.rope(num_frames, "recache"), "recache")

    def _rolled(self, num_chunks: int | None) -> Iterator[Tensor] | None:
        """Returns the finished chunks of a student that denoises several together; None for others."""
        if not isinstance(self._cache, FrameStore) or not self._cache.rules.rolling:
            return None
        store, window = self._cache, count()
        assert isinstance(self._sigmas, StepLevels)
        last = len(self._sigmas.used) - 1

        def velocity(noisy: Tensor, sigma: Tensor) -> Tensor:
            predicted = self._pass(noisy, sigma, store.rope(noisy.shape[2], None), None)
            newest = next(window)
            self._after_pass(max(0, newest - last), min(newest, last), predicted)
            return predicted

        return rolling(velocity, self._noise, self._sigmas, num_chunks)

    def _denoise(self, chunk_index: int, rope: RopeTable, exit_step: int | None) -> Tensor:
        step, levels = 0, self._sigmas if chunk_index else self._first_sigmas
        told, used = levels if isinstance(levels, StepLevels) else (None, levels)
        num_frames = rope.positions.frame_index.shape[1]

        def velocity(noisy: Tensor, sigma: Tensor) -> Tensor:
            nonlocal step
            sigma = sigma if told is None else per_frame(told[step], noisy)
            predicted = self._pass(noisy, sigma, rope, None)
            self._after_pass(chunk_index, step, predicted)
            step += 1
            return predicted

        def noise(step_index: int) -> Tensor:
            return self._noise(chunk_index, step_index)[:, :, :num_frames]

        with torch.no_grad() if exit_step is None else nullcontext():
            return few_step(velocity, noise(0), used, lambda index: noise(index + 1), exit_step=exit_step)

    def _commit(self, x0: Tensor, rope: RopeTable) -> None:
        self._pass(x0, _clean(x0), rope, "local")
        if isinstance(self._cache, FrameStore) and self._cache.rules.recache != "none":
            self._recent.append(x0)
            while sum(part.shape[2] for part in self._recent[1:]) >= self._cache.rules.window:
                del self._recent[0]

    def _pass(self, latents: Tensor, sigma: Tensor, rope: RopeTable, write: Write | None) -> Tensor:
        text = self._captions.text if torch.is_grad_enabled() else self._captions.own
        return self._dit(latents, sigma, text, rope, cache=self._cache, write=write)

    def _after_pass(self, chunk_index: int | None, step: int, velocity: Tensor) -> None:
        if self._observe is not None:
            self._observe(chunk_index, step, velocity)
        if self._cancel_token is not None:
            self._cancel_token.check(velocity)

    def _chunk_rope(self, chunk_index: int) -> RopeTable:
        config = self._dit.config
        if not isinstance(self._cache, FrameStore):
            return self._rope(self._conditioning.chunk(chunk_index, config))
        num_frames = config.chunk_latent_frames
        if chunk_index == 0 and self._conditioning.given is None:
            num_frames = self._cache.rules.first_chunk_frames or num_frames
        return self._cache.rope(num_frames, "local")

    def _rope(self, positions: FramePositions) -> RopeTable:
        return rope_table(positions, self._cache.token_grid, self._dit.config)

    def _part(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self._stopwatch is None else self._stopwatch.part(name)


def _given_sizes(cache: DualCache | FrameStore, given: Tensor | None, chunk_frames: int) -> list[int]:
    """Returns the sizes of the chunks in which given frames are committed."""
    if given is None:
        return []
    if not isinstance(cache, FrameStore) or cache.rules.rolling:
        raise ValueError("this model cannot continue given frames; begin without them")
    first = cache.rules.first_chunk_frames or chunk_frames
    num_others, rest = divmod(given.shape[2] - first, chunk_frames)
    if num_others < 0 or rest:
        raise ValueError(
            f"{given.shape[2]} given frames; this model continues {first}, or {chunk_frames} more at a time"
        )
    return [first, *[chunk_frames] * num_others]


def _clean(latents: Tensor) -> Tensor:
    """Returns level 0 for every frame."""
    return latents.new_zeros(latents.shape[0], latents.shape[2], dtype=torch.float32)
