"""Latents of theatre stories."""

import numpy as np
import torch

from shotstream.data.story_latents import encode_shot
from shotstream.theatre.palette import NAMES, RGB
from shotstream.theatre.world import sample_story
from shotstream.vae.patch_codec import PatchCodec, PatchCodecConfig


def test_figures_are_the_cells_that_change_when_the_actors_leave() -> None:
    config = PatchCodecConfig(num_colours=len(NAMES), dim=16, num_encoder_layers=1, num_decoder_layers=1)
    codec = PatchCodec(config, torch.from_numpy(RGB)).eval()
    story = sample_story(np.random.default_rng(3), 6)
    wide = next(shot for shot in story.shots if shot.framing == "wide")
    close = next(shot for shot in story.shots if shot.framing == "close-up")
    seen = {shot.framing: encode_shot(codec, shot, "", 9, 2) for shot in (wide, close)}
    for latents in seen.values():
        assert latents.figures.shape == latents.target.shape[1:]
        assert latents.figures.flatten(1).any(dim=1).all()
    # A sprite of 16x16 pixels touches at most 3x3 cells of 8x8, three for each of the two figures of a shot.
    assert seen["wide"].figures.sum(dim=(1, 2)).max() <= 24
    assert seen["close-up"].figures.float().mean() > 2 * seen["wide"].figures.float().mean()


def test_an_empty_stage_differs_from_a_played_one_only_at_the_figures() -> None:
    from shotstream.theatre.render import render

    shot = sample_story(np.random.default_rng(0), 1).shots[0]
    played, empty = render(shot, 5), render(shot, 5, empty=True)
    assert 0 < (played != empty).mean() < 0.6
