"""The reader of video files: frames as a player shows them, with times, orientation, proportions and colours.

Files are opened by `video_opening`. A frame is identified by its index in presentation order, from 0; its
time is that of the file. A lost or damaged frame keeps its index and raises an error when it is read; no
other frame takes its place. Interlaced frames are deinterlaced. Frames are decoded one by one from the
beginning, without seeking.

Rotations other than quarter turns, and frames of more than 2**27 pixels (16K), are refused.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from math import atan2, degrees, hypot
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from shotstream.video.video_colour import Picture, PictureError, to_picture
from shotstream.video.video_opening import (
    MAX_PIXELS,
    VideoError,
    decoder_of,
    frames_of,
    opened_video,
    packets_of,
)

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


# Packets of these may hold no frame, or two, by design.
_LOOSE_CODECS = frozenset(
    ("vp8", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "h263", "flv1", "vp6f", "vp6")
)
# Formats whose packets have presentation times, and those of them that also have a table of frames.
_TIMED = ("mov,", "matroska,", "mpegts", "flv", "gif", "nut", "ivf", "mxf")
_TABLED = ("mov,", "matroska,")
_USUAL_OVERHEAD_BYTES = 64
_LEAST_SLACK, _MOST_SLACK = Fraction(1, 1000), Fraction(1, 200)
_LOOK_EVERY = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """The presentation times of a file's frames."""

    ticks: Int[np.ndarray, " ends"]
    """Time of each frame in presentation order, then the end of the last one."""
    tick: Fraction
    """Length of a tick in seconds."""
    slack: Fraction
    """Maximum error of the times in seconds, because the file rounds them; 0: they are exact."""
    stamps: Int[np.ndarray, " n"] | None
    """Time stamps of the frames in the file, which identify decoded frames; None: frames are counted."""

    @property
    def num_frames(self) -> int:
        """Number of known frames; at most the number requested from `read_timeline`."""
        return len(self.ticks) - 1

    def seconds(self, start: int, stop: int) -> Fraction:
        """Returns the time from frame `start` to frame `stop`."""
        return int(self.ticks[stop] - self.ticks[start]) * self.tick

    def on_screen(self, start: int, seconds: Fraction) -> int:
        """Returns the index of the frame that is shown `seconds` after frame `start` appears."""
        moment = int(self.ticks[start]) + (seconds + self.slack) // self.tick
        return max(int(np.searchsorted(self.ticks[:-1], moment, "right")) - 1, start)


def read_timeline(path: Path, stop: int | None = None) -> Timeline:
    """Returns the presentation times of a file's frames; with `stop`, of frames 0 to `stop` alone.

    Raises:
        VideoError: The path is not a file, or holds no readable video.
    """
    with opened_video(path) as (container, stream):
        rates = [stream.average_rate, stream.guessed_rate, stream.base_rate]
        is_timed = container.format.name.startswith(_TIMED)
        is_loose = _codec_name(stream) in _LOOSE_CODECS or (is_timed and _is_interlaced(container, stream))
    if is_timed:
        with opened_video(path) as (container, stream):
            found = _packet_times(path, container, stream, stop)
        if found is not None and not is_loose:
            return _timeline(path, found, rates)
    with opened_video(path) as (container, stream):
        return _timeline(path, _frame_times(container, stream, stop, rates), rates)


