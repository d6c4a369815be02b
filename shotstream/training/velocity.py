"""Velocities of whole noisy shots by a bidirectional model, and guidance of velocities."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.diffusion.samplers import VelocityFunction, guide
from shotstream.model.dit import DiT
from shotstream.streaming.conditioning import Conditioning, drop_context, full_pass, target_part


def shot_velocity(
    dit: DiT,
    conditioning: Conditioning,
    text: Float[Tensor, "b s n d"],
    noisy: Float[Tensor, "b z f h w"],
    sigma: Float[Tensor, "b f"],
) -> Float[Tensor, "b z f h w"]:
    """Returns the velocity that a bidirectional model predicts for whole noisy shots, without context."""
    inputs = full_pass(conditioning, noisy, sigma, dit.config)
    return target_part(dit(inputs.x, inputs.sigma, text, inputs.positions), dit.config)


def guided_velocity(
    velocity_of: Callable[[Conditioning, Float[Tensor, "b s n d"]], VelocityFunction],
    conditioning: Conditioning,
    text: Float[Tensor, "b s n d"],
    uncond: Float[Tensor, "b s n d"],
    *,
    captions: float,
    context: float,
) -> VelocityFunction:
    """Returns the velocity of shots or chunks, guided by captions and by context.

    With v the prediction, it is v + (captions - 1)(v - v without captions) + (context - 1)(v - v without
    context). A scale of 1 is no guidance and needs no additional pass. Without context a shot is conditioned
    as a first one, with its captions; for a first shot both are equal, and their difference is zero. Training
    drops context and captions independently, so a model is trained on all of these.

    Source: after InstructPix2Pix (arXiv 2211.09800), which nests the differences; here both are taken from
    the full prediction. Guidance by context is not published for this method.

    Args:
        velocity_of: Returns the prediction of a model, given conditioning and text.
        conditioning: Conditioning of the shots.
        text: Embeddings of their captions.
        uncond: Embeddings of empty captions.
        captions: Scale of guidance by captions.
        context: Scale of guidance by context.
    """
    given = velocity_of(conditioning, text)
    unread = given if captions == 1.0 else velocity_of(conditioning, uncond)
    everywhere = torch.ones(conditioning.context.shape[0], dtype=torch.bool, device=text.device)
    unseen = given if context == 1.0 else velocity_of(drop_context(conditioning, everywhere), text)

    def velocity(noisy: Tensor, sigma: Tensor) -> Tensor:
        prediction = guided = given(noisy, sigma)
        if captions != 1.0:
            guided = guide(unread(noisy, sigma), guided, captions)
        if context != 1.0:
            guided = guided + (context - 1) * (prediction - unseen(noisy, sigma))
        return guided

    return velocity
