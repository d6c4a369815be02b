"""The page object of the studio: what a user sees and does on the page."""

import io
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WAIT_S = 120.0
WIDE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
# The page's policy forbids code from text, so these are functions, which the debugger hands over.
_PICTURE = """() => {
  const video = document.querySelector("video");
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  return { width: canvas.width, height: canvas.height, data: Array.from(data) };
}"""

_PAUSE = """() => {
  const button = document.querySelector(".play");
  if (button.ariaLabel === "Pause") button.click();
  return button.ariaLabel !== "Pause";
}"""


class StudioPage:
    """A page of the studio in a browser.

    Args:
        page: Playwright's.
        server: what it talks to.
    """

    def __init__(self, page: Any, server: Any) -> None:
        self.page = page
        self.server = server

    @property
    def story_id(self) -> str:
        return self.page.evaluate("() => location.hash.slice(2)")

    @property
    def frame(self) -> int:
        return int(self.page.get_attribute("#scrubber", "aria-valuenow"))

    @property
    def num_frames(self) -> int:
        return int(self.page.get_attribute("#scrubber", "aria-valuemax")) + 1

    @property
    def line(self) -> str:
        return self.page.text_content(".line")

    def start_story(self, name: str) -> None:
        """From the first page into a new bundled story."""
        self.page.goto(self.server.address)
        self.page.click(f"[data-story={name}]")
        self.wait_until(
            lambda: self.page.evaluate("() => document.querySelector('video')?.currentTime ?? 0") > 0.5
        )

    def story(self) -> Any:
        """As the server has it."""
        return json.loads(self.server.read(f"api/stories/{self.story_id}"))

    def statuses(self) -> list[str]:
        cards = self.page.query_selector_all(".card")
        return [card.get_attribute("data-status") for card in cards]

    def num_cuts_shown(self) -> int:
        """Cuts whose first picture pages have reported to the server."""
        text = self.server.read("metrics").decode()
        return round(float(re.search(r"^shotstream_cut_seconds_count (\S+)$", text, re.MULTILINE)[1]))

    def wait_until(self, holds: Callable[[], Any]) -> None:
        """Waits until something holds; fails when it does not for long."""
        end_s = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < end_s, f"waited in vain; the page says {self.line!r}"
            self.page.wait_for_timeout(25)

    def wait_until_generated(self) -> None:
        self.wait_until(lambda: set(self.statuses()) == {"done"})

    def press(self, key: str) -> None:
        """A shortcut, wherever the focus is."""
        self.page.evaluate("() => document.activeElement?.blur()")
        self.page.keyboard.press(key)

    def pause(self) -> None:
        """Pauses; a film that has come to its end meanwhile stands still by itself."""
        self.wait_until(lambda: self.page.evaluate(_PAUSE))

    def picture(self) -> np.ndarray:
        """What the video shows now, each of the engine's pixels averaged over its square: h w 3."""
        shown = self.page.evaluate(_PICTURE)
        pixels = np.array(shown["data"], np.float32).reshape(shown["height"], shown["width"], 4)[..., :3]
        scale = shown["height"] // 48
        return pixels.reshape(48, scale, 80, scale, 3).mean((1, 3))

    def expected_frame(self, film_frame: int) -> np.ndarray:
        """The engine's own frame at a place of the film: h w 3."""
        for shot in self.story()["shots"]:
            take = next(take for take in shot["takes"] if take["take_id"] == shot["take_id"])
            index = film_frame - shot["film_frame"]
            if 0 <= index < take["num_frames"]:
                path = f"api/stories/{self.story_id}/takes/{take['take_id']}/frames/{index}.png"
                return np.asarray(Image.open(io.BytesIO(self.server.read(path))), np.float32)
        raise AssertionError(f"the film has no frame {film_frame}")

    def wait_until_shown(self, max_error: float) -> None:
        """Waits until the picture is the engine's frame at the playhead, but for so many levels of 255."""
        own = self.expected_frame(self.frame)
        self.wait_until(lambda: np.abs(self.picture() - own).mean() < max_error)

    def screenshot(self, name: str) -> None:
        """A screenshot, if somebody wants them."""
        folder = os.environ.get("SHOTSTREAM_PICTURES")
        if folder:
            self.page.wait_for_timeout(400)
            path = Path(folder) / f"{name}.png"
            self.page.screenshot(path=path)
            # Few colours: a third of the bytes.
            Image.open(path).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
