"""The causal mask of a training pass, in the form that is fastest on its device."""

import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.geometry import LatentSize, TokenGrid
from shotstream.model.causal_mask import CausalMask, MaskForm
from shotstream.model.config import DiTConfig


def token_grid(latents: Float[Tensor, "b z f h w"], config: DiTConfig) -> TokenGrid:
    """Returns the token grid of a latent frame."""
    size = LatentSize(*latents.shape[-2:])
    return TokenGrid(size.height // config.patch_size, size.width // config.patch_size)


def shot_mask(shot: Float[Tensor, "b z f h w"], config: DiTConfig) -> CausalMask:
    """Returns the causal mask over the context and a shot, in the form that is fastest on its device."""
    form = mask_form(shot.device, config)
    return CausalMask.for_shot(config, token_grid(shot, config), shot.shape[2], form=form)


def mask_form(device: torch.device, config: DiTConfig) -> MaskForm:
    """Returns "block" on a GPU, if the kernel supports the width of the heads, and "slices" otherwise."""
    return "block" if device.type == "cuda" and config.head_dim >= 16 else "slices"
