"""What a seed means, in numbers: a film is made again elsewhere only if it means the same there."""

import pytest
import torch

from shotstream.streaming.noise import KeyedNoise, derive_seed, shot_seed


def test_seeds_are_these_numbers_on_every_machine() -> None:
    assert shot_seed(7, 0) == derive_seed(7, "shot", 0) == 7378838546061712656
    assert shot_seed(7, 1) == 3620388699003142734
    assert derive_seed(1, 12) == 6635524446391192447
    assert derive_seed(11, 2) == 2123920618116166000  # keys do not run together


def test_noise_of_a_seed_is_these_numbers() -> None:
    noise = KeyedNoise(seeds=(7, 8), shape=(2, 3, 4, 6), device=torch.device("cpu"))
    golden = {
        (0, 0): ([0.302259, -0.065828, -0.043738, -1.272383], [0.404321, -0.955221]),
        (0, 1): ([0.101695, -0.036171, 0.622370, -1.407758], [0.957619, 1.093691]),
        (1, 0): ([-0.659632, -0.277093, 0.361820, -0.249697], [-0.299464, 0.938135]),
    }
    for (chunk, step), (first, last) in golden.items():
        drawn = noise(chunk, step)
        assert drawn.shape == (2, 2, 3, 4, 6) and drawn.dtype == torch.float32
        assert drawn[0].flatten()[:4].tolist() == pytest.approx(first, abs=2e-6)
        assert drawn[1].flatten()[-2:].tolist() == pytest.approx(last, abs=2e-6)


def test_no_two_places_of_a_film_share_noise() -> None:
    drawn = [
        KeyedNoise(seeds=(seed,), shape=(1, 3, 4, 6), device=torch.device("cpu"))(chunk, step)
        for seed in (1, 11, 111)
        for chunk in (0, 1, 11)
        for step in (0, 1, 11)
    ]
    assert len({noise.numpy().tobytes() for noise in drawn}) == 27
    assert max(noise.abs().max().item() for noise in drawn) < 6
    assert torch.cat(drawn).std().item() == pytest.approx(1, abs=0.05)
