"""The straight path between data and noise, and the conversions between its four quantities.

    noisy = (1 - sigma) x0 + sigma noise        velocity = noise - x0

Computed in float32 (float64 if an input is) and returned in the dtype of the first argument. There is no
schedule and no network here.

Source: rectified flow as used by Wan2.1 and arXiv 2603.25746.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "b c f h w"]
"""Latents of a batch of videos."""
Sigma = Float[Tensor, "b f"]
"""Noise level of each latent frame in [0, 1], 1 = noise."""


def add_noise(x0: Latents, noise: Latents, sigma: Sigma) -> Latents:
    """Returns noisy latents at level `sigma`: x0 itself at 0, the noise itself at 1."""
    level = _per_frame(sigma, x0)
    return ((1 - level) * x0 + level * noise).to(x0.dtype)


def velocity_target(x0: Latents, noise: Latents) -> Latents:
    """Returns the velocity that a network should predict on the path from `x0` to `noise`."""
    return (_precise(noise) - _precise(x0)).to(x0.dtype)


def x0_from_velocity(noisy: Latents, velocity: Latents, sigma: Sigma) -> Latents:
    """Returns the data end of the path through `noisy` with `velocity`."""
    return (_precise(noisy) - _per_frame(sigma, noisy) * _precise(velocity)).to(noisy.dtype)


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _per_frame(sigma: Tensor, like: Tensor) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(sigma.dtype, like.dtype), torch.float32)
    return sigma.to(dtype)[:, None, :, None, None]
