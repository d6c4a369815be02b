"""Training shots whose actors turn to something else, and shots with references."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shotstream.data.story_latents import encode_references, encode_story
from shotstream.data.story_pool import condition_story_shot
from shotstream.model.config import DiTConfig
from shotstream.theatre.palette import NAMES
from shotstream.theatre.reference_pictures import actor_picture, place_picture
from shotstream.theatre.render import render
from shotstream.theatre.world import TheatreStory, sample_story, with_turns
from shotstream.vae.patch_codec import PatchCodec, PatchCodecConfig

DIT = DiTConfig(
    latent_channels=4, dim=24, ffn_dim=32, num_heads=2, num_layers=1, text_dim=8, text_length=12, freq_dim=8
)


@pytest.fixture(scope="module")
def codec() -> PatchCodec:
    palette = torch.randint(0, 256, (len(NAMES), 3), dtype=torch.uint8)
    torch.manual_seed(0)
    config = PatchCodecConfig(num_colours=len(NAMES), latent_channels=4, dim=8, colour_dim=4)
    return PatchCodec(config, palette).eval().requires_grad_(False)


def turning(seed: int, num_shots: int = 3) -> TheatreStory:
    rng = np.random.default_rng(seed)
    return with_turns(sample_story(rng, num_shots), [33] * num_shots, rng, share=1.0)


def test_a_turn_begins_at_a_chunk_and_everything_before_it_is_as_it_was() -> None:
    for seed in range(20):
        story = turning(seed)
        for shot, caption in zip(story.shots, story.turn_captions, strict=True):
            (turn,) = shot.turns
            assert turn.frame in (9, 21) and caption
            plain = render(replace(shot, turns=()), 33)
            turned = render(shot, 33)
            assert np.array_equal(plain[: turn.frame], turned[: turn.frame])
            assert not np.array_equal(plain[turn.frame :], turned[turn.frame :])


def test_actors_go_on_from_where_they_are() -> None:
    """Columns of the figure before and after the turn differ by a step of a walk at most."""
    moved: list[int] = []
    for seed in range(40):
        for shot in turning(seed).shots:
            if len(shot.performances) > 1 or shot.camera != "still" or shot.framing != "wide":
                continue
            turn = shot.turns[0].frame
            drawn, empty = render(shot, 33), render(shot, 33, empty=True)
            columns = [np.flatnonzero((drawn[f] != empty[f]).any(axis=0)) for f in (turn - 1, turn)]
            if all(len(found) for found in columns):
                moved.append(abs(int(np.median(columns[0])) - int(np.median(columns[1]))))
    assert len(moved) > 5 and max(moved) <= 4


def test_frames_before_a_turn_have_its_first_caption_and_those_after_it_the_second(codec: PatchCodec) -> None:
    story = encode_story(codec, turning(1), [33] * 3, DIT.num_context_frames)
    index, own = 1, story.shots[1]
    conditioning, captions = condition_story_shot(story, index, DIT, "theatre")
    assert conditioning.turn_frame is not None and conditioning.turn_frame.tolist() == [own.turn_frame]
    rows = conditioning.target(9, DIT).caption_index[0].tolist()
    last = len(captions) - 1
    assert rows == [last - 1] * own.turn_frame + [last] * (9 - own.turn_frame)
    assert conditioning.chunk(own.turn_frame // 3, DIT).caption_index.tolist() == [[last] * 3]
    assert conditioning.turned().target(9, DIT).caption_index.tolist() == [[last] * 9]
    short, fewer = condition_story_shot(story, index, DIT, "theatre", num_latent_frames=own.turn_frame)
    assert short.turn_frame is None and len(fewer) == len(captions) - 1


def test_context_frames_after_a_turn_have_the_caption_they_were_drawn_for(codec: PatchCodec) -> None:
    story = encode_story(codec, turning(1), [33] * 3, DIT.num_context_frames)
    conditioning, captions = condition_story_shot(story, 1, DIT, "theatre")
    first = story.shots[0].memory
    frames = [0, 6, 13, 19, 26, 32]  # six frames spread over 33
    expected = [int(frame >= first.later_captions[0][0]) for frame in frames]
    assert conditioning.positions.caption_index[0].tolist() == expected
    assert captions[0] != captions[1]


def test_references_are_the_oldest_context_of_any_shot(codec: PatchCodec) -> None:
    plain = encode_story(codec, sample_story(np.random.default_rng(3), 2), [33] * 2, DIT.num_context_frames)
    story = encode_references(codec, plain, np.random.default_rng(0))
    assert len(story.actor_references) == len(story.story.cast) and len(story.place_references) == 2
    own = story.actor_references[:1]
    first, captions = condition_story_shot(story, 0, DIT, "theatre", references=own)
    assert torch.equal(first.context[0, :, 0], own[0].pinned[0]) and len(captions) == 2
    assert first.positions.shot_phase.tolist() == [[0] * 6] and first.target_phase.tolist() == [1]
    second, _ = condition_story_shot(story, 1, DIT, "theatre", references=own)
    assert torch.equal(second.context[0, :, 0], own[0].pinned[0])
    assert second.positions.shot_phase.tolist() == [[0, 1, 1, 1, 1, 1]]


def test_pictures_show_the_actor_with_its_scarf_and_a_set_without_actors() -> None:
    rng = np.random.default_rng(0)
    for seed in range(30):
        story = sample_story(np.random.default_rng(seed), 1)
        actor, shot = story.cast[0], story.shots[0]
        drawn = actor_picture(actor, rng)
        assert drawn.shape == (48, 80)
        assert {NAMES.index(actor.colour), NAMES.index(actor.scarf)} <= set(drawn.ravel().tolist())
        wide = replace(shot, framing="wide", camera="still")
        expected = render(wide, 1, empty=True)[0]
        assert np.array_equal(place_picture(shot.place, shot.time, shot.layout), expected)
