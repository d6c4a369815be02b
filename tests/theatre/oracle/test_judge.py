"""Judgements: small literal cases of what is right, what is wrong, and what cannot be judged."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shotstream.theatre.cast import Actor
from shotstream.theatre.oracle import (
    CAPTION_AXES,
    ActorFacts,
    ShotFacts,
    joined,
    judge_captions,
    judge_film,
    judge_memory,
    planned,
    recalled_details,
)
from shotstream.theatre.oracle.facts import pair_up
from shotstream.theatre.palette import to_rgb
from shotstream.theatre.render import Shot, render
from shotstream.theatre.world import sample_story

_FOX = ActorFacts(actor=Actor("fox", "blue", "white"), action="waves", facing="right", spot="left")
_OWL = ActorFacts(actor=Actor("owl", "red", "scarf_cyan"), action="walks", facing="left", spot="right")
_ONE = ShotFacts(place="city", time="night", layout=1, framing="wide", camera="still", actors=(_FOX,))
_TWO = replace(_ONE, actors=(_FOX, _OWL))


def _as(facts: ActorFacts, **changes: str) -> ActorFacts:
    return replace(facts, actor=replace(facts.actor, **changes))


def test_the_truth_is_right_on_every_axis() -> None:
    for facts in (_ONE, _TWO):
        assert all(scores == (1.0,) for scores in judge_captions(facts, facts).values())


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (replace(_TWO, actors=(_OWL, _FOX)), (1, 1, 1, 1)),
        (replace(_TWO, actors=(_FOX,)), (0.5, 0.5, 0.5, 0.5)),
        (replace(_TWO, actors=()), (0, 0, 0, 0)),
        (replace(_TWO, actors=(_as(_FOX, colour="grey"), _OWL)), (0.5, 1, 0.5, 1)),
        (replace(_TWO, actors=(_FOX, _as(_OWL, species="bear"))), (0.5, 0.5, 1, 1)),
        (replace(_TWO, actors=(_FOX, replace(_OWL, action="jumps"))), (1, 1, 1, 0.5)),
    ],
)
def test_each_actor_counts_by_its_share(seen: ShotFacts, expected: tuple[float, ...]) -> None:
    scores = judge_captions(_TWO, seen)
    found = tuple(scores[axis][0] for axis in ("characters", "species", "colour", "action"))
    assert found == expected


def test_an_actor_too_many_costs_its_share() -> None:
    scores = judge_captions(_ONE, _TWO)
    assert scores["characters"] == (0.5,)
    assert scores["action"] == (1.0,)


def test_staging_is_judged_where_captions_speak_of_it() -> None:
    elsewhere = replace(_ONE, actors=(replace(_FOX, spot="right"),))
    assert judge_captions(_ONE, elsewhere)["staging"] == (0.0,)
    close = replace(_ONE, framing="close-up")
    assert judge_captions(close, elsewhere)["staging"] == ()
    turned = replace(_TWO, actors=(_FOX, replace(_OWL, facing="right")))
    assert judge_captions(_TWO, turned)["staging"] == (0.0,)
    pan = replace(_ONE, framing="medium", camera="pans left")
    assert judge_captions(pan, replace(pan, camera="pans right"))["staging"] == (0.5,)


def test_memory_compares_with_the_earliest_shot_that_shows_a_detail() -> None:
    orange = replace(_ONE, actors=(_as(_FOX, scarf="scarf_orange"),))
    scores = joined(judge_memory([_ONE] * 3, [orange, _ONE, orange]))
    assert scores["scarf"] == (0.0, 1.0)
    assert scores["layout"] == (1.0, 1.0)
    assert scores["memory"] == (0.0, 1.0, 1.0, 1.0)


def test_the_first_shot_chooses_its_details_freely() -> None:
    other = replace(_ONE, layout=2, actors=(_as(_FOX, scarf="scarf_magenta"),))
    assert joined(judge_memory([_ONE, _ONE], [other, other]))["memory"] == (1.0, 1.0)
    assert joined(judge_memory([_ONE], [other]))["memory"] == ()


def test_a_detail_that_cannot_be_judged_is_not() -> None:
    illegible = replace(_ONE, layout_legible=False)
    elsewhere = replace(_ONE, place="beach")
    stranger = replace(_ONE, actors=(_as(_FOX, species="bear"),))
    for seen in (illegible, elsewhere):
        assert joined(judge_memory([_ONE, _ONE], [_ONE, seen]))["layout"] == ()
    assert joined(judge_memory([_ONE, _ONE], [_ONE, stranger]))["scarf"] == ()


def test_actors_are_paired_with_the_most_similar() -> None:
    grey_owl = _as(_OWL, colour="grey")
    assert pair_up(_TWO, replace(_TWO, actors=(grey_owl, _FOX))) == (_FOX, grey_owl)
    assert pair_up(_TWO, replace(_TWO, actors=(grey_owl,))) == (None, grey_owl)
    assert pair_up(_ONE, _TWO) == (_FOX,)
    assert pair_up(_ONE, replace(_ONE, actors=())) == (None,)


@pytest.mark.slow
def test_a_film_of_the_world_is_faultless() -> None:
    story = sample_story(np.random.default_rng(4), 3, held_out=True)
    verdict = judge_film(story.shots, [to_rgb(render(shot, 21)) for shot in story.shots])
    assert verdict.scores["flicker"] == (0.0,) * 3
    assert len(verdict.scores["figure"]) == sum(len(shot.performances) for shot in story.shots)
    assert all(
        score == 1.0 for axis, scores in verdict.scores.items() if axis != "flicker" for score in scores
    )
    assert [facts.place for facts in verdict.seen] == [planned(shot).place for shot in story.shots]


def test_a_missing_take_is_refused() -> None:
    story = sample_story(np.random.default_rng(4), 2)
    with pytest.raises(ValueError, match="1 takes of 2 planned shots"):
        judge_film(story.shots, [to_rgb(render(story.shots[0], 9))])


def test_who_walks_is_on_no_side() -> None:
    """Another story's walk used to count as being in the middle, and chance came out too high."""
    walking = replace(_ONE, actors=(replace(_FOX, action="walks"),))
    assert judge_captions(_ONE, walking)["staging"] == (0.0,)


