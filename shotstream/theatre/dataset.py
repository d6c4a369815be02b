"""Writes stories of the theatre as training data for other trainers: videos, captions and manifests.

A directory holds one MP4 and one caption JSON per story, a CSV in the published format that any trainer of
multi-shot video reads, the same as JSON Lines, and the ground truth of each story, including scarves and
layouts. MP4 is lossy: training in this repository renders the stories in memory instead
(`data/story_latents.py`).
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from shotstream.files import remove
from shotstream.geometry import WAN_GEOMETRY
from shotstream.manifest import Clip, write_manifest, write_published
from shotstream.story import Shot, Story
from shotstream.theatre.palette import to_rgb
from shotstream.theatre.render import FPS, render
from shotstream.theatre.world import TheatreStory, sample_story
from shotstream.video.video_io import H264Settings, write_mp4

CSV_NAME, MANIFEST_NAME, TRUTH_NAME = "clips.csv", "clips.jsonl", "truth.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetConfig:
    """Configuration of a dataset. A story depends on the seed and its index alone.

    Raises:
        ValueError: A number is out of range.
    """

    num_stories: int
    """Number of stories, at least 1."""
    num_shots: int = 5
    """Number of shots of each story, at least 1."""
    num_chunks: int = 3
    """Number of chunks of each shot, at least 1."""
    seed: int = 0
    """Seed of all stories, at least 0."""
    held_out: bool = False
    """Whether stories have an actor whose pair of species and colour is never shown in training."""
    scale: int = 1
    """Factor by which the frames are enlarged (nearest neighbour), at least 1."""

    def __post_init__(self) -> None:
        for name in ("num_stories", "num_shots", "num_chunks", "scale"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be at least 0")


def write_dataset(
    directory: Path, config: DatasetConfig, progress: Callable[[int, int], None] | None = None
) -> None:
    """Writes a dataset into a directory, which is created if it does not exist and must be empty.

    If it is interrupted or fails, the directory is emptied again.

    Args:
        directory: The directory.
        config: The configuration of the dataset.
        progress: Called with the number of finished stories and the number of all stories.

    Raises:
        ValueError: The directory is not empty.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise ValueError(f"{directory} is not empty; give a new directory")
    try:
        _write(directory, config, progress)
    except BaseException:
        for part in list(directory.iterdir()):
            remove(part)
        raise


def _write(directory: Path, config: DatasetConfig, progress: Callable[[int, int], None] | None) -> None:
    clips: list[Clip] = []
    with (directory / TRUTH_NAME).open("w", encoding="utf-8") as truth:
        for number in range(config.num_stories):
            rng = np.random.default_rng((config.seed, number))
            story = sample_story(rng, config.num_shots, held_out=config.held_out)
            clips.append(_write_clip(directory / f"{number:06d}.mp4", number, story, config))
            truth.write(json.dumps({"video": clips[-1].video.name, **asdict(story)}) + "\n")
            if progress:
                progress(number + 1, config.num_stories)
    write_published(directory / CSV_NAME, clips)
    write_manifest(directory / MANIFEST_NAME, clips)


def _write_clip(path: Path, number: int, story: TheatreStory, config: DatasetConfig) -> Clip:
    num_frames = WAN_GEOMETRY.shot_num_frames(config.num_chunks)
    frames = np.concatenate([to_rgb(render(shot, num_frames)) for shot in story.shots])
    write_mp4(path, frames, FPS, H264Settings(scale=config.scale))
    shots = tuple(Shot(caption=caption, num_chunks=config.num_chunks) for caption in story.captions)
    return Clip(
        video=path,
        story=Story(
            global_caption=story.global_caption, shots=shots, title=f"Theatre {config.seed}-{number}"
        ),
        shot_ranges=tuple(
            (index * num_frames, (index + 1) * num_frames) for index in range(len(story.shots))
        ),
    )
