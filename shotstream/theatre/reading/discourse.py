"""The discourse: the actors that a story has named, and what the text that is read says of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from shotstream.theatre.reading.lexicon import word_list

_GENDERS: Final = {
    **dict.fromkeys(("he", "him", "himself"), "he"),
    **dict.fromkeys(("she", "her", "herself"), "she"),
    **dict.fromkeys(("it", "itself"), "it"),
}


@dataclass(frozen=True, slots=True)
class Action:
    """Something that an actor is said to do."""

    name: str
    """The world's name of it."""
    is_weak: bool = False
    """Whether it gives way to others: a posture, or a way of coming."""


@dataclass(slots=True, eq=False)
class Actor:
    """An actor of the story, and what the text that is read says that it does."""

    species: str | None = None
    colour: str | None = None
    name: str | None = None
    gender: str | None = None
    """The pronoun that was used for it."""
    roles: set[str] = field(default_factory=set)
    """Other nouns for it: "his valet, Jenkins"."""
    is_stranger: bool = False
    """Whether it is something that the world does not have."""
    is_twin: bool = False
    """Whether it was named in the plural: "two foxes"."""
    actions: list[Action] = field(default_factory=list)
    """What it does, in order."""
    last_counts: bool = False
    """Whether its actions follow each other: "then"."""
    side: str | None = None
    direction: str | None = None

    def chosen_action(self) -> str | None:
        """Returns the action that a shot shows of those that a text says."""
        strong = [action for action in self.actions if not action.is_weak]
        if not self.actions:
            return None
        if not strong:
            return self.actions[-1].name
        return strong[-1 if self.last_counts else 0].name

    def staging(self, action: str | None) -> str | None:
        """Returns where it stands or how it walks."""
        if action == "walks" and self.direction:
            return f"walks {self.direction}"
        return self.side or (self.direction if action != "walks" else None)

    def forget(self) -> None:
        """Forgets what it does: a text was read."""
        self.actions, self.last_counts, self.side, self.direction = [], False, None, None


@dataclass(slots=True)
class Cast:
    """The actors that a text names, in order, and the camera's movement."""

    actors: list[Actor] = field(default_factory=list)
    camera: str | None = None
    orphans: list[Action] = field(default_factory=list)
    """Actions whose subject the text does not name."""
    side: str | None = None
    direction: str | None = None
    actions: dict[int, str] = field(default_factory=dict)
    """What each actor does, by its id."""

    def played_by(self, actors: Iterable[Actor]) -> "Cast":
        """Returns the same with other actors, who do what was said without a subject."""
        found = list(actors)
        for actor in found:
            actor.actions = actor.actions + self.orphans
            actor.side, actor.direction = actor.side or self.side, actor.direction or self.direction
        return replace(self, actors=found)

    def action_of(self, actor: Actor) -> str | None:
        """Returns what this text says that an actor does."""
        return self.actions.get(id(actor))


class Discourse:
    """The actors that a story has named so far."""

    def __init__(self) -> None:
        self.actors: list[Actor] = []
        self.subjects: list[Actor] = []
        self.seen: list[Actor] = []
        """The actors of the text that is read, in order."""
        self.told: list[Actor] = []
        """Those of them that it names alone, in order: "they" names nobody."""
        self._last: list[Actor] = []
        self.strangers: set[str] = set()
        """Nouns for what the world does not have."""
        self.is_global = True
        """Whether the first text is read."""
        self.text_begins = True
        """Whether the text that is read has named nobody yet."""

    def begin_text(self) -> None:
        """Begins another text; what was said of actors before is forgotten."""
        known = [actor for actor in self.seen if not actor.is_stranger]
        if known:
            self._last = known
        for actor in self.actors:
            actor.forget()
        self.seen, self.told = [], []
        self.text_begins = True

    def begin_shot(self, cast: Cast) -> None:
        """Begins the shot that is asked for, after the texts before it."""
        self.is_global = False
        if not self._last and not self.seen:
            self._last = list(cast.actors)

    def last_cast(self) -> list[Actor]:
        """Returns the actors of the text before that named any."""
        return self._last[:2]

    def in_order(self) -> list[Actor]:
        """Returns the actors of the text in the order in which it names them."""
        return list(dict.fromkeys([*(actor for actor in self.told if actor in self.seen), *self.seen]))

    def see(self, actor: Actor, *, is_told: bool = True) -> Actor:
        """Adds an actor to those of the text."""
        if is_told and actor not in self.told:
            self.told.append(actor)
        if actor not in self.actors:
            self.actors.append(actor)
        self.text_begins = False
        if actor not in self.seen:
            self.seen.append(actor)
        return actor

    def named(self, name: str) -> Actor | None:
        """Returns the actor of a name."""
        return next((actor for actor in self.actors if actor.name == name), None)

    def matching(self, species: str | None, colour: str | None) -> Actor | None:
        """Returns the actor that a species and a colour describe, the last one first; None: a new one."""
        ranked = [*reversed(self.seen), *(a for a in self.actors if a not in self.seen)]
        for actor in ranked:
            if actor.is_stranger:
                continue
            if species and actor.species and actor.species != species:
                continue
            if colour and actor.colour and actor.colour != colour:
                continue
            if (species and actor.species == species) or (colour and actor.colour == colour):
                return actor
        return None

    def one(self, word: str) -> Actor | None:
        """Returns whom a singular pronoun or noun means."""
        gender = _GENDERS.get(word)
        order = [*self.subjects, *self.seen, *self._last, *self.actors]
        if (
            gender
            and self.subjects
            and _gender_of(self.subjects[0]) in (None, gender)
            and self.subjects[0] in self.seen
        ):
            self.subjects[0].gender = self.subjects[0].gender or gender
            return self.subjects[0]
        pool = [actor for actor in dict.fromkeys(order) if not actor.is_stranger] or list(order)
        found = next((actor for actor in pool if gender and _gender_of(actor) == gender), None)
        found = found or next((a for a in pool if gender is None or _gender_of(a) in (None, gender)), None)
        if found is not None and gender:
            found.gender = found.gender or gender
        return found

    def two(self) -> list[Actor]:
        """Returns whom a plural pronoun means."""
        for pool in (self.seen, self._last, self.actors):
            known = [actor for actor in pool if not actor.is_stranger]
            if len(known) > 1:
                return known[:2] if pool is not self.seen else known
        both = [a for a in (*self.seen, *self._last, *self.actors) if not a.is_stranger]
        return list(dict.fromkeys(both))[:2]

    def other(self, than: Sequence[Actor]) -> Actor | None:
        """Returns the actor that is not one of these."""
        pool = [*self.seen, *self._last, *self.actors]
        return next((actor for actor in pool if actor not in than and not actor.is_stranger), None)

    def forget_stranger(self, role: str) -> None:
        """Removes what seemed to be something unknown, and is an actor of the story."""
        for pool in (self.actors, self.seen, self.subjects):
            pool[:] = [actor for actor in pool if not (actor.is_stranger and role in actor.roles)]

    def with_role(self, word: str) -> Actor | None:
        """Returns the actor that a noun was used for."""
        return next((actor for actor in self.actors if word in actor.roles), None)


def _gender_of(actor: Actor) -> str | None:
    """Returns the pronoun of an actor, if it was used or its name has one."""
    if actor.gender is not None or actor.name is None:
        return actor.gender
    if actor.name in word_list("female_names") or actor.name.endswith("a"):
        return "she"
    if actor.name in word_list("male_names") or actor.name.endswith("o"):
        return "he"
    return None
