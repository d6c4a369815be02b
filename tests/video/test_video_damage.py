"""Damage that is told and not seen: a receiver's marks, frames that a decoder mends, times left out."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip("av", reason="reads videos")

from shotstream.video.video_reader import VideoError, iter_pictures, read_timeline  # noqa: E402
from tests.video.clip_files import (  # noqa: E402
    HEIGHT,
    ONE,
    UNIT,
    WIDTH,
    corners,
    number_of,
    numbered,
    packet_places,
    write_clip,
)

STREAM_PACKET = 188
SYNC = 0x47


def mostly_still(num_frames: int) -> np.ndarray:
    """A strip at the left is new in every frame; the rest never changes, so that frames build on others."""
    generator = np.random.default_rng(1)
    frames = np.empty((num_frames, HEIGHT, WIDTH, 3), np.uint8)
    frames[:] = generator.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    frames[:, :, :16] = generator.integers(0, 256, (num_frames, HEIGHT, 16, 3), np.uint8)
    return frames


@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
def test_what_a_receiver_marked_as_wrong_is_refused_though_it_decodes(tmp_path: Path, codec: str) -> None:
    """The bits are those of the frame here: nothing but the mark tells that they may be others."""
    options = {"mpeg2video": {"b": "4000000", "bf": "0"}, "libx264": {"qp": "20", "bf": "0"}}[codec]
    path = write_clip(tmp_path / "a.ts", mostly_still(12), codec=codec, pixels="yuv420p", options=options)
    content = bytearray(path.read_bytes())
    place = packet_places(path)[6][0] + STREAM_PACKET
    assert content[place] == SYNC and content[place + 1] & 0x80 == 0
    content[place + 1] |= 0x80
    path.write_bytes(content)
    with av.open(str(path)) as container:
        (marked,) = [at for at, packet in enumerate(container.demux(video=0)) if packet.is_corrupt]
    timeline = read_timeline(path)
    assert timeline.num_frames == 12
    assert len(list(iter_pictures(path, timeline, [range(marked)]))) == marked
    for number in range(marked, 12):
        with pytest.raises(VideoError, match=f"frame {number} is damaged"):
            list(iter_pictures(path, timeline, [[number]]))


def mended_alone(path: Path) -> list[int]:
    """Frames that the decoder says it mended; none where it refuses one."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"err_detect": "crccheck+explode"}
        try:
            frames = [frame for packet in container.demux(stream) for frame in stream.decode(packet)]
        except av.error.FFmpegError:
            return []
    return [at for at, frame in enumerate(frames) if frame.is_corrupt]


