"""What the world shows of a reading: open answers are chosen, and what it cannot show is changed and told."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from shotstream.theatre.captions import PLACE_PHRASES, TIME_PHRASES
from shotstream.theatre.cast import COLOURS, SPECIES
from shotstream.theatre.questions import ANSWERS, MAX_ACTORS, NOT_SAID, QUESTIONS
from shotstream.theatre.reading.reader import ActorReading, ShotReading
from shotstream.theatre.sets import PLACES, TIMES

NOT_HERE: Final = "not in this world"
"""What is said before words for things that the world does not have, each with the nearest that it has."""
_SPOTS: Final = ("left", "right")


@dataclass(frozen=True, slots=True)
class SettledShot:
    """A reading without open answers, that the world can show."""

    reading: ShotReading
    """What is shown."""
    said: ShotReading
    """What the captions say."""
    notes: tuple[str, ...] = ()
    """What was chosen or changed, in words for the user."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """All that is not shown as the captions say, in words for the user."""
        words = ", ".join(map(str, self.said.unknown))
        return (f"{NOT_HERE}: {words}", *self.notes) if words else self.notes

    @property
    def answers(self) -> tuple[int, ...]:
        """The index of the answer to each of `QUESTIONS`."""
        return answers_of(self.reading)

    @property
    def caption(self) -> str:
        """The shot in the world's own words, which read as this shot."""
        return described(self.reading)


def settle(reading: ShotReading, seed: int) -> SettledShot:
    """Returns what the world shows for a reading.

    Args:
        reading: What the captions say.
        seed: Chooses what they leave open; the same for all shots of a film, so that these agree.
    """
    notes: list[str] = []
    place = reading.place or _chosen(seed, "place", PLACES)
    time = reading.time or _chosen(seed, "time", TIMES)
    opened = [value for value, said in ((place, reading.place), (time, reading.time)) if not said]
    if opened:
        notes.append(f"no caption says {_left_open(reading)}: the seed chose {' and '.join(opened)}")
    actors = _settled_actors(reading, seed, notes)
    framing = reading.framing or (
        "medium" if len(actors) == 1 or reading.camera not in (None, "still") else "wide"
    )
    if framing == "close-up" and len(actors) > 1:
        framing = "medium"
        notes.append("a close-up shows one character: a medium shot shows both")
    camera = reading.camera or "still"
    if camera != "still" and (
        framing != "medium" or len(actors) > 1 or any(actor.action == "walks" for actor in actors)
    ):
        notes.append(
            "the camera pans only in medium shots of one character who does not walk: it stays still"
        )
        camera = "still"
    if reading.more_actors:
        notes.append(f"a shot shows two characters: {reading.more_actors} more are not shown")
    settled = replace(
        reading, place=place, time=time, framing=framing, camera=camera, actors=actors, more_actors=0
    )
    return SettledShot(settled, reading, tuple(notes))


def steered(shown: SettledShot, reading: ShotReading) -> SettledShot:
    """Returns what a running shot shows after it gets another caption.

    Its actors do what the caption says of them, where they are. Who they are, the set and the camera stay:
    what the caption says of these otherwise is told.

    Args:
        shown: What the shot shows.
        reading: What the new caption says, after all captions before it.
    """
    notes: list[str] = []
    kept = shown.reading
    for name, what in (("place", "where"), ("time", "when"), ("framing", "how near"), ("camera", "how")):
        said, now = getattr(reading, name), getattr(kept, name)
        if said not in (None, now) and said != getattr(shown.said, name):
            notes.append(f"a running shot stays {what} it is ({now}): cut to a new shot for {said}")
    actors: list[ActorReading] = []
    unused = list(reading.actors)
    for actor in kept.actors:
        told = next((one for one in unused if _may_be(one, actor)), None)
        if told is not None:
            unused.remove(told)
        action = actor.action if told is None or told.action is None else told.action
        actors.append(_going_on(actor, action, told))
    for stranger in unused:
        who = " ".join(filter(None, (stranger.colour, stranger.species))) or "another"
        notes.append(f"nobody enters a running shot: cut to a new shot for the {who}")
    reading = replace(reading, more_actors=0)
    return SettledShot(replace(kept, actors=tuple(actors)), reading, tuple(notes))


def _may_be(told: ActorReading, actor: ActorReading) -> bool:
    """Returns whether a caption may speak of an actor of the shot."""
    return told.species in (None, actor.species) and told.colour in (None, actor.colour)


def _going_on(actor: ActorReading, action: str | None, told: ActorReading | None) -> ActorReading:
    """Returns an actor that turns to an action where it is; one that walked is on no side."""
    if action == "walks":
        way = told.staging if told is not None and told.staging else actor.staging
        return replace(actor, action=action, staging=way if way and "walks" in way else "walks right")
    walked = actor.action == "walks"
    return replace(actor, action=action, staging="middle" if walked else actor.staging)


