"""Latents of theatre stories: rendered shots, encoded as videos and as single context frames."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from shotstream.streaming.context_sampling import kept_frames
from shotstream.streaming.shot_memory import ShotMemory
from shotstream.theatre.palette import to_rgb
from shotstream.theatre.render import Shot, render
from shotstream.theatre.world import TheatreStory
from shotstream.vae.codec import Codec
from shotstream.vae.pixels import from_uint8


@dataclass(frozen=True, kw_only=True, slots=True)
class ShotLatents:
    """The latents of one shot, in half precision to save memory."""

    target: Float[Tensor, "z f h w"]
    """The shot encoded as one video."""
    figures: Bool[Tensor, "f h w"]
    """Mask of the latent cells that show a part of an actor."""
    memory: ShotMemory
    """The memory of the shot, for any position in a story."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoryLatents:
    """A story, and the latents of its shots."""

    story: TheatreStory
    shots: tuple[ShotLatents, ...]


@torch.no_grad()
def encode_shot(codec: Codec, shot: Shot, caption: str, num_frames: int, budget: int) -> ShotLatents:
    """Returns a rendered shot, encoded as a video and as the single frames that may become context."""
    drawn = render(shot, num_frames)
    empty = render(shot, num_frames, empty=True)
    pixels = from_uint8(torch.from_numpy(to_rgb(drawn))).permute(3, 0, 1, 2)[None]
    # A first shot may have to give the most frames.
    chosen = kept_frames(num_frames, 0, budget)
    singles = pixels[0, :, list(chosen)].permute(1, 0, 2, 3)[:, :, None]
    return ShotLatents(
        target=codec.encode(pixels)[0].half(),
        figures=_cells(drawn != empty, codec),
        memory=ShotMemory(
            caption=caption,
            num_frames=num_frames,
            candidate_frames=chosen,
            latents=codec.encode(singles)[:, :, 0].half(),
        ),
    )


def _cells(seen: NDArray[np.bool_], codec: Codec) -> Bool[Tensor, "f h w"]:
    """Returns a mask of the latent cells that hold a pixel `[f, h, w]` that is True."""
    stride, frames = codec.geometry.spatial_stride, codec.geometry.temporal_stride
    padded = torch.from_numpy(np.concatenate([seen[:1].repeat(frames - 1, axis=0), seen]))
    cells = rearrange(padded, "(f t) (h i) (w j) -> f h w (t i j)", t=frames, i=stride, j=stride)
    return cells.any(dim=-1)


def encode_story(codec: Codec, story: TheatreStory, num_frames: Sequence[int], budget: int) -> StoryLatents:
    """Returns a story with every shot encoded at the given lengths."""
    return StoryLatents(
        story=story,
        shots=tuple(
            encode_shot(codec, shot, caption, n, budget)
            for shot, caption, n in zip(story.shots, story.captions, num_frames, strict=True)
        ),
    )
