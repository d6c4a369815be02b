"""The reader: what a shot's caption says, in plain English, after the captions before it.

A text is read sentence by sentence, from left to right. Noun phrases become actors ("the grey bear", "Bruno",
"she", "both", "the other one"); verbs are given to the actors that are their subjects. What a caption leaves
open is filled in from the global caption, then the captions of earlier shots. Words for things that the
world does not have are told, with the nearest thing that it has.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from shotstream.theatre.questions import MAX_ACTORS
from shotstream.theatre.reading.discourse import Actor, Cast, Discourse
from shotstream.theatre.reading.lexicon import nearest
from shotstream.theatre.reading.names import find_names
from shotstream.theatre.reading.sentences import read_text
from shotstream.theatre.reading.setting import Setting, read_setting
from shotstream.theatre.reading.words import Text, Token, tokens


@dataclass(frozen=True, slots=True)
class ActorReading:
    """What a caption says of one actor, with the world's names; None for what it leaves open."""

    species: str | None = None
    colour: str | None = None
    action: str | None = None
    staging: str | None = None
    name: str | None = field(default=None, compare=False)
    """How the captions call it, in lower case."""


@dataclass(frozen=True, slots=True)
class UnknownWord:
    """A word for something that the world does not have."""

    word: str
    nearest: str = ""
    """The nearest thing that it has, or ""."""

    def __str__(self) -> str:
        return f"{self.word}: {self.nearest}?" if self.nearest else self.word


@dataclass(frozen=True, slots=True)
class ShotReading:
    """What the captions say of one shot, with the world's names; None for what they leave open."""

    place: str | None = None
    time: str | None = None
    framing: str | None = None
    camera: str | None = None
    actors: tuple[ActorReading, ...] = ()
    unknown: tuple[UnknownWord, ...] = ()
    strangers: tuple[ActorReading, ...] = ()
    """What the world does not have, in a shot without other actors, as the nearest species."""
    more_actors: int = field(default=0, compare=False)
    """Number of actors that the caption names beyond the two of a shot."""

    def to_document(self) -> dict[str, Any]:
        """Returns the reading as JSON data."""
        return {
            "place": self.place,
            "time": self.time,
            "framing": self.framing,
            "camera": self.camera,
            "actors": [
                {"species": a.species, "colour": a.colour, "action": a.action, "staging": a.staging}
                for a in self.actors
            ],
            "unknown": [unknown.word for unknown in self.unknown],
        }


@lru_cache(maxsize=256)
def read_shot(caption: str, global_caption: str = "", earlier: tuple[str, ...] = ()) -> ShotReading:
    """Returns what a shot's caption says.

    Args:
        caption: The shot's own caption.
        global_caption: The caption of the whole film; it fills in what the shot leaves open.
        earlier: The captions of earlier shots, in order: they may have introduced who is named here.
    """
    names = find_names((global_caption, *earlier, caption))
    discourse = Discourse()
    parsed = [_parsed(text, names) for text in (global_caption, *earlier, caption)]
    texts, settings = [text for text, _ in parsed], [setting for _, setting in parsed]
    cast = read_text(texts[0], discourse)
    for text in texts[1:-1]:
        read_text(text, discourse)
    discourse.begin_shot(cast)
    actors = read_text(texts[-1], discourse)
    own, told, before = settings[-1], settings[0], settings[-2:0:-1]
    strangers = [] if actors.actors else [actor for actor in discourse.seen if actor.species]
    if not actors.actors and not strangers:
        somebody = [Actor()] if actors.orphans else []  # "She waves", of nobody who is known
        actors = actors.played_by(cast.actors or discourse.last_cast() or somebody)
    return ShotReading(
        place=_first("place", own, told, *before),
        time=_first("time", own, told, *before),
        framing=own.framing or told.framing,
        camera=own.camera or actors.camera or told.camera,
        actors=tuple(_said(actor, cast) for actor in actors.actors[:MAX_ACTORS]),
        unknown=tuple(_unknown(texts[-1], texts[0])),
        strangers=tuple(_said(actor, cast) for actor in strangers[:MAX_ACTORS]),
        more_actors=max(0, len(actors.actors) - MAX_ACTORS),
    )


@lru_cache(maxsize=1024)
def _parsed(text: str, names: frozenset[str]) -> tuple[Text, Setting]:
    """Returns the tokens of a text and its setting; kept, because every later shot needs them again."""
    found = tokens(text, names)
    return found, read_setting(found)


def _first(name: str, *settings: Setting) -> str | None:
    said = next((getattr(setting, name) for setting in settings if getattr(setting, name)), None)
    guesses = (setting.near.get(name) for setting in settings)
    return said or next(filter(None, guesses), None)


def _said(actor: Actor, cast: Cast) -> ActorReading:
    action = actor.chosen_action() or cast.action_of(actor)
    return ActorReading(actor.species, actor.colour, action, actor.staging(action), actor.name)


def _unknown(*texts: Text) -> list[UnknownWord]:
    found: dict[str, UnknownWord] = {}
    for token in (token for text in texts for token in text):
        word = token.value("weather") or token.original[0]
        if is_unknown(token):
            found.setdefault(word, UnknownWord(word, nearest(word)))
    return list(found.values())


def is_unknown(token: Token) -> bool:
    """Returns whether a word means something that the world does not have."""
    word = token.word
    is_said = token.is_strange and len(word) > 1 and not word.endswith("ly") and not word.isdigit()
    return is_said or token.has("weather")