@pytest.mark.parametrize("suffix", ["avi", "mp4"])
def test_a_frame_that_a_decoder_mended_takes_what_is_built_on_it(tmp_path: Path, suffix: str) -> None:
    """The next frame once passed as whole, with the mend in it; a key frame is built on nothing."""
    path = write_clip(
        tmp_path / f"a.{suffix}",
        mostly_still(16),
        codec="mpeg4",
        pixels="yuv420p",
        options={"bf": "0"},
        time_base=Fraction(1, 25),
        key_every=12,
    )
    timeline = read_timeline(path)
    whole = dict(iter_pictures(path, timeline, [range(16)]))
    place, size = packet_places(path)[5]
    content = path.read_bytes()
    for cut in range(size - 16, size // 2, -4):
        path.write_bytes(content[: place + cut] + bytes(size - cut) + content[place + size :])
        if mended_alone(path) == [5]:
            break
    else:
        pytest.fail("no damage that the decoder mends was found")
    found = dict(iter_pictures(path, timeline, [range(5), range(12, 16)]))
    assert all(np.array_equal(picture, whole[at]) for at, picture in found.items())
    for number in range(5, 12):
        with pytest.raises(VideoError, match=f"frame {number} is damaged"):
            list(iter_pictures(path, timeline, [[number]]))
    with pytest.raises(VideoError, match="frame 5 is damaged"):
        list(iter_pictures(path, timeline, [[4, 12]]))  # nor may a frame between two be damaged


@pytest.mark.parametrize(
    ("name", "codec", "pixels"), [("a.mp4", "libx264", "yuv420p"), ("a.mkv", "mjpeg", "yuvj420p")]
)
def test_no_decoder_fills_a_hole_in_silence(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    """Half of a frame is there; decoders would paint the rest from the frame before, and say nothing."""
    options = {"qp": "20"} if codec == "libx264" else {}
    frames = mostly_still(16)
    path = write_clip(tmp_path / name, frames, codec=codec, pixels=pixels, options=options, key_every=12)
    timeline = read_timeline(path)
    whole = dict(iter_pictures(path, timeline, [range(16)]))
    place, size = packet_places(path)[5]
    content = bytearray(path.read_bytes())
    content[place + size // 2 : place + size] = bytes(size - size // 2)
    path.write_bytes(content)
    refused: list[int] = []
    for number in range(16):
        try:
            ((_, picture),) = iter_pictures(path, timeline, [[number]])
        except VideoError as error:
            assert f"frame {number} is damaged" in str(error)
            refused.append(number)
        else:
            assert np.array_equal(picture, whole[number]), number
    assert 0 < len(refused) < 12


def test_a_picture_whose_sum_is_wrong_is_refused(tmp_path: Path) -> None:
    """Of an animated PNG, the one format here whose every frame has a sum."""
    pictures = [Image.fromarray(picture) for picture in mostly_still(5)]
    path = tmp_path / "a.apng"
    pictures[0].save(path, format="PNG", save_all=True, append_images=pictures[1:], duration=100)
    timeline = read_timeline(path)
    assert timeline.num_frames == 5
    content = bytearray(path.read_bytes())
    place = [at for at in range(len(content)) if content[at : at + 4] == b"fdAT"][2]  # of frame 3
    size = int.from_bytes(content[place - 4 : place])
    content[place + 4 + size] ^= 1
    path.write_bytes(content)
    assert len(list(iter_pictures(path, timeline, [range(3)]))) == 3
    with pytest.raises(VideoError, match="frame 3 is damaged"):
        list(iter_pictures(path, timeline, [[3]]))


def test_a_frame_whose_time_is_not_told_is_counted(tmp_path: Path) -> None:
    """A broadcast may leave times out: no frame is lost by that, and none moves up."""
    path = write_clip(tmp_path / "a.ts", numbered(12), options={"qp": "0", "bf": "0"}, pixels="yuv420p")
    content = bytearray(path.read_bytes())
    starts: list[int] = []
    for place in range(0, len(content), STREAM_PACKET):
        begin = place + 4 + (1 + content[place + 4] if content[place + 3] & 0x20 else 0)
        if content[place + 1] & 0x40 and content[begin : begin + 4] == b"\0\0\1\xe0":
            starts.append(begin)
    assert len(starts) == 12 and content[starts[7] + 7] & 0xC0
    content[starts[7] + 7] &= 0x3F  # the bytes of its time are filling now
    path.write_bytes(content)
    with av.open(str(path)) as container:
        assert [packet.pts is None for packet in container.demux(video=0) if packet.size].count(True) == 1
    timeline = read_timeline(path)
    found = iter_pictures(path, timeline, [range(12)])
    assert [(at, number_of(picture)) for at, picture in found] == [(at, at) for at in range(12)]
    assert timeline.seconds(0, 12) == 1


@pytest.mark.parametrize(
    ("matrix", "told"),
    [
        # a turn of 3 degrees, one of 93, and rows that are turned where columns are not
        ((65446, 3430, -3430, 65446), 3),
        ((-3430, 65446, -65446, -3430), 93),
        ((0, ONE, 0, ONE), 90),
        ((0, ONE, -ONE // 2, ONE), 90),
    ],
)
def test_a_matrix_that_is_no_quarter_turn_is_refused(
    tmp_path: Path, matrix: tuple[int, int, int, int], told: int
) -> None:
    a, b, c, d = matrix
    path = write_clip(tmp_path / "a.mp4", corners()[None], matrix=(a, b, 0, c, d, 0, 0, 0, UNIT))
    with pytest.raises(VideoError, match=f"it is turned by {told} degrees; only quarter turns"):
        list(iter_pictures(path, read_timeline(path), [[0]]))


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (65530, 572, -572, 65530)])
def test_a_matrix_that_says_nothing_turns_nothing(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Zeros, as careless programs leave them, and half a degree."""
    a, b, c, d = matrix
    path = write_clip(tmp_path / "a.mp4", corners()[None], matrix=(a, b, 0, c, d, 0, 0, 0, UNIT))
    ((_, found),) = iter_pictures(path, read_timeline(path), [[0]])
    assert np.abs(found.astype(int) - corners()).max() <= 3
