"""Flow matching: the loss of the teacher and of the fake score.

Source: rectified flow as used by Wan2.1; sections 4 and 5 of arXiv 2603.25746.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def flow_matching_loss(
    velocity: Float[Tensor, "b c f h w"],
    target: Float[Tensor, "b c f h w"],
    *,
    frame_weight: Float[Tensor, "b f"] | None = None,
    cell_weight: Float[Tensor, "b f h w"] | None = None,
    channel_weight: Float[Tensor, " c"] | None = None,
) -> Float[Tensor, ""]:
    """Returns the mean squared error of predicted velocities, in float32 or better.

    Context frames must be removed before: they are not targets.

    Args:
        velocity: The network's prediction for the target frames.
        target: `velocity_target(x0, noise)`.
        frame_weight: Weight of each frame, for example `FlowSchedule.training_weight(sigma)`; not normalised
            here.
        cell_weight: Weight of each latent cell, for example to emphasise small objects; not normalised here.
        channel_weight: Weight of each latent channel, for codecs whose channels differ in importance.
    """
    dtype = torch.promote_types(velocity.dtype, torch.float32)
    error = (velocity.to(dtype) - target.to(dtype)).square()
    if channel_weight is not None:
        error = error * channel_weight.to(dtype)[:, None, None, None]
    if frame_weight is not None:
        error = error * frame_weight.to(dtype)[:, None, :, None, None]
    if cell_weight is not None:
        error = error * cell_weight.to(dtype)[:, None]
    return error.mean()
