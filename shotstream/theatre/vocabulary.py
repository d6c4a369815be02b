"""What the theatre's world has, as a text for users who write a story."""

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
)
from shotstream.theatre.cast import COLOURS, SPECIES
from shotstream.theatre.world import HELD_OUT

_WIDTH: Final = 96
_INDENT: Final = 12

_STORY: Final = """\
title: The Fox and the Owl
global_caption: Max, a yellow fox, and Luna, a blue owl, live in a meadow.
shots:
  - "A sunny day, seen from afar: Max says hello while Luna hops up and down."
  - "Close-up: he waits."
  - "Midnight in the woods. Luna strolls to the right, in a medium shot."
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
    parts = [
        "One or two characters in each shot, one in a close-up; a character is a colour and a species. These",
        "are words for everything that there is; names, pronouns and hundreds of other words are understood",
        "too: `shotstream theatre read CAPTION` shows how a caption is read.",
        "",
        *(row for name, entries in tables for row in _rows(name, entries)),
        "",
        "A story:",
        "",
        *(f"    {line}" for line in _STORY.splitlines()),
        "",
        fill(f"Never shown to the transformer in training, and a fair test: {untaught}.", _WIDTH),
    ]
    return "\n".join(parts)


def _rows(name: str, entries: Sequence[Sequence[str]]) -> list[str]:
    """Returns a line for each meaning, with its phrases; the first line begins with the name."""
    meanings = [" | ".join(filter(None, phrases)) for phrases in entries]
    shown = [meaning for meaning in meanings if meaning]
    return [f"{name if row == 0 else '':<{_INDENT}}{meaning}" for row, meaning in enumerate(shown)]
