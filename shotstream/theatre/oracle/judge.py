"""Scores of a film of the theatre: facts read from its frames alone, compared with the plan.

Caption axes score whether a shot shows what its captions say. Memory axes score whether details that no
caption mentions, scarves and layouts, are the same in later shots as in the earliest shot of the same film
that shows them; there the film may choose them freely. A detail is scored where this is possible: a scarf if
its wearer is recognised, a layout if the place is right and enough of it is visible.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from shotstream.theatre.cast import SCARVES, Scarf
from shotstream.theatre.oracle.cuts import WINDOW, cut_offset, cut_score, is_visible
from shotstream.theatre.oracle.edges import edge_agreement
from shotstream.theatre.oracle.facts import (
    ShotFacts,
    is_same_character,
    pair_up,
    planned,
)
from shotstream.theatre.oracle.portraits import portray
from shotstream.theatre.oracle.reading import read_shot
from shotstream.theatre.palette import to_indices
from shotstream.theatre.render import Shot, frame_at, render
from shotstream.theatre.sets import NUM_LAYOUTS, Place

CaptionAxis = Literal["characters", "species", "colour", "set", "time", "framing", "action", "staging"]
Axis = Literal[
    "characters", "species", "colour", "set", "time", "framing", "action", "staging",
    "memory", "scarf", "layout", "cut", "sharpness", "figure", "flicker",
]  # fmt: skip

CAPTION_AXES: Final[tuple[CaptionAxis, ...]] = get_args(CaptionAxis)
AXES: Final[tuple[Axis, ...]] = get_args(Axis)
SCARF_CHANCE: Final = 1 / len(SCARVES)
LAYOUT_CHANCE: Final = 1 / NUM_LAYOUTS

Scores = Mapping[Axis, tuple[float, ...]]
"""Scores in [0, 1] on each axis, one for every shot, actor, detail or cut that could be judged; perhaps none.

0 is the best score on `flicker`, 1 on all other axes. `figure` has one score for each planned actor, in
order.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """A detail of a shot that an earlier shot of the film, or a picture given to it, has shown."""

    axis: Literal["scarf", "layout"]
    score: float
    """1 if it is as in the picture, or else in the earliest shot, that shows it, else 0."""
    gap: int
    """Number of shots since the last one that shows its wearer, or its place; 1: the shot before. A given
    picture counts as a shot before the first.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The oracle's scores of a film."""

    seen: tuple[ShotFacts, ...]
    """The facts of each shot as read from its frames."""
    by_shot: tuple[Scores, ...]
    """Scores of each shot; a detail and a cut count for the later shot, in which they are judged."""
    recalled: tuple[Recalled, ...] = ()
    """The details that the memory axes score, in the order of the shots."""

    @property
    def scores(self) -> Scores:
        """Scores of the whole film."""
        return joined(self.by_shot)


def joined(parts: Sequence[Scores]) -> Scores:
    """Returns the scores of several shots together."""
    return {axis: tuple(score for part in parts for score in part.get(axis, ())) for axis in AXES}


def judge_film(
    shots: Sequence[Shot], takes: Sequence[NDArray[np.uint8]], *, has_references: bool = False
) -> Verdict:
    """Returns the scores of a film.

    Args:
        shots: The plan.
        takes: The generated frames of each shot, RGB `[f, 48, 80, 3]`, with 3 frames or more.
        has_references: Whether the film was given pictures of its actors and sets: it may then choose no
            detail freely, and the first shot that shows one is judged as well.

    Raises:
        ValueError: The numbers of shots and takes differ, or a take has another size or is too short.
    """
    if len(shots) != len(takes):
        raise ValueError(f"{len(takes)} takes of {len(shots)} planned shots")
    readings = [read_shot(take) for take in takes]
    plans = [planned(shot) for shot in shots]
    seen = tuple(reading.facts for reading in readings)
    by_shot: list[Scores] = []
    recalled = recalled_details(plans, seen, plans if has_references else ())
    cuts = _judge_cuts(shots, takes)
    for shot, take, plan, reading, details, cut in zip(
        shots, takes, plans, readings, recalled, cuts, strict=True
    ):
        scores: dict[Axis, tuple[float, ...]] = {**judge_captions(plan, reading.facts), **_memory(details)}
        scores["cut"] = cut
        scores["sharpness"] = (edge_agreement(reading.seen, reading.drawn),)
        portrait = portray(shot, reading.facts, to_indices(take))
        scores["figure"], scores["flicker"] = portrait.figures, (portrait.flicker,)
        by_shot.append(scores)
    return Verdict(seen=seen, by_shot=tuple(by_shot), recalled=tuple(chain.from_iterable(recalled)))


