"""Rate limits: token buckets, one alone or one for each key."""

import math
import time
from collections import OrderedDict


class TokenBucket:
    """A token bucket: each event takes a token, and tokens are refilled at a constant rate.

    Args:
        per_s: Tokens refilled per second.
        capacity: Maximum number of tokens, with which it starts: the largest burst.
    """

    def __init__(self, per_s: float, capacity: float) -> None:
        self._per_s = per_s
        self._capacity = capacity
        self._tokens = capacity
        self._time_s = time.monotonic()

    def try_take(self) -> bool:
        """Takes a token if there is one; returns whether it did."""
        self._fill()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    @property
    def is_full(self) -> bool:
        """Whether all tokens are there."""
        self._fill()
        return self._tokens >= self._capacity

    @property
    def wait_s(self) -> int:
        """Whole seconds until the next token."""
        self._fill()
        return max(1, math.ceil((1 - self._tokens) / self._per_s))

    def _fill(self) -> None:
        now_s = time.monotonic()
        self._tokens = min(self._capacity, self._tokens + (now_s - self._time_s) * self._per_s)
        self._time_s = now_s


class TokenBuckets:
    """One token bucket for each key; beyond `max_keys` the least recently used is removed.

    Args:
        per_s: As in `TokenBucket`.
        capacity: As in `TokenBucket`.
        max_keys: Maximum number of buckets.
    """

    def __init__(self, per_s: float, capacity: float, max_keys: int = 4096) -> None:
        self._per_s, self._capacity, self._max_keys = per_s, capacity, max_keys
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def for_key(self, key: str) -> TokenBucket:
        """Returns the bucket of a key; a new key gets a full bucket."""
        bucket = self._buckets.setdefault(key, TokenBucket(self._per_s, self._capacity))
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        return bucket
