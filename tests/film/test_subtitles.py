"""Subtitles as pysubs2, webvtt-py and FFmpeg's decoders, which most players share, read them."""

import html
import io
from fractions import Fraction

import av
import pysubs2
import pytest
import webvtt

from shotstream.film.subtitles import LINE_COLUMNS, subtitles, web_subtitles
from shotstream.film.wrapping import num_columns, one_line

TRICKS = (
    "Wide shot: the fox <walks> right {\\an8}& says -> hi --> bye. 00:00:01,000 --> 00:00:02,000",
    "Close-up:\n\nsleeps.\n\n3\n00:00:09,000 --> 00:00:10,000\nINJECTED",
    "3",
    "a < b and c > d, R&amp;D, x\\Ny, {1}{25}, <b>bold",
    "NOTE WEBVTT [Script Info] 1.\r\n\r\n2 \x00\x1b[31m\u2028\u2028 4",
    "at 10:30 sharp",
)


def ass_text(form: str, text: str) -> list[str]:
    """What FFmpeg hands to a renderer, its own escapes undone."""
    shown: list[str] = []
    with av.open(io.BytesIO(text.encode()), format=form) as container:
        (stream,) = container.streams.subtitles
        for packet in container.demux(stream):
            for subtitle in packet.decode():
                shown.append(subtitle.ass.decode().split(",", 8)[8])
    return shown


def test_entries_touch_and_cover_the_film() -> None:
    text = subtitles(["One.", "Two --> lines\nhere."], [33, 21], 12)
    assert text == (
        "1\n00:00:00,000 --> 00:00:02,750\nOne.\n\n2\n00:00:02,750 --> 00:00:04,500\nTwo → lines here.\n"
    )
    assert web_subtitles(["One.", "Two."], [33, 21], 12) == (
        "WEBVTT\n\n1\n00:00:00.000 --> 00:00:02.750\nOne.\n\n2\n00:00:02.750 --> 00:00:04.500\nTwo.\n"
    )


def test_a_caption_in_subrip_is_shown_and_gives_no_orders() -> None:
    text = subtitles(TRICKS, [12] * len(TRICKS), 12)
    expected = [
        "Wide shot: the fox ‹walks› right (∖an8)& says -> hi → bye. 00∶00∶01,000 →…",
        "Close-up: sleeps. 3 00∶00∶09,000 → 00∶00∶10,000 INJECTED",
        "3",
        "a ‹ b and c › d, R&amp;D, x∖Ny, (1)(25), ‹b›bold",
        "NOTE WEBVTT [Script Info] 1. 2 [31m 4",
        "at 10:30 sharp",
    ]
    read = pysubs2.SSAFile.from_string(text, format_="srt")
    assert [(event.start, event.end) for event in read] == [(1000 * i, 1000 * (i + 1)) for i in range(6)]
    assert [one_line(event.plaintext.replace("\u2060", "")) for event in read] == expected
    by_ffmpeg = [one_line(line.replace("\\N", " ").replace("\u2060", "")) for line in ass_text("srt", text)]
    assert by_ffmpeg == expected


def test_a_caption_in_webvtt_is_shown_letter_by_letter_and_gives_no_orders() -> None:
    text = web_subtitles(TRICKS, [12] * len(TRICKS), 12)
    expected = [
        "Wide shot: the fox <walks> right {\\an8}& says -> hi --> bye. 00∶00∶01,000 -->…",
        "Close-up: sleeps. 3 00∶00∶09,000 --> 00∶00∶10,000 INJECTED",
        "3",
        "a < b and c > d, R&amp;D, x\\Ny, {1}{25}, <b>bold",
        "NOTE WEBVTT [Script Info] 1. 2 [31m 4",
        "at 10:30 sharp",
    ]
    read = webvtt.from_string(text)
    assert [(c.start_in_seconds, c.end_in_seconds) for c in read] == [(i, i + 1) for i in range(6)]
    assert [one_line(html.unescape(caption.raw_text)) for caption in read] == expected
    assert len(pysubs2.SSAFile.from_string(text, format_="vtt")) == 6
    by_ffmpeg = [
        one_line(line.replace("\\N", " ").replace("\u2060", "").replace("\\{{}", "{"))
        for line in ass_text("webvtt", text)
    ]
    assert by_ffmpeg == expected


def test_long_films_count_in_hours() -> None:
    text = subtitles(["a", "b", "c"], [100_000, 1, 16], Fraction(16))
    assert "01:44:10,062 --> 01:44:11,062" in text


@pytest.mark.parametrize(
    "caption", ["word " * 100, "狐が森を歩く。" * 40, "x" * 900, "é" * 300, "👩‍👩‍👧" * 90]
)
def test_a_long_caption_is_two_lines_that_fit_and_end_in_an_ellipsis(caption: str) -> None:
    _, _, *lines = subtitles([caption], [12], 12).splitlines()
    assert len(lines) == 2 and all(num_columns(line) <= LINE_COLUMNS for line in lines)
    assert lines[1].endswith("…") and num_columns(lines[0]) > LINE_COLUMNS - 7
    begin = "".join(lines)[:-1].replace(" ", "")
    assert caption.replace(" ", "").startswith(begin) and not begin.endswith("\u200d")


def test_a_short_caption_is_not_touched() -> None:
    caption = "The purple fox walks slowly to the right, and the owl looks after it."
    _, _, *lines = subtitles([caption], [12], 12).splitlines()
    assert " ".join(lines) == caption and len(lines) == 2


def test_every_shot_has_a_caption_and_every_caption_a_shot() -> None:
    for captions, lengths in ((["a"], [12, 12]), (["a", "b"], [12])):
        for write in (subtitles, web_subtitles):
            with pytest.raises(ValueError):
                write(captions, lengths, 12)
