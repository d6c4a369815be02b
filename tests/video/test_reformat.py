"""Kept converters give what new ones give, whatever other frames were converted between."""

import threading

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from shotstream.video import reformat as module
from shotstream.video.reformat import reformat


def frame(pixel_format: str, seed: int = 0, size: tuple[int, int] = (34, 48)) -> av.VideoFrame:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)


WAYS = [
    (frame("yuv420p", 1), {"format": "rgb24"}),
    (frame("yuv420p", 1, (50, 20)), {"format": "rgb24"}),
    (frame("yuv444p", 2), {"format": "rgb24"}),
    (frame("rgb24", 3), {"format": "yuv420p"}),
    (frame("rgb24", 3), {"format": "yuv420p", "dst_colorspace": Colorspace.ITU709}),
    (frame("rgb24", 3), {"format": "yuv420p", "dst_color_range": ColorRange.JPEG}),
    (frame("rgb24", 4), {"width": 96, "height": 68, "interpolation": Interpolation.POINT}),
    (frame("rgb24", 4), {"width": 96, "height": 68, "interpolation": Interpolation.BICUBIC}),
]


def test_ways_that_take_turns_give_what_each_gives_alone() -> None:
    alone = [VideoReformatter().reformat(before, **changes).to_ndarray() for before, changes in WAYS]
    for _ in range(3):
        for (before, changes), expected in zip(WAYS, alone, strict=True):
            assert np.array_equal(reformat(before, **changes).to_ndarray(), expected), changes


@pytest.mark.parametrize("property_", ["colorspace", "color_range"])
def test_what_a_frame_says_of_its_colours_holds_after_one_that_says_otherwise(property_: str) -> None:
    one, other = frame("yuv420p"), frame("yuv420p")
    setattr(one, property_, 1)  # BT.709; limited
    setattr(other, property_, {"colorspace": 5, "color_range": 2}[property_])  # BT.601; full
    pictures = [reformat(each, format="rgb24").to_ndarray() for each in (one, other, one)]
    assert np.array_equal(pictures[0], pictures[2]) and not np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[1], other.to_ndarray(format="rgb24"))


def test_a_frame_that_is_so_already_is_given_itself() -> None:
    before = frame("rgb24")
    assert reformat(before, format="rgb24") is before


def test_few_converters_are_kept_and_none_serves_two_threads() -> None:
    for width in range(20, 60, 2):
        reformat(frame("rgb24"), width=width)
    kept = module._kept.converters
    assert 0 < len(kept) <= 8
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(module._kept.converters))
    thread.start()
    thread.join()
    assert seen == [{}]
