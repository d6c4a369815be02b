"""The distribution matching gradient is the published one, and reaches the student alone."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from shotstream.diffusion.dmd import dmd_gradient, dmd_loss

GOLDEN = Path(__file__).parent.parent / "assets" / "goldens" / "dmd_gradient.safetensors"


def _randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.mark.goldens
def test_the_gradient_equals_the_golden() -> None:
    golden = {
        name: tensor.transpose(1, 2)
        for name, tensor in load_file(GOLDEN).items()
        if name in ("x0", "pred_fake", "pred_real_guided", "gradient")
    }
    gradient = dmd_gradient(golden["x0"], golden["pred_fake"], golden["pred_real_guided"])
    # The same float32 formula; only the order of the sum in the normaliser may differ.
    torch.testing.assert_close(gradient, golden["gradient"], rtol=1e-5, atol=1e-6)
    loss = dmd_loss(golden["x0"], gradient)
    torch.testing.assert_close(loss, load_file(GOLDEN)["loss"][0], rtol=1e-5, atol=0)


def test_the_loss_has_that_gradient() -> None:
    x0 = _randn(2, 3, 4, 5, 6).requires_grad_()
    gradient = dmd_gradient(x0, _randn(2, 3, 4, 5, 6) * 2, _randn(2, 3, 4, 5, 6) + 1)
    dmd_loss(x0, gradient).backward()
    torch.testing.assert_close(x0.grad, gradient / x0.numel())


def test_no_gradient_reaches_the_teacher_or_the_fake_score() -> None:
    x0, fake, real = (_randn(1, 2, 3, 4, 4 + i)[..., :4].requires_grad_() for i in range(3))
    dmd_loss(x0, dmd_gradient(x0, fake, real)).backward()
    assert x0.grad is not None
    assert fake.grad is None
    assert real.grad is None


def test_samples_are_normalised_one_by_one() -> None:
    x0, fake, real = _randn(2, 3, 4, 5, 6), _randn(2, 3, 4, 5, 6) * 3, _randn(2, 3, 4, 5, 6) * 5
    together = dmd_gradient(x0, fake, real)
    for sample in range(2):
        alone = slice(sample, sample + 1)
        torch.testing.assert_close(together[alone], dmd_gradient(x0[alone], fake[alone], real[alone]))


def test_a_sample_that_the_teacher_leaves_alone_has_a_finite_gradient() -> None:
    x0 = _randn(1, 2, 3, 4, 4)
    assert dmd_gradient(x0, x0, x0).abs().max() == 0
    assert torch.isfinite(dmd_gradient(x0, x0 + 1e-3, x0)).all()


def test_predictions_in_half_precision_are_subtracted_in_float32() -> None:
    x0, fake, real = (
        part.to(torch.bfloat16)
        for part in (_randn(1, 2, 3, 4, 4), _randn(1, 2, 3, 4, 4) * 2, _randn(1, 2, 3, 4, 4) + 1)
    )
    gradient = dmd_gradient(x0, fake, real)
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, dmd_gradient(x0.float(), fake.float(), real.float()))