def answers_of(reading: ShotReading) -> tuple[int, ...]:
    """Returns the index of a reading's answer to each of `QUESTIONS`; "not said" for what it leaves open."""
    said = [reading.place, reading.time, reading.framing, reading.camera]
    for actor in reading.actors[:MAX_ACTORS]:
        said += [actor.species, actor.colour, actor.action, actor.staging]
    said += [None] * (len(QUESTIONS) - len(said))
    return tuple(
        NOT_SAID if value is None else 1 + ANSWERS[kind].index(value)
        for (kind, _), value in zip(QUESTIONS, said, strict=True)
    )


def described(reading: ShotReading) -> str:
    """Returns a reading as a caption in the world's own words.

    What it leaves open is left out, and so is what a shot has unless it is told otherwise: a camera that
    stays still, an actor in the middle.
    """
    parts = [
        {"wide": "Wide shot", "medium": "Medium shot", "close-up": "Close-up", None: ""}[reading.framing]
    ]
    if reading.place:
        parts.append(PLACE_PHRASES[reading.place][0])  # pyright: ignore[reportArgumentType]
    if reading.time:
        parts.append(TIME_PHRASES[reading.time][0])  # pyright: ignore[reportArgumentType]
    setting = " ".join(filter(None, parts))
    if reading.camera not in (None, "still"):
        setting = f"{setting}, the camera {reading.camera}".removeprefix(", ")
    looks = [(actor.species, actor.colour) for actor in reading.actors]
    said = " and ".join(
        _performed(actor, "another" if look in looks[:at] else "the")
        for at, (actor, look) in enumerate(zip(reading.actors, looks, strict=True))
    )
    text = f"{setting}: {said}." if setting and said else f"{setting or said}."
    return text[0].upper() + text[1:]


def _performed(actor: ActorReading, article: str) -> str:
    name = f"{article} {actor.colour or ''} {actor.species or 'one'}"
    words = [name, actor.action or ""]
    if actor.staging and actor.staging.startswith("walks "):
        words.append(f"to the {actor.staging.removeprefix('walks ')}")
    elif actor.staging not in (None, "middle"):
        words.append(f"on the {actor.staging}")
    return " ".join(" ".join(words).split())


def _left_open(reading: ShotReading) -> str:
    return (
        " and ".join(name for name, said in (("where", reading.place), ("when", reading.time)) if not said)
        + " it is"
    )


def _settled_actors(reading: ShotReading, seed: int, notes: list[str]) -> tuple[ActorReading, ...]:
    found = list(reading.actors) or [_stand_in(reading, seed, notes)]
    for number, actor in enumerate(found):
        if actor.species is None:
            others = [other.species for other in found if other.species]
            species = _chosen(seed, "species", [s for s in SPECIES if s not in others])
            actor = replace(actor, species=species)
            notes.append(f"no caption says who it is: the seed chose a {species}")
        if actor.colour is None:
            # The same in every shot, whoever else is in it.
            colour = _chosen(seed, f"colour of {actor.name or actor.species}", COLOURS)
            actor = replace(actor, colour=colour)
            notes.append(f"no caption says which colour the {actor.species} has: the seed chose {colour}")
        found[number] = replace(actor, action=actor.action or "stands")
    if len(found) == 1:
        return (_staged(found[0], "middle"),)
    if found[0].staging == "right" or found[1].staging == "left":
        found.reverse()
    return tuple(_staged(actor, spot, fixed=True) for actor, spot in zip(found, _SPOTS, strict=True))


def _staged(actor: ActorReading, spot: str, *, fixed: bool = False) -> ActorReading:
    """Returns an actor with a place to stand or a way to walk."""
    staging = actor.staging
    if actor.action == "walks":
        staging = staging if staging and staging.startswith("walks ") else "walks right"
    elif fixed or staging is None:
        staging = spot
    return replace(actor, staging=staging)


def _stand_in(reading: ShotReading, seed: int, notes: list[str]) -> ActorReading:
    """Returns the actor of a shot that names none: the nearest to somebody unknown, or the seed's choice."""
    near = next((word for word in reading.unknown if word.nearest in SPECIES), None)
    if near is not None:
        notes.append(f"the world has no {near.word}: a {near.nearest} plays it")
        return reading.strangers[0] if reading.strangers else ActorReading(species=near.nearest)
    species = _chosen(seed, "species", SPECIES)
    notes.append(f"no caption names a character: the seed chose a {species}")
    return ActorReading(species=species)


def _chosen(seed: int, what: str, names: Sequence[str]) -> str:
    digest = hashlib.sha256(f"{seed} {what}".encode()).digest()
    return names[int.from_bytes(digest[:8], "big") % len(names)]
