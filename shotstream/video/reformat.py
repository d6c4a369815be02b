"""Conversion of frames to another pixel format, size and colour matrix, with cached tables.

libswscale takes longer to build its tables than to convert a small frame: nine tenths of the time for a frame
of 48x32 pixels, half of it for one of 832x480. PyAV builds them again for every frame that converts itself.
"""

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter

_MOST_KEPT = 8


class _Kept(threading.local):
    """The converters of a thread, one per conversion: PyAV resets one that is used for another."""

    def __init__(self) -> None:
        self.converters: dict[tuple[Any, ...], VideoReformatter] = {}


_kept = _Kept()


def reformat(frame: "VideoFrame", **changes: Any) -> "VideoFrame":
    """Returns `frame.reformat(**changes)`; the frame itself if it has these properties already."""
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
