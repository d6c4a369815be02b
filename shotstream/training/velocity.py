"""What a bidirectional model says of whole noisy shots, plainly and guided."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.diffusion.guidance import guide
from shotstream.model.dit import DiT
from shotstream.streaming.conditioning import Conditioning, drop_context, full_pass, target_part


def shot_velocity(
    dit: DiT,
    conditioning: Conditioning,
    text: Float[Tensor, "b s n d"],
    noisy: Float[Tensor, "b z f h w"],
    sigma: Float[Tensor, "b f"],
) -> Float[Tensor, "b z f h w"]:
    """What a bidirectional model says of whole noisy shots; nothing is asked of the context frames."""
    inputs = full_pass(conditioning, noisy, sigma, dit.config)
    return target_part(dit(inputs.x, inputs.sigma, text, inputs.positions), dit.config)


def guided_velocity(
    ask: Callable[[Conditioning, Float[Tensor, "b s n d"]], Float[Tensor, "b z f h w"]],
    conditioning: Conditioning,
    text: Float[Tensor, "b s n d"],
    free: Float[Tensor, "b s n d"],
    *,
    captions: float,
    context: float,
) -> Float[Tensor, "b z f h w"]:
    """The prediction, guided away from those without captions and without context, each by a scale.

    With v the prediction, v + (captions - 1)(v - v without captions) + (context - 1)(v - v without context).
    A scale of 1 is no guidance, and its question is not asked. Without context a shot is conditioned as a
    first one, its captions kept; a first shot has none, and follows its captions alone. That training drops
    either apart from the other makes both predictions what the model has learnt.

    Source: guidance by several conditions, as in InstructPix2Pix (arXiv 2211.09800). Guidance by context is
    not published for this method.

    Args:
        ask: the velocity, given conditioning and text.
        conditioning: of the shots.
        text: embeddings of their captions.
        free: embeddings of empty captions.
        captions: scale of the guidance by captions.
        context: scale of the guidance by context.
    """
    given = ask(conditioning, text)
    guided = given if captions == 1.0 else guide(ask(conditioning, free), given, captions)
    if context != 1.0:
        everywhere = torch.ones(given.shape[0], dtype=torch.bool, device=given.device)
        guided = guided + (context - 1) * (given - ask(drop_context(conditioning, everywhere), text))
    return guided
