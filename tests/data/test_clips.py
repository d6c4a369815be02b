"""Clips as shots: ranges are kept to the frame, sizes keep their proportions, rates keep the speed."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from shotstream.data.clips import ClipForm, fit, iter_shots
from shotstream.geometry import WAN_GEOMETRY, PixelSize
from shotstream.manifest import Clip
from shotstream.story import Shot, Story
from shotstream.video.video_io import VideoError, write_lossless
from tests.video.clip_files import number_of, packet_places, write_clip
from tests.video.clip_files import numbered as bright

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


def test_a_shot_of_varying_rate_runs_at_its_speed(tmp_path: Path) -> None:
    """Frames at 24 a second, then at 6, then one that stays for a second; ranges count frames."""
    stamps = [0, 42, 83, 125, 167, 333, 500, 667, 1667, 1792, 1917]
    frames = (10 * np.arange(11, dtype=np.uint8))[:, None, None, None]
    path = write_clip(
        tmp_path / "a.mkv",
        np.broadcast_to(frames, (11, SIZE.height, SIZE.width, 3)),
        stamps=stamps,
        time_base=Fraction(1, 1000),
    )
    story = Story(global_caption="a wood", shots=(Shot(caption="x"), Shot(caption="y")))
    clip = Clip(video=path, story=story, shot_ranges=((1, 9), (9, 10)))
    ((index, shown),) = numbers(clip, form())
    # From 0.042 to 1.792 seconds: 14 moments, of which 13 make whole latent frames.
    assert index == 0
    assert [round(level / 10) for level in shown] == [1, 4, 4, 5, 6, 7, 7, 7, 7, 7, 7, 7, 7]
    clip = Clip(video=path, story=story, shot_ranges=((0, 3), (5, 11)))
    ((index, shown),) = numbers(clip, form())
    # The last frame stays as long as most do: to 2.04 seconds.
    assert (index, [round(level / 10) for level in shown]) == (1, [5, 5, 6, 7, 7, 7, 7, 7, 7, 7, 7, 8, 9])


def test_a_range_beyond_the_end_is_refused_even_where_the_shot_is_cut_before_it(tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "a.mkv", [(0, 41)], 40)
    with pytest.raises(VideoError, match=r"a\.mkv: ends at frame 40, and its shots at frame 41"):
        list(iter_shots(clip, form(3)))


def test_damage_between_shots_hurts_none_and_in_a_shot_refuses_the_clip(tmp_path: Path) -> None:
    path = write_clip(
        tmp_path / "a.mp4",
        bright(40, 48, 96),
        time_base=Fraction(1, 8),
        key_every=10,
        options={"qp": "0", "bf": "0"},
        pixels="yuv420p",
    )
    place, size = packet_places(path)[13]
    content = bytearray(path.read_bytes())
    content[place : place + size] = bytes(size)
    path.write_bytes(content)
    story = Story(global_caption="a wood", shots=(Shot(caption="x"), Shot(caption="y")))
    around = Clip(video=path, story=story, shot_ranges=((0, 13), (20, 40)))
    found = [[number_of(frame) for frame in shot.frames] for shot in iter_shots(around, form())]
    assert found == [list(range(13)), list(range(20, 37))]
    with pytest.raises(VideoError, match=r"a\.mp4: frame 13 is damaged"):
        list(iter_shots(Clip(video=path, story=story, shot_ranges=((0, 18),)), form()))
    # Half of the frames are taken, and the lost one is not among them.
    half = ClipForm(size=SIZE, fps=4, geometry=WAN_GEOMETRY, max_latent_frames=21)
    with pytest.raises(VideoError, match="frame 13 is damaged"):
        list(iter_shots(Clip(video=path, story=story, shot_ranges=((0, 40),)), half))


def test_a_turned_clip_is_encoded_upright_and_in_its_proportions(tmp_path: Path) -> None:
    """A phone's portrait, stored sideways: what is cut off is above and below, not left and right."""
    upright = np.zeros((96, 64, 3), np.uint8)
    upright[32:64, :32] = 250
    stored = np.rot90(upright)[None].repeat(10, axis=0)
    matrix = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path = write_clip(tmp_path / "a.mp4", stored, matrix=matrix, time_base=Fraction(1, 8))
    story = Story(global_caption="a wood", shots=(Shot(caption="x"),))
    (shot,) = iter_shots(Clip(video=path, story=story, shot_ranges=((0, 10),)), form())
    seen = shot.frames[0, :, :, 0]
    assert seen.shape == (SIZE.height, SIZE.width)
    assert seen[:, :7].min() > 230 and seen[:, 9:].max() < 20


def test_one_frame_at_a_time_is_fitted_as_many_are() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), np.uint8)
    together = fit(frames, SIZE)
    assert all(np.array_equal(fit(frames[i : i + 1], SIZE)[0], together[i]) for i in range(3))
