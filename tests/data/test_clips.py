"""Clips as shots: ranges are kept to the frame, sizes keep their proportions, rates keep the speed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from shotstream.codec.video_io import VideoError, write_lossless
from shotstream.data.clips import ClipForm, fit, iter_shots
from shotstream.geometry import WAN_GEOMETRY, PixelSize
from shotstream.manifest import Clip
from shotstream.story import Shot, Story

SIZE = PixelSize(8, 16)


def numbered(num_frames: int) -> np.ndarray:
    """Frames that are grey of their own number."""
    frames = np.arange(num_frames, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(frames, (num_frames, SIZE.height, SIZE.width, 3))


def clip_of(path: Path, ranges: Sequence[tuple[int, int]], num_frames: int, fps: int = 8) -> Clip:
    write_lossless(path, numbered(num_frames), fps)
    story = Story(global_caption="a wood", shots=tuple(Shot(caption=f"shot {i}") for i in range(len(ranges))))
    return Clip(video=path, story=story, shot_ranges=tuple(ranges))


def form(max_latent_frames: int = 21, fps: int = 8) -> ClipForm:
    return ClipForm(size=SIZE, fps=fps, geometry=WAN_GEOMETRY, max_latent_frames=max_latent_frames)


def numbers(clip: Clip, form: ClipForm) -> list[tuple[int, list[int]]]:
    return [(shot.shot_index, shot.frames[:, 0, 0, 0].tolist()) for shot in iter_shots(clip, form)]


def test_gaps_between_ranges_shift_nothing_and_every_shot_is_cut_on_its_own(tmp_path: Path) -> None:
    """The published loader counts frames through gaps, and cuts the last shot for the length of all."""
    clip = clip_of(tmp_path / "a.mkv", [(3, 14), (20, 33), (33, 52)], 60)
    assert numbers(clip, form()) == [
        (0, list(range(3, 12))),
        (1, list(range(20, 33))),
        (2, list(range(33, 50))),
    ]


def test_a_shot_that_fills_no_chunk_is_left_out_and_its_neighbours_stay(tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "a.mkv", [(0, 9), (9, 17), (17, 26)], 26)
    assert numbers(clip, form()) == [(0, list(range(9))), (2, list(range(17, 26)))]


def test_a_clip_of_one_shot_and_a_clip_of_none_long_enough(tmp_path: Path) -> None:
    assert numbers(clip_of(tmp_path / "a.mkv", [(0, 10)], 10), form()) == [(0, list(range(9)))]
    assert numbers(clip_of(tmp_path / "b.mkv", [(0, 8)], 10), form()) == []


def test_a_long_shot_is_cut_at_its_end(tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "a.mkv", [(0, 40), (40, 49)], 49)
    assert numbers(clip, form(3)) == [(0, list(range(9))), (1, list(range(40, 49)))]


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (16, [5, 7, 9, 11, 13, 15, 17, 19, 21]),
        (4, [5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13]),
        (12, [5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23]),
    ],
)
def test_another_frame_rate_keeps_the_speed(tmp_path: Path, fps: int, expected: list[int]) -> None:
    stop = 5 + {16: 17, 4: 9, 12: 19}[fps]
    assert numbers(clip_of(tmp_path / "a.mkv", [(5, stop)], 26, fps), form()) == [(0, expected)]


def test_a_video_shorter_than_its_ranges_and_a_broken_one_are_refused(tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "a.mkv", [(0, 9), (9, 30)], 20)
    with pytest.raises(VideoError, match="ends at frame 20"):
        list(iter_shots(clip, form()))
    clip.video.write_bytes(b"no video")
    with pytest.raises(VideoError, match="not a readable video"):
        list(iter_shots(clip, form()))


def test_enlarged_pixels_come_back_exactly() -> None:
    small = np.random.default_rng(0).integers(0, 256, (2, SIZE.height, SIZE.width, 3), np.uint8)
    assert np.array_equal(fit(small.repeat(3, axis=1).repeat(3, axis=2), SIZE), small)


def test_a_wider_and_a_higher_picture_lose_their_edges_evenly() -> None:
    wide = np.zeros((1, 8, 20, 3), np.uint8)
    wide[:, :, 2:18] = 200
    assert (fit(wide, SIZE) == 200).all()
    high = np.zeros((1, 12, 16, 3), np.uint8)
    high[:, 2:10] = 200
    assert (fit(high, SIZE) == 200).all()


def test_resizing_is_no_squeezing() -> None:
    """A disc stays round when a 4:3 picture becomes 2:1."""
    y, x = np.mgrid[:60, :80]
    disc = ((y - 30) ** 2 + (x - 40) ** 2 < 15**2).astype(np.uint8) * 255
    seen = fit(disc[None, :, :, None].repeat(3, axis=3), PixelSize(24, 48))[0, :, :, 0] > 127
    assert abs(int(seen.any(axis=1).sum()) - int(seen.any(axis=0).sum())) <= 1
    assert seen.any(axis=1).sum() == pytest.approx(30 * 48 / 80, abs=1)
