"""A few encoded clips of noise, made with tiny networks."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from shotstream.data.encode import EncodeConfig, encode_manifest
from shotstream.geometry import PixelSize
from shotstream.manifest import Clip, write_manifest
from shotstream.story import Shot, Story
from shotstream.streaming.loading import Encoders
from shotstream.streaming.pipeline_config import PipelineConfig
from shotstream.video.video_io import write_lossless
from tests.streaming.tiny import WORDS, tiny_pipeline

SIZE = PixelSize(32, 48)
CLIPS = ((9, 13, 30), (21, 21), (9, 9, 9, 45), (30,), (13, 30), (21, 9, 33), (45, 9))
"""Frames of the shots of each clip; 1, 2 or 3 chunks, or 3 cut from 4."""


def tiny_encoders() -> Encoders:
    """Of the Wan family in all but their classes: its captions are published strings."""
    pipeline = tiny_pipeline()
    return Encoders(
        config=PipelineConfig(
            family="wan", model_id="tiny", fps=8, pixel_size=SIZE, num_chunks=3, context_policy="published"
        ),
        dit=pipeline.dit.config,
        codec=pipeline.codec,
        text_encoder=pipeline.text_encoder,
        weights_sha256="0" * 64,
    )


def tiny_shards(directory: Path, clips: Sequence[Sequence[int]] = CLIPS, *, clips_per_shard: int = 3) -> Path:
    """Shards of clips whose shots have so many frames; returns their directory."""
    directory.mkdir(parents=True)
    listed: list[Clip] = []
    rng = np.random.default_rng(0)
    for number, lengths in enumerate(clips):
        ends = np.cumsum([0, *lengths]).tolist()
        video = directory / f"{number}.mkv"
        write_lossless(video, rng.integers(0, 256, (ends[-1], SIZE.height, SIZE.width, 3), np.uint8), 8)
        shots = tuple(Shot(caption=" ".join(rng.choice(WORDS, 3).tolist())) for _ in lengths)
        story = Story(global_caption=str(rng.choice(WORDS)), shots=shots)
        listed.append(Clip(video=video, story=story, shot_ranges=tuple(pairwise(ends))))
    write_manifest(directory / "clips.jsonl", listed)
    config = EncodeConfig(clips_per_shard=clips_per_shard, num_workers=0)
    encode_manifest(directory / "clips.jsonl", tiny_encoders(), directory / "shards", config)
    return directory / "shards"
