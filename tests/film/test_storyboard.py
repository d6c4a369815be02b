import numpy as np
import pytest
from PIL import ImageFont

from shotstream.film.storyboard import MAX_SHOWN_SHOTS, Panel, draw_storyboard, wrap_text

COLOUR = (10, 200, 30)


def panel(caption: str = "A fox.", height: int = 48, width: int = 80) -> Panel:
    picture = np.broadcast_to(np.array(COLOUR, dtype=np.uint8), (height, width, 3)).copy()
    return Panel(picture=picture, caption=caption, duration_s=2.75)


def num_coloured(title: str, panels: list[Panel]) -> float:
    """Area of the panels' colour, in pictures of 400 x 240 pixels."""
    page = np.asarray(draw_storyboard(title, "Global.", panels))
    return float((page == COLOUR).all(axis=-1).sum()) / (400 * 240)


def test_every_shot_is_on_the_page() -> None:
    for num_shots in (1, 2, 5, 13):
        assert num_coloured("A title", [panel()] * num_shots) == pytest.approx(num_shots, rel=0.01)


def test_of_very_many_shots_an_even_choice_is_shown() -> None:
    assert num_coloured("A title", [panel()] * 300) == pytest.approx(MAX_SHOWN_SHOTS, rel=0.01)


def test_large_pictures_long_words_and_other_scripts_fit() -> None:
    panels = [panel("x" * 3000, 480, 832), panel("狐 " * 900), panel("word " * 900, 1, 1)]
    assert (
        draw_storyboard("t" * 200, "global " * 1000, panels).width == draw_storyboard("t", "g", panels).width
    )
    with pytest.raises(ValueError, match="at least one"):
        draw_storyboard("t", "g", [])


def test_wrapped_lines_fit_and_what_is_too_much_ends_in_an_ellipsis() -> None:
    font = ImageFont.load_default(17)
    assert isinstance(font, ImageFont.FreeTypeFont)
    text = "It sits in a meadow by the sea and waits " * 4 + "w" * 200
    lines = wrap_text(text, font, 200, 50)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(font.getlength(line) <= 200 for line in lines)
    short = wrap_text(text, font, 200, 2)
    assert len(short) == 2 and short[1].endswith("…") and font.getlength(short[1]) <= 200
