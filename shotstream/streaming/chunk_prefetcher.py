"""Prefetching of chunks: one is denoised in a thread of its own while the one before is decoded and used.

The caller's thread gets each chunk's latents as soon as they are there, decodes them and hands out frames;
whatever the caller does with those (H.264, hashes) runs beside the next chunk's commit and denoising too. On
each GPU, the transformer's and the codec's, decoding has a stream of its own, whose work goes first. One
chunk at most is made that nobody has asked for; when a shot ends early, the pass in hand is its last. All
sessions of a pipeline share the one thread, so passes never run side by side, and their order within a shot
is what it is without it.

Run on a CPU, by test. The streams are meant for CUDA and have not been run.
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
    """A shot has ended while its next chunk was being made."""


class CancelToken:
    """Ends a rollout between two passes, from another thread."""

    def __init__(self) -> None:
        self._is_cancelled = Event()
        self._last_pass: torch.cuda.Event | None = None

    def cancel(self) -> None:
        """The pass in hand is the last."""
        self._is_cancelled.set()

    def check(self, output: Tensor) -> None:
        """Raises `Cancelled` after `cancel`; called after each pass with what it returned.

        On a GPU it lets no more than two passes be queued, since those cannot be taken back.
        """
        if self._is_cancelled.is_set():
            raise Cancelled
        if output.is_cuda:
            # A thread that waits like this leaves its core to others.
            this_pass = torch.cuda.Event(blocking=True)
            this_pass.record()
            if self._last_pass is not None:
                self._last_pass.synchronize()
            self._last_pass = this_pass


class ChunkPrefetcher:
    """The thread in which a pipeline's shots are denoised, and the streams on which they are decoded."""

    def __init__(self, device: torch.device, codec_device: torch.device) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="denoise")
        # What a viewer waits for goes before what nobody has asked for yet; so does its way to another GPU.
        gpus = {place for place in (device, codec_device) if place.type == "cuda"}
        self._streams = [torch.cuda.Stream(place, priority=-1) for place in gpus]
        if device.type == "cuda":
            self._thread.submit(torch.cuda.set_device, device).result()

    @contextmanager
    def prefetching(
        self, produce: Callable[[], T | None], token: CancelToken
    ) -> Generator[Callable[[], T | None]]:
        """Gives a function that returns what `produce` does, one call ahead.

        Within it `produce` runs in the thread alone; the next call is begun before a result is returned, None
        ends the calls, and an error is raised where its result is asked for. Leaving cancels `token` and
        waits for the call in hand.
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
            # The process ends and takes no more work: the item in hand is the last.
            ended: Future[T | None] = Future()
            ended.set_result(None)
            return ended

    @contextmanager
    def decoding(
        self, latents: Tensor | None = None, ready: torch.cuda.Event | None = None
    ) -> Generator[None]:
        """Within it work goes to the decoding streams, and only begins when `latents` are `ready`."""
        with ExitStack() as entered:
            for stream in self._streams:
                if latents is not None and ready is not None and stream.device == latents.device:
                    stream.wait_event(ready)
                    # Their memory must not go to the next chunk while they are read here.
                    latents.record_stream(stream)
                entered.enter_context(torch.cuda.stream(stream))
            yield
