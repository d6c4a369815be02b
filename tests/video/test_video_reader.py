"""A file is read as a player shows it: the right frames at the right times, upright, whole, and no other."""

import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

av = pytest.importorskip("av", reason="reads videos")

from shotstream.video import video_opening  # noqa: E402
from shotstream.video.video_io import read_frames  # noqa: E402
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


def on_screen(path: Path, moments: Sequence[float]) -> list[int]:
    """Numbers of the frames that are seen so many seconds after the first one appears."""
    timeline = read_timeline(path)
    return [timeline.on_screen(0, Fraction(moment).limit_denominator(1000)) for moment in moments]


def shown_by_ffmpeg(path: Path, *options: str) -> np.ndarray:
    """The frames as the command `ffmpeg` shows them."""
    binary = pytest.importorskip("imageio_ffmpeg", reason="brings a player").get_ffmpeg_exe()
    timeline = read_timeline(path)
    ((_, first),) = iter_pictures(path, timeline, [[0]])
    command = [binary, "-v", "error", "-i", str(path), *options, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, *first.shape)


# --- upright


@pytest.mark.parametrize(
    ("orientation", "matrix"),
    # EXIF's eight orientations as display matrices: a point (x, y) goes to (a x + c y, b x + d y).
    [
        (1, (ONE, 0, 0, ONE)),
        (2, (-ONE, 0, 0, ONE)),
        (3, (-ONE, 0, 0, -ONE)),
        (4, (ONE, 0, 0, -ONE)),
        (5, (0, ONE, ONE, 0)),
        (6, (0, ONE, -ONE, 0)),
        (7, (0, -ONE, -ONE, 0)),
        (8, (0, -ONE, ONE, 0)),
    ],
)
def test_a_display_matrix_turns_and_mirrors_the_picture(
    tmp_path: Path, orientation: int, matrix: tuple[int, int, int, int]
) -> None:
    a, b, c, d = matrix
    path = write_clip(tmp_path / "a.mp4", corners()[None], matrix=(a, b, 0, c, d, 0, 0, 0, UNIT))
    image = Image.fromarray(corners())
    image.getexif()[274] = orientation
    want = np.asarray(ImageOps.exif_transpose(image))
    ((_, found),) = iter_pictures(path, read_timeline(path), [[0]])
    assert found.shape == want.shape
    assert np.abs(found.astype(int) - want).max() <= 3


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_ffmpeg_turns_pictures_the_same_way(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv444p"
        stream.set_display_rotation(degrees, hflip=mirrored)
        for packet in stream.encode(av.VideoFrame.from_ndarray(corners(), format="rgb24")):
            container.mux(packet)
        container.mux(stream.encode(None))
    assert np.abs(read_frames(path).astype(int) - shown_by_ffmpeg(path)).max() <= 3


def test_a_turn_that_is_no_quarter_is_refused_with_its_angle(tmp_path: Path) -> None:
    cos, sin = round(ONE * np.cos(np.pi / 6)), round(ONE * np.sin(np.pi / 6))
    matrix = (cos, sin, 0, -sin, cos, 0, 0, 0, UNIT)
    path = write_clip(tmp_path / "a.mp4", corners()[None], matrix=matrix)
    with pytest.raises(VideoError, match=r"a\.mp4: frame 0: it is turned by 30 degrees; only quarter turns"):
        read_frames(path)


# --- proportions


@pytest.mark.parametrize(
    ("aspect", "shape"),
    [
        (Fraction(4, 3), (64, 128)),
        (Fraction(64, 45), (64, 137)),
        (Fraction(2, 3), (96, 96)),
        (Fraction(1), (64, 96)),
    ],
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_pixels_that_are_not_square_are_made_square(
    tmp_path: Path, suffix: str, aspect: Fraction, shape: tuple[int, int]
) -> None:
    path = write_clip(tmp_path / f"a.{suffix}", corners()[None], aspect=aspect)
    (found,) = read_frames(path)
    assert found.shape[:2] == shape
    height, width = shape
    assert found[height // 2 + 6, width // 4].tolist() == pytest.approx([0, 0, 255], abs=4)
    assert found[4, width // 2 - 6].tolist() == pytest.approx([255, 0, 0], abs=4)
    assert found[4, width // 2 + 6].tolist() == pytest.approx([0, 255, 0], abs=4)


def test_the_container_overrules_the_codec_about_proportions(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", corners()[None], aspect=Fraction(2))
    content = path.read_bytes()
    place = content.index(b"pasp") + 4
    assert content[place : place + 8] == (2).to_bytes(4, "big") + (1).to_bytes(4, "big")
    path.write_bytes(
        content[: place + 4] + (4).to_bytes(4, "big") + content[place + 8 :]
    )  # 1/2; H.264 says 2
    assert read_frames(path).shape[1:3] == (128, 96)


def test_a_turned_picture_is_made_square_before_it_is_turned(tmp_path: Path) -> None:
    matrix = (0, ONE, 0, -ONE, 0, 0, 0, 0, UNIT)
    path = write_clip(tmp_path / "a.mp4", corners()[None], aspect=Fraction(2), matrix=matrix)
    (found,) = read_frames(path)
    assert found.shape == (192, 64, 3)
    assert np.abs(found[:10, :10].astype(int) - (0, 0, 255)).max() <= 4, "the lower left corner is now on top"


# --- time


def test_frames_are_taken_by_their_times_where_the_rate_varies(tmp_path: Path) -> None:
    """At 24 a second at first, then at 6, with one picture that stays for a second."""
    stamps = [0, 42, 83, 125, 167, 333, 500, 1500, 1667]
    path = write_clip(tmp_path / "a.mkv", numbered(9), stamps=stamps, time_base=Fraction(1, 1000))
    timeline = read_timeline(path)
    assert timeline.num_frames == 9
    moments = [moment / 8 for moment in range(14)]
    assert on_screen(path, moments) == [0, 3, 4, 5, 6, 6, 6, 6, 6, 6, 6, 6, 7, 7]
    assert [float(timeline.seconds(0, stop)) for stop in (4, 7, 8)] == pytest.approx([0.167, 1.5, 1.667])


def test_times_of_one_rate_are_exact_though_the_file_rounds_them(tmp_path: Path) -> None:
    """Matroska tells milliseconds: frame 2 of 12 a second is at 167, and the moment at 166.7."""
    path = write_clip(tmp_path / "a.mkv", numbered(30))
    timeline = read_timeline(path)
    assert (timeline.tick, timeline.slack, timeline.seconds(3, 27)) == (Fraction(1, 12), 0, 2)
    assert [timeline.on_screen(3, Fraction(moment, 12)) for moment in range(24)] == list(range(3, 27))
    ntsc = write_clip(tmp_path / "b.mp4", numbered(30), time_base=Fraction(1001, 24000))
    assert on_screen(ntsc, [second / 24 for second in range(6)]) == [0, 0, 1, 2, 3, 4]


def test_a_frame_that_is_held_is_seen_in_files_whose_clock_is_the_frame_rate(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "a.mp4",
        numbered(6),
        stamps=[0, 1, 2, 4, 5, 6],
        container_options={"video_track_timescale": "12"},
    )
    assert read_timeline(path).tick == Fraction(1, 12)
    assert on_screen(path, [tick / 12 for tick in range(7)]) == [0, 1, 2, 2, 3, 4, 5]


@pytest.mark.parametrize("first", [-7, 0, 1000])
def test_where_times_begin_does_not_matter(tmp_path: Path, first: int) -> None:
    stamps = [first + stamp for stamp in (0, 1, 2, 4, 8, 9)]
    path = write_clip(tmp_path / "a.mkv", numbered(6), stamps=stamps)
    assert on_screen(path, [tick / 12 for tick in range(10)]) == [0, 1, 2, 2, 3, 3, 3, 3, 4, 5]
    assert [number_of(picture) for picture in read_frames(path)] == list(range(6))


def test_a_gif_runs_at_the_speed_of_its_delays(tmp_path: Path) -> None:
    """Written by another library; the last picture stays for half a second."""
    images = [Image.fromarray(np.full((16, 16, 3), 50 * i, np.uint8)) for i in range(4)]
    path = tmp_path / "a.gif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=[100, 300, 100, 500])
    timeline = read_timeline(path)
    assert timeline.num_frames == 4
    assert on_screen(path, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.9]) == [0, 1, 1, 1, 2, 3, 3]
    assert float(timeline.seconds(0, 4)) == pytest.approx(1.0)
    assert [round(float(picture.mean()) / 50) for picture in read_frames(path)] == [0, 1, 2, 3]


def test_an_edit_list_leaves_out_what_it_cuts(tmp_path: Path) -> None:
    """The editor cut 5 frames off the front; the key frame that the others build on is still in the file."""
    path = write_clip(tmp_path / "a.mp4", numbered(20), options={"qp": "0", "bf": "0"})
    content = bytearray(path.read_bytes())
    place = content.index(b"elst") + 4
    assert content[place + 4 : place + 8] == (1).to_bytes(4, "big")
    with av.open(str(path)) as container:
        ticks = int(5 / 12 / container.streams.video[0].time_base)
    content[place + 12 : place + 16] = ticks.to_bytes(4, "big")
    path.write_bytes(content)
    assert [number_of(picture) for picture in read_frames(path)] == list(range(5, 20))


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", numbered(1))
    timeline = read_timeline(path)
    assert (timeline.num_frames, timeline.seconds(0, 1)) == (1, Fraction(1, 12))


@pytest.mark.parametrize(
    ("codec", "suffix", "pixels"),
    [
        ("libx264", "avi", "yuv420p"),
        ("mpeg4", "avi", "yuv420p"),
        ("mpeg2video", "mpg", "yuv420p"),
        ("libvpx", "webm", "yuv420p"),
        ("libvpx-vp9", "webm", "yuv420p"),
        ("mjpeg", "mov", "yuvj420p"),
        ("libx264", "ts", "yuv420p"),
    ],
)
def test_formats_that_tell_little_keep_number_order_and_speed(
    tmp_path: Path, codec: str, suffix: str, pixels: str
) -> None:
    rate = 25 if codec == "mpeg2video" else 12
    path = write_clip(
        tmp_path / f"a.{suffix}",
        numbered(25),
        codec=codec,
        pixels=pixels,
        options={"b": "4000000"},
        time_base=Fraction(1, rate),
    )
    assert [number_of(picture) for picture in read_frames(path)] == list(range(25))
    assert on_screen(path, [tick / rate for tick in range(25)]) == list(range(25))


def test_frames_stop_being_looked_for_where_no_more_are_asked_for(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", numbered(40), key_every=4)
    timeline = read_timeline(path, 7)
    assert (timeline.num_frames, timeline.seconds(0, 7)) == (7, Fraction(7, 12))
    assert [number_of(picture) for picture in read_frames(path, 3, 7)] == [3, 4, 5, 6]
    assert read_timeline(path, 99).num_frames == 40


def test_two_frames_of_one_time_are_two_frames(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", numbered(6), stamps=[0, 1, 2, 2, 3, 4], codec="ffv1", options={})
    assert [number_of(picture) for picture in read_frames(path)] == list(range(6))
    assert on_screen(path, [tick / 12 for tick in range(5)]) == [0, 1, 3, 4, 5]


# --- the right stream


def with_two_streams(path: Path, dispositions: Sequence[int], counts: Sequence[int]) -> Path:
    with av.open(str(path), "w") as container:
        streams = []
        for disposition in dispositions:
            is_cover = disposition & int(av.stream.Disposition.attached_pic)
            stream = container.add_stream("png" if is_cover else "libx264", rate=12)
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "rgb24" if is_cover else "yuv444p"
            stream.disposition = av.stream.Disposition(disposition)
            streams.append(stream)
        for level, (stream, count) in enumerate(zip(streams, counts, strict=True)):
            for _ in range(count):
                picture = np.full((HEIGHT, WIDTH, 3), 60 + 100 * level, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    return path


def test_of_several_videos_the_default_one_is_shown(tmp_path: Path) -> None:
    default = int(av.stream.Disposition.default)
    first = with_two_streams(tmp_path / "a.mkv", (default, 0), (6, 6))
    second = with_two_streams(tmp_path / "b.mkv", (0, default), (6, 6))
    assert [round(float(read_frames(path).mean()), -1) for path in (first, second)] == [60, 160]


def test_a_cover_picture_is_no_video_wherever_it_lies(tmp_path: Path) -> None:
    cover = int(av.stream.Disposition.attached_pic)
    path = with_two_streams(tmp_path / "a.mp4", (cover, 0), (1, 6))
    with av.open(str(path)) as container:
        assert any(one.disposition & av.stream.Disposition.attached_pic for one in container.streams.video)
    assert read_frames(path).shape[0] == 6
    assert round(float(read_frames(path).mean()), -1) == 160


@pytest.mark.parametrize(
    ("name", "codec", "samples"),
    [
        ("a.mp4", "aac", "fltp"),
        ("a.mp3", "mp3", "s16p"),
        ("a.wav", "pcm_s16le", "s16"),
        ("a.flac", "flac", "s16"),
    ],
)
def test_sound_alone_is_refused_as_that(tmp_path: Path, name: str, codec: str, samples: str) -> None:
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=44100, layout="mono")
        silence = np.zeros((1, 1024), np.float32 if samples == "fltp" else np.int16)
        frame = av.AudioFrame.from_ndarray(silence, format=samples, layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match=rf"{name}: not a readable video: it holds sound and no video"):
        read_timeline(tmp_path / name)


# --- damage


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("kind", ["zeroed", "flipped"])
def test_damage_takes_its_frames_and_no_other_moves_up(tmp_path: Path, suffix: str, kind: str) -> None:
    path = write_clip(
        tmp_path / f"a.{suffix}", numbered(40), key_every=10, options={"qp": "0", "bf": "0"}, pixels="yuv420p"
    )
    place, size = packet_places(path)[13]
    content = bytearray(path.read_bytes())
    # Behind the block header of Matroska, whose loss is another matter.
    for offset in range(place + 12, place + size):
        content[offset] = 0 if kind == "zeroed" else content[offset] ^ 0x55
    path.write_bytes(content)
    timeline = read_timeline(path)
    assert timeline.num_frames == 40
    for span in (range(10, 14), range(13, 14), range(15, 18), range(0, 25)):
        with pytest.raises(VideoError, match=rf"frame {max(13, span[0])} is damaged"):
            list(iter_pictures(path, timeline, [span]))
    with pytest.raises(VideoError, match="frame 13 is damaged"):
        list(iter_pictures(path, timeline, [[12, 20]]))
    sound = [
        (index, number_of(one)) for index, one in iter_pictures(path, timeline, [range(13), range(20, 40)])
    ]
    assert sound == [(index, index) for index in (*range(13), *range(20, 40))]


def test_a_matroska_file_that_lost_frames_is_refused(tmp_path: Path) -> None:
    """FFmpeg skips what it cannot make sense of, up to the next cluster, without a word."""
    noise = np.random.default_rng(0).integers(0, 256, (40, HEIGHT, WIDTH, 3), np.uint8)
    path = write_clip(tmp_path / "a.mkv", noise, key_every=10, options={"qp": "20"})
    assert read_timeline(path).num_frames == 40
    place, size = packet_places(path)[13]
    content = bytearray(path.read_bytes())
    content[place : place + size] = bytes(size)
    path.write_bytes(content)
    with av.open(str(path)) as container:
        assert 13 < sum(packet.size > 0 for packet in container.demux(video=0)) < 40
    with pytest.raises(VideoError, match=r"a\.mkv: it is damaged after frame 1\d: frames are missing"):
        read_timeline(path)


def test_nothing_is_trusted_after_damage_where_frames_are_only_counted(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "a.avi", numbered(30), codec="mpeg4", key_every=5, pixels="yuv420p", options={}
    )
    place, size = packet_places(path)[12]
    content = bytearray(path.read_bytes())
    content[place : place + size] = bytes(size)
    path.write_bytes(content)
    timeline = read_timeline(path)
    assert len(list(iter_pictures(path, timeline, [range(12)]))) == 12
    with pytest.raises(VideoError, match="frame 20 is damaged"):
        list(iter_pictures(path, timeline, [[20]]))


def noise(num_frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, HEIGHT, WIDTH, 3), np.uint8)


def test_a_packet_that_a_broadcast_lost_takes_its_frame(tmp_path: Path) -> None:
    """188 bytes of one frame are gone; FFmpeg shows that frame with a hole, or smeared."""
    path = write_clip(
        tmp_path / "a.ts",
        noise(20),
        codec="mpeg2video",
        pixels="yuv420p",
        options={"b": "4000000", "bf": "0"},
        time_base=Fraction(1, 25),
    )
    place = packet_places(path)[12][0] + 5 * 188
    content = path.read_bytes()
    assert content[place] == 0x47
    path.write_bytes(content[:place] + content[place + 188 :])
    timeline = read_timeline(path)
    assert timeline.num_frames == 20
    assert len(list(iter_pictures(path, timeline, [range(11)]))) == 11
    with pytest.raises(VideoError, match=r"frame 1[12] is damaged"):
        list(iter_pictures(path, timeline, [range(20)]))


def test_a_file_that_is_cut_off_behind_its_table_loses_the_frame_that_was_cut(tmp_path: Path) -> None:
    """The table in front promises 12 frames, and half of the sixth is there."""
    path = write_clip(
        tmp_path / "a.mov",
        noise(12),
        codec="rawvideo",
        pixels="rgb24",
        options={},
        container_options={"movflags": "+faststart"},
    )
    place, size = packet_places(path)[5]
    path.write_bytes(path.read_bytes()[: place + size // 2])
    timeline = read_timeline(path)
    assert len(list(iter_pictures(path, timeline, [range(5)]))) == 5
    with pytest.raises(VideoError, match=r"frame 5 is damaged|holds [56] frames"):
        read_frames(path, 0, 6)


OPEN = {"qp": "20", "x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0"}
"""Frames after a key frame in the file are shown before it, and build on what came before it."""


def test_what_is_built_on_damage_is_refused_up_to_the_next_key_frame(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", noise(40), key_every=12, options=OPEN)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        ticks = round(1 / 12 / container.streams.video[0].time_base)
    numbers = [packet.pts // ticks for packet in packets]
    numbers = [number - min(numbers) for number in numbers]
    keys = [place for place, packet in enumerate(packets) if packet.is_keyframe]
    leading = [place for place in range(keys[1] + 1, keys[2]) if numbers[place] < numbers[keys[1]]]
    assert leading, "the groups are open"
    place, size = packet_places(path)[keys[1] - 1]
    content = bytearray(path.read_bytes())
    content[place + 8 : place + size] = bytes(size - 8)
    path.write_bytes(content)
    timeline = read_timeline(path)
    for lead in leading:
        with pytest.raises(VideoError, match=rf"frame {numbers[lead]} is damaged"):
            list(iter_pictures(path, timeline, [[numbers[lead]]]))
    assert len(list(iter_pictures(path, timeline, [range(numbers[keys[1]], 40)]))) == 40 - numbers[keys[1]]


def test_nothing_before_the_first_key_frame_is_counted(tmp_path: Path) -> None:
    """A recording that was begun in the middle: what builds on frames that are not there is not shown."""
    path = write_clip(tmp_path / "a.ts", numbered(40), key_every=12, options=OPEN)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    first = min(packet.pts for packet in packets)
    key = next(packet for packet in packets[1:] if packet.is_keyframe)
    number = (key.pts - first) * 12 // 90000
    path.write_bytes(path.read_bytes()[: 3 * 188] + path.read_bytes()[packets[5].pos :])
    found = [number_of(picture) for picture in read_frames(path)]
    assert found == list(range(number, 40))


def test_a_file_that_is_cut_off_ends_there(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", numbered(40), options={"qp": "0", "bf": "0"})
    place, size = packet_places(path)[23]
    path.write_bytes(path.read_bytes()[: place + size // 2])
    assert read_timeline(path).num_frames == 23
    with pytest.raises(VideoError, match=r"holds 23 frames; 0\.\.40 were asked for"):
        read_frames(path, 0, 40)
    index_last = write_clip(tmp_path / "b.mp4", numbered(40))
    index_last.write_bytes(index_last.read_bytes()[:-200])
    with pytest.raises(VideoError, match="damaged, cut off, or in no known format"):
        read_frames(index_last)


def test_times_that_run_backwards_are_refused(tmp_path: Path) -> None:
    """Two recordings, one appended to the other: the clock starts anew."""
    path = write_clip(
        tmp_path / "a.mkv", numbered(12), codec="libvpx", pixels="yuv420p", options={"b": "4000000"}
    )
    first = path.read_bytes()
    both = tmp_path / "b.mkv"
    both.write_bytes(first + first[first.index(b"\x1f\x43\xb6\x75") :])
    with pytest.raises(VideoError, match="its times run backwards after frame 11"):
        read_timeline(both)


# --- files alone


def test_playlists_are_never_followed(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", numbered(3))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        lists = {
            "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}\n#EXT-X-ENDLIST\n",
            "b.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}\n#EXT-X-ENDLIST\n",
            "c.txt": "ffconcat version 1.0\nfile a.mp4\n",
            "d.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
            "e.mpd": f'<?xml version="1.0"?><MPD><Period><BaseURL>{address}</BaseURL></Period></MPD>',
        }
        for name, text in lists.items():
            (tmp_path / name).write_text(text)
            with pytest.raises(VideoError, match=rf"{name}: .* only names other files .* not followed"):
                read_frames(tmp_path / name)
        with pytest.raises(TimeoutError):
            server.accept()


def test_addresses_and_what_is_no_file_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "a.mp4", numbered(3))
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.mp4")
    Path("empty.mp4").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4"
        for name, why in {
            address: "there is no such file",
            "concat:a.mp4|a.mp4": "there is no such file",
            "subfile,,start,0,end,9,,:a.mp4": "there is no such file",
            "pipe.mp4": "it is not a file",
            ".": "it is not a file",
            "/dev/zero": "it is not a file",
            "empty.mp4": "the file is empty",
            "a.mp4/b": "Not a directory",
            "x" * 300 + ".mp4": "File name too long",
            "a\0b.mp4": "no file can have this name",
        }.items():
            with pytest.raises(VideoError, match=f"not a readable video: {why}"):
                read_frames(Path(name))
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    "name", ["concat:a|b.mp4", "клипы (1) #2 %03d.mp4", "-i.mp4", "a b\n.mp4", os.fsdecode(b"zo\xe9.mp4")]
)
def test_any_name_that_a_file_can_have_is_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "a.mp4", numbered(3))
    monkeypatch.chdir(tmp_path)
    shutil.copy(path, name)
    assert len(read_frames(Path(name))) == 3
    Path("link.mp4").symlink_to(name)
    assert len(read_frames(Path("link.mp4"))) == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.png", "it is a picture$"),
        ("a.jpg", "it is a picture$"),
        ("a.webp", "it is WebP, of which nothing is read; make it an MP4 or a GIF"),
        ("lfs.mp4", "it is a Git LFS pointer, not the video; run `git lfs pull`"),
        ("page.mp4", "it is a web page saved under this name; fetch the video itself"),
        ("a.zip", "it is an archive; unpack it and give the video in it"),
        ("other.mp4", "it is damaged, cut off, or in no known format$"),
    ],
)
def test_what_is_there_instead_of_a_video_is_named_with_what_to_do(
    tmp_path: Path, name: str, words: str
) -> None:
    path = tmp_path / name
    if path.suffix in (".png", ".jpg", ".webp"):
        Image.fromarray(corners()).save(path)
    else:
        path.write_bytes(
            {
                "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 9\n",
                "page": b"<!DOCTYPE html>\n<html><title>Sign in</title>",
                "a": b"PK\x03\x04" + bytes(60),
                "other": b"no video" * 20,
            }[path.stem]
        )
    with pytest.raises(VideoError, match=rf"{name}: not a readable video: {words}"):
        read_frames(path)


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_what_webm_keeps_transparent_lies_on_black(tmp_path: Path, codec: str) -> None:
    """Its own decoders leave transparency out: what should not be seen was shown."""
    path = tmp_path / "a.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=12, options={"crf": "4", "auto-alt-ref": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuva420p"
        stream.metadata["alpha_mode"] = "1"
        for number in range(3):
            pixels = np.full((64, 96, 4), 200, np.uint8)
            pixels[..., 3] = np.where(np.arange(96) < 48, 0, 255)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format="yuva420p")
            frame.pts, frame.time_base = number, Fraction(1, 12)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = read_frames(path).astype(int)
    assert len(frames) == 3
    assert frames[:, :, :40].max() <= 8 and np.abs(frames[:, :, 56:] - 200).max() <= 8


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_raw_streams_run_at_the_rate_that_they_tell(tmp_path: Path, codec: str) -> None:
    """They ran at FFmpeg's guess of 25 frames a second, whatever they told."""
    form = {"libx264": "h264", "libx265": "hevc"}[codec]
    options = {"libx264": {"qp": "0"}, "libx265": {"x265-params": "lossless=1:log-level=none"}}[codec]
    path = write_clip(tmp_path / f"a.{form}", numbered(13), codec=codec, options=options)
    timeline = read_timeline(path)
    assert (timeline.num_frames, timeline.seconds(0, 12), timeline.seconds(0, 13)) == (
        13,
        1,
        Fraction(13, 12),
    )
    assert [number_of(picture) for picture in read_frames(path)] == list(range(13))


def test_a_title_in_latin_1_does_no_harm(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", numbered(3), title="Zo@ noir")
    content = path.read_bytes()
    assert content.count(b"Zo@ noir") == 1
    path.write_bytes(content.replace(b"Zo@ noir", b"Zo\xe9 noir"))
    assert len(read_frames(path)) == 3


# --- sizes and fields


def with_two_sizes(path: Path) -> Path:
    """6 frames of 64x96, then 6 of 32x48, in one stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=12)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
        small = av.CodecContext.create("mjpeg", "w")
        small.height, small.width, small.pix_fmt = HEIGHT // 2, WIDTH // 2, "yuvj420p"
        small.time_base = Fraction(1, 12)
        for index, level in enumerate(numbered(12)[:, 0, 0]):
            encoder, shape = (stream, (HEIGHT, WIDTH)) if index < 6 else (small, (HEIGHT // 2, WIDTH // 2))
            picture = np.broadcast_to(level, (*shape, 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 12)
            for packet in encoder.encode(frame):
                packet.stream = stream
                container.mux(packet)
    return path


def test_frames_that_change_size_keep_their_own_and_never_stack(tmp_path: Path) -> None:
    path = with_two_sizes(tmp_path / "a.mkv")
    timeline = read_timeline(path)
    sizes = [picture.shape[:2] for _, picture in iter_pictures(path, timeline, [range(12)])]
    assert sizes == [(64, 96)] * 6 + [(32, 48)] * 6
    with pytest.raises(VideoError, match="frame 6 is 48x32, those before it are 96x64"):
        read_frames(path)


def test_interlaced_video_is_deinterlaced_and_keeps_its_frames(tmp_path: Path) -> None:
    """A bar that moves between the two fields of a frame leaves no comb."""
    fields = np.zeros((24, HEIGHT, WIDTH, 3), np.uint8)
    for index in range(24):
        fields[index, :, 3 * index : 3 * index + 12] = 255
    frames = fields[::2].copy()
    frames[:, 1::2] = fields[1::2, 1::2]
    options = {"qp": "0", "flags": "+ildct+ilme", "x264-params": "tff=1"}
    path = write_clip(tmp_path / "a.mp4", frames, options=options, pixels="yuv422p")
    found = read_frames(path)
    assert len(found) == 12

    def combing(pictures: np.ndarray) -> float:
        rows = pictures[2:-2].astype(int)
        return float(np.abs(2 * rows[:, 1:-1] - rows[:, :-2] - rows[:, 2:]).mean())

    assert combing(found) < combing(frames) / 4
    plain = read_frames(write_clip(tmp_path / "b.mp4", frames, pixels="yuv422p"))
    assert combing(plain) > combing(frames) / 2, "what is not marked is left alone"
    for index in (3, 7):
        middle = np.flatnonzero(found[index, HEIGHT // 2, :, 0] > 127).mean()
        bars = [np.flatnonzero(fields[field, 0, :, 0] > 127).mean() for field in (2 * index, 2 * index + 1)]
        assert min(abs(middle - bar) for bar in bars) < 1, "a frame shows one of its own fields"


def test_a_frame_that_is_too_large_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "a.mp4", numbered(2))
    monkeypatch.setattr(video_opening, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    monkeypatch.setattr(video_opening, "frames_of", None)
    with pytest.raises(VideoError, match=r"frames of 96x64 are too large; at most 6143 pixels"):
        read_timeline(path)
