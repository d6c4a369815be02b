"""Rendered clips of the theatre as training data of its codec."""

from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from shotstream.data.checks import require_within
from shotstream.data.rng import numpy_rng
from shotstream.geometry import WAN_GEOMETRY as _GEOMETRY
from shotstream.theatre.cast import Action
from shotstream.theatre.palette import to_rgb
from shotstream.theatre.render import FRAMINGS, Shot, frame_at
from shotstream.theatre.world import sample_story
from shotstream.vae.pixels import from_uint8

_CLIP_FRAMES: Final = _GEOMETRY.shot_num_frames(1)
_MOVING: Final[frozenset[Action]] = frozenset(("walks", "jumps", "dances"))
# Latent frames of a shot that a clip may start at.
_NUM_STARTS: Final = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipsConfig:
    """Clips of one chunk: frame 4k of a shot and the eight after it."""

    batch_size: int = 16
    """Clips per step, over all processes."""

    def __post_init__(self) -> None:
        require_within(self, 1, inf, ("batch_size",))


class ClipBatch(NamedTuple):
    """Clips as colours of the palette and as a codec is given them."""

    indices: UInt8[Tensor, "b f h w"]
    pixels: Float[Tensor, "b 3 f h w"]
    """In [-1, 1]."""


class RenderedClips:
    """A `DataSource` of clips; none shows a pair of species and colour that is held out."""

    def __init__(self, config: ClipsConfig, *, seed: int) -> None:
        """`seed` is that of the stories and places that are drawn."""
        self.config, self.seed = config, seed

    def batch(self, step: int, samples: range) -> ClipBatch:
        """Clips of a step."""
        clips = []
        for sample in samples:
            rng = numpy_rng(self.seed, "codec/clip", step, sample)
            shot = sample_story(rng, 1, held_out=False).shots[0]
            start = _GEOMETRY.temporal_stride * int(rng.integers(_NUM_STARTS))
            clips.append(np.stack([frame_at(shot, start + frame) for frame in range(_CLIP_FRAMES)]))
        indices = torch.from_numpy(np.stack(clips))
        pixels = from_uint8(torch.from_numpy(to_rgb(np.stack(clips)))).permute(0, 4, 1, 2, 3)
        return ClipBatch(indices, pixels)


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorClipsConfig:
    """Clips in which actors are looked at, most of them in wide shots and in motion."""

    batch_size: int = 24
    """Clips per step."""
    num_latent_frames: int = 4
    """Latent frames of a clip."""
    framing_weights: tuple[float, ...] = (1.0, 0.9, 0.3)
    """How often a shot that is drawn is kept: wide, medium, close-up."""
    still_weight: float = 0.4
    """The same factor for shots in which nobody walks, jumps or dances."""

    def __post_init__(self) -> None:
        require_within(self, 1, inf, ("batch_size", "num_latent_frames"))
        require_within(self, 0, 1, ("framing_weights", "still_weight"))
        if len(self.framing_weights) != len(FRAMINGS) or not sum(self.framing_weights):
            raise ValueError(
                f"framing_weights is {self.framing_weights!r}; give one for each of {', '.join(FRAMINGS)}, "
                "not all of them 0"
            )


class ActorClipBatch(NamedTuple):
    """The pictures of clips that a codec with held pictures tells apart, and where actors are in them."""

    pictures: UInt8[Tensor, "b p h w"]
    """As colours of the palette."""
    figures: Bool[Tensor, "b p h w"]


class ActorClips:
    """A `DataSource` of clips of actors; none shows a pair of species and colour that is held out."""

    def __init__(self, config: ActorClipsConfig, num_pictures: int, *, seed: int) -> None:
        """A latent frame stands for `num_pictures` pictures; `seed` is that of all that is drawn."""
        self.config, self.seed, self._num_pictures = config, seed, num_pictures

    def batch(self, step: int, samples: range) -> ActorClipBatch:
        """Clips of a step."""
        clips = [self.clip(step, sample, held_out=False) for sample in samples]
        return ActorClipBatch(
            torch.stack([clip[1] for clip in clips]), torch.stack([clip[2] for clip in clips])
        )

    def clip(self, step: int, sample: int, *, held_out: bool) -> tuple[Shot, Tensor, Tensor]:
        """A shot, and of a clip of it the pictures' colours and where its actors are."""
        rng = numpy_rng(self.seed, "decoder/clip", step, sample)
        shot = sample_story(rng, 1, held_out=held_out).shots[0]
        while rng.random() >= self._weight(shot):
            shot = sample_story(rng, 1, held_out=held_out).shots[0]
        first = _GEOMETRY.temporal_stride * int(rng.integers(_NUM_STARTS))
        held = _GEOMETRY.temporal_stride // self._num_pictures
        num_frames = _GEOMETRY.temporal_stride * (self.config.num_latent_frames - 1)
        frames = [first, *range(first + 1, first + 1 + num_frames, held)]
        drawn = np.stack([frame_at(shot, frame) for frame in frames])
        empty = np.stack([frame_at(shot, frame, empty=True) for frame in frames])
        copies = [self._num_pictures, *[1] * (len(frames) - 1)]
        pictures, figures = (value.repeat(copies, axis=0) for value in (drawn, drawn != empty))
        return shot, torch.from_numpy(pictures), torch.from_numpy(figures)

    def _weight(self, shot: Shot) -> float:
        moving = any(performance.action in _MOVING for performance in shot.performances)
        weight = self.config.framing_weights[FRAMINGS.index(shot.framing)]
        return weight * (1.0 if moving else self.config.still_weight)
