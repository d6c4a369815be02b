import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from shotstream.video.video_io import (
    Chapter,
    FragmentWriter,
    H264Settings,
    Mp4Writer,
    VideoError,
    even_frames,
    read_frames,
    write_lossless,
    write_mp4,
)

av = pytest.importorskip("av", reason="writes and reads videos")


def flat_frames(num_frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Flat patches of saturated colour that change with time."""
    generator = np.random.default_rng(3)
    cells = generator.integers(0, 256, (num_frames, height // 16, width // 16, 3), dtype=np.uint8)
    return cells.repeat(16, axis=1).repeat(16, axis=2)


def boxes(data: bytes) -> list[str]:
    kinds, position = [], 0
    while position < len(data):
        kinds.append(data[position + 4 : position + 8].decode())
        position += int.from_bytes(data[position : position + 4], "big")
    return kinds


def test_lossless_takes_return_bit_for_bit(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (21, 18, 22, 3), dtype=np.uint8)
    write_lossless(tmp_path / "take.mkv", frames, 12)
    assert np.array_equal(read_frames(tmp_path / "take.mkv"), frames)


def test_an_mp4_keeps_number_order_and_colours_of_frames(tmp_path: Path) -> None:
    frames = flat_frames(21)
    write_mp4(tmp_path / "film.mp4", frames, 12, H264Settings(crf=4))
    found = read_frames(tmp_path / "film.mp4")
    assert found.shape == frames.shape
    inner = np.s_[:, 4::16, 4::16]
    # 4:2:0 chroma and 8-bit limited range cost a few levels even where the picture is flat.
    assert np.abs(found[inner].astype(int) - frames[inner]).max() <= 12


def test_an_mp4_is_of_the_kind_that_every_player_takes(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    chapters = [
        Chapter(title="1. Fox", start_frame=0, end_frame=9),
        Chapter(title="2. Öwl", start_frame=9, end_frame=21),
    ]
    with Mp4Writer(path, 12, H264Settings(scale=2), title="A film", chapters=chapters) as writer:
        writer.write(flat_frames(9, 16, 48))
        writer.write(flat_frames(12, 16, 48))
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.height, stream.width, stream.frames, stream.average_rate) == (32, 96, 21, 12)
        assert container.metadata["title"] == "A film"
        found = [(c["metadata"]["title"], float(c["start"] * c["time_base"])) for c in container.chapters()]
        assert found == [("1. Fox", 0.0), ("2. Öwl", 0.75)]
        key_frames = [index for index, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert {0, 9} <= set(key_frames)
    kinds = boxes(path.read_bytes())
    assert kinds.index("moov") < kinds.index("mdat")


@pytest.mark.parametrize("fps", [12, Fraction(24000, 1001)])
def test_chapters_begin_and_end_with_their_frames(tmp_path: Path, fps: int | Fraction) -> None:
    chapters = [
        Chapter(title="a", start_frame=0, end_frame=9),
        Chapter(title="b", start_frame=9, end_frame=16),
        Chapter(title="c", start_frame=18, end_frame=21),
    ]
    with Mp4Writer(tmp_path / "film.mp4", fps, chapters=chapters) as writer:
        writer.write(flat_frames(21, 16, 48))
    with av.open(tmp_path / "film.mp4") as container:
        found = [
            tuple(float(chapter[end] * chapter["time_base"] * fps) for end in ("start", "end"))
            for chapter in container.chapters()
        ]
    # MP4 tells when chapters begin; one ends where the next begins, and the last with the film.
    assert [start for start, _ in found] == pytest.approx([0, 9, 18], abs=0.03)
    assert found[-1][1] == pytest.approx(21, abs=0.03)


@pytest.mark.parametrize("scale", [1, 2, 3, 8])
def test_enlarged_pixels_stay_crisp_and_odd_sizes_become_even(tmp_path: Path, scale: int) -> None:
    frames = np.random.default_rng(2).integers(0, 256, (3, 7, 11, 3), dtype=np.uint8)
    write_mp4(tmp_path / "film.mp4", frames, 12, H264Settings(scale=scale, crf=1))
    pictures = read_frames(tmp_path / "film.mp4")
    assert pictures.shape[1:3] == (8 * scale, 12 * scale) if scale % 2 else (7 * scale, 11 * scale)
    if scale == 8:
        # Away from the borders of a pixel, where readers smooth the halved chroma.
        centres = pictures[:, 4::8, 4::8].astype(int)
        assert np.abs(centres - frames).max() <= 12


def test_odd_sizes_repeat_their_last_row_and_column() -> None:
    frames = np.arange(2 * 3 * 5 * 3, dtype=np.uint8).reshape(2, 3, 5, 3)
    assert even_frames(frames, 2) is frames
    padded = even_frames(frames)
    assert padded.shape == (2, 4, 6, 3)
    assert np.array_equal(padded[:, :3, :5], frames)
    assert np.array_equal(padded[:, 3, :5], frames[:, 2])


def test_each_chunk_becomes_one_fragment_and_together_they_play() -> None:
    writer = FragmentWriter(12, H264Settings(crf=4, preset="ultrafast"))
    chunks = np.split(flat_frames(33), [9, 21])
    parts = [writer.write(chunk) for chunk in chunks]
    assert boxes(parts[0][0]) == ["ftyp", "moov"]
    assert [header for header, _ in parts[1:]] == [b"", b""]
    assert [boxes(fragment) for _, fragment in parts] == [["moof", "mdat"]] * 3
    stream = io.BytesIO(b"".join(header + fragment for header, fragment in parts))
    with av.open(stream) as container:
        decoded = [frame for frame in container.decode(video=0)]
    assert [frame.pts * frame.time_base * 12 for frame in decoded] == list(range(33))
    pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
    inner = np.s_[:, 4::16, 4::16]
    assert np.abs(pictures[inner].astype(int) - np.concatenate(chunks)[inner]).max() <= 12


def test_a_range_of_frames_is_read(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    write_lossless(tmp_path / "take.mkv", frames, 12)
    assert np.array_equal(read_frames(tmp_path / "take.mkv", 7, 39), frames[7:39])
    assert np.array_equal(read_frames(tmp_path / "take.mkv", 20), frames[20:])
    with pytest.raises(VideoError, match="holds 40 frames"):
        read_frames(tmp_path / "take.mkv", 30, 41)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(VideoError, match="not a readable video"):
        read_frames(tmp_path / "notes.mp4")
    with pytest.raises(VideoError, match="not a readable video"):
        read_frames(tmp_path / "absent.mp4")


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    with Mp4Writer(tmp_path / "film.mp4", 12) as writer:
        writer.write(flat_frames(2))
        with pytest.raises(VideoError, match="cannot follow"):
            writer.write(flat_frames(2, 64))
    fragments = FragmentWriter(12)
    fragments.write(flat_frames(2))
    with pytest.raises(VideoError, match="cannot follow"):
        fragments.write(flat_frames(2, 64))
    with pytest.raises(ValueError, match="scale is 0"):
        H264Settings(scale=0)
