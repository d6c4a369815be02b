"""A tiny network with random weights, and inputs for it, for the tests of this directory."""

from dataclasses import replace

import torch
from torch import Tensor

from shotstream.geometry import TokenGrid
from shotstream.model.config import DiTConfig
from shotstream.model.dit import DiT
from shotstream.model.dual_cache import DualCache
from shotstream.model.positions import FramePositions, chunk_positions, context_positions, target_positions

CONFIG = DiTConfig(
    latent_channels=3,
    dim=48,
    ffn_dim=64,
    num_heads=2,
    num_layers=3,
    text_dim=7,
    text_length=4,
    freq_dim=16,
    num_context_frames=2,
    chunk_latent_frames=2,
    window_chunks=3,
)
"""Heads are 24 wide (8 + 8 + 8 rotary channels), the window is shorter than the shots of the tests."""

GRID = TokenGrid(2, 3)
LATENT_SIZE = (4, 6)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny_dit(seed: int = 0, **changes: object) -> DiT:
    """A network in which every parameter is random, so that no input is without effect."""
    generator = torch.Generator().manual_seed(seed)
    dit = DiT(replace(CONFIG, **changes), generator=generator)
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return dit.eval()


def latents(num_frames: int, *, batch: int = 1, seed: int = 0) -> Tensor:
    return randn(batch, CONFIG.latent_channels, num_frames, *LATENT_SIZE, seed=seed)


def captions(num_captions: int = 3, *, batch: int = 1, seed: int = 100) -> Tensor:
    return randn(batch, num_captions, CONFIG.text_length, CONFIG.text_dim, seed=seed)


def context(batch: int = 1) -> FramePositions:
    """Two context frames, of shots 0 and 1."""
    flags = torch.tensor([[0, 1]]).expand(batch, -1)
    return context_positions(flags, flags)


def target(num_frames: int, batch: int = 1) -> FramePositions:
    """The frames of shot 2."""
    flag = torch.full((batch,), 2)
    return target_positions(flag, flag, num_frames, CONFIG)


def chunk(chunk_index: int, batch: int = 1) -> FramePositions:
    flag = torch.full((batch,), 2)
    return chunk_positions(flag, flag, chunk_index, CONFIG)


def level(value: float, num_frames: int, batch: int = 1) -> Tensor:
    return torch.full((batch, num_frames), value)


def new_cache(dit: DiT, batch: int = 1) -> DualCache:
    return DualCache(dit.config, batch, GRID)
