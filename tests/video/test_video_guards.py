"""Each guard of the video reader holds alone: what one of them would let through, the next one refuses."""

import socket
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="reads videos")

from shotstream.video import video_opening, video_reader  # noqa: E402
from shotstream.video.video_io import read_frames  # noqa: E402
from shotstream.video.video_reader import VideoError, iter_pictures, read_timeline  # noqa: E402
from tests.video.clip_files import HEIGHT, WIDTH, corners, numbered, packet_places, write_clip  # noqa: E402

PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("before", ["\ufeff", "\n\n  ", "\ufeff \n"])
def test_a_playlist_is_told_as_one_however_it_begins(tmp_path: Path, before: str) -> None:
    path = tmp_path / "a.m3u8"
    path.write_text(before + PLAYLIST.format("a.ts"), "utf-8")
    with pytest.raises(VideoError, match="it only names other files or addresses"):
        read_frames(path)


def test_no_format_that_names_files_is_read_even_where_its_beginning_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_opening, "_PLAYLISTS", (b"\0nothing",))
    write_clip(tmp_path / "a.ts", numbered(3), pixels="yuv420p")
    for name, text in (
        ("a.m3u8", PLAYLIST.format("a.ts")),
        ("b.ffconcat", "ffconcat version 1.0\nfile a.ts\n"),
        ("c.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError, match="damaged, cut off, or in no known format"):
            read_frames(tmp_path / name)


def test_no_address_is_asked_even_by_a_format_that_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_opening, "_PLAYLISTS", (b"\0nothing",))
    monkeypatch.setattr(video_opening, "_FORMATS", f"{video_opening._FORMATS},hls")  # pyright: ignore[reportPrivateUsage]
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        (tmp_path / "a.m3u8").write_text(PLAYLIST.format(address))
        with pytest.raises(VideoError, match="not a readable video"):
            read_frames(tmp_path / "a.m3u8")
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_cover_picture_alone_is_refused_as_that(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=12)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "rgb24"
        stream.disposition = av.stream.Disposition.attached_pic
        container.mux(stream.encode(av.VideoFrame.from_ndarray(corners(), format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="not a readable video: it holds no video but a cover picture"):
        read_frames(path)


def test_a_frame_that_grows_beyond_the_bound_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file says 48x32, and from the third frame on it is 96x64."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=12)
        stream.height, stream.width, stream.pix_fmt = HEIGHT // 2, WIDTH // 2, "yuvj420p"
        large = av.CodecContext.create("mjpeg", "w")
        large.height, large.width, large.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
        large.time_base = Fraction(1, 12)
        for index in range(4):
            encoder, scale = (stream, 2) if index < 2 else (large, 1)
            picture = np.zeros((HEIGHT // scale, WIDTH // scale, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 12)
            for packet in encoder.encode(frame):
                packet.stream = stream
                container.mux(packet)
    monkeypatch.setattr(video_opening, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    timeline = read_timeline(path)
    assert len(list(iter_pictures(path, timeline, [[0, 1]]))) == 2
    with pytest.raises(VideoError, match="frame 2 is damaged"):
        list(iter_pictures(path, timeline, [[2]]))


def test_a_picture_that_its_proportions_make_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "a.mp4", corners()[None], aspect=Fraction(4, 1))
    monkeypatch.setattr(video_reader, "MAX_PIXELS", 4 * HEIGHT * WIDTH - 1)
    with pytest.raises(VideoError, match=r"a\.mp4: frame 0: shown at 384x64 it is too large; at most 24575"):
        list(iter_pictures(path, read_timeline(path), [[0]]))


def test_one_lost_frame_of_a_matroska_file_is_missed(tmp_path: Path) -> None:
    """Of a file whose every frame stands alone, so that nothing else would tell of the loss."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (12, HEIGHT, WIDTH, 3), np.uint8)
    path = write_clip(
        tmp_path / "a.mkv",
        noise,
        key_every=6,
        options={"qp": "20", "bf": "0"},
    )
    assert read_timeline(path).num_frames == 12
    whole = path.read_bytes()
    for number, (place, size) in [*enumerate(packet_places(path))][1:-1]:
        path.write_bytes(whole[:place] + bytes(size) + whole[place + size :])
        with av.open(str(path)) as container:
            assert sum(packet.size > 0 for packet in container.demux(video=0)) == 11
        with pytest.raises(VideoError, match=rf"damaged after frame {number - 1}: frames are missing"):
            read_timeline(path)
