"""Random generators of a training run, keyed by (seed, purpose, step, sample).

A sample is a place in the effective batch of a step. What is drawn for it depends on nothing else, so
neither the number of processes nor the parts that a batch is computed in change what a step learns from. A
draw that a whole step shares has no sample.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.streaming.noise import derive_seed


def numpy_rng(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """A numpy generator for one purpose at a place: a step, a step and a sample, ..."""
    return np.random.default_rng(derive_seed(seed, purpose, *place))


def torch_rng(seed: int, purpose: str, *place: int) -> torch.Generator:
    """A torch generator for one purpose at a place; on the CPU, so that a seed means the same everywhere."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *place))


def sample_noise(
    shape: Sequence[int], seed: int, purpose: str, place: Sequence[int], samples: range
) -> Float[Tensor, "b *shape"]:
    """Standard normal noise of some samples of a batch, each drawn by its own key."""
    return torch.stack(
        [torch.randn(tuple(shape), generator=torch_rng(seed, purpose, *place, sample)) for sample in samples]
    )