def iter_pictures(
    path: Path, timeline: Timeline, spans: Sequence[Sequence[int]]
) -> Iterator[tuple[int, Picture]]:
    """Yields (index, frame as a player shows it) for the frames in `spans`, each once.

    Args:
        path: The video.
        timeline: Its timeline.
        spans: Ascending indices of frames; no frame from the first to the last of a span may be damaged.

    Raises:
        VideoError: The file cannot be read, or a frame is damaged, missing, or of an unsupported kind.
    """
    wanted = {int(index) for span in spans for index in span}
    needed = {index for span in spans for index in range(int(span[0]), int(span[-1]) + 1)}
    if not wanted:
        return
    last = max(needed)
    with opened_video(path) as (container, stream):
        aspect = stream.sample_aspect_ratio or Fraction(1)
        at = -1
        for shown in _progressive(_numbered(path, container, stream, timeline)):
            if lost := [index for index in range(at + 1, shown.number) if index in needed]:
                raise VideoError(f"{path}: frame {lost[0]} is damaged: nothing can be decoded there")
            at = shown.number
            if at in needed and shown.is_damaged:
                raise VideoError(f"{path}: frame {at} is damaged")
            if at in wanted:
                try:
                    picture = _upright(shown.frame, aspect)
                except PictureError as error:
                    raise VideoError(f"{path}: frame {at}: {error}") from error
                yield at, picture
            if at >= last:
                return
    raise VideoError(f"{path}: frame {at + 1} is damaged: nothing can be decoded from there on")


class _Found(NamedTuple):
    """The times of frames as the file gives them."""

    stamps: list[int]
    """Time stamps of the frames, ascending."""
    end: int | None
    """End of the last frame; None: not given, or not reached."""
    time_base: Fraction
    by_packet: bool
    """Whether the time stamp of a decoded frame identifies it."""


class _Numbered(NamedTuple):
    number: int
    frame: "VideoFrame"
    is_damaged: bool


def _codec_name(stream: "VideoStream") -> str:
    return stream.codec_context.codec.canonical_name


def _is_interlaced(container: "InputContainer", stream: "VideoStream") -> bool:
    """Returns whether the first frame is interlaced: then a packet may hold half a frame."""
    for packet in packets_of(container, stream):
        for frame in frames_of(stream, packet) or ():
            return frame.interlaced_frame
    return False


def _packet_times(
    path: Path, container: "InputContainer", stream: "VideoStream", stop: int | None
) -> _Found | None:
    """Returns the times of frames without decoding them; None if the file does not give them in this way.

    Frames before the first key frame cannot be shown and are not counted. If FFmpeg skips unreadable bytes of
    a Matroska file, and there are no frames for a time at that place, frames were lost.

    Raises:
        VideoError: Frames were lost.
    """
    stamps: list[int] = []
    durations: dict[int, int] = {}
    key: int | None = None
    is_matroska = container.format.name.startswith("matroska,")
    end_byte: int | None = None
    skipped_after: list[int] = []
    for packet in packets_of(container, None if is_matroska else stream):
        if is_matroska and packet.pos is not None:
            is_skip = end_byte is not None and packet.pos > end_byte + _USUAL_OVERHEAD_BYTES
            if is_skip and stamps:
                skipped_after.append(max(stamps))
            end_byte = max(end_byte or 0, packet.pos + packet.size)
        if packet.stream_index != stream.index:
            continue
        if packet.pts is None:
            return None
        if key is None and packet.is_keyframe:
            key = packet.pts
        if key is None or packet.pts < key or packet.is_discard:
            continue
        stamps.append(packet.pts)
        durations[packet.pts] = packet.duration or 0
        if stop is not None and len(stamps) > stop and len(stamps) % _LOOK_EVERY == 0:
            stamps.sort()
            # No frame is shown before it is decoded, so no later packet belongs before these.
            if packet.dts is not None and stamps[stop] < packet.dts:
                break
    if not stamps:
        return None
    stamps.sort()
    usual = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
    for last in skipped_after:
        place = bisect_right(stamps, last)
        if place < len(stamps) and stamps[place] - last > 1.5 * usual:
            raise VideoError(f"{path}: it is damaged after frame {place - 1}: frames are missing")
    duration = durations[stamps[-1]]
    assert stream.time_base is not None
    return _cut(_Found(stamps, stamps[-1] + duration if duration else None, stream.time_base, True), stop)


