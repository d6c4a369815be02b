"""Readings: every fact of a shot is found in its frames alone, also when these are imperfect."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from shotstream.theatre.cast import ACTIONS, COLOURS, SCARVES, SPECIES, Actor
from shotstream.theatre.oracle import planned, read_shot
from shotstream.theatre.oracle.reading import MAX_LOOKED_AT, look_at
from shotstream.theatre.palette import RGB, to_rgb
from shotstream.theatre.render import Framing, Performance, Shot, render
from shotstream.theatre.sets import PLACES, TIMES


def _shot(number: int, framing: Framing) -> Shot:
    """Shots that between them show every species, colour, scarf, action, place, time and layout."""
    actor = Actor(SPECIES[number % 6], COLOURS[(number // 2) % 6], SCARVES[number % 4])
    performance = Performance(
        actor=actor, action=ACTIONS[(number + 1) % 6], facing="left" if number % 2 else "right"
    )
    return Shot(
        place=PLACES[number % 5],
        time=TIMES[number % 3],
        layout=(number // 2) % 3,
        framing=framing,
        performances=(performance,),
    )


_PAIR = Shot(
    place="beach",
    time="sunset",
    layout=2,
    framing="medium",
    performances=(
        Performance(actor=Actor("frog", "green", "white"), action="sleeps", spot="left"),
        Performance(actor=Actor("robot", "grey", "scarf_magenta"), action="waves", spot="right"),
    ),
)


@pytest.mark.parametrize(
    ("number", "framing"), list(itertools.product(range(6), ("wide", "medium", "close-up")))
)
def test_everything_is_read_from_one_actor_shots(number: int, framing: Framing) -> None:
    shot = _shot(number, framing)
    reading = read_shot(to_rgb(render(shot, 33)))
    (wanted,) = planned(shot).actors
    (found,) = reading.facts.actors
    assert (found.actor, found.action) == (wanted.actor, wanted.action)
    assert wanted.action != "walks" or found.facing == wanted.facing
    assert replace(reading.facts, actors=(), layout_legible=True) == replace(planned(shot), actors=())
    assert reading.agreement > 0.999


def test_two_actors_are_read_from_left_to_right() -> None:
    reading = read_shot(to_rgb(render(_PAIR, 33)))
    assert reading.facts.actors == planned(_PAIR).actors
    assert reading.facts.layout_legible


def test_an_actor_that_has_walked_out_of_the_picture_is_not_seen() -> None:
    walker = replace(_shot(0, "wide").performances[0], action="walks", facing="right")
    frames = render(replace(_shot(0, "wide"), performances=(walker,)), 100)
    assert read_shot(to_rgb(frames[88:])).facts.actors == ()


@pytest.mark.parametrize("camera", ["pans left", "pans right"])
def test_pans_are_read(camera: str) -> None:
    shot = replace(_shot(0, "medium"), camera=camera)
    assert read_shot(to_rgb(render(shot, 33))).facts.camera == camera


def test_a_shot_of_one_chunk_suffices() -> None:
    for number in range(6):
        shot = _shot(number, "medium")
        facts = read_shot(to_rgb(render(shot, 9))).facts
        assert facts.actors[0].actor == shot.performances[0].actor
        assert facts.actors[0].action == shot.performances[0].action


def test_a_late_and_displaced_performance_is_read_all_the_same() -> None:
    """A model's actor may begin four frames into its action, and stand elsewhere than the world's would."""
    shot = _shot(3, "medium")
    late = read_shot(to_rgb(render(shot, 37)[4:])).facts
    assert late.actors[0].action == shot.performances[0].action
    displaced = np.roll(render(shot, 33), 6, axis=2)
    assert read_shot(to_rgb(displaced)).facts.actors[0].actor == shot.performances[0].actor


def test_a_third_of_speckle_changes_no_fact() -> None:
    rng = np.random.default_rng(0)
    frames = to_rgb(render(_PAIR, 33))
    noise = RGB[rng.integers(len(RGB), size=frames.shape[:3])]
    noisy = np.where((rng.random(frames.shape[:3]) < 0.3)[..., None], noise, frames)
    assert read_shot(noisy).facts == read_shot(frames).facts


def test_the_frames_looked_at_lie_in_the_shot_and_show_both_halves_of_groups() -> None:
    for num_frames in (1, 2, 5, 9, 21, 33, 57, 105):
        frames = look_at(num_frames)
        assert 1 <= len(frames) <= MAX_LOOKED_AT
        assert len(set(frames.tolist())) == len(frames)
        assert frames[0] >= 0 and frames[-1] < num_frames
    assert {(frame - 1) % 4 >= 2 for frame in look_at(33).tolist()} == {False, True}


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="frames of shape"):
        read_shot(np.zeros((9, 64, 112, 3), dtype=np.uint8))