def test_a_forgotten_detail_is_counted_in_the_shot_that_forgets_it() -> None:
    changed = replace(_ONE, layout=(_ONE.layout + 1) % 3)
    by_shot = judge_memory([_ONE] * 3, [_ONE, _ONE, changed])
    assert [shot["layout"] for shot in by_shot] == [(), (1.0,), (0.0,)]


def test_a_layout_is_remembered_from_the_earliest_shot_that_shows_it() -> None:
    """Not from the latest: a place that changes and stays changed is wrong from then on."""
    first, second = replace(_ONE, layout=1), replace(_ONE, layout=2)
    assert joined(judge_memory([_ONE] * 3, [first, second, second]))["layout"] == (0.0, 0.0)
    assert joined(judge_memory([_ONE] * 3, [first, second, first]))["layout"] == (0.0, 1.0)
    hidden = replace(second, layout_legible=False)
    assert joined(judge_memory([_ONE] * 3, [hidden, first, second]))["layout"] == (0.0,)


def test_a_gap_is_the_number_of_shots_since_the_wearer_or_the_place_was_last_seen() -> None:
    """A shot in which the wearer is not recognised, or the set not legible, does not show the detail."""
    away = replace(_ONE, place="beach", actors=(_OWL,))
    unseen = replace(_ONE, layout_legible=False, actors=())
    plans, seen = [_ONE, away, _ONE, _ONE, _ONE], [_ONE, away, unseen, _ONE, _ONE]
    found = recalled_details(plans, seen)
    assert [[(one.axis, one.gap, one.score) for one in details] for details in found] == [
        [],
        [],
        [],
        [("scarf", 3, 1.0), ("layout", 3, 1.0)],
        [("scarf", 1, 1.0), ("layout", 1, 1.0)],
    ]
    other = replace(_ONE, layout=2)
    assert [one.score for one in recalled_details([_ONE] * 2, [_ONE, other])[1]] == [1.0, 0.0]


def test_each_place_and_each_character_has_a_memory_of_its_own() -> None:
    beach = replace(_ONE, place="beach", layout=0)
    plans, seen = [_ONE, beach, _ONE, beach], [_ONE, beach, _ONE, replace(beach, layout=2)]
    assert [shot["layout"] for shot in judge_memory(plans, seen)] == [(), (), (1.0,), (0.0,)]
    swapped = replace(_TWO, actors=(_as(_FOX, scarf="scarf_cyan"), _as(_OWL, scarf="white")))
    assert joined(judge_memory([_TWO, _TWO], [_TWO, swapped]))["scarf"] == (0.0, 0.0)
    assert joined(judge_memory([_TWO, _TWO], [_TWO, _TWO]))["scarf"] == (1.0, 1.0)
    wrong_place = replace(_ONE, place="forest")
    assert joined(judge_memory([_ONE] * 2, [wrong_place, wrong_place]))["layout"] == ()


