"""Rendered clips of the theatre, as training data of its codec."""

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
# Latent frames of a shot at which a clip may start.
_NUM_STARTS: Final = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipsConfig:
    """Configuration of clips of one chunk: frame 4k of a shot and the eight after it."""

    batch_size: int = 16
    """Number of clips per step, over all processes, at least 1."""

    def __post_init__(self) -> None:
        require_within(self, 1, inf, ("batch_size",))


class ClipBatch(NamedTuple):
    """A batch of clips, as palette indices and as input of a codec."""

    indices: UInt8[Tensor, "b f h w"]
    pixels: Float[Tensor, "b 3 f h w"]
    """Pixels in [-1, 1]."""


class RenderedClips:
    """A `DataSource` of clips; none shows a held-out pair of species and colour."""

    def __init__(self, config: ClipsConfig, *, seed: int) -> None:
        """Creates a source; `seed` is that of the random stories and positions."""
        self.config, self.seed = config, seed

    def batch(self, step: int, samples: range) -> ClipBatch:
        """Returns clips of a step."""
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
    """Configuration of clips of actors, most of them in wide shots and in motion."""

    batch_size: int = 24
    """Number of clips per step, at least 1."""
    num_latent_frames: int = 4
    """Number of latent frames of a clip, at least 1."""
    framing_weights: tuple[float, ...] = (1.0, 0.9, 0.3)
    """Probabilities in [0, 1] that a random shot is used, for wide, medium and close-up framing."""
    still_weight: float = 0.4
    """Factor on this probability, in [0, 1], for shots in which no actor walks, jumps or dances."""

    def __post_init__(self) -> None:
        require_within(self, 1, inf, ("batch_size", "num_latent_frames"))
        require_within(self, 0, 1, ("framing_weights", "still_weight"))
        if len(self.framing_weights) != len(FRAMINGS) or not sum(self.framing_weights):
            raise ValueError(
                f"framing_weights is {self.framing_weights!r}; give one for each of {', '.join(FRAMINGS)}, "
                "not all of them 0"
            )


class ActorClipBatch(NamedTuple):
    """A batch of clips: one picture for each held picture of the codec, and masks of the actors."""

    pictures: UInt8[Tensor, "b p h w"]
    """Pictures as palette indices."""
    figures: Bool[Tensor, "b p h w"]


class ActorClips:
    """A `DataSource` of clips of actors; none shows a held-out pair of species and colour."""

    def __init__(self, config: ActorClipsConfig, num_pictures: int, *, seed: int) -> None:
        """Creates a source; a latent frame has `num_pictures` pictures, `seed` is that of random choices."""
        self.config, self.seed, self._num_pictures = config, seed, num_pictures

    def batch(self, step: int, samples: range) -> ActorClipBatch:
        """Returns clips of a step."""
        clips = [self.clip(step, sample, held_out=False) for sample in samples]
        return ActorClipBatch(
            torch.stack([clip[1] for clip in clips]), torch.stack([clip[2] for clip in clips])
        )

    def clip(self, step: int, sample: int, *, held_out: bool) -> tuple[Shot, Tensor, Tensor]:
        """Returns a shot, and for a clip of it the palette indices and the masks of its actors."""
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
