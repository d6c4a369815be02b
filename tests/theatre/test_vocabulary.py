"""The vocabulary as a person reads it: complete, and its example is a story the theatre understands."""

import yaml

from shotstream.story import story_from_document
from shotstream.theatre.cast import COLOURS, SPECIES
from shotstream.theatre.reading.reader import read_shot
from shotstream.theatre.reading.settled import settle
from shotstream.theatre.sets import PLACES, TIMES
from shotstream.theatre.vocabulary import describe


def test_everything_that_there_is_is_shown() -> None:
    shown = set(describe().lower().replace(":", " ").replace(".", " ").replace(",", " ").split())
    assert {*SPECIES, *COLOURS, *PLACES, *TIMES, "wide", "medium", "close-up", "pans"} <= shown


def test_lines_fit_a_terminal() -> None:
    assert max(map(len, describe().splitlines())) <= 100


def test_the_example_is_a_story_that_is_understood_whole() -> None:
    lines = describe().splitlines()
    block = [line for line in lines[lines.index("A story:") :] if line.startswith("    ")]
    story = story_from_document(yaml.safe_load("\n".join(block)))
    captions = [shot.caption for shot in story.shots]
    shots = [
        settle(read_shot(text, story.global_caption, tuple(captions[:at])), 0)
        for at, text in enumerate(captions)
    ]
    assert [shot.caption for shot in shots] == [
        "Wide shot in the meadow by day: the yellow fox waves on the left and "
        "the blue owl jumps on the right.",
        "Close-up in the meadow by day: the yellow fox stands.",
        "Medium shot in the forest at night: the blue owl walks to the right.",
    ]
    assert not any(shot.warnings for shot in shots)
