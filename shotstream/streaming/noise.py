"""The noise of a rollout, a pure function of (seed, chunk, step).

Step 0 is the noise from which the chunk starts, step s > 0 the noise that is added before denoising step s.
`KeyedNoise` depends on (seed, chunk, step) alone, so that a shot can be replayed whatever was generated
before it, and a chunk is the same for any number of steps or chunks around it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.transfer import send

NoiseSource = Callable[[int, int], Tensor]
"""A noise function: (chunk index, step index) -> standard normal noise of one chunk, float32 "b c f h w"."""


def derive_seed(*keys: int | str) -> int:
    """Returns a seed in [0, 2^63) that depends on all keys and their order, the same on every machine."""
    text = "/".join(str(key) for key in keys)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def shot_seed(session_seed: int, shot_index: int) -> int:
    """Returns the seed of a shot for which none was given."""
    return derive_seed(session_seed, "shot", shot_index)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyedNoise:
    """Noise keyed by (seed, chunk, step), with one seed per sample.

    It is generated on the CPU, so that a seed gives the same noise for every device, and copied without
    waiting while a GPU is busy with the previous pass.
    """

    seeds: tuple[int, ...]
    """Seed of each sample of the batch, in [0, 2^63)."""
    shape: tuple[int, int, int, int]
    """Channels, latent frames, height and width of one chunk."""
    device: torch.device
    """Device of the returned noise."""

    def __call__(self, chunk_index: int, step_index: int) -> Float[Tensor, "b c f h w"]:
        """Returns the noise of every sample for (chunk, step); equal arguments give equal noise."""
        drawn = [
            torch.randn(
                self.shape,
                generator=torch.Generator().manual_seed(derive_seed(seed, chunk_index, step_index)),
                dtype=torch.float32,
            )
            for seed in self.seeds
        ]
        return send(torch.stack(drawn), self.device)
