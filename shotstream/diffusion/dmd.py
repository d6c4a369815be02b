"""Distribution matching distillation (DMD): the gradient that moves the student towards the teacher.

Source: DMD2 (arXiv 2405.14867), equations as used by Self-Forcing (arXiv 2506.08009) and arXiv 2603.25746.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_LEAST_DISTANCE = 1e-6
"""Minimum of the normaliser: a sample that the teacher does not move at all gets a finite gradient."""


def dmd_gradient(
    x0: Float[Tensor, "b c f h w"],
    fake_x0: Float[Tensor, "b c f h w"],
    real_x0: Float[Tensor, "b c f h w"],
) -> Float[Tensor, "b c f h w"]:
    """Returns the gradient (fake - real) / mean |x0 - real|, with the mean over each sample.

    Args:
        x0: The student's samples.
        fake_x0: Prediction of the fake score for the noised samples.
        real_x0: Prediction of the teacher for them, with guidance.

    Returns:
        A constant in float32 or better: no gradient reaches the student, the teacher or the fake score.
            Non-finite predictions give non-finite values, for the caller to refuse.
    """
    dtype = torch.promote_types(x0.dtype, torch.float32)
    x0, fake_x0, real_x0 = (part.detach().to(dtype) for part in (x0, fake_x0, real_x0))
    distance = (x0 - real_x0).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    return (fake_x0 - real_x0) / distance.clamp_min(_LEAST_DISTANCE)


def dmd_loss(x0: Float[Tensor, "b c f h w"], gradient: Float[Tensor, "b c f h w"]) -> Float[Tensor, ""]:
    """Returns a loss whose gradient at `x0` is `gradient` divided by the number of its elements."""
    moving = x0.to(gradient.dtype)
    return 0.5 * (moving - (moving - gradient).detach()).square().mean()
