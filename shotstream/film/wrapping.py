"""Text in lines: of any script, by any measure of width, cut with an ellipsis where there is no more room.

Between Latin words a line may break at a space, between Chinese or Japanese characters anywhere but before
closing marks, and within a word that alone is too wide. A character is never parted from its accents, and an
emoji never from what it is joined to.
"""

import unicodedata
from collections.abc import Callable, Iterator

_ELLIPSIS = "…"
_JOINER = "\u200d"
# Punctuation that ends what it follows, and small kana: they do not begin a line.
_CLOSING = frozenset(
    "、。，．！？）」』】〉》〕：；…‥ー々ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ,.!?:;)]}’”"
)
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_FLAG_LETTERS = range(0x1F1E6, 0x1F200)


def one_line(text: str) -> str:
    """The text on one line, without control characters and others that no text file may hold."""
    return " ".join("".join(letter for letter in text if letter.isspace() or _is_text(letter)).split())


def shorten(text: str, max_chars: int) -> str:
    """The text, or its beginning and an ellipsis: `max_chars` characters at most, none of them cut in two."""
    if len(text) <= max_chars:
        return text
    kept = ""
    for cluster in clusters(text):
        if len(kept) + len(cluster) + len(_ELLIPSIS) > max_chars:
            break
        kept += cluster
    return kept.rstrip() + _ELLIPSIS


def num_columns(text: str) -> int:
    """Width where a Latin letter counts one, a Chinese one two and an accent nothing."""
    return sum(
        0 if is_extension(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def wrap_text(text: str, measure: Callable[[str], float], room: int | float, max_lines: int) -> list[str]:
    """The text in lines that measure at most `room`; what exceeds `max_lines` is replaced by an ellipsis.

    A character that alone is wider than the room has a line of its own.
    """
    lines = [""]
    # What fits in no more lines is not measured: that costs as much as the text is long.
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
    """The grapheme clusters of a text: what a reader takes for single characters."""
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
    """The pieces of a text that are not parted, each with whether a space goes before it."""
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
    """A piece in parts that fit; no more of them than can be wanted."""
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
    """Whether it only changes the character before it: an accent, a joiner, a choice of form, a skin tone."""
    return unicodedata.category(letter) in ("Mn", "Me", "Mc", "Cf") or ord(letter) in _SKIN_TONES
