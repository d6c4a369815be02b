"""What a teacher's batches are drawn from."""

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch

from shotstream.data.story_latents import encode_story
from shotstream.data.story_pool import StoryPool, draw_shots
from shotstream.theatre.palette import NAMES
from shotstream.theatre.world import sample_story
from shotstream.training.recipes import recipe
from shotstream.vae.codec import Codec
from shotstream.vae.patch_codec import PatchCodec, PatchCodecConfig


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
    made = recipe("theatre_teacher")
    config = replace(made.data, shot_weights=(1.0,), num_latent_frames=(3,))
    for share in (0.0, 0.5):
        own = replace(config, pair_share=share, caption_drop=0.0)
        pool = StoryPool(own, codec, made.model.dit, made.model.context_policy, seed=0)
        batch = draw_shots(stories, pool, 0, range(400))
        drawn = [" and the " in rows[-1] for rows in batch.captions]
        expected = share + (1 - share) * natural
        assert abs(np.mean(drawn) - expected) < 4 * (expected * (1 - expected) / len(drawn)) ** 0.5
