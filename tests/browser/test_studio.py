"""The studio as a person uses it, in a real browser with the embedded model."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shotstream.film.replay import read_replay
from tests.browser.conftest import Server
from tests.browser.seen import PHONE, WIDE, Seen

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

CAPTION = "Wide shot: the purple fox jumps in the forest at sunset."
MAX_ERROR = 6.0
"""H.264's, in levels of 255: colours at half resolution, crf 16. Another frame is further off."""


@pytest.fixture
def seen(page: Any, server: Server) -> Seen:
    return Seen(page, server)


def test_the_pictures_that_are_shown_are_the_engines(seen: Seen) -> None:
    seen.page.goto(seen.server.address)
    seen.page.wait_for_selector("[data-story=fox-and-owl] img")
    seen.save("home-dark")
    seen.begin("fox-and-owl")
    first = seen.frame
    seen.until(lambda: seen.frame > first)
    seen.until_made()
    seen.pause()
    seen.save("playing-dark")
    seen.press("Home")
    seen.page.focus("#scrubber")
    for key in ("Home", "ArrowRight", "PageDown", "PageDown", "PageDown", "End", "ArrowLeft"):
        seen.page.keyboard.press(key)
        seen.until_shown(MAX_ERROR)
    own, other = seen.engines(seen.frame), seen.engines(0)
    assert np.abs(own - other).mean() > 2 * MAX_ERROR, "another frame would have been told apart"


