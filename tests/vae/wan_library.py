"""The implementation that Wan's VAE is compared with: diffusers', with the same sizes and weights."""

from collections.abc import Mapping
from typing import Any

import pytest
from torch import Tensor

from shotstream.vae.wan_vae import WanVAEConfig


def library_of(config: WanVAEConfig, weights: Mapping[str, Tensor] | None = None) -> Any:
    """diffusers' `AutoencoderKLWan`, frozen; a test that asks for it skips where diffusers is missing."""
    module = pytest.importorskip("diffusers.models.autoencoders.autoencoder_kl_wan", reason="no diffusers")
    made = module.AutoencoderKLWan(
        base_dim=config.dim,
        z_dim=config.latent_channels,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
    )
    if weights is not None:
        made.load_state_dict(weights)
    return made.eval().requires_grad_(False)
