"""Sizes convert both ways, and sizes that do not fit are refused."""

import pytest

from shotstream.geometry import WAN_FRAME_SIZE, WAN_GEOMETRY, LatentSize, PixelSize, TokenGrid, VideoGeometry


def test_a_wan_frame_is_1560_tokens() -> None:
    assert (WAN_FRAME_SIZE.height, WAN_FRAME_SIZE.width) == (480, 832)
    latents = WAN_GEOMETRY.latent_size(WAN_FRAME_SIZE)
    assert latents == LatentSize(60, 104)
    assert WAN_GEOMETRY.token_grid(latents) == TokenGrid(30, 52)
    assert WAN_GEOMETRY.token_grid(latents).num_tokens == 1560


def test_lengths_of_a_seven_chunk_shot() -> None:
    assert WAN_GEOMETRY.shot_num_latent_frames(7) == 21
    assert WAN_GEOMETRY.shot_num_frames(7) == 81
    assert WAN_GEOMETRY.num_latent_frames(81) == 21
    assert WAN_GEOMETRY.num_chunks(21) == 7


def test_the_first_chunk_is_short_and_chunks_sum_to_the_shot() -> None:
    assert [WAN_GEOMETRY.chunk_num_frames(chunk) for chunk in range(3)] == [9, 12, 12]
    for num_chunks in range(1, 9):
        frames = [WAN_GEOMETRY.chunk_num_frames(chunk) for chunk in range(num_chunks)]
        assert sum(frames) == WAN_GEOMETRY.shot_num_frames(num_chunks)


def test_a_first_chunk_of_its_own_counts_in_every_length() -> None:
    alone = VideoGeometry(first_chunk_latent_frames=1)
    assert [alone.chunk_num_frames(chunk) for chunk in range(3)] == [1, 12, 12]
    assert [alone.num_chunks(alone.shot_num_latent_frames(count)) for count in (1, 2, 7)] == [1, 2, 7]
    assert [alone.nearest_num_chunks(frames) for frames in (1, 7, 8, 73, 79, 80)] == [1, 1, 2, 7, 7, 8]
    framewise = VideoGeometry(chunk_latent_frames=1)
    assert framewise.shot_num_frames(21) == 81 and framewise.nearest_num_chunks(81) == 21
    with pytest.raises(ValueError, match=r"give 1 \+ a multiple of 3, for example 4"):
        alone.num_chunks(5)
    with pytest.raises(ValueError, match="first_chunk_latent_frames is 4"):
        VideoGeometry(first_chunk_latent_frames=4)


@pytest.mark.parametrize("geometry", [WAN_GEOMETRY, VideoGeometry(temporal_stride=2, spatial_stride=4)])
def test_conversions_invert_each_other(geometry: VideoGeometry) -> None:
    for num_latent_frames in range(1, 30):
        assert geometry.num_latent_frames(geometry.num_frames(num_latent_frames)) == num_latent_frames
    assert geometry.latent_size(geometry.pixel_size(LatentSize(5, 9))) == LatentSize(5, 9)


def test_sizes_that_do_not_fit_are_refused_with_a_size_that_does() -> None:
    with pytest.raises(ValueError, match="480x832"):
        WAN_GEOMETRY.latent_size(PixelSize(479, 831))
    with pytest.raises(ValueError, match="multiples of 2"):
        WAN_GEOMETRY.token_grid(LatentSize(7, 8))
    with pytest.raises(ValueError, match="for example 77"):
        WAN_GEOMETRY.num_latent_frames(80)
    with pytest.raises(ValueError, match="for example 18"):
        WAN_GEOMETRY.num_chunks(20)
    for refused in (WAN_GEOMETRY.num_frames, WAN_GEOMETRY.num_chunks, WAN_GEOMETRY.shot_num_frames):
        with pytest.raises(ValueError):
            refused(0)
    for num_frames in (-3, 0):
        with pytest.raises(ValueError, match=r"for example 1$"):
            WAN_GEOMETRY.num_latent_frames(num_frames)
    with pytest.raises(ValueError, match=r"for example 3$"):
        WAN_GEOMETRY.num_chunks(2)
    with pytest.raises(ValueError, match="the first chunk is 0"):
        WAN_GEOMETRY.chunk_num_frames(-1)
    with pytest.raises(ValueError):
        PixelSize(0, 8)
    with pytest.raises(ValueError):
        VideoGeometry(patch_size=0)


@pytest.mark.parametrize(
    ("size", "nearest"),
    [((479, 831), "480x832"), ((489, 843), "488x840"), ((487, 3), "488x8"), ((1, 1), "8x8")],
)
def test_the_size_that_is_offered_is_the_nearest_and_never_empty(size: tuple[int, int], nearest: str) -> None:
    with pytest.raises(ValueError, match=f"not multiples of 8; the nearest size is {nearest}$") as refused:
        WAN_GEOMETRY.latent_size(PixelSize(*size))
    assert f"{size[0]}x{size[1]} pixels" in str(refused.value)
    height, width = map(int, nearest.split("x"))
    assert WAN_GEOMETRY.latent_size(PixelSize(height, width)) == LatentSize(height // 8, width // 8)


@pytest.mark.parametrize("size", [PixelSize, LatentSize, TokenGrid])
@pytest.mark.parametrize("extent", [(0, 1), (1, 0), (-8, 8)])
def test_nothing_is_empty(size: type, extent: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="is empty"):
        size(*extent)


@pytest.mark.parametrize("geometry", [WAN_GEOMETRY, VideoGeometry(temporal_stride=2, chunk_latent_frames=5)])
def test_the_nearest_length_is_the_nearest_of_all_and_the_shorter_of_two(geometry: VideoGeometry) -> None:
    lengths = {n: geometry.shot_num_frames(n) for n in range(1, 30)}
    for num_frames in range(1, 250):
        nearest = min(lengths, key=lambda n: (abs(lengths[n] - num_frames), n))
        assert geometry.nearest_num_chunks(num_frames) == nearest, num_frames
