"""The generator of random stories: cast, sets, actions and captions; some combinations are held out.

A story fixes the details that later shots must repeat: each actor's scarf and each place's layout. Training
stories never show a held-out pair of species and colour. Held-out stories show at least one, so that
evaluation tests new combinations and not only new seeds.

`sample_story` has one or two actors in one or two places, as training has. `sample_returning_story` has more
of both, which leave and return after gaps of all lengths, to test a long memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from shotstream.geometry import WAN_GEOMETRY
from shotstream.theatre.captions import global_caption, shot_caption, turn_caption
from shotstream.theatre.cast import ACTIONS, COLOURS, SCARVES, SPECIES, Actor, Colour, Species
from shotstream.theatre.render import Camera, Framing, Performance, Shot, Spot, Turn
from shotstream.theatre.sets import NUM_LAYOUTS, PLACES, TIMES, Place, Time

HELD_OUT: Final[frozenset[tuple[Species, Colour]]] = frozenset(zip(SPECIES, COLOURS, strict=True))
"""Pairs of species and colour that no training story shows: one colour for each species."""

_FRAMINGS: Final[tuple[Framing, ...]] = ("wide", "medium", "close-up")
_NUM_RETURNING: Final = 5
"""Number of actors and of places of a story whose actors and places return."""
_MAX_SCENE_SHOTS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TheatreStory:
    """A generated story: its captions, and the exact plan of its shots."""

    global_caption: str
    captions: tuple[str, ...]
    """The caption of each shot."""
    cast: tuple[Actor, ...]
    shots: tuple[Shot, ...]
    turn_captions: tuple[str, ...] = ()
    """For each shot the caption that it gets when its actors turn to something else, or ""."""


def _actor(rng: np.random.Generator, *, held_out: bool, not_species: Species | None = None) -> Actor:
    while True:
        species = SPECIES[int(rng.integers(len(SPECIES)))]
        colour = COLOURS[int(rng.integers(len(COLOURS)))]
        if ((species, colour) in HELD_OUT) == held_out and species != not_species:
            return Actor(species, colour, SCARVES[int(rng.integers(len(SCARVES)))])


def _cast(rng: np.random.Generator, held_out: bool) -> tuple[Actor, ...]:
    first = _actor(rng, held_out=held_out)
    if rng.random() < 0.6:
        return (first,)
    while True:
        second = _actor(rng, held_out=held_out and rng.random() < 0.5, not_species=first.species)
        if second.colour != first.colour and second.scarf != first.scarf:
            return (first, second) if rng.random() < 0.5 else (second, first)


def _troupe(rng: np.random.Generator, held_out: bool) -> tuple[Actor, ...]:
    """Returns the cast of a returning story: no two of the same species, nor of the same colour."""
    cast = [_actor(rng, held_out=held_out)]
    while len(cast) < _NUM_RETURNING:
        other = _actor(rng, held_out=held_out and rng.random() < 0.5)
        if all(other.species != one.species and other.colour != one.colour for one in cast):
            cast.append(other)
    return tuple(cast)


def _performance(rng: np.random.Generator, actor: Actor, spot: Spot) -> Performance:
    return Performance(
        actor=actor,
        action=ACTIONS[int(rng.integers(len(ACTIONS)))],
        spot=spot,
        facing="right" if rng.random() < 0.5 else "left",
    )


def _shot(rng: np.random.Generator, cast: tuple[Actor, ...], place: Place, time: Time, layout: int) -> Shot:
    together = len(cast) == 2 and rng.random() < 0.45
    framing = _FRAMINGS[int(rng.integers(2 if together else 3))]
    camera: Camera = "still"
    if together:
        performances = tuple(
            _performance(rng, actor, spot) for actor, spot in zip(cast, ("left", "right"), strict=True)
        )
    else:
        spot: Spot = "middle"
        if framing != "close-up" and rng.random() < 0.4:
            spot = "left" if rng.random() < 0.5 else "right"
        performance = _performance(rng, cast[int(rng.integers(len(cast)))], spot)
        if performance.action == "walks":
            performance = Performance(actor=performance.actor, action="walks", facing=performance.facing)
        elif framing == "medium" and spot == "middle" and rng.random() < 0.3:
            camera = "pans right" if rng.random() < 0.5 else "pans left"
        performances = (performance,)
    return Shot(
        place=place, time=time, layout=layout, framing=framing, performances=performances, camera=camera
    )


def sample_story(rng: np.random.Generator, num_shots: int, *, held_out: bool = False) -> TheatreStory:
    """Returns a random story.

    Args:
        rng: The only source of randomness.
        num_shots: Number of shots, at least 1.
        held_out: Whether the cast has a pair of species and colour that training never shows.
    """
    if num_shots < 1:
        raise ValueError(f"a story has at least one shot, got {num_shots}")
    cast = _cast(rng, held_out)
    layouts = {place: int(rng.integers(NUM_LAYOUTS)) for place in PLACES}
    home = PLACES[int(rng.integers(len(PLACES)))]
    away = PLACES[int(rng.integers(len(PLACES)))]
    time = TIMES[int(rng.integers(len(TIMES)))]
    shots: list[Shot] = []
    for _ in range(num_shots):
        place = away if rng.random() < 0.25 else home
        when = TIMES[int(rng.integers(len(TIMES)))] if rng.random() < 0.2 else time
        shots.append(_shot(rng, cast, place, when, layouts[place]))
    return TheatreStory(
        global_caption=global_caption(cast, home, time, rng),
        captions=tuple(shot_caption(shot, home, time, rng) for shot in shots),
        cast=cast,
        shots=tuple(shots),
    )


def with_turns(
    story: TheatreStory, num_frames: Sequence[int], rng: np.random.Generator, *, share: float
) -> TheatreStory:
    """Returns a story in which the actors of some shots turn to something else at the start of a chunk.

    Args:
        story: A story without turns.
        num_frames: Length of each shot in video frames; one of a single chunk has no turn.
        rng: The only source of randomness.
        share: Probability that a shot has a turn.
    """
    shots: list[Shot] = []
    captions: list[str] = []
    for shot, length in zip(story.shots, num_frames, strict=True):
        num_chunks = WAN_GEOMETRY.num_chunks(WAN_GEOMETRY.num_latent_frames(length))
        if num_chunks > 1 and rng.random() < share:
            turn = turn_of(shot, 1 + int(rng.integers(num_chunks - 1)), rng)
            shots.append(replace(shot, turns=(turn,)))
            captions.append(turn_caption(shot.performances, turn.performances, rng))
        else:
            shots.append(shot)
            captions.append("")
    return replace(story, shots=tuple(shots), turn_captions=tuple(captions))


def turn_of(shot: Shot, chunk_index: int, rng: np.random.Generator) -> Turn:
    """Returns a turn at the start of a chunk: of one actor of the shot, or of all, to another action."""
    who = range(len(shot.performances))
    turning = [int(rng.integers(len(who)))] if rng.random() < 0.5 else list(who)
    performances = list(shot.performances)
    for index in turning:
        now = performances[index]
        others = [action for action in ACTIONS if action != now.action]
        performances[index] = replace(
            now,
            action=others[int(rng.integers(len(others)))],
            facing="right" if rng.random() < 0.5 else "left",
        )
    return Turn(frame=WAN_GEOMETRY.shot_num_frames(chunk_index), performances=tuple(performances))


def sample_returning_story(
    rng: np.random.Generator, num_shots: int, *, held_out: bool = False
) -> TheatreStory:
    """Returns a random story of scenes whose actors and places leave, and return after gaps of all lengths.

    A scene is one to three shots of one or two actors in one place. Half of the scenes bring back the actor,
    and half of them the place, that was absent for longest; the others bring any.

    Args:
        rng: The only source of randomness.
        num_shots: Number of shots, at least 1.
        held_out: Whether the cast has a pair of species and colour that training never shows.
    """
    if num_shots < 1:
        raise ValueError(f"a story has at least one shot, got {num_shots}")
    cast = _troupe(rng, held_out)
    layouts = {place: int(rng.integers(NUM_LAYOUTS)) for place in PLACES}
    actors, places = list(cast), [PLACES[index] for index in rng.permutation(len(PLACES))]
    home, time = places[-1], TIMES[int(rng.integers(len(TIMES)))]
    shots: list[Shot] = []
    while len(shots) < num_shots:
        # Both lists are ordered by their last scene, the longest absent first.
        place = places.pop(0 if rng.random() < 0.5 else int(rng.integers(len(places))))
        places.append(place)
        first = actors.pop(0 if rng.random() < 0.5 else int(rng.integers(len(actors))))
        on_stage = (first,)
        if rng.random() < 0.4:
            second = actors.pop(int(rng.integers(len(actors))))
            on_stage = (first, second) if rng.random() < 0.5 else (second, first)
        actors += on_stage
        when = TIMES[int(rng.integers(len(TIMES)))] if rng.random() < 0.2 else time
        for _ in range(min(1 + int(rng.integers(_MAX_SCENE_SHOTS)), num_shots - len(shots))):
            shots.append(_shot(rng, on_stage, place, when, layouts[place]))
    return TheatreStory(
        global_caption=global_caption(cast, home, time, rng),
        captions=tuple(shot_caption(shot, home, time, rng) for shot in shots),
        cast=cast,
        shots=tuple(shots),
    )
