"""Shots: pure functions of their description, and as their captions say."""

from dataclasses import replace

import numpy as np
import pytest

from shotstream.theatre.cast import Actor, Pose, pose_at
from shotstream.theatre.render import Camera, Framing, Performance, Shot, draw, figure, frame_at, render
from shotstream.theatre.sets import stage

_FOX = Actor("fox", "blue", "scarf_orange")
_OWL = Actor("owl", "red", "scarf_cyan")


def _shot(framing: Framing = "wide", camera: Camera = "still", **changes: object) -> Shot:
    performance = replace(Performance(actor=_FOX, action="stands"), **changes)
    return Shot(
        place="meadow", time="day", layout=0, framing=framing, performances=(performance,), camera=camera
    )


def _left_edge(frame: np.ndarray, empty: np.ndarray) -> int:
    return int(np.flatnonzero((frame != empty).any(axis=0))[0])


def test_a_longer_rendering_begins_with_the_shorter() -> None:
    shot = _shot(action="dances")
    np.testing.assert_array_equal(render(shot, 33)[:9], render(shot, 9))
    np.testing.assert_array_equal(render(shot, 33)[20], frame_at(shot, 20))


@pytest.mark.parametrize(("framing", "zoom"), [("medium", 2), ("close-up", 4)])
def test_nearer_shots_draw_each_pixel_of_the_stage_as_a_block(framing: Framing, zoom: int) -> None:
    frames = render(_shot(framing, action="walks"), 5)
    small = frames[:, ::zoom, ::zoom]
    np.testing.assert_array_equal(small.repeat(zoom, axis=1).repeat(zoom, axis=2), frames)


def test_a_walk_moves_two_pixels_every_other_frame_towards_where_it_faces() -> None:
    for facing, step in (("right", 2), ("left", -2)):
        walk = render(_shot(action="walks", facing=facing), 17)
        edges = [_left_edge(frame, stage("meadow", "day", 0)) for frame in walk]
        moved = np.diff(edges[1::4])  # the same foot forward
        assert set(moved.tolist()) == {2 * step}


def test_a_pan_moves_the_set_and_keeps_the_actor_on_the_stage() -> None:
    left, right = render(_shot("medium", "pans left"), 33), render(_shot("medium", "pans right"), 33)
    assert (left[0] != left[-1]).mean() > 0.2
    np.testing.assert_array_equal(left[15][:16], right[15][:16])


def test_two_actors_wave_at_each_other() -> None:
    pair = Shot(
        place="beach",
        time="night",
        layout=1,
        framing="wide",
        performances=(Performance(actor=_FOX, action="waves"), Performance(actor=_OWL, action="waves")),
    )
    single = replace(pair, performances=(Performance(actor=_FOX, action="waves", spot="left"),))
    assert (frame_at(pair, 1) != frame_at(single, 1)).any()


def test_an_actor_that_has_left_the_picture_leaves_no_trace() -> None:
    picture = np.zeros((48, 80), dtype=np.uint8)
    draw(picture, _FOX, Pose(snore=2), 80)
    draw(picture, _FOX, Pose(snore=2), -figure(_FOX, Pose(snore=2)).shape[1])
    assert not picture.any()


def test_a_sleeper_snores_beyond_its_sprite() -> None:
    asleep = pose_at("sleeps", 1, facing="right")
    assert (figure(_FOX, asleep) != figure(_FOX, replace(asleep, snore=0))).any()


def test_impossible_shots_are_refused() -> None:
    two = (Performance(actor=_FOX, action="stands"), Performance(actor=_OWL, action="stands"))
    with pytest.raises(ValueError, match="a close-up shows one actor"):
        replace(_shot("close-up"), performances=two)
    with pytest.raises(ValueError, match="one or two actors"):
        replace(_shot(), performances=())
    with pytest.raises(ValueError, match="pans in medium shots of one actor"):
        _shot("wide", "pans left")
    with pytest.raises(ValueError, match="layout 7"):
        replace(_shot(), layout=7)
