"""Samplers, from noise to data: many Euler steps for the teacher, a few re-noised steps for the student.

A network is passed as a function `velocity(noisy, sigma)`, which includes conditioning, caches and guidance.
Samplers have no randomness: noise is an argument.

Source: Euler integration of the flow; the few-step student of Self-Forcing (arXiv 2506.08009) and arXiv
2603.25746.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.diffusion.flow import Latents, Sigma, add_noise, x0_from_velocity

VelocityFunction = Callable[[Tensor, Tensor], Tensor]
"""A velocity prediction: (noisy "b c f h w", sigma "b f") -> velocity "b c f h w"."""


def euler_states(
    velocity: VelocityFunction, noise: Latents, sigmas: Float[Tensor, " n_plus_1"]
) -> Iterator[Tensor]:
    """Yields every state of an Euler integration: `noise` at sigmas[0] first, the result at sigmas[-1] last.

    States are in float32 or better, whatever the dtype of the network.
    """
    state = noise.to(torch.promote_types(noise.dtype, torch.float32))
    yield state
    for here, there in pairwise(sigmas):
        predicted = velocity(state.to(noise.dtype), per_frame(here, noise))
        state = state + predicted.to(state.dtype) * (there - here).to(state)
        yield state


def euler(velocity: VelocityFunction, noise: Latents, sigmas: Float[Tensor, " n_plus_1"]) -> Latents:
    """Returns the end of an Euler integration along `sigmas`, descending; a last level of 0 gives data."""
    state = noise
    for latest in euler_states(velocity, noise, sigmas):
        state = latest
    return state.to(noise.dtype)


def few_step(
    velocity: VelocityFunction,
    noise: Latents,
    sigmas: Float[Tensor, " k"],
    renoise: Callable[[int], Tensor],
    *,
    exit_step: int | None = None,
) -> Latents:
    """Returns the x0 that the student predicts at its last step.

    At every level it predicts x0, and between levels fresh noise is added: `renoise(i)` is the noise that
    takes the x0 of step i to level sigmas[i + 1]. With `exit_step` sampling ends at that step (default: the
    last). Steps before the exit step never have gradients; the exit step has them if they are enabled.
    """
    last = len(sigmas) - 1 if exit_step is None else exit_step
    if not 0 <= last < len(sigmas):
        raise ValueError(f"exit step {last}; the steps are 0..{len(sigmas) - 1}")
    noisy = noise
    with torch.no_grad():
        for step in range(last):
            x0 = _predict_x0(velocity, noisy, per_frame(sigmas[step], noise))
            noisy = add_noise(x0, renoise(step), per_frame(sigmas[step + 1], noise))
    return _predict_x0(velocity, noisy, per_frame(sigmas[last], noise))


def guide(
    uncond: Float[Tensor, "b c f h w"], cond: Float[Tensor, "b c f h w"], scale: float
) -> Float[Tensor, "b c f h w"]:
    """Returns the guided prediction u + scale (c - u): 0 is unconditional, 1 is conditional.

    It is linear, so it can be applied to velocities or to x0. Code that uses c + w (c - u), such as the
    published distribution-matching stage with w = 3, corresponds to scale = w + 1.

    Source: Ho and Salimans, arXiv 2207.12598.
    """
    return uncond + scale * (cond - uncond)


def per_frame(sigma: Float[Tensor, ""], latents: Latents) -> Sigma:
    """Returns a level for every latent frame of `latents`, as a view on its device."""
    return sigma.to(latents.device).expand(latents.shape[0], latents.shape[2])


def _predict_x0(velocity: VelocityFunction, noisy: Tensor, sigma: Tensor) -> Tensor:
    return x0_from_velocity(noisy, velocity(noisy, sigma), sigma)
