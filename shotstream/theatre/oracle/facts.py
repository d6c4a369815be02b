"""Facts about a shot, as they were planned or as they were seen."""

from dataclasses import dataclass

from shotstream.theatre.cast import Action, Actor, Facing
from shotstream.theatre.render import Camera, Framing, Shot, Spot
from shotstream.theatre.sets import Place, Time


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorFacts:
    """An actor in a shot."""

    actor: Actor
    action: Action
    facing: Facing
    """Direction of a walk; says nothing for other actions."""
    spot: Spot
    """Third of the stage; says nothing of a walk, nor of one of two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotFacts:
    """A shot."""

    place: Place
    time: Time
    layout: int
    layout_legible: bool = True
    """Whether enough of the set is seen to tell its layout."""
    framing: Framing
    camera: Camera
    actors: tuple[ActorFacts, ...]
    """From left to right; none, one or two."""


def planned(shot: Shot) -> ShotFacts:
    """The facts of a shot of the world, as planned."""
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
    """For each actor of the plan the one seen that is most like it; None where too few are seen.

    Each actor seen is given to one of the plan at most.
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
    """Whether species and colour are the same."""
    return (plan.actor.species, plan.actor.colour) == (seen.actor.species, seen.actor.colour)


def _alike(plan: ActorFacts, seen: ActorFacts) -> int:
    return (plan.actor.species == seen.actor.species) + (plan.actor.colour == seen.actor.colour)
