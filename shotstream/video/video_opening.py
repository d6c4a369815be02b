"""Opens video files safely: regular files only, without network access or references to other files.

FFmpeg may use only the protocol `file`, and formats that contain their own pictures: no playlist, URL, pipe
or device is ever opened. The stream is chosen that a player shows. Memory is bounded: at most 2**27 pixels
per frame (16K), and threads that share a frame instead of holding one each.
"""

import codecs
import errno
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shotstream.kinds import BEGINNING_BYTES, kind_by_beginning

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.error import FFmpegError
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_PIXELS = 1 << 27
"""Maximum number of pixels of a frame, as stored and as shown."""

_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,vvc,obu,av1,ivf,flv,asf,ogg,"
    "gif,apng,nut,mxf,yuv4mpegpipe,rm,wtv,dv,vc1,mjpeg,dnxhd,h263,h261,cavsvideo,avs2,avs3,dirac,webp_anim,"
    "mp3,wav,w64,flac,aac,aiff,caf,ac3"  # audio formats, for a clear error message
)
# Their own decoders ignore the alpha channel, which WebM stores separately.
_TRANSPARENT = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"v=0", b"<?xml", b"<MPD", b"<SMIL", b"[playlist]", b"[Reference]")
_THREADS = 2
_OTHER_KINDS = {
    "lfs": "it is a Git LFS pointer, not the video; run `git lfs pull` beside it",
    "page": "it is a web page saved under this name; fetch the video itself",
    "compressed": "it is an archive; unpack it and give the video in it",
    "zip": "it is an archive; unpack it and give the video in it",
    "picture": "it is a picture",
    "webp": "it is WebP, of which nothing is read; make it an MP4 or a GIF",
}


class VideoError(ValueError):
    """A video that cannot be read or written; the message names the file."""


@contextmanager
def opened_video(path: Path) -> Generator[tuple["InputContainer", "VideoStream"]]:
    """Yields a video's container and its shown stream; raises VideoError if it cannot be read."""
    import av
    import av.error

    options = {
        "protocol_whitelist": "file",
        "format_whitelist": _FORMATS,
        "max_pixels": str(MAX_PIXELS),
        "threads": "1",
    }
    try:
        _require_file(path)
        with av.open(f"file:{path.absolute()}", options=options, metadata_errors="replace") as container:
            stream = _shown_stream(path, container)
            _limit(stream.codec_context)
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: not a readable video: {_reason(path, error)}") from error


def _limit(codec: Any) -> None:
    codec.thread_type, codec.thread_count = "SLICE", _THREADS
    codec.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "crccheck+explode"}


def decoder_of(stream: "VideoStream") -> "VideoStream | VideoCodecContext":
    """Returns the decoder of a stream, with everything that a player shows, including transparency."""
    import av

    name = _TRANSPARENT.get(stream.codec_context.codec.canonical_name)
    is_transparent = any(
        key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items()
    )
    if name is None or not is_transparent or name not in av.codecs_available:
        return stream
    decoder = av.CodecContext.create(name, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.extradata = stream.codec_context.extradata
    _limit(decoder)
    return decoder


def _require_file(path: Path) -> None:
    """Raises OSError unless the path is a regular file with content."""
    try:
        status = path.stat()
    except ValueError as error:
        raise VideoError(f"{str(path)!r}: not a readable video: no file can have this name") from error
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(f"{path}: not a readable video: it is not a file")
    if not status.st_size:
        raise VideoError(f"{path}: not a readable video: the file is empty")
    with path.open("rb") as file:
        start = file.read(64).removeprefix(codecs.BOM_UTF8).lstrip()
    if start.startswith(_PLAYLISTS):
        raise VideoError(
            f"{path}: not a readable video: it only names other files or addresses, and these are not "
            "followed; give the video itself"
        )


def _reason(path: Path, error: "FFmpegError | OSError") -> str:
    from av.error import EOFError as EndError
    from av.error import InvalidDataError

    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, EndError):
        return "it ends before its first frame"
    if isinstance(error, InvalidDataError) or error.errno == errno.EINVAL:  # EINVAL: not a format in the list
        with path.open("rb") as file:
            kind = kind_by_beginning(file.read(BEGINNING_BYTES)) or ""
        return _OTHER_KINDS.get(kind, "it is damaged, cut off, or in no known format")
    return error.strerror or "it cannot be decoded"


def _shown_stream(path: Path, container: "InputContainer") -> "VideoStream":
    """Returns the video stream that a player shows: not a cover picture; of several, FFmpeg's choice."""
    from av.stream import Disposition

    pictures = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
    moving = [one for one in container.streams.video if not one.disposition & pictures]
    best: Any = container.streams.best("video")
    if not moving:
        what = "sound and no video" if container.streams.audio else "no video"
        what += "" if best is None else " but a cover picture"
        raise VideoError(f"{path}: not a readable video: it holds {what}")
    stream = next((one for one in moving if best is not None and one.index == best.index), moving[0])
    codec: Any = stream.codec_context
    if codec is None:
        raise VideoError(f"{path}: not a readable video: there is no decoder for it")
    _require_pixels(path, codec.width, codec.height)
    return stream


def _require_pixels(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise VideoError(
            f"{path}: frames of {width}x{height} are too large; at most {MAX_PIXELS} pixels are read, so "
            "make the video smaller first"
        )


def packets_of(container: "InputContainer", stream: "VideoStream | None") -> Iterator[Any]:
    """Yields the packets of one stream or of all, up to a truncation of the file."""
    from av.error import InvalidDataError

    packets = container.demux(*(() if stream is None else (stream,)))
    while True:
        try:
            packet = next(packets, None)
        except InvalidDataError:
            return
        if packet is None:
            return
        if packet.size:
            yield packet


def frames_of(decoder: "VideoStream | VideoCodecContext", packet: Any) -> "list[VideoFrame] | None":
    """Returns the frames that a packet completes; None: it is damaged."""
    from av.error import EOFError as EndError
    from av.error import FFmpegError

    try:
        return decoder.decode(packet)
    except EndError:
        return []
    except FFmpegError:
        return None
