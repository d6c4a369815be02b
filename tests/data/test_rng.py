"""What a seed means: every draw has a key of its own, and the same key gives the same numbers for ever."""

import hashlib
from itertools import combinations

import numpy as np
import pytest
import torch

from shotstream.data.rng import numpy_rng, sample_noise, torch_rng


def seed_of(*keys: object) -> int:
    """63 bits of BLAKE2b of the keys, with a slash between them."""
    digest = hashlib.blake2b("/".join(map(str, keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") // 2


def test_each_sample_of_a_batch_has_noise_of_its_own_key() -> None:
    """All samples of a batch once could have had one noise without a test that saw it."""
    noise = sample_noise((2, 3, 4), 7, "fake", (11, 2), range(3, 6))
    assert noise.shape == (3, 2, 3, 4)
    for row, sample in enumerate((3, 4, 5)):
        generator = torch.Generator().manual_seed(seed_of(7, "fake", 11, 2, sample))
        assert torch.equal(noise[row], torch.randn(2, 3, 4, generator=generator))
    for one, other in combinations(noise, 2):
        assert not torch.isclose(one, other).any()


def test_a_seed_gives_the_same_noise_for_ever() -> None:
    """Literal numbers: a run that is resumed with another version draws what it would have drawn."""
    assert seed_of(7, "fake", 11, 2, 3) == 7873405120759876144
    found = sample_noise((4,), 7, "fake", (11, 2), range(3, 4))[0]
    torch.testing.assert_close(found, torch.tensor(GOLDEN_NOISE), rtol=1e-5, atol=1e-5)
    assert numpy_rng(7, "shots", 11).integers(1000, size=5).tolist() == GOLDEN_INTEGERS


GOLDEN_NOISE = [1.732562, 0.99488, 1.53699, -1.498863]
GOLDEN_INTEGERS = [597, 629, 319, 245, 132]


@pytest.mark.parametrize(
    "other", [(8, "a", 1, 2), (7, "b", 1, 2), (7, "a", 2, 1), (7, "a", 12), (7, "a", 1, 2, 0)]
)
def test_every_part_of_a_key_counts_and_so_does_their_order(other: tuple[int, str, int]) -> None:
    key = (7, "a", 1, 2)
    assert numpy_rng(*key).random() == numpy_rng(*key).random() != numpy_rng(*other).random()
    mine, theirs = (torch.rand(4, generator=torch_rng(*one)) for one in (key, other))
    assert torch.equal(mine, torch.rand(4, generator=torch_rng(*key)))
    assert not torch.isclose(mine, theirs).any()


def test_numpy_draws_are_those_of_the_key() -> None:
    expected = np.random.default_rng(seed_of(3, "x", 4)).random(3)
    assert np.array_equal(numpy_rng(3, "x", 4).random(3), expected)
