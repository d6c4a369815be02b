"""ODE regression: the causal student learns to predict the end of the teacher's trajectory from its states.

Source: CausVid (arXiv 2412.07772); the causal initialisation of arXiv 2603.25746.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def ode_regression_loss(
    predicted_x0: Float[Tensor, "b c f h w"],
    x0: Float[Tensor, "b c f h w"],
    sigma: Float[Tensor, "b f"],
    *,
    channel_weight: Float[Tensor, " c"] | None = None,
    num_noised: float | None = None,
) -> Float[Tensor, ""]:
    """Returns the mean squared error over the noised frames, in float32 or better.

    A frame at sigma 0 is its own target and does not count; if all frames are clean the loss is 0.
    `num_noised` is the number of noised frames to divide by, if these are part of a larger batch.
    """
    dtype = torch.promote_types(predicted_x0.dtype, torch.float32)
    error = (predicted_x0.to(dtype) - x0.to(dtype)).square()
    if channel_weight is not None:
        error = error * channel_weight.to(dtype)[:, None, None, None]
    per_frame = error.mean(dim=(1, 3, 4))  # b f
    noised = (sigma > 0).to(dtype)
    count = noised.sum().clamp_min(1) if num_noised is None else num_noised or 1.0
    return (per_frame * noised).sum() / count