def _frame_times(
    container: "InputContainer", stream: "VideoStream", stop: int | None, rates: Sequence[Fraction | None]
) -> _Found:
    """Returns the times of frames, by decoding them."""
    assert stream.time_base is not None
    usual = next((rate for rate in rates if rate), Fraction(25))
    step = max(round(1 / (usual * stream.time_base)), 1)
    shown: list[int] = []
    decoded: list[int] = []
    duration = 0  # for raw streams only this is known: their average rate is FFmpeg's guess
    for packet in chain(packets_of(container, stream), (None,)):
        for frame in frames_of(stream, packet) or ():
            for stamps, stamp in ((shown, frame.pts), (decoded, frame.dts)):
                follower = stamps[-1] + (duration or step) if stamps else 0
                stamps.append(follower if stamp is None else stamp)
            duration = frame.duration or 0
        if stop is not None and len(shown) > stop:
            break
    # AVI has only decoding times, which FFmpeg reports as presentation times.
    stamps = decoded if _runs_back(shown) and not _runs_back(decoded) else shown
    end = stamps[-1] + duration if stamps and duration else None
    return _cut(_Found(stamps, end, stream.time_base, False), stop)


def _runs_back(stamps: list[int]) -> bool:
    return any(second < first for first, second in pairwise(stamps))


def _cut(found: _Found, stop: int | None) -> _Found:
    """Returns the times of the frames before `stop`; that frame's time is their end."""
    if stop is None or len(found.stamps) <= stop:
        return found
    return found._replace(stamps=found.stamps[:stop], end=found.stamps[stop])


def _timeline(path: Path, found: _Found, rates: Sequence[Fraction | None]) -> Timeline:
    """Returns exact times if frames are evenly spaced up to rounding; else the times of the file."""
    count = len(found.stamps)
    if not count:
        raise VideoError(f"{path}: not a readable video: no frame can be decoded")
    known = np.array(found.stamps, np.int64)
    if (back := np.flatnonzero(np.diff(known) < 0)).size:
        raise VideoError(f"{path}: its times run backwards after frame {back[0]}")
    stamps = known if found.by_packet else None
    slack = min(max(found.time_base / 2, _LEAST_SLACK), _MOST_SLACK)
    ends = known if found.end is None else np.append(known, found.end)
    for rate in dict.fromkeys(rates):
        if rate:
            even = np.arange(len(ends)) / float(rate * found.time_base)
            # At most the rounding error, and too small a part of a frame to hide an additional one.
            off = min(max(found.time_base / 2, _LEAST_SLACK), 1 / (8 * rate)) / found.time_base
            if np.abs(ends - ends[0] - even).max() <= float(off) + 1e-6:
                return Timeline(ticks=np.arange(count + 1), tick=1 / rate, slack=Fraction(0), stamps=stamps)
    if found.end is None:
        usual = next((1 / rate for rate in rates if rate), Fraction(0))
        step = float(np.median(np.diff(known))) if count > 1 else usual / found.time_base
        ends = np.append(known, known[-1] + round(step))
    return Timeline(ticks=ends, tick=found.time_base, slack=slack, stamps=stamps)


def _numbered(
    path: Path, container: "InputContainer", stream: "VideoStream", timeline: Timeline
) -> Iterator[_Numbered]:
    """Yields decoded frames with their indices; lost frames keep theirs.

    After damage, frames are marked as damaged up to the next key frame, and so are those shown before it but
    decoded from both. If the file has no table of its frames, all later ones are, because the count may be
    wrong. If the decoder conceals an error and reports it (MPEG-4, MPEG-2), all frames up to a key frame are
    marked.
    """
    has_table = timeline.stamps is not None and container.format.name.startswith(_TABLED)
    stamps = None if timeline.stamps is None else timeline.stamps.tolist()
    decoder = decoder_of(stream)
    damaged: set[int] = set()
    is_hurt = was_hurt = is_mended = False
    key = at = -1
    for packet in chain(packets_of(container, stream), (None,)):
        frames = frames_of(decoder, packet)
        if packet is not None:
            if packet.is_keyframe:
                was_hurt, is_hurt, key = is_hurt, is_hurt and not has_table, packet.pts or 0
            is_hurt = is_hurt or packet.is_corrupt or frames is None
            if packet.pts is not None and (is_hurt or (was_hurt and packet.pts < key)):
                damaged.add(packet.pts)
        for frame in frames or ():
            is_mended = frame.is_corrupt or (is_mended and not frame.key_frame)
            if stamps is None or frame.pts is None:
                at += 1
                yield _Numbered(at, frame, is_mended or is_hurt)
                continue
            if at >= 0 and frame.pts < stamps[at]:
                raise VideoError(f"{path}: its times run backwards after frame {at}")
            place = bisect_left(stamps, frame.pts, max(at, 0))
            place += place == at  # two frames with the same time
            if place < len(stamps) and stamps[place] == frame.pts:
                at = place
                yield _Numbered(at, frame, is_mended or frame.pts in damaged)


