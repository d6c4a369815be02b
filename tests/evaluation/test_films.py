"""Films made worse: what changes, and that nothing else does."""

import numpy as np

from shotstream.evaluation.films import (
    blurred,
    films_with_moved_cuts,
    flickered,
    forgetful_films,
    held_out_stories,
    melted,
    mosaicked,
    shuffled_films,
    speckled,
    true_films,
)

_STORY = held_out_stories(1, 3, 0)[0]
_TRUE = true_films(1)(0, _STORY)


def test_moved_cuts_change_the_frames_at_the_cut_only() -> None:
    moved = films_with_moved_cuts(1, 2)(0, _STORY)
    assert [take.shape for take in moved] == [take.shape for take in _TRUE]
    np.testing.assert_array_equal(moved[0], _TRUE[0])
    np.testing.assert_array_equal(moved[1][2:], _TRUE[1][:-2])
    np.testing.assert_array_equal(films_with_moved_cuts(1, 0)(0, _STORY), _TRUE)


def test_other_stories_and_new_details_are_a_function_of_the_seed() -> None:
    for make in (shuffled_films, forgetful_films):
        one, same, other = (make(1, seed)(3, _STORY) for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, same)
        assert any((a != b).any() for a, b in zip(one, other, strict=True))


def test_worse_frames_keep_their_shape() -> None:
    take = _TRUE[0]
    worse = [
        blurred(take, 1.0),
        mosaicked(take, 8),
        speckled(take, 0.5, np.random.default_rng(0)),
        flickered(take, 0.5, np.random.default_rng(0)),
        melted(take, 2, np.random.default_rng(0)),
    ]
    for frames in worse:
        assert frames.shape == take.shape and frames.dtype == np.uint8
        assert (frames != take).any()
    np.testing.assert_array_equal(mosaicked(worse[1], 8), worse[1])
    np.testing.assert_array_equal(speckled(take, 0.0, np.random.default_rng(0)), take)
    np.testing.assert_array_equal(flickered(take, 0.0, np.random.default_rng(0)), take)
    np.testing.assert_array_equal(melted(take, 0, np.random.default_rng(0)), take)
