"""Random generators of a training run, keyed by (seed, purpose, step, sample).

A sample is an index in the effective batch of a step. Random numbers for it depend on nothing else, so
neither the number of processes nor the microbatches of a batch change the result of a step. Random numbers
for a whole step have no sample in their key.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.streaming.noise import derive_seed


def numpy_rng(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """Returns a numpy generator for a purpose and a key: a step, a step and a sample, ..."""
    return np.random.default_rng(derive_seed(seed, purpose, *place))


def torch_rng(seed: int, purpose: str, *place: int) -> torch.Generator:
    """Returns a torch generator for a purpose and a key; on the CPU, so that seeds are portable."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *place))


def sample_noise(
    shape: Sequence[int], seed: int, purpose: str, place: Sequence[int], samples: range
) -> Float[Tensor, "b *shape"]:
    """Returns standard normal noise of some samples of a batch, each from its own key."""
    return torch.stack(
        [torch.randn(tuple(shape), generator=torch_rng(seed, purpose, *place, sample)) for sample in samples]
    )
