"""Batches of training data, and the protocol of their sources."""

from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from shotstream.streaming.conditioning import Conditioning, drop_context

BatchT = TypeVar("BatchT", covariant=True)


@runtime_checkable
class DataSource(Protocol[BatchT]):
    """The protocol of sources of training batches.

    A batch is a function of (step, samples) and of the source's configuration alone: a resumed run gets the
    same batches as an uninterrupted one, and the parts of a batch joined are the whole.
    """

    def batch(self, step: int, samples: range) -> BatchT:
        """Returns samples of a step, selected by their indices in the effective batch."""
        ...


class ShotBatch(NamedTuple):
    """A batch of shots of one length, with their conditioning."""

    x0: Float[Tensor, "b z f h w"]
    """Clean latents."""
    figures: Bool[Tensor, "b f h w"]
    """Mask of the cells that show an actor; all False if that is not known."""
    conditioning: Conditioning
    captions: list[list[str]]
    """Caption rows of each sample."""
    samples: range
    """Indices of the samples in the effective batch."""


def dropped(
    conditioning: Conditioning,
    captions: list[str],
    rng: np.random.Generator,
    *,
    has_context: bool,
    context_drop: float,
    caption_drop: float,
) -> tuple[Conditioning, list[str]]:
    """Returns a sample's conditioning and captions, each dropped at random; dropped captions are empty."""
    if has_context and rng.random() < context_drop:
        conditioning = drop_context(conditioning, torch.ones(1, dtype=torch.bool))
    return conditioning, [""] * len(captions) if rng.random() < caption_drop else captions
