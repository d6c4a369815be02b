"""What a teacher's batches are drawn from."""

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch

from shotstream.codec.codec import Codec
from shotstream.codec.patch_codec import PatchCodec, PatchCodecConfig
from shotstream.data.latents import encode_story
from shotstream.theatre.palette import NAMES
from shotstream.theatre.world import sample_story
from shotstream.training.recipes import recipe
from shotstream.training.stages.teacher import TeacherTraining, draw_batch


@pytest.mark.slow
def test_shots_with_two_actors_are_drawn_more_often() -> None:
    """The share asked for, and of what is left their share of the pool."""
    torch.manual_seed(0)
    codec = cast("Codec", PatchCodec(PatchCodecConfig(num_colours=len(NAMES), dim=16, num_decoder_layers=1)))
    told = [sample_story(np.random.default_rng(seed), 1) for seed in range(24)]
    stories = [encode_story(codec, story, (9,), 6) for story in told]
    pairs = {story.captions for story in told if len(story.shots[0].performances) == 2}
    natural = len(pairs) / len(told)
    assert 0 < natural < 0.3
    config = cast("TeacherTraining", recipe("theatre_teacher").stage)
    config = replace(
        config, batch_size=400, shot_weights=(1.0,), pool=replace(config.pool, num_latent_frames=(3,))
    )
    pair_texts = {text for story in told if story.captions in pairs for text in story.captions}
    for share in (0.0, 0.5):
        batch = draw_batch(stories, replace(config, pair_share=share), 0, keep_captions=True)
        drawn = [any(text in rows[-1] for text in pair_texts) for rows in batch.captions]
        expected = share + (1 - share) * natural
        assert abs(np.mean(drawn) - expected) < 4 * (expected * (1 - expected) / len(drawn)) ** 0.5
