"""Samplers, from noise to data: many Euler steps for the teacher, a few re-noised steps for the student.

A network is passed as a function `velocity(noisy, sigma)`, which includes conditioning, caches and guidance.
Samplers have no randomness: noise is an argument.

Source: Euler integration of the flow; the few-step student of Self-Forcing (arXiv 2506.08009) and arXiv
2603.25746.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.diffusion.flow import Latents, Sigma, add_noise, x0_from_velocity
from shotstream.diffusion.schedule import StepLevels

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
            noisy = _noised_again(x0, renoise(step), per_frame(sigmas[step + 1], noise))
    return _predict_x0(velocity, noisy, per_frame(sigmas[last], noise))


def rolling(
    velocity: VelocityFunction,
    noise: Callable[[int, int], Tensor],
    levels: StepLevels,
    num_chunks: int | None,
) -> Iterator[Tensor]:
    """Yields the x0 of chunk after chunk, while as many as there are levels are denoised together.

    Every pass takes each of the chunks from its own level to the next; then a new chunk of noise enters, and
    the oldest is finished. Passes at the beginning, and at the end if there is one, have fewer chunks.

    Args:
        velocity: The network; its levels differ from frame to frame.
        noise: Function (chunk, step) -> noise of a chunk, as for a rollout.
        levels: Levels of the steps.
        num_chunks: Number of chunks; None: without an end.
    """
    last = len(levels.used) - 1
    chunks: list[Tensor] = []
    for newest in count():
        if num_chunks is None or newest < num_chunks:
            chunks.append(noise(newest, 0))
        elif not chunks:
            return
        oldest = max(0, newest - last)
        steps = [newest - chunk for chunk in range(oldest, oldest + len(chunks))]
        noisy = torch.cat(chunks, dim=2)
        predicted = velocity(noisy, _levels_of(chunks, levels.told, steps))
        x0 = x0_from_velocity(noisy, predicted, _levels_of(chunks, levels.used, steps))
        parts = x0.split([chunk.shape[2] for chunk in chunks], dim=2)
        chunks = [
            _noised_again(part, noise(oldest + at, step + 1), per_frame(levels.used[step + 1], part))
            for at, (part, step) in enumerate(zip(parts, steps, strict=True))
            if step < last
        ]
        if steps[0] == last:
            yield parts[0]


def _levels_of(chunks: Sequence[Tensor], levels: Tensor, steps: Sequence[int]) -> Tensor:
    return torch.cat([per_frame(levels[s], chunk) for chunk, s in zip(chunks, steps, strict=True)], dim=1)


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


def _noised_again(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Returns `x0` at a level, in its own precision; levels in float64 are for predictions alone."""
    return add_noise(x0, noise, sigma.to(torch.promote_types(x0.dtype, torch.float32)))


def _predict_x0(velocity: VelocityFunction, noisy: Tensor, sigma: Tensor) -> Tensor:
    return x0_from_velocity(noisy, velocity(noisy, sigma), sigma)
