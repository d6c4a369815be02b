"""Steering a running shot, and a cast of one's own pictures, as a person uses them in a real browser."""

import base64
import io
import json
import urllib.request
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import Server
from tests.browser.studio_page import PHONE, WIDE, StudioPage

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

GLOBAL = "A purple fox and a yellow owl in the forest at sunset."
FIRST = "Wide shot: the purple fox walks in the forest at sunset."
TURNED = "The purple fox dances."
NARROW = {"width": 1000, "height": 720}
_DROP = """([name, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type: "image/png" }));
  const place = document.querySelector(".stage");
  for (const type of ["dragover", "drop"]) {
    place.dispatchEvent(new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer }));
  }
}"""


@pytest.fixture
def studio_page(page: Any, server: Server) -> StudioPage:
    return StudioPage(page, server)


def picture(width: int = 400, height: int = 240) -> bytes:
    """A sun over a hill, which is not of the theatre's world."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 2] = 120 + 100 * rows // height
    pixels[(rows - height // 2) ** 2 + (columns - width // 2) ** 2 < (height // 4) ** 2] = (255, 220, 90)
    pixels[rows > height * 3 // 4] = (40, 110, 50)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "png")
    return data.getvalue()


def open_story(studio_page: StudioPage, *shots: dict[str, Any], autoplay: bool = True) -> None:
    """A new story, which is open in the page."""
    body = {"title": "Two friends", "global_caption": GLOBAL, "shots": shots, "autoplay": autoplay}
    request = urllib.request.Request(
        studio_page.server.address + "api/stories",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        story_id = json.load(answer)["story_id"]
    studio_page.page.goto(f"{studio_page.server.address}#/{story_id}")
    studio_page.page.wait_for_selector(".composer")


def open_running_shot(studio_page: StudioPage) -> None:
    """A long shot that waits for its viewer in the middle of its generation."""
    open_story(studio_page, {"caption": FIRST, "num_chunks": 12})
    studio_page.wait_until(lambda: studio_page.page.locator(".chunks [data-made]").count() >= 2)
    studio_page.pause()


def add_picture(studio_page: StudioPage, name: str = "The Sun.png") -> None:
    given = {"name": name, "mimeType": "image/png", "buffer": picture()}
    studio_page.page.set_input_files("#add-picture", given)
    studio_page.page.wait_for_selector(".reference.new")


def test_a_running_shot_is_steered_and_its_card_says_so(studio_page: StudioPage) -> None:
    page = studio_page.page
    open_running_shot(studio_page)
    page.fill("#next-shot", TURNED)
    studio_page.wait_until(lambda: "Steering shot 1:" in page.text_content("#advice"))
    page.select_option(".steer select", "blend")
    studio_page.screenshot("steer-dark")
    page.click(".steer .turn")
    studio_page.wait_until(lambda: "shot 1 turns with its chunk" in studio_page.line)
    page.wait_for_selector(".card .later")
    assert page.text_content(".card .later") == f"then: {TURNED}"
    assert TURNED in page.get_attribute(".card .face", "aria-label")
    assert page.input_value("#next-shot") == ""
    (then,) = studio_page.story()["shots"][0]["then"]
    assert (then["caption"], then["mode"]) == (TURNED, "blend") and then["chunk_index"] >= 1
    studio_page.screenshot("steered-dark")

    # Undo makes the take again without it, the second time it is steered by the keyboard.
    page.click("[data-act=undo]")
    studio_page.wait_until(lambda: studio_page.story()["shots"][0]["then"] == [])
    studio_page.wait_until(lambda: page.locator(".chunks [data-made]").count() >= 2)
    page.fill("#next-shot", TURNED)
    page.press("#next-shot", "Alt+Enter")
    page.wait_for_selector(".card .later")
    page.click(".play")
    studio_page.wait_until(lambda: studio_page.statuses() == ["done"])
    assert studio_page.story()["shots"][0]["takes"][0]["then"]
    subtitles = studio_page.server.read(f"api/stories/{studio_page.story_id}/export/film.srt").decode()
    assert TURNED in subtitles and subtitles.index(TURNED) > subtitles.index("purple fox walks")
    page.click(".later-captions [aria-label^='Take away']")
    studio_page.wait_until(lambda: studio_page.statuses() == ["stale"])


def test_why_a_shot_cannot_be_steered_is_said_in_one_line(studio_page: StudioPage) -> None:
    page = studio_page.page
    open_story(studio_page, {"caption": FIRST, "num_chunks": 1}, autoplay=False)
    studio_page.press("t")
    studio_page.wait_until(lambda: "write what the running shot turns to" in studio_page.line)
    page.fill("#next-shot", TURNED)
    page.click(".steer .turn")
    studio_page.wait_until(lambda: "no shot is being made" in studio_page.line)
    assert page.input_value("#next-shot") == TURNED


def test_a_picture_is_dropped_cited_and_seen_in_the_memory(studio_page: StudioPage) -> None:
    page = studio_page.page
    open_story(studio_page, {"caption": FIRST, "num_chunks": 2})
    studio_page.wait_until_generated()
    page.evaluate(_DROP, ["Old Sun.png", base64.b64encode(picture()).decode()])
    page.wait_for_selector(".reference.new img")
    assert page.evaluate("() => document.activeElement.value") == "old-sun"
    assert "not one of this model's world" in page.text_content(".reference.new .why")
    rendering = "() => getComputedStyle(document.querySelector('.reference.new img')).imageRendering"
    assert page.evaluate(rendering) == "pixelated"
    studio_page.screenshot("new-picture-dark")
    page.fill(".reference.new input", "sun")
    page.fill(".reference.new textarea", "a sun over a hill")
    page.select_option(".reference.new select >> nth=1", "cited")
    page.press(".reference.new textarea", "Enter")
    page.wait_for_selector(".references .reference")
    assert studio_page.statuses() == ["done"], "nobody cites it yet"
    assert page.evaluate("() => document.activeElement.id") == "add-picture"

    # The composer completes its name.
    page.focus("#next-shot")
    page.keyboard.type("Close-up: @s")
    page.wait_for_selector(".citations [role=option]")
    assert page.get_attribute("#next-shot", "aria-activedescendant") == "citation-0"
    studio_page.screenshot("citing-dark")
    page.keyboard.press("Enter")
    page.keyboard.type("waves.")
    assert page.input_value("#next-shot") == "Close-up: @sun waves."
    page.keyboard.press("Enter")
    studio_page.wait_until(lambda: studio_page.statuses() == ["done", "done"])
    studio_page.pause()
    take = studio_page.story()["shots"][1]["takes"][0]
    assert [one["reference_id"] for one in take["context"]][:2] == ["sun", None]

    # What the next shot remembers has it when all shots see it; the first one becomes stale.
    page.click(".reference summary")
    page.select_option(".reference select >> nth=1", "all")
    page.wait_for_selector(".film [data-reference]")
    assert page.get_attribute(".film li >> nth=0 >> img", "alt") == "The picture of @sun"
    studio_page.wait_until(lambda: studio_page.statuses() == ["stale", "done"])
    assert "a picture that it sees has changed" in page.get_attribute(".card .badge >> nth=0", "title")
    studio_page.screenshot("cast-in-memory-dark")
    page.click("[aria-label='Remove @sun']")
    studio_page.wait_until(lambda: "shot 2 cites @sun" in studio_page.line)


def test_who_is_not_in_the_cast_is_told_before_anything_is_made(studio_page: StudioPage) -> None:
    page = studio_page.page
    open_story(studio_page, {"caption": FIRST, "num_chunks": 1}, autoplay=False)
    page.fill("#next-shot", "@nobody waves.")
    studio_page.wait_until(lambda: "cites @nobody" in (page.text_content("#advice") or ""))
    page.press("#next-shot", "Enter")
    studio_page.wait_until(lambda: "which no reference has" in studio_page.line)
    assert len(studio_page.story()["shots"]) == 1
    add_picture(studio_page)
    page.focus(".reference.new >> text=Cancel")
    page.keyboard.press("Enter")
    page.wait_for_selector(".reference.new", state="detached")
    assert studio_page.story()["cast"] == []
    page.set_input_files("#add-picture", {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    studio_page.wait_until(lambda: "not a picture, or a damaged one" in studio_page.line)


def test_a_story_file_names_the_pictures_that_it_lacks(studio_page: StudioPage) -> None:
    page = studio_page.page
    story = (
        f"global_caption: {GLOBAL}\nreferences:\n  - id: sun\n    image: sun.png\n    caption: a sun\n"
        f"shots:\n  - caption: '{FIRST}'\n    num_chunks: 1\n"
    )
    page.goto(studio_page.server.address)
    page.set_input_files(
        ".import input", {"name": "story.yaml", "mimeType": "text/plain", "buffer": story.encode()}
    )
    studio_page.wait_until(lambda: "pictures that are not in the file: sun.png (@sun)" in studio_page.line)
    page.wait_for_selector(".reference[data-missing]")
    studio_page.wait_until(lambda: studio_page.statuses() == ["failed"])
    studio_page.screenshot("missing-picture-dark")
    given = {"name": "sun.png", "mimeType": "image/png", "buffer": picture()}
    page.set_input_files("#picture-of-sun >> nth=0", given)
    studio_page.wait_until(lambda: studio_page.statuses() == ["done"])


@pytest.mark.parametrize(
    ("scheme", "size"), [("light", None), ("dark", NARROW), ("dark", PHONE), ("light", PHONE)]
)
def test_steer_and_cast_fit_wide_and_on_a_phone(
    browser: Any, server: Server, scheme: str, size: dict[str, int] | None
) -> None:
    context = browser.new_context(viewport=size or WIDE, color_scheme=scheme, has_touch=size is not None)
    kind = {None: scheme, 390: f"phone-{scheme}", 1000: f"narrow-{scheme}"}[size and size["width"]]
    try:
        studio_page = StudioPage(context.new_page(), server)
        page = studio_page.page
        open_running_shot(studio_page)
        add_picture(studio_page)
        page.click(".reference.new .add")
        page.wait_for_selector(".references .reference")
        page.fill("#next-shot", "@the-sun dances.")
        studio_page.wait_until(lambda: page.text_content("#advice") != "")
        studio_page.screenshot(f"steer-{kind}")
        page.locator(".own-cast").scroll_into_view_if_needed()
        page.click(".reference summary")
        studio_page.screenshot(f"cast-{kind}")
        is_wider = "() => document.documentElement.scrollWidth > innerWidth"
        assert not page.evaluate(is_wider), "nothing sticks out sideways"
        names = """() => [...document.querySelectorAll('button, select, input, textarea')].map(
          (node) => node.ariaLabel || node.labels?.[0]?.textContent || node.textContent)"""
        assert all(page.evaluate(names)), "everything has a name"
    finally:
        context.close()
