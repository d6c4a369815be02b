r"""The subtitles of a film: each shot's caption for as long as the shot lasts, as SubRip or WebVTT (UTF-8).

A caption has at most two lines, and a longer one ends in an ellipsis, because subtitles are read while the
picture is watched. The whole text is in the story and in the replay file.

A caption is shown as it was written; no part of it acts as markup. WebVTT has escapes for this. SubRip has
none, and its players interpret tags (`<b>`), positions (`{\an8}`), line breaks (`\N`) and entities (`&amp;`):
these characters are replaced by others that look alike. So are the colons of times, which some players of
either format read as a new entry.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from shotstream.film.wrapping import num_columns, one_line, wrap_text
from shotstream.story import Shot

LINE_COLUMNS = 42
"""Maximum width of a line in columns; a Chinese character counts two."""
MAX_LINES = 2

_WORD_JOINER = "\u2060"
"""An invisible character at which a line never breaks."""
_TIME = re.compile(r"\d+:\d+[:\d]*[.,]\d")
_LOOK_ALIKES = str.maketrans({"<": "‹", "{": "(", "}": ")", "\\": "∖"})


def subtitles(captions: Sequence[str], shot_num_frames: Sequence[int], fps: int | Fraction) -> str:
    """Returns the text of an .srt file with one entry per caption.

    Args:
        captions: One per shot, or several of a steered one, see `told_parts`.
        shot_num_frames: Number of frames that each lasts.
        fps: Frames per second.
    """
    return "\n".join(_entries(captions, shot_num_frames, fps, ",", _plain))


def web_subtitles(captions: Sequence[str], shot_num_frames: Sequence[int], fps: int | Fraction) -> str:
    """Returns the text of a .vtt file with one entry per shot; the arguments are those of `subtitles`."""
    entries = _entries(captions, shot_num_frames, fps, ".", _escaped)
    return "\n".join(["WEBVTT\n", *entries])


def told_parts(
    shots: Sequence[Shot], shot_num_frames: Sequence[int], num_frames_of: Callable[[int], int]
) -> tuple[list[str], list[int]]:
    """Returns all captions of a film and the frames that each lasts; a steered shot has several.

    Args:
        shots: The shots.
        shot_num_frames: Length of each in frames, which may be less than was planned.
        num_frames_of: Returns the number of video frames of a number of chunks.
    """
    captions: list[str] = []
    lengths: list[int] = []
    for shot, num_frames in zip(shots, shot_num_frames, strict=True):
        starts = [(0, shot.caption), *((num_frames_of(one.chunk_index), one.caption) for one in shot.then)]
        starts = [one for one in starts if one[0] < num_frames]
        ends = [*(start for start, _ in starts[1:]), num_frames]
        captions += [caption for _, caption in starts]
        lengths += [end - start for (start, _), end in zip(starts, ends, strict=True)]
    return captions, lengths


def _entries(
    captions: Sequence[str],
    shot_num_frames: Sequence[int],
    fps: int | Fraction,
    point: str,
    harmless: Callable[[str], str],
) -> list[str]:
    entries: list[str] = []
    start_frame = 0
    for number, (caption, num_frames) in enumerate(zip(captions, shot_num_frames, strict=True), start=1):
        end_frame = start_frame + num_frames
        times = [_timestamp(frame / Fraction(fps), point) for frame in (start_frame, end_frame)]
        lines = map(harmless, wrap_text(one_line(caption), num_columns, LINE_COLUMNS, MAX_LINES))
        entries.append("\n".join([str(number), " --> ".join(times), *lines]) + "\n")
        start_frame = end_frame
    return entries


def _without_times(line: str) -> str:
    return _TIME.sub(lambda time: time[0].replace(":", "∶"), line)


def _plain(line: str) -> str:
    """Returns a line that SubRip players show as it is."""
    line = _without_times(line).replace("-->", "→")
    line = re.sub(r"<([^<>]*)>", r"‹\1›", line).translate(_LOOK_ALIKES)
    line = re.sub(r"&(?=#?\w+;)", f"&{_WORD_JOINER}", line)
    # A line of digits alone would be taken for the number of the next entry.
    return line + _WORD_JOINER if re.fullmatch(r"[\d\s]+", line) else line


def _escaped(line: str) -> str:
    return _without_times(line).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _timestamp(time_s: Fraction, point: str) -> str:
    seconds, millis = divmod(round(time_s * 1000), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{millis:03}"
