"""Text drawn into pictures: each letter in a font that has it.

Plain Latin is set in Pillow's own font. It has no accents and no dashes, so other text is set in DejaVu Sans,
which is part of this package: Latin, Greek, Cyrillic, Armenian, Georgian, Hebrew, Arabic, symbols, and the
older emoji. For letters that it lacks, the fonts of the machine are searched (fontconfig). A letter that no
font has is replaced: an emoji by its name in brackets, any other letter by □. `missing_scripts` returns the
scripts of these letters.

Where Pillow has Raqm, which its wheels do, Arabic is joined and right-to-left text is ordered. In a line that
takes several fonts, the part of each font is ordered by itself.
"""

import shutil
import subprocess
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from PIL import ImageDraw, ImageFont

from shotstream.film.wrapping import clusters, is_extension, one_line

_DEJAVU = Path(__file__).parent / "fonts" / "DejaVuSans.ttf"
_SCALE = 0.94
"""Factor on the size of other fonts: at the same size, letters of most fonts are larger than those of
Pillow's.
"""
_NOT_A_CHARACTER = "\U0010ffff"
_BOX = "□"
_LOOKUP_S = 5.0

Face = tuple[str, int]
"""A font file, and the index of a font in it. An empty file name means Pillow's own font."""
_PLAIN: Face = ("", 0)
_WIDE: Face = (str(_DEJAVU), 0)


class Lettering:
    """Text of one font size, measured and drawn."""

    def __init__(self, size_px: int) -> None:
        self._size_px = size_px

    def width(self, line: str) -> float:
        """Returns the width of a line in pixels."""
        return sum(_font(face, self._size_px).getlength(run) for face, run in _runs(line))

    def draw(
        self,
        pen: ImageDraw.ImageDraw,
        left: int | float,
        top: int | float,
        line: str,
        ink: tuple[int, int, int],
        room: int | float,
    ) -> None:
        """Draws a line at `left` and `top`.

        A right-to-left line ends at the right end of its room, `left + room`.
        """
        if _is_from_right(line):
            left += room - self.width(line)
        baseline = top + _font(_PLAIN, self._size_px).getmetrics()[0]
        for face, run in _runs(line):
            font = _font(face, self._size_px)
            pen.text((left, baseline), run, font=font, fill=ink, anchor="ls")
            left += font.getlength(run)


def drawable(text: str) -> str:
    """Returns the text on one line. Letters that no font has are replaced by names and boxes."""
    return "".join(
        cluster if _face_of(cluster) is not None else _replacement(cluster)
        for cluster in clusters(one_line(text))
    )


def missing_scripts(text: str) -> set[str]:
    """Returns the Unicode names of the scripts whose letters become boxes."""
    missing = {cluster[0] for cluster in clusters(one_line(text)) if _face_of(cluster) is None}
    return {_script(letter) for letter in missing if not _is_named_sign(letter)}


def _replacement(cluster: str) -> str:
    return f"[{unicodedata.name(cluster[0]).lower()}]" if _is_named_sign(cluster[0]) else _BOX


def _is_named_sign(letter: str) -> bool:
    return unicodedata.category(letter) in ("So", "Sm", "Sc") and bool(unicodedata.name(letter, ""))


def _script(letter: str) -> str:
    word = unicodedata.name(letter, "unnamed").split()[0]
    return "Chinese" if word in ("CJK", "IDEOGRAPHIC", "FULLWIDTH") else word.capitalize()


def _is_from_right(line: str) -> bool:
    for letter in line:
        direction = unicodedata.bidirectional(letter)
        if direction in ("L", "R", "AL"):
            return direction != "L"
    return False


def _runs(line: str) -> Iterator[tuple[Face, str]]:
    """Yields the parts of a line, each with its font; a single part if one font has all letters."""
    for face in (_PLAIN, _WIDE):
        if _has_all(face, line):
            yield face, line
            return
    for face, run in groupby(clusters(line), lambda cluster: _face_of(cluster) or _WIDE):
        yield face, "".join(run)


@lru_cache(maxsize=8192)
def _face_of(cluster: str) -> Face | None:
    """Returns the first font that has all letters of a grapheme cluster; None if there is none."""
    for face in (_PLAIN, _WIDE):
        if _has_all(face, cluster):
            return face
    face = _installed(cluster[0])
    return face if face is not None and _has_all(face, cluster) else None


_drawn: dict[Face, set[str]] = {}
"""The letters that a font is known to have, by font."""


def _has_all(face: Face, text: str) -> bool:
    drawn = _drawn.setdefault(face, set())
    # Letters that only change the one before them are left to text shaping if they cannot be drawn alone.
    unknown = {letter for letter in set(text) - drawn if not is_extension(letter)}
    drawn |= {letter for letter in unknown if _has(face, letter)}
    return unknown <= drawn


@lru_cache(maxsize=65536)
def _has(face: Face, letter: str) -> bool:
    if letter == " ":
        return True
    font = _font(face, 16)
    drawn, absent = (cast("Any", font.getmask(one)) for one in (letter, _NOT_A_CHARACTER))
    return (drawn.size, bytes(drawn)) != (absent.size, bytes(absent))


_without_font: set[str] = set()
"""Scripts that no installed font has. A search takes about 0.01 s, and a page has many letters."""


@lru_cache(maxsize=8192)
def _installed(letter: str) -> Face | None:
    """Returns a font of this machine that has a letter, by fontconfig; None if there is none."""
    if _script(letter) in _without_font or shutil.which("fc-list") is None:
        return None
    query = [f":charset={ord(letter):x}:scalable=true", "--format", "%{file}\t%{index}\n"]
    try:
        found = subprocess.run(["fc-list", *query], capture_output=True, text=True, timeout=_LOOKUP_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        found = ""
    for line in sorted(set(found.splitlines()), key=_preference):
        file, _, index = line.partition("\t")
        face = (file, int(index) & 0xFFFF if index.isdigit() else 0)
        try:
            if _has(face, letter):
                return face
        except OSError:
            continue  # a bitmap font of a fixed size, or one that Pillow cannot read
    _without_font.add(_script(letter))
    return None


def _preference(line: str) -> tuple[bool, bool, str]:
    name = Path(line.partition("\t")[0]).name
    return "Sans" not in name, "Regular" not in name and "Sans.ttf" not in name, line


@lru_cache(maxsize=256)
def _font(face: Face, size_px: int) -> ImageFont.FreeTypeFont:
    file, index = face
    return ImageFont.truetype(file, round(size_px * _SCALE), index=index) if file else plain_font(size_px)


def plain_font(size_px: int) -> ImageFont.FreeTypeFont:
    """Returns Pillow's own font: digits and Latin letters without accents."""
    font = ImageFont.load_default(size_px)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font
