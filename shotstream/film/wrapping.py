"""Line breaks for text in any script, with any measure of width; an ellipsis replaces what does not fit.

Between Latin words a line may break at a space; between Chinese or Japanese characters anywhere but before
closing marks; and within a word only if that alone is too wide. A character is never separated from its
accents, and an emoji never from what it is joined to.
"""

import unicodedata
from collections.abc import Callable, Iterator

_ELLIPSIS = "…"
_JOINER = "\u200d"
# Closing punctuation and small kana: they do not begin a line.
_CLOSING = frozenset(
    "、。，．！？）」』】〉》〕：；…‥ー々ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ,.!?:;)]}’”"
)
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_FLAG_LETTERS = range(0x1F1E6, 0x1F200)


def one_line(text: str) -> str:
    """Returns the text on one line, without control characters and others that no text file may hold."""
    return " ".join("".join(letter for letter in text if letter.isspace() or _is_text(letter)).split())


def shorten(text: str, max_chars: int) -> str:
    """Returns the text, or its beginning and an ellipsis: at most `max_chars` characters."""
    if len(text) <= max_chars:
        return text
    kept = ""
    for cluster in clusters(text):
        if len(kept) + len(cluster) + len(_ELLIPSIS) > max_chars:
            break
        kept += cluster
    return kept.rstrip() + _ELLIPSIS


def num_columns(text: str) -> int:
    """Returns the width in columns: a Latin letter counts one, a Chinese character two, an accent none."""
    return sum(
        0 if is_extension(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def wrap_text(text: str, measure: Callable[[str], float], room: int | float, max_lines: int) -> list[str]:
    """Returns the text in lines that measure at most `room`; an ellipsis replaces what exceeds `max_lines`.

    A character that alone is wider than the room has a line of its own.
    """
    lines = [""]
    # Text beyond the last line is not measured: that cost would grow with the length of the text.
    for piece, is_after_space in _pieces(text):
        glued = f"{lines[-1]} {piece}" if is_after_space and lines[-1] else lines[-1] + piece
        if measure(glued) <= room:
            lines[-1] = glued
        else:
            lines += _split(piece, measure, room, max_lines + 1)
        if len(lines) > max_lines + 1:
            break
    lines = [line for line in lines if line]
    if len(lines) <= max_lines:
        return lines
    last = list(clusters(lines[max_lines - 1]))
    while last and measure("".join(last).rstrip(" .,;:、。") + _ELLIPSIS) > room:
        last.pop()
    return [*lines[: max_lines - 1], "".join(last).rstrip(" .,;:、。") + _ELLIPSIS]


def clusters(text: str) -> Iterator[str]:
    """Yields the grapheme clusters of a text: what a reader takes for single characters."""
    cluster = ""
    for letter in text:
        is_second_flag_letter = (
            ord(letter) in _FLAG_LETTERS and len(cluster) == 1 and ord(cluster) in _FLAG_LETTERS
        )
        if cluster and (is_extension(letter) or cluster.endswith(_JOINER) or is_second_flag_letter):
            cluster += letter
        else:
            if cluster:
                yield cluster
            cluster = letter
    if cluster:
        yield cluster


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Yields the pieces of a text between which a line may break, each with whether a space precedes it."""
    for word in text.split():
        piece, is_after_space = "", True
        for cluster in clusters(word):
            breaks = piece and (_is_wide(cluster) or _is_wide(piece[-1])) and cluster not in _CLOSING
            if breaks:
                yield piece, is_after_space
                piece, is_after_space = "", False
            piece += cluster
        yield piece, is_after_space


def _split(piece: str, measure: Callable[[str], float], room: int | float, max_parts: int) -> list[str]:
    """Returns a piece in parts that fit; at most `max_parts`."""
    parts = [""]
    for cluster in clusters(piece):
        if parts[-1] and measure(parts[-1] + cluster) > room:
            if len(parts) == max_parts:
                break
            parts.append("")
        parts[-1] += cluster
    return parts


def _is_text(letter: str) -> bool:
    return unicodedata.category(letter) not in ("Cc", "Cs") and ord(letter) & 0xFFFE != 0xFFFE


def _is_wide(letter: str) -> bool:
    return unicodedata.east_asian_width(letter[0]) in "WF"


def is_extension(letter: str) -> bool:
    """Returns whether a letter only changes the one before it: an accent, a joiner, a skin tone."""
    return unicodedata.category(letter) in ("Mn", "Me", "Mc", "Cf") or ord(letter) in _SKIN_TONES
