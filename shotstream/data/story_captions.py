"""Captions of stories as training data, for a student that generates its own history."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import numpy as np

from shotstream.data.captions import open_shards, stored_caption
from shotstream.data.checks import require_within
from shotstream.data.rng import numpy_rng
from shotstream.data.story_pool import require_shot_weights
from shotstream.model.config import DiTConfig
from shotstream.streaming.pipeline_config import family_caption
from shotstream.theatre.world import sample_story


@dataclass(frozen=True, kw_only=True, slots=True)
class StoryCaptionsConfig:
    """Configuration of captions of random stories of the theatre."""

    batch_size: int = 8
    """Number of stories per step, over all processes, at least 1."""
    shot_weights: tuple[float, ...] = (0.3, 0.25, 0.2, 0.1, 0.1, 0.0, 0.05)
    """Relative frequencies, at least 0, with which a step's target is the first, second, ... shot of its
    stories.
    """
    num_latent_frames: tuple[int, ...] = (3, 6, 9)
    """Possible lengths of a shot in latent frames, each at least 1, chosen uniformly."""

    def __post_init__(self) -> None:
        require_within(self, 1, inf, ("batch_size", "num_latent_frames"))
        require_within(self, 0, inf, ("shot_weights",))
        require_shot_weights(self.shot_weights)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardCaptionsConfig:
    """Configuration of captions of clips in shards; all shots have the maximum length, as in streaming."""

    directory: str
    """Directory that `shotstream data encode` made, relative to the working directory."""
    batch_size: int = 8
    """Number of stories per step, over all processes, at least 1."""
    shot_weights: tuple[float, ...] = (0.2, 0.2, 0.2, 0.2, 0.2)
    """Relative frequencies, at least 0, with which a step's target is the first, second, ... shot of its
    stories.
    """
    max_latent_frames: int = 21
    """Length of the shots in latent frames, at least 1, rounded down to whole chunks."""

    def __post_init__(self) -> None:
        require_within(self, 1, inf, ("batch_size", "max_latent_frames"))
        require_within(self, 0, inf, ("shot_weights",))
        require_shot_weights(self.shot_weights)
        if not self.directory:
            raise ValueError("directory is empty; name a directory of shards")


class StoryCaptionsBatch(NamedTuple):
    """A batch of stories' captions, up to the target shot."""

    captions: list[list[str]]
    """Composed caption of each shot of each story."""
    num_chunks: list[int]
    """Length in chunks of each shot, the same in all stories."""
    samples: range
    """Indices of the samples in the effective batch."""


class StoryCaptions:
    """A `DataSource` of captions of random stories of the theatre."""

    def __init__(self, config: StoryCaptionsConfig, dit: DiTConfig, *, seed: int) -> None:
        """Creates a source; `seed` is that of random choices, `dit` gives the length of a chunk."""
        self.config, self.seed, self._size = config, seed, dit.chunk_latent_frames

    def batch(self, step: int, samples: range) -> StoryCaptionsBatch:
        """Returns stories that end with the target shot."""
        rng = numpy_rng(self.seed, "places", step)
        num_shots = _draw_place(rng, self.config.shot_weights)
        lengths = rng.choice(self.config.num_latent_frames, num_shots)
        stories = [sample_story(numpy_rng(self.seed, "story", step, sample), num_shots) for sample in samples]
        captions = [
            [
                family_caption("theatre", story.global_caption, story.captions[: shot + 1])
                for shot in range(num_shots)
            ]
            for story in stories
        ]
        return StoryCaptionsBatch(captions, [int(length) // self._size for length in lengths], samples)


class ShardCaptions:
    """A `DataSource` of captions of clips in shards, each given by the name of its embedding."""

    def __init__(self, config: ShardCaptionsConfig, dit: DiTConfig, *, seed: int) -> None:
        """Opens the shards; raises ShardError if the directory is not complete or damaged."""
        self.config, self.seed = config, seed
        self._num_chunks = config.max_latent_frames // dit.chunk_latent_frames
        shards = open_shards(config.directory)
        clips = [clip for shard in range(len(shards.shards)) for clip in shards.record(shard).samples]
        self._keys = [clip.key for clip in clips]
        self._num_shots = np.array([len(clip.num_latent_frames) for clip in clips])

    def batch(self, step: int, samples: range) -> StoryCaptionsBatch:
        """Returns the first shots of clips that have enough; raises ValueError if none has."""
        num_shots = _draw_place(numpy_rng(self.seed, "places", step), self.config.shot_weights)
        captions = [
            self._first_shots(numpy_rng(self.seed, "story", step, sample), num_shots) for sample in samples
        ]
        return StoryCaptionsBatch(captions, [self._num_chunks] * num_shots, samples)

    def _first_shots(self, rng: np.random.Generator, num_shots: int) -> list[str]:
        (fitting,) = np.nonzero(self._num_shots >= num_shots)
        if not len(fitting):
            raise ValueError(
                f"no clip in {self.config.directory} has {num_shots} shots; set data.shot_weights for fewer, "
                "or encode longer clips"
            )
        key = self._keys[int(fitting[rng.integers(len(fitting))])]
        return [stored_caption(key, place) for place in range(num_shots)]


def _draw_place(rng: np.random.Generator, shot_weights: Sequence[float]) -> int:
    """Returns the random number of shots of a step's stories."""
    weights = np.array(shot_weights)
    return 1 + int(rng.choice(len(weights), p=weights / weights.sum()))
