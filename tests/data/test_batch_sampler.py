"""The order of training: every shot once an epoch, one length a batch, a function of (seed, step)."""

import numpy as np
import pytest

from shotstream.data.batch_sampler import BatchSampler

LENGTHS = np.random.default_rng(0).choice([3, 6, 9, 21], 101, p=[0.5, 0.2, 0.2, 0.1]).astype(np.int32)


def epoch(order: BatchSampler, number: int) -> list[tuple[int, list[int]]]:
    first = number * order.steps_per_epoch
    batches = [order.batch(step) for step in range(first, first + order.steps_per_epoch)]
    return [(length, items.tolist()) for length, items in batches]


def test_every_shot_is_a_target_once_an_epoch_and_only_the_last_batch_is_filled_up() -> None:
    order = BatchSampler(LENGTHS, 8, 0)
    for number in range(3):
        items = [item for _, batch in epoch(order, number) for item in batch]
        assert order.steps_per_epoch == 13 and len(items) == 104
        assert sorted(set(items)) == list(range(101))


def test_a_batch_has_one_length_and_fewer_than_a_batch_of_shots_per_length_are_cut() -> None:
    order = BatchSampler(LENGTHS, 8, 0)
    cut = 0
    for length, batch in epoch(order, 0):
        assert all(LENGTHS[item] >= length for item in batch)
        cut += sum(LENGTHS[item] > length for item in batch)
    assert 0 < cut <= 4 * 7


def test_epochs_and_seeds_differ_and_repeat() -> None:
    order, other = BatchSampler(LENGTHS, 8, 0), BatchSampler(LENGTHS, 8, 1)
    assert epoch(order, 0) != epoch(order, 1)
    assert epoch(order, 0) != epoch(other, 0)
    assert epoch(BatchSampler(LENGTHS, 8, 0), 1) == epoch(order, 1)
    lengths = [[length for length, _ in epoch(order, number)] for number in range(2)]
    assert lengths[0] != lengths[1], "lengths are mixed too"


def test_fewer_shots_than_a_batch_repeat_in_it() -> None:
    length, items = BatchSampler(np.array([6, 3]), 5, 0).batch(0)
    assert length == 3
    assert sorted(np.bincount(items).tolist()) == [2, 3]


def test_a_substitute_is_long_enough_and_a_function_of_its_place() -> None:
    order = BatchSampler(LENGTHS, 8, 0)
    drawn = [order.substitute(5, row, attempt, 9) for row in range(20) for attempt in range(20)]
    assert (LENGTHS[drawn] >= 9).all() and len(set(drawn)) == (LENGTHS >= 9).sum()
    assert drawn == [order.substitute(5, row, attempt, 9) for row in range(20) for attempt in range(20)]


def test_no_shots_and_no_batch_are_refused() -> None:
    for lengths, size in ((np.zeros(0, np.int32), 4), (LENGTHS, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            BatchSampler(lengths, size, 0)
