"""Latents of theatre stories: rendered shots, encoded as videos and as single context frames."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from shotstream.streaming.context_sampling import kept_frames
from shotstream.streaming.shot_memory import ShotMemory
from shotstream.theatre.palette import to_rgb
from shotstream.theatre.reference_pictures import (
    actor_caption,
    actor_picture,
    place_caption,
    place_picture,
)
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
    turn_frame: int = 0
    """First latent frame of what its actors turn to; 0: they do not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoryLatents:
    """A story, and the latents of its shots."""

    story: TheatreStory
    shots: tuple[ShotLatents, ...]
    actor_references: tuple[ShotMemory, ...] = ()
    """A reference picture of each member of the cast."""
    place_references: tuple[ShotMemory, ...] = ()
    """A reference picture of the set of each shot."""


@torch.no_grad()
def encode_shot(
    codec: Codec, shot: Shot, caption: str, num_frames: int, budget: int, *, turn_caption: str = ""
) -> ShotLatents:
    """Returns a rendered shot, encoded as a video and as the single frames that may become context.

    `turn_caption` is that of its first turn, if it has one.
    """
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
            later_captions=tuple((turn.frame, turn_caption) for turn in shot.turns[:1]),
            num_frames=num_frames,
            candidate_frames=chosen,
            latents=codec.encode(singles)[:, :, 0].half(),
        ),
        turn_frame=codec.geometry.num_latent_frames(shot.turns[0].frame) if shot.turns else 0,
    )


def _cells(seen: NDArray[np.bool_], codec: Codec) -> Bool[Tensor, "f h w"]:
    """Returns a mask of the latent cells that hold a pixel `[f, h, w]` that is True."""
    stride, frames = codec.geometry.spatial_stride, codec.geometry.temporal_stride
    padded = torch.from_numpy(np.concatenate([seen[:1].repeat(frames - 1, axis=0), seen]))
    cells = rearrange(padded, "(f t) (h i) (w j) -> f h w (t i j)", t=frames, i=stride, j=stride)
    return cells.any(dim=-1)


@torch.no_grad()
def encode_references(codec: Codec, story: StoryLatents, rng: np.random.Generator) -> StoryLatents:
    """Returns a story with reference pictures of its cast and of the set of each shot."""
    told = story.story
    actors = [(actor_picture(actor, rng), actor_caption(actor)) for actor in told.cast]
    places = [
        (place_picture(shot.place, shot.time, shot.layout), place_caption(shot.place, shot.time))
        for shot in told.shots
    ]
    pixels = from_uint8(torch.from_numpy(to_rgb(np.stack([drawn for drawn, _ in (*actors, *places)]))))
    latents = codec.encode(rearrange(pixels, "n h w c -> n c 1 h w"))[:, :, 0].half()
    memories = [
        ShotMemory(caption=caption, num_frames=1, candidate_frames=(), latents=one[None][:0], pinned=(one,))
        for (_, caption), one in zip((*actors, *places), latents, strict=True)
    ]
    return replace(
        story,
        actor_references=tuple(memories[: len(actors)]),
        place_references=tuple(memories[len(actors) :]),
    )


def encode_story(codec: Codec, story: TheatreStory, num_frames: Sequence[int], budget: int) -> StoryLatents:
    """Returns a story with every shot encoded at the given lengths."""
    return StoryLatents(
        story=story,
        shots=tuple(
            encode_shot(codec, shot, caption, n, budget, turn_caption=turned)
            for shot, caption, turned, n in zip(
                story.shots,
                story.captions,
                story.turn_captions or ("",) * len(story.shots),
                num_frames,
                strict=True,
            )
        ),
    )
