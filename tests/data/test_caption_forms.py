"""The text of a shot for the text encoder: one form for training data and for sessions."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import cast, get_args

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.data.encode import EncodeConfig, encode_manifest
from shotstream.data.rng import numpy_rng
from shotstream.data.shards import ShardDirectory
from shotstream.data.story_captions import StoryCaptions, StoryCaptionsConfig
from shotstream.data.story_latents import encode_story
from shotstream.data.story_pool import condition_story_shot
from shotstream.manifest import Clip, write_manifest
from shotstream.story import CaptionStyle, Shot, Story
from shotstream.streaming.context_sampling import POLICIES, TheatrePolicy
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.pipeline_config import CAPTION_STYLES
from shotstream.theatre.caption_encoder import CaptionEncoder, CaptionEncoderConfig
from shotstream.theatre.palette import NAMES
from shotstream.theatre.world import TheatreStory, sample_story
from shotstream.vae.codec import Codec
from shotstream.vae.patch_codec import PatchCodec, PatchCodecConfig
from shotstream.video.video_io import write_lossless
from tests.data.tiny import SIZE, tiny_encoders
from tests.streaming.tiny import WORDS, tiny_pipeline

both_forms = pytest.mark.parametrize("style", get_args(CaptionStyle))


class Listening:
    """A text encoder that takes any caption and notes what it was given for each shot."""

    text_length = 1000

    def __init__(self, embedding: tuple[int, int]) -> None:
        self._embedding, self.told = embedding, list[list[str]]()

    def encode(self, captions: Sequence[str]) -> Float[Tensor, "s n d"]:
        self.told.append(list(captions))
        return torch.zeros(len(captions), *self._embedding)

    def count_tokens(self, caption: str) -> int:
        return len(caption.split())

    def unknown_words(self, caption: str) -> tuple[str, ...]:
        del caption
        return ()

    def suggestions(self, word: str) -> tuple[str, ...]:
        del word
        return ()


class ListeningReader(CaptionEncoder):
    """The theatre's text encoder, which notes what it was given, for a transformer of other sizes."""

    def __init__(self, embedding: tuple[int, int]) -> None:
        super().__init__(CaptionEncoderConfig())
        self._embedding, self.told = embedding, list[list[str]]()

    def encode(self, captions: Sequence[str]) -> Float[Tensor, "s k d"]:
        self.told.append(list(captions))
        return torch.zeros(len(captions), *self._embedding)


def told_in_a_session(
    pipeline: StreamingPipeline,
    global_caption: str,
    captions: Sequence[str],
    kind: type[Listening | ListeningReader] = Listening,
) -> list[str]:
    """The texts that each shot was made with, in the order of shots and rows."""
    listening = kind((pipeline.dit.config.text_length, pipeline.dit.config.text_dim))
    pipeline.text_encoder = listening
    session = pipeline.session(global_caption)
    for caption in captions:
        for _ in session.shot(caption, num_chunks=1, steps=1):
            pass
    return [text for rows in listening.told for text in rows]


def test_a_session_is_told_of_a_shot_what_a_teachers_data_told_of_it() -> None:
    """Training composed captions in a form of its own, which was that of sessions by luck."""
    pipeline = tiny_pipeline()
    codec = PatchCodec(PatchCodecConfig(num_colours=len(NAMES), dim=8, num_decoder_layers=1))
    story = sample_story(np.random.default_rng(0), 4)
    budget, policy = pipeline.context_budget, pipeline.config.context_policy
    encoded = encode_story(cast("Codec", codec), story, (9,) * 4, budget)
    of_data = [
        text
        for index in range(4)
        for text in condition_story_shot(encoded, index, pipeline.dit.config, policy).captions
    ]
    assert told_in_a_session(pipeline, story.global_caption, story.captions, ListeningReader) == of_data
    assert all(text.startswith(("Wide shot", "Medium shot", "Close-up")) for text in of_data)


def test_captions_of_stories_without_pictures_have_the_form_of_sessions() -> None:
    pipeline = tiny_pipeline()
    pipeline.text_encoder = ListeningReader((1, 1))

    def composed(story: TheatreStory) -> list[str]:
        return [
            pipeline.compose(story.global_caption, story.captions[: shot + 1])
            for shot in range(len(story.captions))
        ]

    config = StoryCaptionsConfig(shot_weights=(0.0, 0.0, 1.0))
    batch = StoryCaptions(config, pipeline.dit.config, seed=0).batch(5, range(2))
    stories = [sample_story(numpy_rng(0, "story", 5, sample), 3) for sample in range(2)]
    assert batch.captions == [composed(story) for story in stories]


class OneRow(TheatrePolicy):
    """All context frames read the caption of the shot to be made, so that a session asks for no other."""

    own_captions = False


@both_forms
def test_a_session_is_told_of_a_shot_what_shards_hold_of_it(
    style: CaptionStyle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cast("dict[str, str]", CAPTION_STYLES), "wan", style)
    shots = tuple(Shot(caption=word) for word in WORDS[:3])
    write_lossless(tmp_path / "clip.mkv", np.zeros((27, SIZE.height, SIZE.width, 3), np.uint8), 8)
    clip = Clip(
        video=tmp_path / "clip.mkv",
        story=Story(global_caption=WORDS[3], shots=shots),
        shot_ranges=tuple(pairwise((0, 9, 18, 27))),
    )
    write_manifest(tmp_path / "clips.jsonl", [clip])
    encoders = tiny_encoders()
    encode_manifest(tmp_path / "clips.jsonl", encoders, tmp_path / "shards", EncodeConfig(num_workers=0))
    document = json.loads(ShardDirectory(tmp_path / "shards").read(0, 0, "json"))
    told = [shot["composed"] for shot in document["shots"]]
    pipeline = tiny_pipeline()
    monkeypatch.setitem(POLICIES, "one row", OneRow())
    pipeline.config = replace(encoders.config, context_policy="one row")
    assert told_in_a_session(pipeline, WORDS[3], [shot.caption for shot in shots]) == told
    assert told[2] == (f"{WORDS[3]}shot2:{WORDS[2]}" if style == "published" else f"{WORDS[3]} {WORDS[2]}")
