"""The rollout of a shot, chunk by chunk: one code for inference and for training on a student's output.

A shot starts with a commit pass over its context, which fills the global cache. Every chunk is then denoised
in a few steps that only read the caches, yielded, and committed to the local cache as clean latents when the
caller requests the next one; between two chunks the shot may get another caption (`steering`). Commit passes
have no gradients and caches hold detached values, so no gradient flows through the caches: if gradients are
enabled, each chunk has exactly one pass with a gradient, its exit step.

It has no randomness, input, output or pixels. Latents are float32 between passes, whatever the network's
dtype.

Source: Self-Forcing (arXiv 2506.08009) and section 4 of arXiv 2603.25746. Unlike in the published code,
chunks after the first are not trained through the keys of earlier ones, and a commit pass gets clean latents
at level 0 in training as in inference.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count

import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.diffusion.samplers import few_step
from shotstream.model.cross_attention import TextCache
from shotstream.model.dit import DiT
from shotstream.model.dual_cache import DualCache
from shotstream.model.positions import FramePositions
from shotstream.model.rope import RopeTable, rope_table
from shotstream.streaming.chunk_prefetcher import CancelToken
from shotstream.streaming.conditioning import Conditioning
from shotstream.streaming.noise import NoiseSource
from shotstream.streaming.steering import SwitchFunction, TurningCaptions
from shotstream.streaming.timing import Stopwatch

Observe = Callable[[int | None, int, Tensor], None]
"""Callback (chunk index, None for the context; step; velocity) after all passes except a chunk's commit."""


