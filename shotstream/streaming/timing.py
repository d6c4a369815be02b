"""A stopwatch for the parts of a chunk: text, context, denoising, commit and decoding.

By default it only reads the clock: on a GPU the parts then show when work was queued, and no part waits for
the device. With `synchronize` every part ends with a device synchronisation and measures its own work; that
is for benchmarks, since it stalls the pipeline.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager

import torch


class Stopwatch:
    """A stopwatch: seconds per named part since the last `take`."""

    def __init__(self, device: torch.device, *, synchronize: bool = False) -> None:
        self._waits = synchronize and device.type == "cuda"
        self._device = device
        self._parts_s: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Generator[None, None, None]:
        """Adds the time of the block to `name`, also if the block raises."""
        start = time.perf_counter()
        try:
            yield
            if self._waits:
                torch.cuda.synchronize(self._device)
        finally:
            self._parts_s[name] = self._parts_s.get(name, 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """Returns the seconds per part, and resets the stopwatch."""
        parts_s, self._parts_s = self._parts_s, {}
        return parts_s
