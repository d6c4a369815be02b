"""The contact sheet: for each story true frames above generated ones, with their captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from shotstream.film.wrapping import wrap_text

_PAPER, _INK, _FAINT = (22, 23, 29), (245, 240, 228), (150, 152, 160)
_SCALE: Final = 3
_MARGIN_PX, _GAP_PX, _LINE_PX = 24, 12, 17
_MAX_LINES: Final = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """A panel of the sheet: one shot."""

    truth: UInt8[np.ndarray, "h w 3"]
    """A frame of the world's own film."""
    film: UInt8[np.ndarray, "h w 3"]
    """The same frame of the judged film."""
    caption: str
    """Caption of the shot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SheetStory:
    """A story of the sheet: its panels and captions."""

    global_caption: str
    panels: tuple[Panel, ...]


def draw_sheet(stories: Sequence[SheetStory]) -> Image.Image:
    """Returns the sheet as an RGB image.

    Raises:
        ValueError: There is no story.
    """
    if not stories:
        raise ValueError("a contact sheet needs at least one story")
    strips = [_draw_story(story) for story in stories]
    width = max(strip.width for strip in strips) + 2 * _MARGIN_PX
    height = sum(strip.height for strip in strips) + _MARGIN_PX * (len(strips) + 1)
    page = Image.new("RGB", (width, height), _PAPER)
    top = _MARGIN_PX
    for strip in strips:
        page.paste(strip, (_MARGIN_PX, top))
        top += strip.height + _MARGIN_PX
    return page


def _draw_story(story: SheetStory) -> Image.Image:
    font = ImageFont.load_default(14)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    height, width = (_SCALE * extent for extent in story.panels[0].truth.shape[:2])
    captions = [wrap_text(panel.caption, font.getlength, width, _MAX_LINES) for panel in story.panels]
    label_px = 50
    total = label_px + len(story.panels) * width + (len(story.panels) - 1) * _GAP_PX
    pictures_top = _LINE_PX + 6
    text_top = pictures_top + 2 * height + _GAP_PX // 2 + 6
    strip = Image.new("RGB", (total, text_top + _LINE_PX * max(map(len, captions))), _PAPER)
    pen = ImageDraw.Draw(strip)
    pen.text((0, 0), wrap_text(story.global_caption, font.getlength, total, 1)[0], font=font, fill=_INK)
    for row, name in enumerate(("truth", "film")):
        top = pictures_top + row * (height + _GAP_PX // 2)
        pen.text((0, top + height // 2), name, font=font, fill=_FAINT, anchor="lm")
    for column, (panel, lines) in enumerate(zip(story.panels, captions, strict=True)):
        left = label_px + column * (width + _GAP_PX)
        for row, frame in enumerate((panel.truth, panel.film)):
            picture = Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST)
            strip.paste(picture, (left, pictures_top + row * (height + _GAP_PX // 2)))
        for line_index, line in enumerate(lines):
            pen.text((left, text_top + line_index * _LINE_PX), line, font=font, fill=_INK)
    return strip
