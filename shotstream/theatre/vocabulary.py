"""The vocabulary of the theatre as a text, for users who write a story."""

from collections.abc import Sequence
from textwrap import fill
from typing import Final

from shotstream.theatre.captions import (
    ACTION_PHRASES,
    CAMERA_PHRASES,
    FRAMING_PHRASES,
    PLACE_PHRASES,
    SPOT_PHRASES,
    TIME_PHRASES,
    vocabulary,
)
from shotstream.theatre.cast import COLOURS, SPECIES
from shotstream.theatre.world import HELD_OUT

_WIDTH: Final = 96
_INDENT: Final = 12

_STORY: Final = """\
title: The Fox and the Owl
global_caption: A yellow fox and a blue owl in a green meadow on a sunny day.
shots:
  - "Wide shot: the yellow fox waves and the blue owl jumps in the meadow by day."
  - "Close-up: the fox stands still in the meadow by day."
  - "Medium shot, at night: the blue owl walks to the right in the forest."
"""


def describe() -> str:
    """Returns the description of all that a story can ask for, with phrases and an example; 96 columns."""
    tables: Sequence[tuple[str, Sequence[Sequence[str]]]] = (
        ("characters", [SPECIES]),
        ("colours", [COLOURS]),
        ("places", list(PLACE_PHRASES.values())),
        ("times", list(TIME_PHRASES.values())),
        ("framings", list(FRAMING_PHRASES.values())),
        ("actions", list(ACTION_PHRASES.values())),
        ("walking", [("to the left",), ("to the right",)]),
        ("sides", list(SPOT_PHRASES.values())),
        ("camera", list(CAMERA_PHRASES.values())),
    )
    untaught = ", ".join(f"{colour} {species}" for species, colour in sorted(HELD_OUT))
    words = [word for word in vocabulary() if word[0].isalpha()]
    parts = [
        "One or two characters in each shot, one in a close-up; a character is a colour and a species.",
        "",
        *(row for name, entries in tables for row in _rows(name, entries)),
        "",
        "A story:",
        "",
        *(f"    {line}" for line in _STORY.splitlines()),
        "",
        fill(f"Never shown to the transformer in training, and a fair test: {untaught}.", _WIDTH),
        "",
        fill(f"All {len(words)} words: {' '.join(words)}", _WIDTH),
    ]
    return "\n".join(parts)


def _rows(name: str, entries: Sequence[Sequence[str]]) -> list[str]:
    """Returns a line for each meaning, with its phrases; the first line begins with the name."""
    meanings = [" | ".join(filter(None, phrases)) for phrases in entries]
    shown = [meaning for meaning in meanings if meaning]
    return [f"{name if row == 0 else '':<{_INDENT}}{meaning}" for row, meaning in enumerate(shown)]
