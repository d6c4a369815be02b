"""The four flow quantities determine each other."""

import torch

from shotstream.diffusion.flow import (
    add_noise,
    velocity_target,
    x0_from_velocity,
)


def _case(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 2, 3, 4, 5, 6, generator=generator, dtype=torch.float64).to(dtype)
    sigma = torch.rand(2, 4, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    return x0, noise, sigma


def test_every_quantity_comes_back_in_float64() -> None:
    x0, noise, sigma = _case()
    noisy, velocity = add_noise(x0, noise, sigma), velocity_target(x0, noise)
    exact = {"rtol": 0, "atol": 1e-13}
    torch.testing.assert_close(x0_from_velocity(noisy, velocity, sigma), x0, **exact)


def test_the_path_starts_at_data_and_ends_at_noise() -> None:
    x0, noise, sigma = _case()
    assert torch.equal(add_noise(x0, noise, torch.zeros_like(sigma)), x0)
    assert torch.equal(add_noise(x0, noise, torch.ones_like(sigma)), noise)


def test_each_frame_has_its_own_level() -> None:
    x0, noise, sigma = _case()
    noisy = add_noise(x0, noise, sigma)
    for frame in range(sigma.shape[1]):
        alone = slice(frame, frame + 1)
        expected = add_noise(x0[:, :, alone], noise[:, :, alone], sigma[:, alone])
        assert torch.equal(noisy[:, :, alone], expected)


def test_half_precision_is_converted_in_float32() -> None:
    """A bfloat16 level would turn 0.957929 into 0.957031 and move x0 by 1e-3 times the velocity."""
    x0, noise, _ = _case(torch.bfloat16)
    sigma = torch.full((2, 4), 0.957929)
    noisy = add_noise(x0, noise, sigma)
    assert noisy.dtype == torch.bfloat16
    expected = add_noise(x0.float(), noise.float(), sigma).to(torch.bfloat16)
    assert torch.equal(noisy, expected)
