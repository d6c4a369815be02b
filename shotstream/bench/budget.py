"""Time budgets of measurements, which look at the clock wherever they can stop and still have a result."""

import time


class Budget:
    """Seconds, counted from when it is made."""

    def __init__(self, seconds: float = float("inf")) -> None:
        self._start_s, self._seconds = time.monotonic(), seconds

    @property
    def spent_s(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._start_s

    @property
    def is_over(self) -> bool:
        """Whether it is spent."""
        return self.spent_s > self._seconds


UNLIMITED = Budget()
"""Never over."""
