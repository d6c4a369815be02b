"""Time budgets of measurements, which check them wherever they can stop and still have a result."""

import time


class Budget:
    """A time budget in seconds, counted from its creation."""

    def __init__(self, seconds: float = float("inf")) -> None:
        self._start_s, self._seconds = time.monotonic(), seconds

    @property
    def spent_s(self) -> float:
        """Seconds since its creation."""
        return time.monotonic() - self._start_s

    @property
    def is_over(self) -> bool:
        """Whether it is spent."""
        return self.spent_s > self._seconds


UNLIMITED = Budget()
"""A budget that is never over."""
