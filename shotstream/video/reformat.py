"""Conversion of frames from one pixel format, size and colour matrix to another, by tables that are kept.

Making libswscale's tables takes longer than converting a small frame by them: nine tenths of the time of one
of 48x32 pixels, half of that of one of 832x480. PyAV makes them anew for every frame that converts itself.
"""

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter

_MOST_KEPT = 8


class _Kept(threading.local):
    """A thread's converters, one for each way: PyAV sets one up anew when it is asked for another way."""

    def __init__(self) -> None:
        self.converters: dict[tuple[Any, ...], VideoReformatter] = {}


_kept = _Kept()


def reformat(frame: "VideoFrame", **changes: Any) -> "VideoFrame":
    """The result of `frame.reformat(**changes)`; a frame that is so already is given itself."""
    from av.video.reformatter import VideoReformatter

    way = (
        frame.format.name,
        frame.width,
        frame.height,
        frame.colorspace,
        frame.color_range,
        *sorted(changes.items()),
    )
    converters = _kept.converters
    if way not in converters:
        if len(converters) >= _MOST_KEPT:
            converters.clear()
        converters[way] = VideoReformatter()
    return converters[way].reformat(frame, **changes)
