"""The batch sampler of stored shots: a new order every epoch, a function of (seed, step) alone.

A batch has one length, because its shots are stacked. An epoch shuffles all shots, fills batches from the
longest length down, hands what is left over to the next shorter length, where it is cut, and shuffles the
batches. So every shot is a target once per epoch, and nothing of a shot is lost but the ends of fewer than
a batch per length. The last batch is filled up from the beginning of the epoch's order.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class _Epoch(NamedTuple):
    items: Int[np.ndarray, "n b"]
    lengths: Int[np.ndarray, " n"]


class BatchSampler:
    """The batches of each step: shots by number, grouped by length."""

    def __init__(self, lengths: Int[np.ndarray, " n"], batch_size: int, seed: int) -> None:
        """Shuffles nothing yet.

        Args:
            lengths: of every shot, in latent frames.
            batch_size: shots per step, over all ranks.
            seed: of all orders.

        Raises:
            ValueError: there is no shot, or the batch is empty.
        """
        if not len(lengths) or batch_size < 1:
            raise ValueError(f"{len(lengths)} shots for batches of {batch_size}; both must be at least 1")
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._longest_first = np.argsort(-lengths, kind="stable")
        # Reading ahead crosses from one epoch into the next.
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    @property
    def steps_per_epoch(self) -> int:
        """Batches until every shot has been a target."""
        return -(-len(self._lengths) // self._batch_size)

    def batch(self, step: int) -> tuple[int, Int[np.ndarray, " b"]]:
        """The length that the shots of a step are cut to, and their numbers."""
        epoch, index = divmod(step, self.steps_per_epoch)
        order = self._epoch(epoch)
        return int(order.lengths[index]), order.items[index]

    def substitute(self, step: int, row: int, attempt: int, length: int) -> int:
        """Another shot of at least that length, for one that cannot be read: drawn by its place alone."""
        count = int((self._lengths >= length).sum())
        rng = np.random.default_rng((self._seed, 1, step, row, attempt))
        return int(self._longest_first[rng.integers(count)])

    def _shuffled(self, epoch: int) -> _Epoch:
        rng = np.random.default_rng((self._seed, 0, epoch))
        size, order = self._batch_size, rng.permutation(len(self._lengths))
        items: list[Int[np.ndarray, "n b"]] = []
        lengths: list[int] = []
        left = order[:0]
        for length in sorted(set(self._lengths.tolist()), reverse=True):
            group = np.concatenate([left, order[self._lengths[order] == length]])
            whole = len(group) // size
            items.append(group[: whole * size].reshape(whole, size))
            lengths += [length] * whole
            left = group[whole * size :]
        if len(left):
            items.append(np.concatenate([left, np.resize(order, size - len(left))])[None])
            lengths.append(min(self._lengths.tolist()))
        mixed = rng.permutation(len(lengths))
        return _Epoch(np.concatenate(items)[mixed], np.array(lengths)[mixed])
