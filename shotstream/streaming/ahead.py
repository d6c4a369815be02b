"""One chunk ahead: a chunk is denoised in a thread of its own while the one before is decoded and used.

The caller's thread gets each chunk's latents as soon as they are there, decodes them and hands out frames;
whatever the caller does with those (H.264, hashes) runs beside the next chunk's commit and denoising too. On
each GPU, the transformer's and the codec's, decoding has a stream of its own, whose work goes first. One
chunk at most is made that nobody has asked for; when a shot ends early, the pass in hand is its last. All
sessions of an engine share the one thread, so passes never run side by side, and their order within a shot is
what it is without it.

Run on a CPU, by test. The streams are meant for CUDA and have not been run.
"""

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from threading import Event
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Halted(Exception):
    """A shot has ended while its next chunk was being made."""


class Halt:
    """Ends a shot between two passes. Give it to a `Rollout` to observe."""

    def __init__(self) -> None:
        self._is_asked = Event()
        self._last_pass: torch.cuda.Event | None = None

    def ask(self) -> None:
        """The next pass raises `Halted` instead of returning."""
        self._is_asked.set()

    def __call__(self, chunk_index: int | None, step: int, velocity: Tensor) -> None:
        """After each pass; on a GPU it lets no more than two be queued, since those cannot be taken back."""
        del chunk_index, step
        if self._is_asked.is_set():
            raise Halted
        if velocity.is_cuda:
            # A thread that waits like this leaves its core to others.
            this_pass = torch.cuda.Event(blocking=True)
            this_pass.record()
            if self._last_pass is not None:
                self._last_pass.synchronize()
            self._last_pass = this_pass


class Ahead:
    """The thread in which an engine's shots are denoised, and the streams on which they are decoded."""

    def __init__(self, device: torch.device, codec_device: torch.device) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="denoise")
        # What a viewer waits for goes before what nobody has asked for yet; so does its way to another GPU.
        gpus = {place for place in (device, codec_device) if place.type == "cuda"}
        self._streams = [torch.cuda.Stream(place, priority=-1) for place in gpus]
        if device.type == "cuda":
            self._thread.submit(torch.cuda.set_device, device).result()

    def items(self, source: Generator[T], halt: Halt) -> Generator[T]:
        """The items of `source`, which is from now on advanced in the thread alone; the next one is begun
        before an item is handed out. Closing it, or an error, ends `source`; its errors are raised here.
        """
        following = self._begin(source)
        try:
            while (item := following.result()) is not None:
                following = self._begin(source)
                yield item
        finally:
            halt.ask()
            following.cancel()
            wait([following])
            source.close()

    def _begin(self, source: Generator[T]) -> "Future[T | None]":
        try:
            return self._thread.submit(next, source, None)
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