@pytest.mark.parametrize(
    ("action", "facing", "expected"),
    [("walks", "left", 1.0), ("walks", "right", 0.0), ("stands", "left", 0.0), ("jumps", "right", 0.0)],
)
def test_a_walk_is_right_when_it_is_one_and_goes_where_it_should(
    action: str, facing: str, expected: float
) -> None:
    """An owl that is to walk left: standing and looking left is no walk."""
    plan = replace(_ONE, actors=(_OWL,))
    seen = replace(plan, actors=(replace(_OWL, action=action, facing=facing),))
    assert judge_captions(plan, seen)["staging"] == (expected,)
    assert judge_captions(plan, replace(plan, actors=()))["staging"] == (0.0,)


def test_who_stands_is_judged_by_its_side_and_not_by_where_it_looks() -> None:
    turned = replace(_ONE, actors=(replace(_FOX, facing="left"),))
    assert judge_captions(_ONE, turned)["staging"] == (1.0,)
    pan = replace(_ONE, camera="pans left")
    both = replace(pan, camera="still", actors=(replace(_FOX, spot="middle"),))
    assert judge_captions(pan, both)["staging"] == (0.0,)
    assert judge_captions(_TWO, replace(_TWO, actors=(replace(_FOX, spot="right"), _OWL)))["staging"] == (
        1.0,
    )


@pytest.mark.parametrize(
    ("axis", "change"),
    [
        ("set", {"place": "beach"}),
        ("time", {"time": "day"}),
        ("framing", {"framing": "close-up"}),
    ],
)
def test_what_a_shot_shows_otherwise_costs_its_own_axis_alone(axis: str, change: dict[str, str]) -> None:
    scores = judge_captions(_ONE, replace(_ONE, **change))
    assert {name for name, found in scores.items() if found == (0.0,)} == {axis}
    assert all(found == (1.0,) for name, found in scores.items() if name != axis)


def _story() -> tuple[Shot, ...]:
    """Three shots of one place, with one actor that stands in a wide view."""
    (shot,) = sample_story(np.random.default_rng(4), 1).shots
    actor = replace(shot.performances[0].actor, species="fox", colour="blue", scarf="white")
    performance = replace(shot.performances[0], actor=actor, action="stands", spot="left", facing="right")
    shot = replace(
        shot, performances=(performance,), framing="medium", camera="still", place="city", time="day"
    )
    return (shot, replace(shot, framing="wide"), shot)


def _recast(shot: Shot, **changes: str) -> Shot:
    (performance,) = shot.performances
    return replace(shot, performances=(replace(performance, actor=replace(performance.actor, **changes)),))


@pytest.mark.slow
def test_known_wrong_pictures_get_known_scores() -> None:
    """Films of another plan, drawn by the world: what differs is wrong, what is the same is right."""
    plan = _story()

    def scored(*filmed: Shot) -> dict[Any, tuple[float, ...]]:
        takes = [to_rgb(render(shot, 9)) for shot in filmed]
        return dict(judge_film(plan[: len(filmed)], takes).scores)

    def wrong(shot: Shot) -> set[Any]:
        """What is wrong with one shot that is filmed in the place of the first."""
        return {axis for axis, found in scored(shot).items() if axis in CAPTION_AXES and found != (1.0,)}

    assert wrong(plan[0]) == set()
    assert wrong(_recast(plan[0], colour="grey")) == {"characters", "colour"}
    assert wrong(_recast(plan[0], species="bear")) == {"characters", "species"}
    assert wrong(_recast(plan[0], scarf="scarf_magenta")) == set()
    moved = replace(plan[0], performances=(replace(plan[0].performances[0], spot="right"),))
    assert wrong(moved) == {"staging"}
    assert wrong(replace(plan[0], place="beach")) == {"set"}
    assert wrong(replace(plan[0], time="night")) == {"time"}
    scarf = scored(plan[0], _recast(plan[1], scarf="scarf_magenta"), _recast(plan[2], scarf="scarf_magenta"))
    assert scarf["scarf"] == (0.0, 0.0) and scarf["layout"] == (1.0, 1.0)
    assert scarf["memory"] == (0.0, 1.0, 0.0, 1.0) and scarf["characters"] == (1.0,) * 3
