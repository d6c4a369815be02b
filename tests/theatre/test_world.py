"""Stories: pure functions of a seed, with combinations kept from training and details kept from captions."""

import re
from collections.abc import Iterator

import numpy as np
import pytest

from shotstream.theatre.cast import COLOURS, SPECIES
from shotstream.theatre.palette import NAMES
from shotstream.theatre.reading.reader import read_shot
from shotstream.theatre.render import render
from shotstream.theatre.world import HELD_OUT, TheatreStory, sample_returning_story, sample_story

_UNTOLD = {
    "scarf", "scarves", "orange", "cyan", "magenta", "white", "layout", "tree", "house", "windmill", "trunk",
    "mushroom", "pine", "palm", "umbrella", "lighthouse", "tower", "shop", "clock", "cabin", "snowman",
}  # fmt: skip


def _stories(num: int, *, held_out: bool) -> Iterator[TheatreStory]:
    for seed in range(num):
        yield sample_story(np.random.default_rng(seed), 1 + seed % 8, held_out=held_out)


def test_a_seed_is_a_story() -> None:
    one, same, other = (sample_story(np.random.default_rng(seed), 5) for seed in (7, 7, 8))
    assert one == same != other
    np.testing.assert_array_equal(render(one.shots[4], 9), render(same.shots[4], 9))


@pytest.mark.parametrize("num_shots", [1, 2, 8])
def test_a_story_has_the_shots_asked_for_and_a_caption_for_each(num_shots: int) -> None:
    story = sample_story(np.random.default_rng(0), num_shots)
    assert len(story.shots) == len(story.captions) == num_shots
    assert story.global_caption and all(story.captions)


def test_a_story_without_shots_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one shot"):
        sample_story(np.random.default_rng(0), 0)


def test_training_never_shows_a_held_out_pair_and_held_out_stories_always_star_one() -> None:
    assert len(HELD_OUT) == len(SPECIES) == len(COLOURS)
    for held_out in (False, True):
        for story in _stories(300, held_out=held_out):
            pairs = {(actor.species, actor.colour) for actor in story.cast}
            assert bool(pairs & HELD_OUT) == held_out
            for shot in story.shots:
                assert {one.actor for one in shot.performances} <= set(story.cast)


def test_details_never_change_within_a_story() -> None:
    for story in _stories(100, held_out=False):
        layouts = {(shot.place, shot.layout) for shot in story.shots}
        assert len(layouts) == len({place for place, _ in layouts})


def test_captions_never_tell_of_scarves_or_layouts() -> None:
    for held_out in (False, True):
        for story in _stories(300, held_out=held_out):
            for caption in (story.global_caption, *story.captions):
                assert not set(re.findall("[a-z]+", caption.lower())) & _UNTOLD, caption


def test_captions_name_what_is_seen() -> None:
    for story in _stories(100, held_out=True):
        for shot, caption in zip(story.shots, story.captions, strict=True):
            for performance in shot.performances:
                assert performance.actor.species in caption.lower().split()
        for actor in story.cast:
            assert f"{actor.colour} {actor.species}" in story.global_caption


def test_captions_vary() -> None:
    captions = [caption for story in _stories(200, held_out=False) for caption in story.captions]
    assert len(set(captions)) > 0.95 * len(captions)


def test_every_pixel_has_a_colour_of_the_palette() -> None:
    for story in _stories(12, held_out=True):
        for shot in story.shots:
            frames = render(shot, 5)
            assert frames.shape == (5, 48, 80) and frames.dtype == np.uint8
            assert frames.max() < len(NAMES)


def _returning(num: int, num_shots: int) -> list[TheatreStory]:
    return [
        sample_returning_story(np.random.default_rng(seed), num_shots, held_out=True) for seed in range(num)
    ]


def test_a_returning_story_is_a_function_of_the_seed_and_held_out() -> None:
    one, same = (sample_returning_story(np.random.default_rng(7), 12, held_out=True) for _ in range(2))
    assert one == same
    for story in _returning(20, 12):
        pairs = {(actor.species, actor.colour) for actor in story.cast}
        assert len(story.shots) == len(story.captions) == 12
        assert pairs & HELD_OUT and len(pairs) == 5
        assert (
            len({actor.species for actor in story.cast}) == len({actor.colour for actor in story.cast}) == 5
        )
    for seed in range(50):
        story = sample_returning_story(np.random.default_rng(seed), 3)
        assert not {(actor.species, actor.colour) for actor in story.cast} & HELD_OUT
    with pytest.raises(ValueError, match="at least one shot"):
        sample_returning_story(np.random.default_rng(0), 0)


def test_details_stay_and_actors_and_places_return_after_gaps_of_all_lengths() -> None:
    gaps: list[int] = []
    for story in _returning(10, 50):
        layouts: dict[str, int] = {}
        last: dict[object, int] = {}
        for index, shot in enumerate(story.shots):
            assert layouts.setdefault(shot.place, shot.layout) == shot.layout
            actors = [performance.actor for performance in shot.performances]
            assert set(actors) <= set(story.cast)
            for thing in (shot.place, *actors):
                if thing in last:
                    gaps.append(index - last[thing])
                last[thing] = index
    shares = [sum(low <= gap < high for gap in gaps) / len(gaps) for low, high in ((2, 4), (4, 10), (10, 50))]
    assert min(shares) > 0.05 and shares[2] > 0.1


def test_the_reader_understands_every_caption_of_a_returning_story() -> None:
    """So that memory is tested, and not reading."""
    for story in _returning(3, 20):
        for index, shot in enumerate(story.shots):
            read = read_shot(story.captions[index], story.global_caption, story.captions[:index])
            assert (read.place, read.time, read.framing) == (shot.place, shot.time, shot.framing)
            assert [(actor.species, actor.colour) for actor in read.actors] == [
                (one.actor.species, one.actor.colour) for one in shot.performances
            ]
