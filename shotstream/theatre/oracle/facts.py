"""Facts about a shot: its set, camera and actors, as planned or as read from frames."""

from dataclasses import dataclass

from shotstream.theatre.cast import Action, Actor, Facing
from shotstream.theatre.render import Camera, Framing, Shot, Spot
from shotstream.theatre.sets import Place, Time


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorFacts:
    """The facts about one actor in a shot."""

    actor: Actor
    action: Action
    facing: Facing
    """Direction of a walk; without meaning for other actions."""
    spot: Spot
    """Third of the stage; without meaning for a walk, and for one of two actors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotFacts:
    """The facts about one shot."""

    place: Place
    time: Time
    layout: int
    layout_legible: bool = True
    """Whether enough of the set is visible to determine its layout."""
    framing: Framing
    camera: Camera
    actors: tuple[ActorFacts, ...]
    """The actors from left to right; none, one or two."""


def planned(shot: Shot) -> ShotFacts:
    """Returns the facts of a planned shot."""
    actors = (
        ActorFacts(actor=one.actor, action=one.action, facing=one.facing, spot=one.spot)
        for one in shot.performances
    )
    return ShotFacts(
        place=shot.place,
        time=shot.time,
        layout=shot.layout,
        framing=shot.framing,
        camera=shot.camera,
        actors=tuple(actors),
    )


def pair_up(plan: ShotFacts, seen: ShotFacts) -> tuple[ActorFacts | None, ...]:
    """Returns, for each planned actor, the most similar actor that was read; None if there are too few.

    Each actor that was read is paired with at most one planned actor.
    """
    if not seen.actors:
        return (None,) * len(plan.actors)
    if len(plan.actors) == 1:
        return (max(seen.actors, key=lambda other: _alike(plan.actors[0], other)),)
    first, second = plan.actors
    if len(seen.actors) == 1:
        (only,) = seen.actors
        return (only, None) if _alike(first, only) >= _alike(second, only) else (None, only)
    left, right = seen.actors
    straight = _alike(first, left) + _alike(second, right)
    crossed = _alike(first, right) + _alike(second, left)
    return (left, right) if straight >= crossed else (right, left)


def is_same_character(plan: ActorFacts, seen: ActorFacts) -> bool:
    """Returns whether species and colour are the same."""
    return (plan.actor.species, plan.actor.colour) == (seen.actor.species, seen.actor.colour)


def _alike(plan: ActorFacts, seen: ActorFacts) -> int:
    return (plan.actor.species == seen.actor.species) + (plan.actor.colour == seen.actor.colour)
