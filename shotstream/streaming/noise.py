"""The noise of a rollout, a pure function of (seed, chunk, step).

A rollout asks for the noise of (chunk, step): step 0 is what the chunk starts from, step s > 0 what is
mixed in before denoising step s. `KeyedNoise` answers as a pure function of (seed, chunk, step), so that
a shot replays whatever was drawn before it, and a chunk is the same however many steps or chunks surround
it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.transfer import send

NoiseSource = Callable[[int, int], Tensor]
"""(chunk index, step index) -> standard normal noise for one chunk, float32 "b c f h w"."""


def derive_seed(*keys: int | str) -> int:
    """A seed in [0, 2^63) that depends on every key and on their order, the same on every machine."""
    text = "/".join(str(key) for key in keys)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def shot_seed(session_seed: int, shot_index: int) -> int:
    """The seed of a shot for which none was given."""
    return derive_seed(session_seed, "shot", shot_index)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyedNoise:
    """Noise keyed by (seed, chunk, step), one seed per sample.

    Drawn on the CPU, so that a seed means the same noise on every device; while a GPU is busy with the pass
    before, which the way there does not wait for.
    """

    seeds: tuple[int, ...]
    """One seed per sample of the batch, each in [0, 2^63)."""
    shape: tuple[int, int, int, int]
    """Channels, latent frames, height and width of one chunk."""
    device: torch.device
    """Where the noise is wanted."""

    def __call__(self, chunk_index: int, step_index: int) -> Float[Tensor, "b c f h w"]:
        """Noise of every sample for (chunk, step); equal arguments give equal noise."""
        drawn = [
            torch.randn(
                self.shape,
                generator=torch.Generator().manual_seed(derive_seed(seed, chunk_index, step_index)),
                dtype=torch.float32,
            )
            for seed in self.seeds
        ]
        return send(torch.stack(drawn), self.device)
