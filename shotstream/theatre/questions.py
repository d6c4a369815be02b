"""Questions about a caption of the theatre, on whose answers the text encoder is trained.

The truth about every drawn shot is known. The answer is "not said" if the caption leaves it open, and for a
second actor if there is none. Actors are in the order in which captions name them, from left to right.
"""

from collections.abc import Iterable
from typing import Final

from shotstream.theatre.captions import PLACE_PHRASES, TIME_PHRASES
from shotstream.theatre.cast import ACTIONS, COLOURS, SPECIES
from shotstream.theatre.render import Performance, Shot
from shotstream.theatre.sets import PLACES, TIMES

NOT_SAID: Final = 0
"""Index of the answer "not said", the first one to every question."""

ANSWERS: Final[dict[str, tuple[str, ...]]] = {
    "place": PLACES,
    "time": TIMES,
    "framing": ("wide", "medium", "close-up"),
    "camera": ("still", "pans left", "pans right"),
    "species": SPECIES,
    "colour": COLOURS,
    "action": ACTIONS,
    "staging": ("left", "middle", "right", "walks left", "walks right"),
}
"""The answers besides "not said", by kind of question; staging is where an actor stands or how it walks."""

_OF_A_SHOT: Final = ("place", "time", "framing", "camera")
_OF_AN_ACTOR: Final = ("species", "colour", "action", "staging")
MAX_ACTORS: Final = 2

QUESTIONS: Final[tuple[tuple[str, int], ...]] = tuple(
    (kind, 1 + len(ANSWERS[kind])) for kind in (*_OF_A_SHOT, *_OF_AN_ACTOR * MAX_ACTORS)
)
"""The kind of each question and its number of answers, "not said" included."""


def answers(shot: Shot, text: str) -> tuple[int, ...]:
    """Returns the index of the correct answer to each of `QUESTIONS`.

    Args:
        shot: The shot.
        text: Its composed caption; a fact that it does not mention is "not said".
    """
    text = text.lower()
    found = [
        _index("place", shot.place, _says(text, PLACE_PHRASES[shot.place])),
        _index("time", shot.time, _says(text, TIME_PHRASES[shot.time])),
        _index("framing", shot.framing),
        _index("camera", shot.camera),
    ]
    for performance in shot.performances:
        found += _of_actor(performance, text)
    return (*found, *[NOT_SAID] * (len(QUESTIONS) - len(found)))


def _of_actor(performance: Performance, text: str) -> list[int]:
    actor = performance.actor
    walks = f"walks {performance.facing}"
    return [
        _index("species", actor.species),
        _index("colour", actor.colour, _says(text, [f"{actor.colour} {actor.species}"])),
        _index("action", performance.action),
        _index("staging", walks if performance.action == "walks" else performance.spot),
    ]


def _says(text: str, phrases: Iterable[str]) -> bool:
    return any(phrase in text for phrase in phrases)


def _index(kind: str, answer: str, said: bool = True) -> int:
    return 1 + ANSWERS[kind].index(answer) if said else NOT_SAID