class Rollout:
    """The generation of one shot: its conditioning, its noise, and the cache that it uses alone."""

    def __init__(
        self,
        dit: DiT,
        conditioning: Conditioning,
        text: Float[Tensor, "b s n d"] | TextCache,
        cache: DualCache,
        noise: NoiseSource,
        sigmas: Float[Tensor, " k"],
        *,
        stopwatch: Stopwatch | None = None,
        observe: Observe | None = None,
        switches: SwitchFunction | None = None,
    ) -> None:
        """Creates a rollout; nothing is computed yet.

        Args:
            dit: The student.
            conditioning: Context and positions; its batch is the rollout's.
            text: Caption embeddings, whose projections then get gradients in the exit steps, or a text cache.
            cache: The KV cache, which is overwritten; it must fit the batch and the latents.
            noise: Noise of every (chunk, step).
            sigmas: Descending noise levels of the student's steps, preferably on the network's device.
            stopwatch: Measures the parts "context", "denoise" and "commit".
            observe: Called with every velocity.
            switches: Captions that the shot gets between chunks, for passes without gradients; None: none.

        Raises:
            ValueError: The network does not take level 0 for its context.
        """
        if dit.config.context_sigma != "clean":
            raise ValueError(
                "a rollout keeps the context in a cache, at level 0; "
                f"this network wants context_sigma {dit.config.context_sigma!r}: use its student"
            )
        self._dit = dit
        self._conditioning = conditioning
        self._text = text
        self._cache = cache
        self._noise = noise
        self._sigmas = sigmas
        self._stopwatch = stopwatch
        self._observe = observe
        self._switches = switches
        # The next chunk attends to one chunk less than the window holds.
        self._window: deque[tuple[int, Tensor, RopeTable]] = deque(maxlen=dit.config.window_chunks - 1)
        """Index, clean latents and rotations of the chunks that the next one attends to."""
        self._cancel_token: CancelToken | None = None
        with torch.no_grad():
            # Passes without gradients compute the captions' keys once, not once per pass.
            self._text_cache = text if isinstance(text, TextCache) else dit.text_cache(text)
            # All frames of a chunk have the shot's own caption; only the context has others.
            self._own_text = self._text_cache.only(conditioning.captions_at(0))
        if conditioning.turn_frame is not None:
            assert switches is None
            self._switches = TurningCaptions(conditioning, self._text_cache, dit.config.chunk_latent_frames)

    def chunks(
        self,
        num_chunks: int | None,
        exit_steps: Sequence[int] | None = None,
        *,
        cancel_token: CancelToken | None = None,
    ) -> Generator[Float[Tensor, "b c f h w"]]:
        """Yields clean latents, chunk by chunk; a chunk is committed when the next one is requested.

        Args:
            num_chunks: Length of the shot; None continues until the generator is closed.
            exit_steps: For each chunk, the step at which denoising ends. That step has a gradient if
                gradients are enabled, and no other step ever has. None: all steps, without gradients.
            cancel_token: Ends the shot between two passes by raising `Cancelled`; None: never.

        Raises:
            ValueError: `exit_steps` does not have one step per chunk.
        """
        if exit_steps is not None and len(exit_steps) != num_chunks:
            raise ValueError(f"{len(exit_steps)} exit steps for {num_chunks} chunks; give one for each")
        self._cancel_token = cancel_token
        self._commit_context()
        if self._switches is not None:
            self._switches(0)
        for chunk_index in count() if num_chunks is None else range(num_chunks):
            rope = self._rope(self._conditioning.chunk(chunk_index, self._dit.config))
            with self._part("denoise"):
                x0 = self._denoise(chunk_index, rope, None if exit_steps is None else exit_steps[chunk_index])
            yield x0
            if num_chunks is None or chunk_index + 1 < num_chunks:
                with self._part("commit"), torch.no_grad():
                    self._commit(chunk_index, x0.detach(), rope)

    def _commit(self, chunk_index: int, x0: Tensor, rope: RopeTable) -> None:
        """Commits a chunk; before a switch that recaches, also the others that the next chunk attends to."""
        if self._switches is None:
            self._pass(x0, _clean(x0), rope, write=True)
            return
        self._window.append((chunk_index, x0, rope))
        switch = self._switches(chunk_index + 1)
        if switch is not None:
            self._own_text = switch.text
            if switch.recache and self._window:
                self._cache.reset_local(self._window[0][0])
                for _, earlier, its_rope in list(self._window)[:-1]:
                    self._pass(earlier, _clean(earlier), its_rope, write=True)
        self._pass(x0, _clean(x0), rope, write=True)

    @torch.no_grad()
    def _commit_context(self) -> None:
        """Fills the global cache; the pass attends to the context alone."""
        with self._part("context"):
            self._cache.reset()
            context = self._conditioning.context
            velocity = self._dit(
                context,
                _clean(context),
                self._text_cache,
                self._rope(self._conditioning.positions),
                cache=self._cache,
                write="global",
            )
        self._after_pass(None, 0, velocity)

    def _denoise(self, chunk_index: int, rope: RopeTable, exit_step: int | None) -> Tensor:
        step = 0

        def velocity(noisy: Tensor, sigma: Tensor) -> Tensor:
            nonlocal step
            predicted = self._pass(noisy, sigma, rope, write=False)
            self._after_pass(chunk_index, step, predicted)
            step += 1
            return predicted

        def renoise(step_index: int) -> Tensor:
            return self._noise(chunk_index, step_index + 1)

        with torch.no_grad() if exit_step is None else nullcontext():
            return few_step(velocity, self._noise(chunk_index, 0), self._sigmas, renoise, exit_step=exit_step)

    def _pass(self, latents: Tensor, sigma: Tensor, rope: RopeTable, *, write: bool) -> Tensor:
        text = self._text if torch.is_grad_enabled() else self._own_text
        return self._dit(latents, sigma, text, rope, cache=self._cache, write="local" if write else None)

    def _after_pass(self, chunk_index: int | None, step: int, velocity: Tensor) -> None:
        if self._observe is not None:
            self._observe(chunk_index, step, velocity)
        if self._cancel_token is not None:
            self._cancel_token.check(velocity)

    def _rope(self, positions: FramePositions) -> RopeTable:
        return rope_table(positions, self._cache.token_grid, self._dit.config)

    def _part(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self._stopwatch is None else self._stopwatch.part(name)


def _clean(latents: Tensor) -> Tensor:
    """Returns level 0 for every frame."""
    return latents.new_zeros(latents.shape[0], latents.shape[2], dtype=torch.float32)
