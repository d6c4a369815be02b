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
from tests.browser.studio_page import PHONE, WIDE, StudioPage

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

CAPTION = "Wide shot: the purple fox jumps in the forest at sunset."
MAX_ERROR = 6.0
"""H.264's, in levels of 255: colours at half resolution, crf 16. Another frame is further off."""


@pytest.fixture
def studio_page(page: Any, server: Server) -> StudioPage:
    return StudioPage(page, server)


def test_the_pictures_that_are_shown_are_the_engines(studio_page: StudioPage) -> None:
    studio_page.page.goto(studio_page.server.address)
    studio_page.page.wait_for_selector("[data-story=fox-and-owl] img")
    studio_page.screenshot("home-dark")
    studio_page.start_story("fox-and-owl")
    first = studio_page.frame
    studio_page.wait_until(lambda: studio_page.frame > first)
    studio_page.wait_until_generated()
    studio_page.pause()
    studio_page.screenshot("playing-dark")
    studio_page.press("Home")
    studio_page.page.focus("#scrubber")
    for key in ("Home", "ArrowRight", "PageDown", "PageDown", "PageDown", "End", "ArrowLeft"):
        studio_page.page.keyboard.press(key)
        studio_page.wait_until_shown(MAX_ERROR)
    own, other = studio_page.expected_frame(studio_page.frame), studio_page.expected_frame(0)
    assert np.abs(own - other).mean() > 2 * MAX_ERROR, "another frame would have been told apart"


