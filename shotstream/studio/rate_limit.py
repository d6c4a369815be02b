"""How often somebody may do something: a bucket of tokens that come at a rate, each good for one time."""

import math
import time
from collections import OrderedDict


class TokenBucket:
    """Lets through at a rate, and so many at once after a rest.

    Args:
        per_s: tokens that come in a second.
        capacity: tokens that it holds; it begins full.
    """

    def __init__(self, per_s: float, capacity: float) -> None:
        self._per_s = per_s
        self._most = capacity
        self._tokens = capacity
        self._time_s = time.monotonic()

    def try_take(self) -> bool:
        """Whether one may pass now; it has passed then."""
        self._fill()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    @property
    def is_full(self) -> bool:
        """Whether nobody has come for a while."""
        self._fill()
        return self._tokens >= self._most

    @property
    def wait_s(self) -> int:
        """After how many whole seconds one may pass again."""
        self._fill()
        return max(1, math.ceil((1 - self._tokens) / self._per_s))

    def _fill(self) -> None:
        now_s = time.monotonic()
        self._tokens = min(self._most, self._tokens + (now_s - self._time_s) * self._per_s)
        self._time_s = now_s


class TokenBuckets:
    """A bucket for each of those who come, by name; of too many the one that came least lately is forgotten.

    Args:
        per_s: as in `TokenBucket`.
        capacity: as in `TokenBucket`.
        names: how many are remembered.
    """

    def __init__(self, per_s: float, capacity: float, names: int = 4096) -> None:
        self._per_s, self._most, self._names = per_s, capacity, names
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def for_key(self, name: str) -> TokenBucket:
        """The bucket of that name."""
        bucket = self._buckets.setdefault(name, TokenBucket(self._per_s, self._most))
        self._buckets.move_to_end(name)
        if len(self._buckets) > self._names:
            self._buckets.popitem(last=False)
        return bucket
