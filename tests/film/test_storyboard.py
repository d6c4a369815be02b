import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from shotstream.film import lettering, storyboard
from shotstream.film.lettering import Lettering, drawable, missing_scripts
from shotstream.film.storyboard import MAX_SHOWN_SHOTS, Panel, draw_storyboard

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


@pytest.mark.slow
def test_of_very_many_shots_an_even_choice_is_shown() -> None:
    assert num_coloured("A title", [panel()] * 300) == pytest.approx(MAX_SHOWN_SHOTS, rel=0.01)


def test_large_pictures_long_words_and_other_scripts_fit() -> None:
    panels = [panel("x" * 3000, 480, 832), panel("狐 " * 900), panel("word " * 900, 1, 1)]
    assert (
        draw_storyboard("t" * 200, "global " * 1000, panels).width == draw_storyboard("t", "g", panels).width
    )
    with pytest.raises(ValueError, match="at least one"):
        draw_storyboard("t", "g", [])


KNOWN = "Dashes — – “quotes” … €5 → naïve Łódź ½ Лиса Η αλεπού שלום مرحبا 😀 fox"


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which no font is installed."""
    caches = (lettering._face_of, lettering._installed)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(lettering, "_without_font", set())
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def ink(line: str, room: float = 300.0, size_px: int = 20) -> np.ndarray:
    """Which pixels of a line 300 wide and 40 high are drawn."""
    page = Image.new("RGB", (300, 40))
    Lettering(size_px).draw(ImageDraw.Draw(page), 0, 5, line, (255, 255, 255), room)
    return np.asarray(page)[:, :, 0] > 80


@pytest.mark.usefixtures("no_fonts")
def test_dashes_accents_and_other_alphabets_are_drawn_on_every_machine() -> None:
    assert drawable(KNOWN) == KNOWN and missing_scripts(KNOWN) == set()
    drawn = [ink(letter).tobytes() for letter in "—–…“€éЛλשم😀½→□"]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.usefixtures("no_fonts")
def test_what_has_no_glyph_is_a_box_or_a_name_and_the_page_and_the_log_say_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert drawable("狐。 fox 🦊 and 👩🏽\u200d🚀 नम") == "□□ fox [fox face] and [woman] □□"
    assert missing_scripts("狐。 fox 🦊 नम") == {"Chinese", "Devanagari"}
    plain, boxes = (draw_storyboard("A fox", text, [panel()]) for text in ("A wood", "A 狐"))
    assert [record.getMessage() for record in caplog.records] == [
        "the storyboard shows boxes: this machine has no font for Chinese; Noto fonts have it "
        "(Debian: fonts-noto-core, fonts-noto-cjk)"
    ]
    facts = np.asarray(plain)[120:155] != np.asarray(boxes)[120:155]
    assert facts.any()


def test_an_installed_font_is_asked_for_what_ours_have_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_fonts: None
) -> None:
    del no_fonts
    (tmp_path / "aSans-Regular.ttf").write_text("no font")
    wide = lettering._WIDE[0]  # pyright: ignore[reportPrivateUsage]
    answer = f"/zSansMono.ttf\t0\n{tmp_path / 'aSans-Regular.ttf'}\t0\n{wide}\t0\n"
    monkeypatch.setattr(shutil, "which", lambda _: "fc-list")
    monkeypatch.setattr(lettering, "_WIDE", lettering._PLAIN)  # pyright: ignore[reportPrivateUsage]
    asked: list[str] = []

    def answering(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[1])
        return subprocess.CompletedProcess(command, 0, answer, "")

    monkeypatch.setattr(subprocess, "run", answering)
    assert drawable("Лиса 狐狐 月") == "Лиса □□ □"
    assert asked == [f":charset={ord(letter):x}:scalable=true" for letter in "Лиса狐"]  # a script only once
    assert ink("Лиса狐").any()


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow was built without Raqm")
def test_right_to_left_text_is_joined_ordered_and_ends_at_the_right() -> None:
    letters = Lettering(20)
    word = "\u0628\u0628\u0628\u0628"  # noon-like teeth when joined, four bowls when not
    assert letters.width(word) < 4 * letters.width("\u0628") - 4
    columns = np.flatnonzero(ink(KNOWN.split()[-3]).any(axis=0))
    assert columns[0] > 150 and 285 < columns[-1] < 300
    hebrew, reverse = ink("\u05d0\u05d1"), ink("\u05d1\u05d0")
    assert not np.array_equal(hebrew, reverse)
    left_of_alef = ink("\u05d0")
    assert np.array_equal(hebrew[:, 289:], left_of_alef[:, 289:])  # the first letter is the rightmost


@pytest.mark.parametrize("caption", ["word " * 90, "狐" * 400, "مرحبا " * 90, "😀" * 300, "Лиса狐" * 90])
def test_no_caption_leaves_its_card(caption: str) -> None:
    page = np.asarray(draw_storyboard("A fox", "Global.", [panel(caption), panel(caption)]))
    card = (33, 35, 44)
    below = page[-200:-45]
    for left in (40, 40 + 400 + 24):
        assert (below[:, left + 2 : left + 13] == card).all() and (
            below[:, left + 386 : left + 398] == card
        ).all()


PAPER, CARD, ACCENT = (22, 23, 29), (33, 35, 44), (242, 180, 65)


def runs(is_ink: np.ndarray) -> list[tuple[int, int]]:
    """Where the stretches of ink along a line begin and end."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], is_ink.astype(int), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def extent(is_ink: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is drawn."""
    rows, columns = (np.flatnonzero(is_ink.any(axis=axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def near(colour: tuple[int, int, int], pixels: np.ndarray) -> np.ndarray:
    return np.abs(pixels.astype(int) - colour).max(axis=-1) < 40


@pytest.mark.parametrize(("num_shots", "num_columns"), [(1, 1), (2, 2), (3, 3), (4, 3), (9, 3), (10, 4)])
def test_cards_stand_in_rows_as_high_as_their_highest_with_margins_and_gaps_of_paper(
    num_shots: int, num_columns: int
) -> None:
    captions = ["word " * (60 if index == 1 else 1) for index in range(num_shots)]
    page = np.asarray(draw_storyboard("t", "g", [panel(caption) for caption in captions]))
    drawn = (page != PAPER).any(axis=-1)
    header = 40 + 44 + 8 + 25 + 57
    lefts = [40 + 424 * column for column in range(num_columns)]
    assert page.shape[1] == lefts[-1] + 400 + 40
    assert runs(drawn[header + 100]) == [(left, left + 400) for left in lefts]
    num_rows = -(-num_shots // num_columns)
    low = 240 + 16 + 34 + 24 + 12
    heights = [low + (5 * 24 if num_shots > 1 else 0), *[low] * (num_rows - 1)]
    tops = [header + sum(heights[:row]) + 24 * row for row in range(num_rows)]
    found = [run for run in runs(drawn[:, 40 + 200]) if run[0] >= header]
    assert found == [(top, top + height) for top, height in zip(tops, heights, strict=True)]
    assert page.shape[0] == tops[-1] + heights[-1] + 40
    for left in lefts:  # corners are rounded, and so are those of the picture in it
        for corner in ((header, left), (header, left + 399), (header + heights[0] - 1, left + 399)):
            assert (page[corner] == PAPER).all()
        assert (page[header, left + 13] == COLOUR).all() and (page[header + 13, left] == COLOUR).all()


def test_a_cards_number_lies_in_its_badge_and_its_length_at_the_right() -> None:
    def badge_and_length(number: int, duration_s: float) -> tuple[np.ndarray, np.ndarray]:
        shot = Panel(picture=panel().picture, caption="A fox.", duration_s=duration_s)
        row = np.asarray(storyboard._draw_card(shot, number))[256 - 4 : 256 + 30]  # pyright: ignore
        return row[:, :200], row[:, 200:]

    digits: list[bytes] = []
    for number, width in ((1, 26), (7, 26), (300, None)):
        badge, _ = badge_and_length(number, 2.75)
        left, top, right, bottom = extent(near(ACCENT, badge))
        assert (left, top, bottom) == (16, 4, 4 + 25) and (width is None or right == 16 + width + 1)
        inside = badge[top + 4 : bottom - 4, left + 6 : right - 6]
        inked = extent(near(PAPER, inside))
        assert inked[0] >= 1 and inked[2] < inside.shape[1]  # with room around it
        assert inked[0] + inked[2] == pytest.approx(inside.shape[1], abs=3)  # in the middle
        assert inked[1] + inked[3] == pytest.approx(inside.shape[0], abs=3)
        digits.append(inside.tobytes())
    assert len(set(digits)) == 3
    lengths = [badge_and_length(1, duration_s)[1] for duration_s in (2.75, 12.0)]
    for length in lengths:
        _, top, right, bottom = extent((length != CARD).any(axis=-1))
        assert 200 - 16 - 2 <= right <= 200 - 16 and (top + bottom) / 2 == pytest.approx(4 + 12, abs=1.5)
    assert not np.array_equal(*lengths)


def test_every_text_is_on_the_page_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Title and global caption as wide as the page, the facts below them, captions in their cards."""
    texts: list[tuple[str, int, int, float, float]] = []

    def draw(
        self: Lettering, _pen: object, left: int, top: int, line: str, _ink: object, room: float
    ) -> None:
        texts.append((line, left, top, room, self.width("é" * 100)))

    monkeypatch.setattr(Lettering, "draw", draw)
    sizes = {size: Lettering(size).width("é" * 100) for size in (15, 17, 34)}
    page = draw_storyboard("Title " * 99, "Global " * 999, [panel("Word " * 99), panel("B")])
    cards, header = texts[:7], texts[7:]
    assert [text[1:] for text in cards] == [
        (16, 240 + 16 + 34 + 24 * line, 368, sizes[17]) for line in (0, 1, 2, 3, 4, 5, 0)
    ]
    room = page.width - 80
    assert [text[1:] for text in header] == [
        *((40, 34 + 44 * line, room, sizes[34]) for line in (0, 1)),
        *((40, 34 + 88 + 8 + 25 * line, room, sizes[17]) for line in (0, 1, 2, 3)),
        (40, 34 + 88 + 8 + 100 + 8, room, sizes[15]),
    ]
    assert [text[0][-1] for text in (cards[5], header[1], header[5])] == ["…"] * 3
    assert (cards[6][0], header[-1][0]) == ("B", "2 shots · 5.5 s")
    for num_shots, facts in ((1, "1 shot · 2.8 s"), (61, "61 shots · 167.8 s · 60 of them shown")):
        texts.clear()
        draw_storyboard("t", "g", [panel("a", 1, 1)] * num_shots)
        assert texts[-1][0] == facts


def test_of_very_many_shots_the_first_and_the_last_are_shown_with_their_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers: list[int] = []

    def draw_card(_panel: Panel, number: int) -> Image.Image:
        numbers.append(number)
        return Image.new("RGB", (400, 1))

    monkeypatch.setattr(storyboard, "_draw_card", draw_card)
    draw_storyboard("t", "g", [panel("a", 1, 1)] * 300)
    assert (len(numbers), numbers[0], numbers[-1]) == (60, 1, 300)
    assert {after - before for before, after in itertools.pairwise(numbers)} == {5, 6}


def test_pixels_of_a_small_picture_stay_crisp_and_its_shape_is_kept() -> None:
    squares = np.random.default_rng(0).integers(0, 256, (30, 100, 3), dtype=np.uint8)
    crisp = storyboard._draw_card(Panel(picture=squares, caption="a", duration_s=1.0), 1)  # pyright: ignore
    assert np.array_equal(np.asarray(crisp)[:120], squares.repeat(4, 0).repeat(4, 1))
    exact = np.random.default_rng(0).integers(0, 256, (20, 400, 3), dtype=np.uint8)
    same = storyboard._draw_card(Panel(picture=exact, caption="a", duration_s=1.0), 1)  # pyright: ignore
    assert np.array_equal(np.asarray(same)[:20], exact)
    wide = np.zeros((50, 800, 3), np.uint8)
    wide[:, ::2] = 200
    small = np.asarray(storyboard._draw_card(Panel(picture=wide, caption="a", duration_s=1.0), 1))  # pyright: ignore
    assert np.abs(small[:25, 4:-4].astype(int) - 100).max() < 12  # smooth: every other column would flicker
