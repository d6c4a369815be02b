"""Batches of training data, and the protocol of the sources that give them."""

from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from shotstream.streaming.conditioning import Conditioning, drop_context

BatchT = TypeVar("BatchT", covariant=True)


@runtime_checkable
class DataSource(Protocol[BatchT]):
    """A source of training batches.

    A batch is a function of (step, samples) and of the source's configuration alone: a resumed run asks for
    what an uninterrupted one would have asked for, and parts of a batch together are the whole.
    """

    def batch(self, step: int, samples: range) -> BatchT:
        """The samples of a step, by their places in the effective batch."""
        ...


class ShotBatch(NamedTuple):
    """Shots to learn from, all of one length, with what they are conditioned on."""

    x0: Float[Tensor, "b z f h w"]
    """Clean latents."""
    figures: Bool[Tensor, "b f h w"]
    """Which cells show an actor; none, where that is not known."""
    conditioning: Conditioning
    captions: list[list[str]]
    """The caption rows of each sample."""
    samples: range
    """Places in the effective batch."""


def dropped(
    conditioning: Conditioning,
    captions: list[str],
    rng: np.random.Generator,
    *,
    has_context: bool,
    context_drop: float,
    caption_drop: float,
) -> tuple[Conditioning, list[str]]:
    """A sample's conditioning and captions, by chance without context, by another with empty captions."""
    if has_context and rng.random() < context_drop:
        conditioning = drop_context(conditioning, torch.ones(1, dtype=torch.bool))
    return conditioning, [""] * len(captions) if rng.random() < caption_drop else captions
