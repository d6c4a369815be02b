"""Video files as others write them, made with PyAV for a test: small, of frames that can be told apart."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH = 64, 96
ONE, UNIT = 1 << 16, 1 << 30
"""Of a display matrix: 16.16 fixed point, and 2.30 for its last number."""


def numbered(num_frames: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Flat frames, each brighter than the one before it by 6 levels."""
    levels = (6 * np.arange(num_frames)).astype(np.uint8)[:, None, None, None]
    return np.broadcast_to(levels, (num_frames, height, width, 3))


def number_of(picture: np.ndarray) -> int:
    """Which of the `numbered` frames a picture is."""
    return round(float(picture.mean()) / 6)


def corners(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A picture whose corners are red, green, blue and white, in reading order."""
    picture = np.zeros((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    picture[:top, :left], picture[:top, left:] = (255, 0, 0), (0, 255, 0)
    picture[top:, :left], picture[top:, left:] = (0, 0, 255), (255, 255, 255)
    return picture


def write_clip(
    path: Path,
    frames: np.ndarray,
    *,
    stamps: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 12),
    codec: str = "libx264",
    pixels: str = "yuv444p",
    options: Mapping[str, str] | None = None,
    key_every: int = 250,
    aspect: Fraction | None = None,
    matrix: Sequence[int] | None = None,
    title: str = "",
    container_options: Mapping[str, str] | None = None,
) -> Path:
    """Writes frames at the times given in units of a time base; by default one after the other."""
    with av.open(str(path), "w", options=dict(container_options or {})) as container:
        if title:
            container.metadata["title"] = title
        stream = container.add_stream(codec, rate=1 / time_base, options=dict(options or {"qp": "0"}))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        stream.codec_context.time_base, stream.codec_context.gop_size = time_base, key_every
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix:
            stream.set_display_matrix(matrix)
        for stamp, picture in zip(stamps or range(len(frames)), frames, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = stamp, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def packet_places(path: Path) -> list[tuple[int, int]]:
    """Where in the file its packets are, in the order of decoding, and their sizes."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def frame_rate(path: Path) -> Fraction:
    """Frames per second of a video, on average, as its container tells."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None and stream.time_base is not None
        return stream.frames / (stream.duration * stream.time_base)