def judge_captions(plan: ShotFacts, seen: ShotFacts) -> Mapping[CaptionAxis, tuple[float, ...]]:
    """Returns the scores of a shot against its captions; an axis on which they say nothing is empty.

    Actors are paired with the most similar planned ones; one too many or too few lowers the score by its
    share.
    """
    pairs = [
        (wanted, found)
        for wanted, found in zip(plan.actors, pair_up(plan, seen), strict=True)
        if found is not None
    ]
    most = max(len(plan.actors), len(seen.actors))
    return {
        "characters": (sum(is_same_character(*pair) for pair in pairs) / most,),
        "species": (sum(a.actor.species == b.actor.species for a, b in pairs) / most,),
        "colour": (sum(a.actor.colour == b.actor.colour for a, b in pairs) / most,),
        "set": (float(plan.place == seen.place),),
        "time": (float(plan.time == seen.time),),
        "framing": (float(plan.framing == seen.framing),),
        "action": (sum(a.action == b.action for a, b in pairs) / len(plan.actors),),
        "staging": _judge_staging(plan, seen),
    }


def judge_memory(
    plans: Sequence[ShotFacts], seen: Sequence[ShotFacts], given: Sequence[ShotFacts] = ()
) -> list[dict[Axis, tuple[float, ...]]]:
    """Returns the memory scores of each shot; see `recalled_details`."""
    return [_memory(details) for details in recalled_details(plans, seen, given)]


def recalled_details(
    plans: Sequence[ShotFacts], seen: Sequence[ShotFacts], given: Sequence[ShotFacts] = ()
) -> list[list[Recalled]]:
    """Returns, for each shot, the details that were shown before it: scarves, then the layout.

    `given` are facts whose details the film was given before its first shot, as by a shot before that.
    """
    first: dict[tuple[str, str] | Place, Scarf | int] = {facts.place: facts.layout for facts in given}
    first |= {
        (one.actor.species, one.actor.colour): one.actor.scarf for facts in given for one in facts.actors
    }
    last_shot = dict.fromkeys(first, -1)
    by_shot: list[list[Recalled]] = []
    for index, (plan, facts) in enumerate(zip(plans, seen, strict=True)):
        found: list[Recalled] = []
        shown: list[tuple[Literal["scarf", "layout"], tuple[str, str] | Place, Scarf | int]] = [
            ("scarf", (wanted.actor.species, wanted.actor.colour), actor.actor.scarf)
            for wanted, actor in zip(plan.actors, pair_up(plan, facts), strict=True)
            if actor is not None and is_same_character(wanted, actor)
        ]
        if plan.place == facts.place and facts.layout_legible:
            shown.append(("layout", facts.place, facts.layout))
        for axis, owner, detail in shown:
            if owner in first:
                score = float(first[owner] == detail)
                found.append(Recalled(axis=axis, score=score, gap=index - last_shot[owner]))
            first.setdefault(owner, detail)
            last_shot[owner] = index
        by_shot.append(found)
    return by_shot


def _memory(details: Sequence[Recalled]) -> dict[Axis, tuple[float, ...]]:
    return {
        "memory": tuple(one.score for one in details),
        "scarf": tuple(one.score for one in details if one.axis == "scarf"),
        "layout": tuple(one.score for one in details if one.axis == "layout"),
    }


def _judge_staging(plan: ShotFacts, seen: ShotFacts) -> tuple[float, ...]:
    """Returns the score of side, direction and camera as one share; empty if the captions say nothing.

    A walking actor is on no side.
    """
    claims: list[bool] = []
    if plan.camera != "still":
        claims.append(plan.camera == seen.camera)
    alone = len(plan.actors) == 1
    for wanted, found in zip(plan.actors, pair_up(plan, seen), strict=True):
        if wanted.action == "walks":
            walks = found is not None and found.action == "walks"
            claims.append(walks and found is not None and found.facing == wanted.facing)
        elif alone and plan.framing != "close-up":
            stays = found is not None and found.action != "walks"
            claims.append(stays and found is not None and found.spot == wanted.spot)
    return (sum(claims) / len(claims),) if claims else ()


def _judge_cuts(shots: Sequence[Shot], takes: Sequence[NDArray[np.uint8]]) -> list[tuple[float, ...]]:
    """Returns for each shot the score of the cut to it, if the cut is visible."""
    scores: list[tuple[float, ...]] = [() for _ in shots]
    for index in range(1, len(shots)):
        before, after = takes[index - 1], takes[index]
        if is_visible(*_planned_cut(shots[index - 1], shots[index], len(before))):
            offset = cut_offset(to_indices(before[-WINDOW:]), to_indices(after[:WINDOW]))
            scores[index] = (cut_score(offset),)
    return scores


def _planned_cut(before: Shot, after: Shot, num_frames: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Returns the frames of the plan before and after a cut."""
    last = [frame_at(before, frame) for frame in range(max(0, num_frames - WINDOW), num_frames)]
    return np.stack(last), render(after, WINDOW)
