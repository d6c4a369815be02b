"""Portraits: whole figures score 1, parts that are missing or too many cost their pixels."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from shotstream.theatre.cast import ACTIONS, SCARVES, Action, Actor
from shotstream.theatre.oracle.facts import planned
from shotstream.theatre.oracle.portraits import portray
from shotstream.theatre.palette import INDEX
from shotstream.theatre.render import FRAMINGS, Framing, Performance, Shot, render

_FOX = Actor("fox", "red", "scarf_cyan")
_OWL = Actor("owl", "blue", "scarf_orange")


def _shot(framing: Framing, action: Action, actors: tuple[Actor, ...] = (_FOX,)) -> Shot:
    performances = tuple(Performance(actor=actor, action=action) for actor in actors)
    return Shot(place="city", time="sunset", layout=1, framing=framing, performances=performances)


def _portrait_of(shot: Shot, frames: NDArray[np.uint8]) -> tuple[tuple[float, ...], float]:
    portrait = portray(shot, planned(shot), frames)
    return portrait.figures, portrait.flicker


@pytest.mark.parametrize(("framing", "action"), list(product(FRAMINGS, ACTIONS)))
def test_the_worlds_own_figures_are_whole_and_never_flicker(framing: Framing, action: Action) -> None:
    shot = _shot(framing, action)
    assert _portrait_of(shot, render(shot, 17)) == ((1.0,), 0.0)


@pytest.mark.parametrize(("framing", "action"), list(product(("wide", "medium"), ACTIONS)))
def test_so_are_two_that_pass_each_other(framing: Framing, action: Action) -> None:
    left, right = (Performance(actor=who, action=action) for who in (_FOX, _OWL))
    shot = replace(_shot(framing, action), performances=(left, replace(right, facing="left")))
    figures, flicker = _portrait_of(shot, render(shot, 33))
    assert min(figures) > 0.99 and flicker < 0.0005


def test_an_actor_that_is_not_there_has_next_to_nothing() -> None:
    shot = _shot("wide", "waves")
    (figure,), flicker = _portrait_of(shot, render(shot, 9, empty=True))
    assert figure < 0.35 and flicker == 0.0


def test_a_scarf_of_two_colours_costs_one_of_them() -> None:
    shot = _shot("close-up", "stands")
    frames = render(shot, 9)
    other = frames.copy()
    columns = np.arange(frames.shape[2]) < frames.shape[2] // 2
    other[(frames == INDEX[_FOX.scarf]) & columns] = INDEX[SCARVES[0]]
    (figure,), _ = _portrait_of(shot, other)
    assert 0.9 < figure < 0.99
    other[frames == INDEX[_FOX.scarf]] = INDEX[SCARVES[0]]
    assert _portrait_of(shot, other)[0] == (1.0,)


def test_what_is_lost_and_what_is_too_much_both_count() -> None:
    shot = _shot("wide", "stands")
    frames = render(shot, 9)
    blind = np.where(frames == INDEX["outline"], INDEX["red"], frames)
    (without_outline,), _ = _portrait_of(shot, blind)
    shadow = np.where(np.roll(frames, 1, axis=2) == INDEX["outline"], INDEX["outline"], frames)
    (doubled,), _ = _portrait_of(shot, shadow)
    assert without_outline < 0.75 and doubled < 0.85


def test_a_change_that_no_drawing_makes_is_flicker_and_a_jump_is_none() -> None:
    shot = _shot("medium", "jumps")
    frames = render(shot, 17)
    assert _portrait_of(shot, frames)[1] == 0.0
    spotted = frames.copy()
    spotted[8, :8, :8] = INDEX["pink"]
    assert _portrait_of(shot, spotted)[1] == pytest.approx(2 * 64 / (16 * frames[0].size))


def test_frames_in_which_the_plan_has_the_actor_outside_do_not_count() -> None:
    walks = Performance(actor=_OWL, action="walks", facing="right")
    shot = replace(_shot("wide", "walks"), performances=(Performance(actor=_FOX, action="waves"), walks))
    figures, _ = _portrait_of(shot, render(shot, 33))
    assert figures == (1.0, 1.0)
