"""The oracle: exact scores for films of the theatre, without a learned judge, because the world is known."""

from shotstream.theatre.oracle.facts import ActorFacts, ShotFacts, planned
from shotstream.theatre.oracle.judge import (
    AXES,
    CAPTION_AXES,
    LAYOUT_CHANCE,
    SCARF_CHANCE,
    Axis,
    CaptionAxis,
    Recalled,
    Scores,
    Verdict,
    joined,
    judge_captions,
    judge_film,
    judge_memory,
    recalled_details,
)
from shotstream.theatre.oracle.reading import ShotReading, read_shot

__all__ = [
    "AXES",
    "CAPTION_AXES",
    "LAYOUT_CHANCE",
    "SCARF_CHANCE",
    "ActorFacts",
    "Axis",
    "CaptionAxis",
    "Recalled",
    "Scores",
    "ShotFacts",
    "ShotReading",
    "Verdict",
    "joined",
    "judge_captions",
    "judge_film",
    "judge_memory",
    "planned",
    "read_shot",
    "recalled_details",
]
