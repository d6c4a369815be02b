"""Classifier-free guidance. Source: Ho and Salimans, arXiv 2207.12598."""

from jaxtyping import Float
from torch import Tensor


def guide(
    uncond: Float[Tensor, "b c f h w"], cond: Float[Tensor, "b c f h w"], scale: float
) -> Float[Tensor, "b c f h w"]:
    """Returns the guided prediction u + scale (c - u): 0 is unconditional, 1 is conditional.

    It is linear, so it can be applied to velocities or to x0. Code that uses c + w (c - u), such as the
    published distribution-matching stage with w = 3, corresponds to scale = w + 1.
    """
    return uncond + scale * (cond - uncond)
