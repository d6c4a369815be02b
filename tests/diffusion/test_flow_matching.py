"""The flow matching loss weighs frames and channels, in float32."""

import torch

from shotstream.diffusion.flow_matching import flow_matching_loss


def _pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    velocity, target = torch.randn(2, 2, 3, 4, 5, 6, generator=generator, dtype=torch.float64)
    return velocity, target


def test_weights_of_one_change_nothing() -> None:
    velocity, target = _pair()
    plain = flow_matching_loss(velocity, target)
    weighted = flow_matching_loss(
        velocity, target, frame_weight=torch.ones(2, 4), channel_weight=torch.ones(3)
    )
    torch.testing.assert_close(weighted, plain)


def test_weights_choose_frames_and_channels() -> None:
    velocity, target = _pair()
    frame_weight, channel_weight = torch.zeros(2, 4), torch.tensor([0.0, 2.0, 0.0])
    frame_weight[1, 3] = 5.0
    loss = flow_matching_loss(velocity, target, frame_weight=frame_weight, channel_weight=channel_weight)
    error = (velocity - target).square()
    torch.testing.assert_close(loss, 10.0 * error[1, 1, 3].sum() / error.numel())


def test_half_precision_predictions_are_compared_in_float32() -> None:
    velocity, target = (part.to(torch.bfloat16) for part in _pair())
    loss = flow_matching_loss(velocity, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, flow_matching_loss(velocity.float(), target.float()))


def test_weights_choose_cells() -> None:
    velocity, target = _pair()
    cell_weight = torch.zeros(2, 4, 5, 6)
    cell_weight[1, 3, 2, 0] = 3.0
    loss = flow_matching_loss(velocity, target, cell_weight=cell_weight)
    error = (velocity - target).square()
    torch.testing.assert_close(loss, 3.0 * error[1, :, 3, 2, 0].sum() / error.numel())
