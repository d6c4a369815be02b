"""Only noised frames count."""

import torch

from shotstream.diffusion.ode_regression import ode_regression_loss


def test_clean_frames_count_for_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, x0 = torch.randn(2, 2, 3, 4, 5, 6, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([[0.0, 0.5, 0.0, 1.0], [0.0, 0.0, 0.0, 0.25]])
    noised = sigma > 0
    error = (predicted - x0).square().mean(dim=(1, 3, 4))
    torch.testing.assert_close(ode_regression_loss(predicted, x0, sigma), error[noised].mean())


def test_a_batch_without_noised_frames_has_loss_zero_and_gradient_zero() -> None:
    """The published mean over an empty selection is NaN: 20 % of the draws for a shot of one chunk."""
    predicted = torch.randn(1, 2, 3, 4, 4, requires_grad=True)
    loss = ode_regression_loss(predicted, torch.zeros(1, 2, 3, 4, 4), torch.zeros(1, 3))
    loss.backward()
    assert loss.item() == 0
    assert predicted.grad is not None
    assert not predicted.grad.any()


def test_parts_of_a_batch_add_up_to_the_loss_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(1)
    predicted, x0 = torch.randn(2, 4, 3, 3, 2, 2, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([[0.5, 0.0, 1.0], [0.0, 0.0, 0.0], [0.2, 0.3, 0.4], [0.0, 0.9, 0.0]])
    noised = (sigma > 0).sum().item()
    assert noised == 6
    parts = [
        ode_regression_loss(predicted[row : row + 1], x0[row : row + 1], sigma[row : row + 1], num_noised=6.0)
        for row in range(4)
    ]
    whole = ode_regression_loss(predicted, x0, sigma)
    torch.testing.assert_close(torch.stack(parts).sum(), whole)
    assert whole > 0


def test_a_part_is_divided_by_its_share_of_the_noised_frames_however_small() -> None:
    """One frame of four samples is noised: a quarter of it for each part, and their mean is the whole."""
    generator = torch.Generator().manual_seed(2)
    predicted, x0 = torch.randn(2, 4, 3, 3, 2, 2, generator=generator, dtype=torch.float64)
    sigma = torch.zeros(4, 3)
    sigma[2, 1] = 0.5
    parts = [
        ode_regression_loss(
            predicted[row : row + 1], x0[row : row + 1], sigma[row : row + 1], num_noised=0.25
        )
        for row in range(4)
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), ode_regression_loss(predicted, x0, sigma))
    clean = ode_regression_loss(predicted[:1], x0[:1], sigma[:1], num_noised=0.0)
    assert clean.item() == 0
