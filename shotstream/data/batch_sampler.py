"""The batch sampler of stored shots: a new order every epoch, a function of (seed, step) alone.

All shots of a batch have one length, because they are stacked. An epoch shuffles all shots and fills batches
from the longest length down. Shots that remain are added to the next shorter length and cut to it. Then the
batches are shuffled. Every shot is a target once per epoch, and shots are cut in fewer than one batch per
length. The last batch is filled with shots from the beginning of the epoch's order.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class _Epoch(NamedTuple):
    items: Int[np.ndarray, "n b"]
    lengths: Int[np.ndarray, " n"]


class BatchSampler:
    """The sampler: batches of shot indices, grouped by length."""

    def __init__(self, lengths: Int[np.ndarray, " n"], batch_size: int, seed: int) -> None:
        """Creates a sampler; nothing is shuffled yet.

        Args:
            lengths: Length of every shot in latent frames.
            batch_size: Shots per step, over all ranks.
            seed: Seed of all orders.

        Raises:
            ValueError: There is no shot, or `batch_size` is below 1.
        """
        if not len(lengths) or batch_size < 1:
            raise ValueError(f"{len(lengths)} shots for batches of {batch_size}; both must be at least 1")
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._longest_first = np.argsort(-lengths, kind="stable")
        # Two, because reading ahead crosses from one epoch into the next.
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches until every shot has been a target."""
        return -(-len(self._lengths) // self._batch_size)

    def batch(self, step: int) -> tuple[int, Int[np.ndarray, " b"]]:
        """Returns the length in latent frames that a step's shots are cut to, and their indices."""
        epoch, index = divmod(step, self.steps_per_epoch)
        order = self._epoch(epoch)
        return int(order.lengths[index]), order.items[index]

    def substitute(self, step: int, row: int, attempt: int, length: int) -> int:
        """Returns the index of a random shot of at least `length` latent frames, for one that cannot be read.

        It depends on the seed and the arguments alone.
        """
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
