"""Prefetching of chunks: one is denoised in its own thread while the previous one is decoded and used.

The caller's thread gets each chunk's latents as soon as they are ready, decodes them and yields frames;
whatever the caller does with these (H.264, hashes) also runs beside the next chunk's commit and denoising. On
each GPU, that of the transformer and that of the codec, decoding has its own stream with high priority. At
most one chunk is generated that was not requested; if a shot ends early, the current pass is its last. All
sessions of a pipeline share the one thread, so passes never run in parallel, and their order within a shot is
the same as without prefetching.

Tests run it on a CPU. The streams are for CUDA and have not been run.
"""

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from threading import Event
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Cancelled(Exception):
    """A shot that has ended while its next chunk was being generated."""


class CancelToken:
    """Ends a rollout between two passes, from another thread."""

    def __init__(self) -> None:
        self._is_cancelled = Event()
        self._last_pass: torch.cuda.Event | None = None

    def cancel(self) -> None:
        """Ends the rollout after the current pass."""
        self._is_cancelled.set()

    def check(self, output: Tensor) -> None:
        """Raises `Cancelled` after `cancel`; it is called after each pass with the output of the pass.

        On a GPU it waits so that at most two passes are queued, because queued passes cannot be cancelled.
        """
        if self._is_cancelled.is_set():
            raise Cancelled
        if output.is_cuda:
            # A thread that waits like this does not use a core.
            this_pass = torch.cuda.Event(blocking=True)
            this_pass.record()
            if self._last_pass is not None:
                self._last_pass.synchronize()
            self._last_pass = this_pass


class ChunkPrefetcher:
    """The thread in which a pipeline's shots are denoised, and the streams on which they are decoded."""

    def __init__(self, device: torch.device, codec_device: torch.device) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="denoise")
        # Decoding, for which a viewer waits, has priority over prefetched chunks, also on another GPU.
        gpus = {place for place in (device, codec_device) if place.type == "cuda"}
        self._streams = [torch.cuda.Stream(place, priority=-1) for place in gpus]
        if device.type == "cuda":
            self._thread.submit(torch.cuda.set_device, device).result()

    @contextmanager
    def prefetching(
        self, produce: Callable[[], T | None], token: CancelToken
    ) -> Generator[Callable[[], T | None]]:
        """Yields a function that returns the results of `produce`, which runs one call ahead.

        Within the context `produce` runs only in the thread. The next call begins before a result is
        returned; None ends the calls; an error is raised when its result is requested. At its end the context
        cancels `token` and waits for the current call.
        """
        following: Future[T | None] | None = None

        def take() -> T | None:
            nonlocal following
            item = (following or self._begin(produce)).result()
            following = None if item is None else self._begin(produce)
            return item

        try:
            yield take
        finally:
            token.cancel()
            if following is not None:
                following.cancel()
                wait([following])

    def _begin(self, produce: Callable[[], T | None]) -> "Future[T | None]":
        try:
            return self._thread.submit(produce)
        except RuntimeError:
            # The process ends and accepts no more work: the current item is the last.
            ended: Future[T | None] = Future()
            ended.set_result(None)
            return ended

    @contextmanager
    def decoding(
        self, latents: Tensor | None = None, ready: torch.cuda.Event | None = None
    ) -> Generator[None]:
        """Makes the decoding streams current; their work begins when `latents` are `ready`."""
        with ExitStack() as entered:
            for stream in self._streams:
                if latents is not None and ready is not None and stream.device == latents.device:
                    stream.wait_event(ready)
                    # Their memory must not be reused for the next chunk while they are read here.
                    latents.record_stream(stream)
                entered.enter_context(torch.cuda.stream(stream))
            yield