def _progressive(frames: Iterable[_Numbered]) -> Iterator[_Numbered]:
    """Yields the same frames, deinterlaced from the first interlaced one on."""
    graph: Any = None
    size = (0, 0)
    waiting: deque[_Numbered] = deque()
    for one in frames:
        if one.frame.interlaced_frame and (one.frame.width, one.frame.height) != size:
            yield from _drained(graph, waiting)
            size, graph = (one.frame.width, one.frame.height), _deinterlacer(one.frame)
        if graph is None:
            yield one
            continue
        waiting.append(one)
        graph.push(one.frame)
        yield from _pulled(graph, waiting)
    yield from _drained(graph, waiting)


def _deinterlacer(frame: "VideoFrame") -> Any:
    from av.filter import Graph

    graph = Graph()
    told = (
        f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base={frame.time_base}:"
        f"colorspace={int(frame.colorspace)}:range={int(frame.color_range)}"
    )
    graph.link_nodes(
        graph.add("buffer", told),
        graph.add("bwdif", "mode=send_frame:deint=interlaced"),
        graph.add("buffersink"),
    ).configure()
    return graph


def _pulled(graph: Any, waiting: deque[_Numbered]) -> Iterator[_Numbered]:
    from av.error import BlockingIOError as NothingYet
    from av.error import EOFError as EndError

    while waiting:
        try:
            frame = graph.pull()
        except (NothingYet, EndError):
            return
        yield waiting.popleft()._replace(frame=frame)


def _drained(graph: Any, waiting: deque[_Numbered]) -> Iterator[_Numbered]:
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph, waiting)


def _upright(frame: "VideoFrame", aspect: Fraction) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a frame with square pixels, rotated and mirrored by its display matrix."""
    width, height = frame.width, frame.height
    if aspect > 1:
        width = round(width * aspect)
    elif 0 < aspect < 1:
        height = round(height / aspect)
    if width * height > MAX_PIXELS:
        raise PictureError(f"shown at {width}x{height} it is too large; at most {MAX_PIXELS} pixels are read")
    is_turned, down, across = _orientation(frame)
    picture = to_picture(frame, width, height)
    return np.ascontiguousarray((picture.swapaxes(0, 1) if is_turned else picture)[::down, ::across])


def _orientation(frame: "VideoFrame") -> tuple[bool, int, int]:
    """Returns whether to transpose a frame, and then the steps (1, -1) to read its rows and columns in."""
    from av.sidedata.sidedata import Type

    side_data: Any = frame.side_data
    told = side_data.get(Type.DISPLAYMATRIX)
    if told is None:
        return False, 1, 1
    # A point (x, y) is shown at (a x + c y, b x + d y), in 16.16 fixed point.
    a, b, _, c, d = (int(part) for part in np.frombuffer(bytes(told), np.int32)[:5])
    first, second = hypot(a, b), hypot(c, d)
    if not first or not second:
        return False, 1, 1
    sure = 0.9998  # within about one degree
    if abs(a) >= sure * first and abs(d) >= sure * second:
        return False, 1 if d > 0 else -1, 1 if a > 0 else -1
    if abs(b) >= sure * first and abs(c) >= sure * second:
        return True, 1 if b > 0 else -1, 1 if c > 0 else -1
    angle = degrees(atan2(b, a)) % 360
    raise PictureError(f"it is turned by {angle:.0f} degrees; only quarter turns are read")
