import re
from fractions import Fraction

from shotstream.film.subtitles import LINE_CHARS, subtitles


def test_entries_touch_and_cover_the_film() -> None:
    text = subtitles(["One.", "Two --> lines\nhere."], [33, 21], 12)
    assert text == (
        "1\n00:00:00,000 --> 00:00:02,750\nOne.\n\n2\n00:00:02,750 --> 00:00:04,500\nTwo → lines here.\n"
    )


def test_long_films_count_in_hours_and_long_captions_in_lines() -> None:
    text = subtitles(["a"] * 2 + ["word " * 100], [100_000, 1, 16], Fraction(16))
    assert "01:44:10,062 --> 01:44:11,062" in text
    assert all(len(line) <= LINE_CHARS for line in text.splitlines())
    assert len(re.findall("-->", text)) == 3
