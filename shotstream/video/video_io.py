"""Video files: writers of H.264 MP4, MP4 fragments and lossless takes; and `read_frames`.

Frames are uint8 RGB arrays "f h w 3". PyAV is imported only when a video is opened, here and in
`video_reader.py`: training and generation do not need it. Frames of another size than the first ones are
refused.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from shotstream.video.reformat import reformat
from shotstream.video.video_reader import VideoError, iter_pictures, read_timeline

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Frames = UInt8[np.ndarray, "f h w 3"]

_BT709 = 1
_LIMITED_RANGE = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Chapter:
    """A chapter of a film: a named range of frames."""

    title: str
    """Title that players show."""
    start_frame: int
    """Index of its first frame, from 0."""
    end_frame: int
    """Index after its last frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class H264Settings:
    """Settings of the H.264 encoder.

    Raises:
        ValueError: A value is out of range.
    """

    scale: int = 1
    """Factor by which frames are enlarged (nearest neighbour): a pixel becomes scale x scale pixels."""
    crf: int = 14
    """x264's constant rate factor: 0 (largest file) to 51; 14 shows no artefacts on flat colours."""
    preset: str = "superfast"
    """x264's speed preset."""

    def __post_init__(self) -> None:
        if not 1 <= self.scale <= 32:
            raise ValueError(f"scale is {self.scale}; allowed are 1 to 32")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf is {self.crf}; allowed are 0 to 51")


class Mp4Writer:
    """Writes an H.264 MP4: yuv420p, even sizes, BT.709, index in front, a key frame at each chapter.

    It is a context manager: the file is complete only after an exit without an error.

    Args:
        path: The file; FFmpeg rewrites it at the end, so it must be a regular file.
        fps: Frames per second.
        settings: Settings of the encoder.
        title: Title of the film, stored in the file.
        chapters: The chapters; they must be known in advance, since players read them from the header.
    """

    def __init__(
        self,
        path: Path,
        fps: int | Fraction,
        settings: H264Settings | None = None,
        *,
        title: str = "",
        chapters: Sequence[Chapter] = (),
    ) -> None:
        self._settings = settings or H264Settings()
        self._fps = Fraction(fps)
        self._key_frames = {chapter.start_frame for chapter in chapters}
        self._container = _open_mp4(path, {"movflags": "+faststart"})
        if title:
            self._container.metadata["title"] = title
        if chapters:
            self._container.set_chapters(
                [_av_chapter(i, chapter, self._fps) for i, chapter in enumerate(chapters)]
            )
        self._stream: VideoStream | None = None
        self._size: tuple[int, ...] = ()
        self._num_frames = 0

    def __enter__(self) -> "Mp4Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def write(self, frames: Frames) -> None:
        """Encodes frames; all calls must have the same height and width.

        Raises:
            VideoError: The frames have another size.
        """
        pictures = even_frames(frames, self._settings.scale)
        size = pictures.shape[1:3]
        if self._stream is None:
            self._size = size
            self._stream = _add_h264(self._container, size, self._fps, self._settings)
        if size != self._size:
            raise VideoError(f"frames of {size[0]}x{size[1]} cannot follow frames of {self._size}")
        for picture in pictures:
            frame = _yuv_frame(picture, self._stream, self._num_frames)
            if self._num_frames in self._key_frames:
                from av.video.frame import PictureType

                frame.pict_type = PictureType.I
            self._container.mux(self._stream.encode(frame))
            self._num_frames += 1


class FragmentWriter:
    """Encodes chunks of frames as fragmented MP4: a header once, then one self-contained fragment per chunk.

    Each fragment starts with a key frame and holds no frame of another chunk, so that it can be sent and
    shown at once. Header and fragments, concatenated, are a playable file.
    """

    def __init__(self, fps: int | Fraction, settings: H264Settings | None = None) -> None:
        self._fps = Fraction(fps)
        self._settings = settings or H264Settings(crf=18, preset="ultrafast")
        self._size: tuple[int, ...] | None = None
        self._num_frames = 0
        self._num_fragments = 0

    def write(self, frames: Frames) -> tuple[bytes, bytes]:
        """Returns (header, fragment) of one chunk; the header is empty after the first call.

        Raises:
            VideoError: The frames have another size than the first chunk's, or there are none.
        """
        pictures = even_frames(frames, self._settings.scale)
        size = pictures.shape[1:3]
        if len(pictures) == 0 or (self._size is not None and size != self._size):
            raise VideoError(
                f"a chunk of frames shaped {frames.shape} cannot follow pictures of size {self._size}"
            )
        self._size = size
        data = io.BytesIO()
        # FFmpeg writes a fragment when the next one begins; closing a file per chunk writes it now.
        options = {
            "movflags": "+empty_moov+default_base_moof+frag_custom+frag_discont",
            "avoid_negative_ts": "disabled",
            "fragment_index": str(self._num_fragments + 1),
        }
        with _open_mp4(data, options) as container:
            stream = _add_h264(container, size, self._fps, self._settings, {"tune": "zerolatency"})
            for picture in pictures:
                container.mux(stream.encode(_yuv_frame(picture, stream, self._num_frames)))
                self._num_frames += 1
            container.mux(stream.encode(None))
        header, fragment = _split_boxes(data.getvalue())
        self._num_fragments += 1
        return (header if self._num_fragments == 1 else b""), fragment