def test_a_film_is_directed_taken_home_and_made_again(seen: Seen, tmp_path: Path) -> None:
    page = seen.page
    seen.begin("robot-by-the-sea")

    # Cut in the first chunk: the next shot begins there, with what was written.
    seen.pause()
    page.focus("#scrubber")
    page.keyboard.press("Home")
    seen.until(lambda: seen.frame == 0)
    page.fill("#next-shot", CAPTION)
    page.click(".composer .cut")
    seen.until(
        lambda: (
            page.get_by_title("time from the prompt to the first frame").count() and CAPTION in cards(seen)
        )
    )
    at = next(i for i, shot in enumerate(seen.story()["shots"]) if shot["caption"] == CAPTION)
    cut_shot = seen.story()["shots"][at - 1]
    assert next(t for t in cut_shot["takes"] if t["take_id"] == cut_shot["take_id"])["was_cut"]
    seen.until(
        lambda: page.get_attribute(".card[data-here] .face", "aria-label").startswith(f"Shot {at + 1},")
    )
    seen.save("after-a-cut-dark")
    seen.until_made()
    seen.pause()

    # Re-take: the later shots become stale, and are made again.
    page.click(".card >> nth=0 >> .face")
    old = seen.story()["shots"][0]["take_id"]
    page.click("text=Retake")
    seen.until(lambda: seen.story()["shots"][0]["take_id"] != old and "stale" in seen.statuses())
    seen.save("stale-dark")
    page.click("[aria-label='Shots'] >> text=Generate again")
    seen.until_made()
    assert page.locator(".take").count() >= 2

    # Choose the earlier take, and undo that.
    new = seen.story()["shots"][0]["take_id"]
    page.click(".take[aria-pressed=false] >> nth=0")
    seen.until(lambda: seen.story()["shots"][0]["take_id"] != new)
    page.click("[data-act=undo]")
    seen.until(lambda: seen.story()["shots"][0]["take_id"] == new)
    page.click("[data-act=redo]")
    seen.until(lambda: seen.story()["shots"][0]["take_id"] != new)
    page.click("[data-act=undo]")
    seen.until(lambda: set(seen.statuses()) == {"done"})

    # Pin a frame of the memory, and let it go.
    page.hover(".film li >> nth=0")
    page.click(".film li >> nth=0 >> .pin")
    seen.until(lambda: seen.story()["pins"])
    page.wait_for_selector(".film li[data-pinned]")
    seen.save("pinned-dark")
    page.click(".film li[data-pinned] .pin")
    seen.until(lambda: not seen.story()["pins"])

    # A branch after the second shot goes on by itself; the other one is as it was.
    before = [shot["take_id"] for shot in seen.story()["shots"]]
    page.click(".card >> nth=1 >> .face")
    page.click(".tab.new")
    seen.until(lambda: len(seen.statuses()) == 2)
    page.fill("#next-shot", "Close-up: the grey robot sleeps on the beach at night.")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card >> nth=2")
    page.click(".inspector >> text=Generate")
    seen.until(lambda: seen.statuses() == ["done"] * 3)
    seen.save("branch-dark")
    page.click(".tab >> nth=0")
    seen.until(lambda: [shot["take_id"] for shot in seen.story()["shots"]] == before)

    # Everything is there after a reload, at the same place.
    frame = seen.frame
    page.reload()
    page.wait_for_selector("#scrubber .head")
    seen.until(lambda: abs(seen.frame - frame) <= 12)
    assert seen.statuses() == ["done"] * len(before)
    page.wait_for_timeout(500)
    seen.pause()
    seen.until_shown(MAX_ERROR)

    # Taken home; the command line makes the film again and checks every frame.
    page.click(".export")
    seen.save("export-dark")
    for ending in (".mp4", ".gif", ".srt", ".vtt", ".zip", ".png", ".yaml", ".json"):
        with page.expect_download() as download:
            page.click(f".file[data-file$='{ending}'] >> nth=0")
        download.value.save_as(tmp_path / f"film{ending}")
        assert (tmp_path / f"film{ending}").stat().st_size > 0
    replay = read_replay(tmp_path / "film.json")
    taken = [
        json.loads(seen.server.read(f"api/stories/{seen.story_id}/takes/{take}/hashes")) for take in before
    ]
    assert [list(hashes) for hashes in replay.frame_sha256] == taken
    again = subprocess.run(
        [
            sys.executable,
            "-m",
            "shotstream.cli",
            "generate",
            "film.json",
            "-o",
            "again.mp4",
            "--device",
            "cpu",
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert "every frame" in again.stdout + again.stderr


def test_every_cut_reaches_the_screen(seen: Seen) -> None:
    """Once a picture that the decoder had read beyond the cut sent the page back to the old shot's end."""
    seen.begin("fox-and-owl")
    for number in range(6):
        count = seen.num_cuts_shown()
        seen.page.wait_for_timeout(200 * number)
        seen.page.fill("#next-shot", CAPTION)
        seen.page.click(".composer .cut")
        seen.until(lambda count=count: seen.num_cuts_shown() == count + 1)


def test_it_comes_back_by_itself_after_the_server_was_killed(seen: Seen) -> None:
    seen.begin("frog-and-rabbit")
    seen.until(lambda: seen.statuses()[0] == "done")
    seen.server.kill()
    seen.until(lambda: "connection was lost" in seen.line)
    seen.save("lost-dark")
    seen.server.start()
    seen.until(lambda: "connected again" in seen.line)
    seen.until_made()


def test_what_is_refused_is_said_in_one_line(seen: Seen) -> None:
    seen.begin("fox-and-owl")
    seen.page.fill("input[inputmode=numeric]", "99999999999999999999")
    seen.page.keyboard.press("Enter")
    seen.until(lambda: "seed: a seed is a whole number" in seen.line)
    seen.page.fill("#next-shot", "A dragon reads.")
    seen.until(lambda: "dragon, reads" in seen.page.text_content("#advice"))
    seen.press("?")
    seen.save("keys-dark")
    seen.page.keyboard.press("Escape")
    seen.page.wait_for_selector("dialog", state="detached")


@pytest.mark.parametrize(("scheme", "size"), [("light", None), ("dark", PHONE), ("light", PHONE)])
def test_light_and_dark_wide_and_on_a_phone(
    browser: Any, server: Server, scheme: str, size: dict[str, int] | None
) -> None:
    context = browser.new_context(viewport=size or WIDE, color_scheme=scheme, has_touch=size is not None)
    kind = f"phone-{scheme}" if size else scheme
    try:
        seen = Seen(context.new_page(), server)
        seen.page.goto(server.address)
        seen.page.wait_for_selector("[data-story=fox-and-owl] img")
        seen.save(f"home-{kind}")
        seen.begin("fox-and-owl")
        seen.until(lambda: seen.statuses()[2] == "done")
        seen.save(f"playing-{kind}")
        is_wider = "() => document.documentElement.scrollWidth > innerWidth"
        assert not seen.page.evaluate(is_wider), "nothing sticks out sideways"
        ground = seen.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        lightness = sum(int(part) for part in ground[4:-1].split(","))
        assert (lightness > 600) == (scheme == "light")
        width = seen.page.evaluate("() => document.querySelector('video').getBoundingClientRect().width")
        assert width % 80 == 0, "each of the engine's pixels is a whole number of the screen's"
        buttons = "() => [...document.querySelectorAll('button')].map(b => b.ariaLabel || b.textContent)"
        assert all(seen.page.evaluate(buttons)), "every button has a name"
    finally:
        context.close()


def test_the_keyboard_reaches_everything_and_types_where_it_is(seen: Seen) -> None:
    """Once a handler that returned false kept every key out of the title, Tab included."""
    page = seen.page
    seen.begin("fox-and-owl")
    seen.pause()
    seen.until(lambda: page.is_enabled(".export"))
    page.focus(".mark")
    wanted = [
        ".title",
        "[data-act=undo]",
        ".export",
        ".play",
        "#scrubber",
        "#next-shot",
        ".cut",
        ".film .pin",
    ]
    wanted += [".inspector textarea", ".inspector summary", ".tab", ".face"]
    for _ in range(80):
        page.keyboard.press("Tab")
        if wanted and page.evaluate("(css) => document.activeElement.matches(css)", wanted[0]):
            wanted.pop(0)
    assert not wanted, "reached by Tab, in this order"
    page.focus(".title")
    page.keyboard.press("Control+A")
    page.keyboard.type("Two friends")
    page.keyboard.press("Enter")
    seen.until(lambda: seen.story()["title"] == "Two friends")


def test_a_caption_that_is_being_edited_stays_while_the_film_goes_on(seen: Seen) -> None:
    seen.begin("fox-and-owl")
    seen.until(lambda: len([status for status in seen.statuses() if status == "done"]) >= 2)
    seen.pause()
    seen.page.focus("#scrubber")
    seen.page.keyboard.press("Home")
    seen.until(lambda: seen.page.text_content(".inspector h2 >> nth=0") == "Shot 1")
    seen.page.click(".inspector textarea >> nth=0")
    seen.page.keyboard.press("End")
    seen.page.keyboard.type(" Slowly.")
    here = ".card[data-here] .face"
    seen.page.evaluate("() => document.querySelector('.play').click()")
    seen.until(lambda: seen.page.get_attribute(here, "aria-label").startswith("Shot 2,"))
    assert seen.page.input_value(".inspector textarea >> nth=0").endswith("Slowly.")
    assert seen.page.text_content(".inspector h2 >> nth=0") == "Shot 1"
    seen.press("Escape")
    seen.until(lambda: seen.story()["shots"][0]["caption"].endswith("Slowly."))


def test_cards_put_words_into_a_story(seen: Seen) -> None:
    page = seen.page
    page.goto(seen.server.address)
    page.click(".compose summary")
    told = "A purple fox and a yellow owl in the forest at night."
    cards = (
        "on the beach",
        "a purple fox",
        "a red frog",
        "at night",
        "in the forest",
        "a yellow owl",
        "at night",
    )
    for words in cards:
        page.click(f".compose [aria-label='Add {words}']")
    seen.save("cast-dark")
    seen.until(lambda: page.input_value(".compose textarea") == told)
    page.click(".compose .primary")
    seen.until(lambda: seen.story_id and seen.story()["global_caption"] == told)
    assert len(seen.story()["shots"]) == 3


def test_the_routes_are_listed_from_our_own_files(seen: Seen) -> None:
    page = seen.page
    page.goto(seen.server.address + "api/docs")
    page.wait_for_selector(".route")
    assert page.locator(".route").count() == sum(
        len(methods) for methods in json.loads(seen.server.read("api/openapi.json"))["paths"].values()
    )
    page.click(".route summary:has-text('/api/model')")
    page.click("text=Send the request")
    seen.until(lambda: '"weights_sha256"' in page.text_content(".route pre"))
    seen.save("routes-dark")


def cards(seen: Seen) -> list[str]:
    return [card.text_content() for card in seen.page.query_selector_all(".card .caption")]
