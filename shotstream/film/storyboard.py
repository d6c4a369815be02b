"""The storyboard: a film on one page, with a picture, the number, the length and the caption of each shot.

Every script for which a font is found is drawn (see `lettering`). For other scripts the page says that it
shows boxes, and the log says which fonts to install.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from shotstream.film.lettering import Lettering, drawable, missing_scripts, plain_font
from shotstream.film.wrapping import wrap_text

MAX_SHOWN_SHOTS = 60

_PAPER, _CARD = (22, 23, 29), (33, 35, 44)
_TITLE_INK, _TEXT_INK, _FAINT_INK, _ACCENT = (245, 240, 228), (214, 211, 203), (139, 141, 152), (242, 180, 65)
_MARGIN_PX, _GAP_PX, _PADDING_PX, _CORNER_PX = 40, 24, 16, 12
_PICTURE_WIDTH_PX = 400
_MAX_CAPTION_LINES, _MAX_GLOBAL_LINES = 6, 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """A panel of the storyboard: one shot."""

    picture: UInt8[np.ndarray, "h w 3"] = field(repr=False)
    """A frame of the shot."""
    caption: str
    """The caption below the picture; cut after six lines."""
    duration_s: float
    """Length of the shot in seconds."""


def draw_storyboard(title: str, global_caption: str, panels: Sequence[Panel]) -> Image.Image:
    """Returns the page as an RGB image; of more than 60 shots an even selection, and the page says so.

    Raises:
        ValueError: There is no panel.
    """
    if not panels:
        raise ValueError("a storyboard needs at least one shot")
    shown = sorted(
        {round(i) for i in np.linspace(0, len(panels) - 1, min(len(panels), MAX_SHOWN_SHOTS)).tolist()}
    )
    num_columns = min(len(shown), 3 if len(shown) <= 9 else 4)
    cards = [_draw_card(panels[index], index + 1) for index in shown]
    rows = [cards[start : start + num_columns] for start in range(0, len(cards), num_columns)]
    row_heights = [max(card.height for card in row) for row in rows]

    width = 2 * _MARGIN_PX + num_columns * cards[0].width + (num_columns - 1) * _GAP_PX
    missing = missing_scripts("\n".join([title, global_caption, *(panels[index].caption for index in shown)]))
    if missing:
        _log.warning(
            "the storyboard shows boxes: this machine has no font for %s; Noto fonts have it "
            "(Debian: fonts-noto-core, fonts-noto-cjk)",
            ", ".join(sorted(missing)),
        )
    header = _draw_header(width, title, global_caption, panels, len(shown), missing)
    height = header.height + sum(row_heights) + (len(rows) - 1) * _GAP_PX + _MARGIN_PX
    page = Image.new("RGB", (width, height), _PAPER)
    page.paste(header, (0, 0))
    pen = ImageDraw.Draw(page)
    top = header.height
    for row, row_height in zip(rows, row_heights, strict=True):
        for column, card in enumerate(row):
            left = _MARGIN_PX + column * (card.width + _GAP_PX)
            box = (left, top, left + card.width - 1, top + row_height - 1)
            pen.rounded_rectangle(box, _CORNER_PX, fill=_CARD)
            page.paste(card, (left, top), _rounded_mask(card.size))
        top += row_height + _GAP_PX
    return page


def _draw_header(
    width: int, title: str, global_caption: str, panels: Sequence[Panel], num_shown: int, missing: set[str]
) -> Image.Image:
    title_font, text_font = Lettering(34), Lettering(17)
    room = width - 2 * _MARGIN_PX
    title_lines = wrap_text(drawable(title), title_font.width, room, 2)
    lines = wrap_text(drawable(global_caption), text_font.width, room, _MAX_GLOBAL_LINES)
    duration_s = sum(panel.duration_s for panel in panels)
    facts = f"{len(panels)} shot{'s' if len(panels) > 1 else ''} · {duration_s:.1f} s"
    if num_shown < len(panels):
        facts += f" · {num_shown} of them shown"
    if missing:
        facts += f" · □: no font here for {', '.join(sorted(missing))}"
    height = _MARGIN_PX + 44 * len(title_lines) + 8 + 25 * len(lines) + 10 + 25 + 22
    header = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(header)
    top = _MARGIN_PX - 6
    for line in title_lines:
        title_font.draw(pen, _MARGIN_PX, top, line, _TITLE_INK, room)
        top += 44
    top += 8
    for line in lines:
        text_font.draw(pen, _MARGIN_PX, top, line, _TEXT_INK, room)
        top += 25
    (facts,) = wrap_text(facts, Lettering(15).width, room, 1)
    Lettering(15).draw(pen, _MARGIN_PX, top + 8, facts, _FAINT_INK, room)
    return header


def _draw_card(panel: Panel, number: int) -> Image.Image:
    """Returns one card: picture, number and length, and caption; as high as it needs."""
    height, width = panel.picture.shape[:2]
    picture_height = round(_PICTURE_WIDTH_PX * height / width)
    # Pixel art is enlarged without smoothing; a large picture is reduced with it.
    filter_ = Image.Resampling.NEAREST if width <= _PICTURE_WIDTH_PX else Image.Resampling.LANCZOS
    enlarged = max(1, math.ceil(_PICTURE_WIDTH_PX / width))
    picture = Image.fromarray(panel.picture)
    if enlarged > 1:
        picture = picture.resize((width * enlarged, height * enlarged), filter_)
    picture = picture.resize((_PICTURE_WIDTH_PX, picture_height), Image.Resampling.LANCZOS)

    font, small_font = Lettering(17), plain_font(15)
    room = _PICTURE_WIDTH_PX - 2 * _PADDING_PX
    lines = wrap_text(drawable(panel.caption), font.width, room, _MAX_CAPTION_LINES)
    card_height = picture_height + _PADDING_PX + 34 + 24 * len(lines) + _PADDING_PX - 4
    card = Image.new("RGB", (_PICTURE_WIDTH_PX, card_height), _CARD)
    card.paste(picture, (0, 0))
    pen = ImageDraw.Draw(card)
    top = picture_height + _PADDING_PX
    label = f"{number}"
    badge_width = max(26, round(small_font.getlength(label)) + 16)
    badge = (_PADDING_PX, top, _PADDING_PX + badge_width, top + 24)
    pen.rounded_rectangle(badge, 12, fill=_ACCENT)
    middle = ((badge[0] + badge[2]) / 2, top + 12)
    pen.text(middle, label, font=small_font, fill=_PAPER, anchor="mm")
    duration = f"{panel.duration_s:.1f} s"
    pen.text(
        (_PICTURE_WIDTH_PX - _PADDING_PX, top + 12), duration, font=small_font, fill=_FAINT_INK, anchor="rm"
    )
    top += 34
    for line in lines:
        font.draw(pen, _PADDING_PX, top, line, _TEXT_INK, room)
        top += 24
    return card


def _rounded_mask(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), _CORNER_PX, fill=255)
    return mask
