"""Cuts: found on their very frame, motion or not."""

from dataclasses import replace

import numpy as np
import pytest

from shotstream.theatre.cast import Actor
from shotstream.theatre.oracle.cuts import TOLERANCE, cut_offset, cut_score, is_visible
from shotstream.theatre.render import Performance, Shot, render

_FOX = Performance(actor=Actor("fox", "blue", "white"), action="stands")
_BEFORE = Shot(
    place="forest", time="day", layout=0, framing="medium", performances=(_FOX,), camera="pans right"
)
_AFTER = replace(_BEFORE, camera="still", framing="wide", performances=(replace(_FOX, action="walks"),))


@pytest.mark.parametrize("late", [-3, -1, 0, 1, 2, 5])
def test_a_cut_is_found_between_a_pan_and_a_walk(late: int) -> None:
    film = np.concatenate([render(_BEFORE, 33 + late), render(_AFTER, 40)])
    assert cut_offset(film[:33], film[33:66]) == late


def test_a_cut_within_one_set_to_another_actor_is_found() -> None:
    owl = replace(_FOX, actor=Actor("owl", "red", "scarf_cyan"), action="jumps")
    after = replace(_BEFORE, camera="still", performances=(owl,))
    before = replace(_BEFORE, camera="still")
    assert cut_offset(render(before, 33), render(after, 33)) == 0


def test_no_cut_is_no_cut() -> None:
    film = render(replace(_BEFORE, camera="still"), 66)
    assert cut_offset(film[:33], film[33:]) is None
    assert not is_visible(film[:33], film[33:])


def test_a_repeated_walk_is_no_visible_cut_although_much_of_the_picture_changes() -> None:
    """In a close-up a walk bobs: two equal walks may change the whole picture where they meet."""
    close = replace(_AFTER, framing="close-up")
    before, after = render(close, 33), render(close, 33)
    assert (before[-1] != after[0]).mean() > 0.2
    assert not is_visible(before, after)


def test_short_shots_have_a_shorter_reach() -> None:
    film = np.concatenate([render(_BEFORE, 9), render(_AFTER, 9)])
    assert cut_offset(film[:9], film[9:]) == 0
    with pytest.raises(ValueError, match="at least 3 are needed"):
        cut_offset(film[:2], film[2:])


def test_the_score_falls_by_the_frame() -> None:
    scores = [cut_score(offset) for offset in range(TOLERANCE + 2)]
    assert scores == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert cut_score(-1) == cut_score(1)
    assert cut_score(None) == 0.0