def test_a_film_is_directed_taken_home_and_made_again(studio_page: StudioPage, tmp_path: Path) -> None:
    page = studio_page.page
    studio_page.start_story("robot-by-the-sea")

    # Cut in the first chunk: the next shot begins there, with what was written.
    studio_page.pause()
    page.focus("#scrubber")
    page.keyboard.press("Home")
    studio_page.wait_until(lambda: studio_page.frame == 0)
    page.fill("#next-shot", CAPTION)
    page.click(".composer .cut")
    studio_page.wait_until(
        lambda: (
            page.get_by_title("time from the prompt to the first frame").count()
            and CAPTION in cards(studio_page)
        )
    )
    at = next(i for i, shot in enumerate(studio_page.story()["shots"]) if shot["caption"] == CAPTION)
    cut_shot = studio_page.story()["shots"][at - 1]
    assert next(t for t in cut_shot["takes"] if t["take_id"] == cut_shot["take_id"])["was_cut"]
    studio_page.wait_until(
        lambda: page.get_attribute(".card[data-here] .face", "aria-label").startswith(f"Shot {at + 1},")
    )
    studio_page.screenshot("after-a-cut-dark")
    studio_page.wait_until_generated()
    studio_page.pause()

    # Re-take: the later shots become stale, and are made again.
    page.click(".card >> nth=0 >> .face")
    old = studio_page.story()["shots"][0]["take_id"]
    page.click("text=Retake")
    studio_page.wait_until(
        lambda: studio_page.story()["shots"][0]["take_id"] != old and "stale" in studio_page.statuses()
    )
    studio_page.screenshot("stale-dark")
    page.click("[aria-label='Shots'] >> text=Generate again")
    studio_page.wait_until_generated()
    assert page.locator(".take").count() >= 2

    # Choose the earlier take, and undo that.
    new = studio_page.story()["shots"][0]["take_id"]
    page.click(".take[aria-pressed=false] >> nth=0")
    studio_page.wait_until(lambda: studio_page.story()["shots"][0]["take_id"] != new)
    page.click("[data-act=undo]")
    studio_page.wait_until(lambda: studio_page.story()["shots"][0]["take_id"] == new)
    page.click("[data-act=redo]")
    studio_page.wait_until(lambda: studio_page.story()["shots"][0]["take_id"] != new)
    page.click("[data-act=undo]")
    studio_page.wait_until(lambda: set(studio_page.statuses()) == {"done"})

    # Pin a frame of the memory, and let it go.
    page.hover(".film li >> nth=0")
    page.click(".film li >> nth=0 >> .pin")
    studio_page.wait_until(lambda: studio_page.story()["pins"])
    page.wait_for_selector(".film li[data-pinned]")
    studio_page.screenshot("pinned-dark")
    page.click(".film li[data-pinned] .pin")
    studio_page.wait_until(lambda: not studio_page.story()["pins"])

    # A branch after the second shot goes on by itself; the other one is as it was.
    before = [shot["take_id"] for shot in studio_page.story()["shots"]]
    page.click(".card >> nth=1 >> .face")
    page.click(".tab.new")
    studio_page.wait_until(lambda: len(studio_page.statuses()) == 2)
    page.fill("#next-shot", "Close-up: the grey robot sleeps on the beach at night.")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card >> nth=2")
    page.click(".inspector >> text=Generate")
    studio_page.wait_until(lambda: studio_page.statuses() == ["done"] * 3)
    studio_page.screenshot("branch-dark")
    page.click(".tab >> nth=0")
    studio_page.wait_until(lambda: [shot["take_id"] for shot in studio_page.story()["shots"]] == before)

    # Everything is there after a reload, at the same place.
    frame = studio_page.frame
    page.reload()
    page.wait_for_selector("#scrubber .head")
    studio_page.wait_until(lambda: abs(studio_page.frame - frame) <= 12)
    assert studio_page.statuses() == ["done"] * len(before)
    page.wait_for_timeout(500)
    studio_page.pause()
    studio_page.wait_until_shown(MAX_ERROR)

    # Taken home; the command line makes the film again and checks every frame.
    page.click(".export")
    studio_page.screenshot("export-dark")
    for ending in (".mp4", ".gif", ".srt", ".vtt", ".zip", ".png", ".yaml", ".json"):
        with page.expect_download() as download:
            page.click(f".file[data-file$='{ending}'] >> nth=0")
        download.value.save_as(tmp_path / f"film{ending}")
        assert (tmp_path / f"film{ending}").stat().st_size > 0
    replay = read_replay(tmp_path / "film.json")
    taken = [
        json.loads(studio_page.server.read(f"api/stories/{studio_page.story_id}/takes/{take}/hashes"))
        for take in before
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


def test_every_cut_reaches_the_screen(studio_page: StudioPage) -> None:
    """Once a picture that the decoder had read beyond the cut sent the page back to the old shot's end."""
    studio_page.start_story("fox-and-owl")
    for number in range(6):
        count = studio_page.num_cuts_shown()
        studio_page.page.wait_for_timeout(200 * number)
        studio_page.page.fill("#next-shot", CAPTION)
        studio_page.page.click(".composer .cut")
        studio_page.wait_until(lambda count=count: studio_page.num_cuts_shown() == count + 1)


def test_it_comes_back_by_itself_after_the_server_was_killed(studio_page: StudioPage) -> None:
    studio_page.start_story("frog-and-rabbit")
    studio_page.wait_until(lambda: studio_page.statuses()[0] == "done")
    studio_page.server.kill()
    studio_page.wait_until(lambda: "connection was lost" in studio_page.line)
    studio_page.screenshot("lost-dark")
    studio_page.server.start()
    studio_page.wait_until(lambda: "connected again" in studio_page.line)
    studio_page.wait_until_generated()


def test_what_is_refused_is_said_in_one_line(studio_page: StudioPage) -> None:
    studio_page.start_story("fox-and-owl")
    studio_page.page.fill("input[inputmode=numeric]", "99999999999999999999")
    studio_page.page.keyboard.press("Enter")
    studio_page.wait_until(lambda: "seed: a seed is a whole number" in studio_page.line)
    studio_page.page.fill("#next-shot", "Violet waves to a dragon.")
    studio_page.wait_until(lambda: "the purple fox waves" in studio_page.page.text_content("#advice"))
    assert "dragon: frog?" in studio_page.page.text_content("#advice strong")
    studio_page.press("?")
    studio_page.screenshot("keys-dark")
    studio_page.page.keyboard.press("Escape")
    studio_page.page.wait_for_selector("dialog", state="detached")


@pytest.mark.parametrize(("scheme", "size"), [("light", None), ("dark", PHONE), ("light", PHONE)])
def test_light_and_dark_wide_and_on_a_phone(
    browser: Any, server: Server, scheme: str, size: dict[str, int] | None
) -> None:
    context = browser.new_context(viewport=size or WIDE, color_scheme=scheme, has_touch=size is not None)
    kind = f"phone-{scheme}" if size else scheme
    try:
        studio_page = StudioPage(context.new_page(), server)
        studio_page.page.goto(server.address)
        studio_page.page.wait_for_selector("[data-story=fox-and-owl] img")
        studio_page.screenshot(f"home-{kind}")
        studio_page.start_story("fox-and-owl")
        studio_page.wait_until(lambda: studio_page.statuses()[2] == "done")
        studio_page.screenshot(f"playing-{kind}")
        is_wider = "() => document.documentElement.scrollWidth > innerWidth"
        assert not studio_page.page.evaluate(is_wider), "nothing sticks out sideways"
        ground = studio_page.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        lightness = sum(int(part) for part in ground[4:-1].split(","))
        assert (lightness > 600) == (scheme == "light")
        width = studio_page.page.evaluate(
            "() => document.querySelector('video').getBoundingClientRect().width"
        )
        assert width % 80 == 0, "each of the engine's pixels is a whole number of the screen's"
        buttons = "() => [...document.querySelectorAll('button')].map(b => b.ariaLabel || b.textContent)"
        assert all(studio_page.page.evaluate(buttons)), "every button has a name"
    finally:
        context.close()


def test_the_keyboard_reaches_everything_and_types_where_it_is(studio_page: StudioPage) -> None:
    """Once a handler that returned false kept every key out of the title, Tab included."""
    page = studio_page.page
    studio_page.start_story("fox-and-owl")
    studio_page.pause()
    studio_page.wait_until(lambda: page.is_enabled(".export"))
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
    studio_page.wait_until(lambda: studio_page.story()["title"] == "Two friends")


def test_a_caption_that_is_being_edited_stays_while_the_film_goes_on(studio_page: StudioPage) -> None:
    studio_page.start_story("fox-and-owl")
    studio_page.wait_until(
        lambda: len([status for status in studio_page.statuses() if status == "done"]) >= 2
    )
    studio_page.pause()
    studio_page.page.focus("#scrubber")
    studio_page.page.keyboard.press("Home")
    studio_page.wait_until(lambda: studio_page.page.text_content(".inspector h2 >> nth=0") == "Shot 1")
    studio_page.page.click(".inspector textarea >> nth=0")
    studio_page.page.keyboard.press("End")
    studio_page.page.keyboard.type(" Slowly.")
    here = ".card[data-here] .face"
    studio_page.page.evaluate("() => document.querySelector('.play').click()")
    studio_page.wait_until(lambda: studio_page.page.get_attribute(here, "aria-label").startswith("Shot 2,"))
    assert studio_page.page.input_value(".inspector textarea >> nth=0").endswith("Slowly.")
    assert studio_page.page.text_content(".inspector h2 >> nth=0") == "Shot 1"
    studio_page.press("Escape")
    studio_page.wait_until(lambda: studio_page.story()["shots"][0]["caption"].endswith("Slowly."))


def test_cards_put_words_into_a_story(studio_page: StudioPage) -> None:
    page = studio_page.page
    page.goto(studio_page.server.address)
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
    studio_page.screenshot("cast-dark")
    studio_page.wait_until(lambda: page.input_value(".compose textarea") == told)
    page.click(".compose .primary")
    studio_page.wait_until(lambda: studio_page.story_id and studio_page.story()["global_caption"] == told)
    assert len(studio_page.story()["shots"]) == 3


def test_the_routes_are_listed_from_our_own_files(studio_page: StudioPage) -> None:
    page = studio_page.page
    page.goto(studio_page.server.address + "api/docs")
    page.wait_for_selector(".route")
    assert page.locator(".route").count() == sum(
        len(methods) for methods in json.loads(studio_page.server.read("api/openapi.json"))["paths"].values()
    )
    page.click(".route summary:has-text('/api/model')")
    page.click("text=Send the request")
    studio_page.wait_until(lambda: '"weights_sha256"' in page.text_content(".route pre"))
    studio_page.screenshot("routes-dark")


def cards(studio_page: StudioPage) -> list[str]:
    return [card.text_content() for card in studio_page.page.query_selector_all(".card .caption")]