def even_frames(frames: Frames, scale: int = 1) -> UInt8[np.ndarray, "f even_h even_w 3"]:
    """Returns the frames, with the last row or column repeated where `scale` times the size would be odd.

    H.264 in yuv420p, which every player can show, has even sizes only.
    """
    odd_rows, odd_columns = (frames.shape[1] * scale) % 2, (frames.shape[2] * scale) % 2
    if odd_rows or odd_columns:
        return np.pad(frames, ((0, 0), (0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
    return frames


def read_frames(path: Path, start: int = 0, stop: int | None = None) -> Frames:
    """Returns frames [start, stop) of a video as a player shows them; None: to the end.

    Raises:
        VideoError: The file holds no readable video, too few frames, or frames of other sizes.
    """
    timeline = read_timeline(path, stop)
    end = timeline.num_frames if stop is None else stop
    if timeline.num_frames < end or start >= end:
        raise VideoError(
            f"{path}: holds {timeline.num_frames} frames; {start}..{stop or 'end'} were asked for"
        )
    pictures: list[np.ndarray] = []
    for index, picture in iter_pictures(path, timeline, [range(start, end)]):
        if pictures and picture.shape != pictures[0].shape:
            raise VideoError(
                f"{path}: frame {index} is {picture.shape[1]}x{picture.shape[0]}, those before it are "
                f"{pictures[0].shape[1]}x{pictures[0].shape[0]}"
            )
        pictures.append(picture)
    return np.stack(pictures)


def write_mp4(path: Path, frames: Frames, fps: int | Fraction, settings: H264Settings | None = None) -> None:
    """Writes all frames as one H.264 MP4; see `Mp4Writer`."""
    with Mp4Writer(path, fps, settings) as writer:
        writer.write(frames)


def write_lossless(path: Path, frames: Frames, fps: int | Fraction) -> None:
    """Writes frames that `read_frames` returns bit for bit (H.264 RGB at quantiser 0, in Matroska)."""
    import av
    from av.video.frame import VideoFrame

    with av.open(path, "w", format="matroska") as container:
        stream = container.add_stream(
            "libx264rgb", rate=Fraction(fps), options={"qp": "0", "preset": "ultrafast"}
        )
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "rgb24"
        for picture in frames:
            container.mux(
                stream.encode(VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"))
            )
        container.mux(stream.encode(None))


def _open_mp4(file: Path | io.BytesIO, options: dict[str, str]) -> "OutputContainer":
    import av

    target: Any = file
    return av.open(target, "w", format="mp4", options=options)


def _add_h264(
    container: "OutputContainer",
    size: tuple[int, ...],
    fps: Fraction,
    settings: H264Settings,
    more: dict[str, str] | None = None,
) -> "VideoStream":
    options = {"crf": str(settings.crf), "preset": settings.preset, **(more or {})}
    stream = container.add_stream("libx264", rate=fps, options=options)
    height, width = size
    stream.width, stream.height, stream.pix_fmt = width * settings.scale, height * settings.scale, "yuv420p"
    codec = stream.codec_context
    codec.time_base = 1 / fps
    # Players guess the colours of untagged video, each in its own way.
    codec.color_primaries, codec.color_trc, codec.colorspace = _BT709, _BT709, _BT709
    codec.color_range = _LIMITED_RANGE
    return stream


def _yuv_frame(picture: UInt8[np.ndarray, "h w 3"], stream: "VideoStream", index: int) -> "VideoFrame":
    from av.video.frame import VideoFrame
    from av.video.reformatter import ColorRange, Colorspace, Interpolation

    # Nearest neighbour inside the colour conversion keeps the colours of enlarged pixels exact at their
    # edges, and is faster than enlarging first.
    is_enlarged = stream.height > picture.shape[0]
    frame = reformat(
        VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"),
        width=stream.width,
        height=stream.height,
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.POINT if is_enlarged else Interpolation.AREA,
    )
    frame.pts = index
    frame.time_base = stream.codec_context.time_base
    return frame


def _av_chapter(index: int, chapter: Chapter, fps: Fraction) -> Any:
    return {
        "id": index,
        "start": chapter.start_frame,
        "end": chapter.end_frame,
        "time_base": 1 / fps,
        "metadata": {"title": chapter.title},
    }


def _split_boxes(data: bytes) -> tuple[bytes, bytes]:
    """Returns the data before the first moof box, and that box with the data after it, without the index."""
    position, first_fragment, end = 0, None, len(data)
    while position + 8 <= len(data):
        size, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if kind == b"moof" and first_fragment is None:
            first_fragment = position
        if kind == b"mfra":
            end = position
        position += size
    if first_fragment is None:
        raise VideoError("the encoder made no fragment")
    return data[:first_fragment], data[first_fragment:end]
