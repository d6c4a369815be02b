"""A film's subtitle file: each shot's caption for as long as the shot lasts (SubRip, UTF-8)."""

import textwrap
from collections.abc import Sequence
from fractions import Fraction

LINE_CHARS = 48


def subtitles(captions: Sequence[str], shot_num_frames: Sequence[int], fps: int | Fraction) -> str:
    """The text of an .srt file with one entry per shot.

    Args:
        captions: one per shot.
        shot_num_frames: length of each shot in frames.
        fps: frames per second.
    """
    entries: list[str] = []
    start_frame = 0
    for number, (caption, num_frames) in enumerate(zip(captions, shot_num_frames, strict=True), start=1):
        end_frame = start_frame + num_frames
        # An arrow inside a caption would read as a time line.
        lines = textwrap.wrap(" ".join(caption.split()).replace("-->", "→"), LINE_CHARS)
        span = f"{_timestamp(start_frame / Fraction(fps))} --> {_timestamp(end_frame / Fraction(fps))}"
        entries.append("\n".join([str(number), span, *lines]) + "\n")
        start_frame = end_frame
    return "\n".join(entries)


def _timestamp(time_s: Fraction) -> str:
    seconds, millis = divmod(round(time_s * 1000), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02},{millis:03}"
