import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from shotstream.film import lettering
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
