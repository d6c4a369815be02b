"""Classifier-free guidance. Source: Ho and Salimans, arXiv 2207.12598."""

from jaxtyping import Float
from torch import Tensor


def guide(
    uncond: Float[Tensor, "b c f h w"], cond: Float[Tensor, "b c f h w"], scale: float
) -> Float[Tensor, "b c f h w"]:
    """The guided prediction u + scale (c - u): 0 is unconditional, 1 is conditional.

    Linear, so that it may be applied to velocities or to x0 alike. Code that writes c + w (c - u), as the
    published distribution-matching stage does with w = 3, means scale = w + 1.
    """
    return uncond + scale * (cond - uncond)
