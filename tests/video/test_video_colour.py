"""Levels of a file become the light that its standard says: values of BT.601, 709, 2020, 2100 and 2390."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="reads videos")

from shotstream.video.video_colour import (  # noqa: E402
    PictureError,
    hlg_scene,
    pq_level,
    pq_nits,
    to_picture,
    tone_mapped,
)

LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Weights of red and blue, by the number of the matrix in H.273."""
LIMITED, FULL = 1, 2
COLOURS = [(200, 60, 30), (30, 200, 60), (60, 30, 200), (235, 235, 16), (128, 128, 128)]


def frame_of(
    rgb: Sequence[float],
    *,
    matrix: int,
    told: int | None = None,
    value_range: int = LIMITED,
    bits: int = 8,
    transfer: int = 1,
    primaries: int = 1,
    height: int = 32,
    width: int = 32,
) -> "av.VideoFrame":
    """A flat frame of R'G'B' in [0, 255], made with the formulas of a matrix and tagged as told."""
    red, green, blue = (value / 255 for value in rgb)
    of_red, of_blue = LUMA[matrix]
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    cb, cr = (blue - luma) / (2 - 2 * of_blue), (red - luma) / (2 - 2 * of_red)
    unit = 1 << (bits - 8)
    if value_range == FULL:
        most = (1 << bits) - 1
        levels = [luma * most, 128 * unit + cb * most, 128 * unit + cr * most]
    else:
        levels = [unit * (16 + 219 * luma), unit * (128 + 224 * cb), unit * (128 + 224 * cr)]
    frame = av.VideoFrame(width, height, "yuv444p" if bits == 8 else f"yuv444p{bits}le")
    for plane, level in zip(frame.planes, levels, strict=True):
        dtype = np.uint8 if bits == 8 else np.uint16
        plane.update(np.full(plane.buffer_size // np.dtype(dtype).itemsize, round(level), dtype).tobytes())
    frame.colorspace, frame.color_range = matrix if told is None else told, value_range
    frame.color_trc, frame.color_primaries = transfer, primaries
    return frame


def centre(frame: "av.VideoFrame") -> list[int]:
    picture = to_picture(frame, frame.width, frame.height)
    assert picture.dtype == np.uint8 and picture.shape == (frame.height, frame.width, 3)
    return picture[frame.height // 2, frame.width // 2].tolist()


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("value_range", [LIMITED, FULL])
@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
def test_a_colour_matrix_and_a_range_are_undone_by_their_formulas(
    matrix: int, value_range: int, bits: int
) -> None:
    for colour in COLOURS:
        frame = frame_of(colour, matrix=matrix, value_range=value_range, bits=bits)
        assert centre(frame) == pytest.approx(colour, abs=2)


@pytest.mark.parametrize(
    ("height", "width", "matrix"), [(32, 32, 6), (576, 720, 6), (578, 32, 1), (32, 1280, 1)]
)
def test_video_that_tells_no_matrix_is_taken_by_its_size(height: int, width: int, matrix: int) -> None:
    frame = frame_of((200, 60, 30), matrix=matrix, told=2, height=height, width=width)
    assert centre(frame) == pytest.approx((200, 60, 30), abs=2)


def test_gray_palettes_and_transparent_pictures_are_shown_on_black() -> None:
    gray = av.VideoFrame.from_ndarray(np.full((32, 32), 90, np.uint8), format="gray")
    gray.color_range = FULL
    assert centre(gray) == [90, 90, 90]
    limited = av.VideoFrame.from_ndarray(np.full((32, 32), 16, np.uint8), format="gray")
    limited.color_range = LIMITED
    assert centre(limited) == [0, 0, 0]
    pixels = np.full((32, 32, 4), (200, 100, 50, 255), np.uint8)
    pixels[:, 16:, 3] = 51
    picture = to_picture(av.VideoFrame.from_ndarray(pixels, format="rgba"), 32, 32)
    assert picture[16, 8].tolist() == [200, 100, 50]
    assert picture[16, 24].tolist() == [40, 20, 10]
    palette = np.zeros((256, 4), np.uint8)
    palette[7] = (255, 10, 20, 30)  # alpha first
    indexed = av.VideoFrame.from_ndarray((np.full((32, 32), 7, np.uint8), palette), format="pal8")
    assert centre(indexed) == [10, 20, 30]


@pytest.mark.parametrize(
    ("level", "nits"),
    # Values of ITU-R BT.2100 and BT.2408, and the ends.
    [(0.0, 0.0), (0.508078, 100.0), (0.580689, 203.0), (0.751827, 1000.0), (1.0, 10000.0)],
)
def test_pq_levels_are_light_as_the_standard_tells(level: float, nits: float) -> None:
    assert pq_nits(np.array([level])) == pytest.approx([nits], rel=1e-4, abs=1e-9)
    assert pq_level(np.array([nits])) == pytest.approx([level], abs=1e-5)


@pytest.mark.parametrize(
    ("level", "scene"), [(0.0, 0.0), (0.25, 1 / 48), (0.5, 1 / 12), (0.75, 0.264963), (1.0, 1.0)]
)
def test_hlg_levels_are_light_of_the_scene_as_the_standard_tells(level: float, scene: float) -> None:
    assert hlg_scene(np.array([level])) == pytest.approx([scene], abs=1e-5)


def test_the_curve_keeps_dark_light_and_brings_the_brightest_to_white() -> None:
    dark = np.array([0.0, 1.0, 50.0, 85.0])
    assert tone_mapped(dark, 1000.0) == pytest.approx(dark)
    assert float(tone_mapped(np.array([1000.0]), 1000.0)[0]) == pytest.approx(203.0, rel=1e-4)
    # By hand: PQ(203) / PQ(1000) = 0.7724, a knee at 0.6586, T = 1/3, a level of 0.7388 of 0.7518.
    assert float(tone_mapped(np.array([203.0]), 1000.0)[0]) == pytest.approx(158.4, rel=5e-3)
    rising = tone_mapped(np.linspace(0, 4000, 500), 4000.0)
    assert (np.diff(rising) > 0).all()
    assert (tone_mapped(rising, 203.0) == rising).all(), "what fits the display is left alone"


@pytest.mark.parametrize(
    ("transfer", "level", "want"),
    [
        # Below the knee: light over 203 to the power 1/2.4. HLG 0.5 is 1000 * (1/12)^1.2 = 50.7 cd/m2.
        (18, 0.25, 255 * (1000 * (1 / 48) ** 1.2 / 203) ** (1 / 2.4)),
        (18, 0.5, 255 * (1000 * (1 / 12) ** 1.2 / 203) ** (1 / 2.4)),
        (16, 0.25, 255 * (5.1544 / 203) ** (1 / 2.4)),
        # Diffuse white is 90 % of the display's level, as the curve has it; the peak is all of it.
        (18, 0.75, 230),
        (16, 0.580689, 230),
        (18, 1.0, 255),
        (16, 0.751827, 255),
        (16, 1.0, 255),
        (18, 0.0, 0),
        (16, 0.0, 0),
    ],
)
def test_hdr_grey_becomes_the_grey_that_a_display_shows(transfer: int, level: float, want: float) -> None:
    frame = frame_of([255 * level] * 3, matrix=9, bits=10, transfer=transfer, primaries=9)
    assert centre(frame) == pytest.approx([want] * 3, abs=2)


@pytest.mark.slow
@pytest.mark.parametrize("transfer", [16, 18])
def test_dark_hdr_colours_are_those_that_ffmpeg_makes_of_them(transfer: int) -> None:
    """FFmpeg's colorimetric conversion clips bright light, and below the knee there is one right answer.

    Slow, because it makes a table of all colours first.
    """
    from av.video.reformatter import Colorspace

    frame = frame_of((90, 80, 84), matrix=9, bits=10, transfer=transfer, primaries=9)
    theirs = frame.reformat(
        format="rgb24",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=FULL,
        dst_color_trc=1,
        dst_color_primaries=1,
    ).to_ndarray()
    assert centre(frame) == pytest.approx(theirs[16, 16].tolist(), abs=3)


def test_wide_gamuts_of_ordinary_light_become_bt_709() -> None:
    """A red of P3 lies outside: more red than there is, less green and blue than none."""
    assert centre(frame_of((255, 0, 0), matrix=1, primaries=12)) == [255, 0, 0]
    assert centre(frame_of((128, 128, 128), matrix=9, primaries=9, transfer=14)) == pytest.approx(
        [128] * 3, abs=1
    )
    to_709 = np.array([[1.2249, -0.2249, 0], [-0.0421, 1.0421, 0], [-0.0196, -0.0786, 1.0983]])
    colour = np.array((150.0, 120.0, 100.0))
    want = 255 * np.clip(to_709 @ (colour / 255) ** 2.4, 0, 1) ** (1 / 2.4)
    assert centre(frame_of(colour.tolist(), matrix=1, primaries=12)) == pytest.approx(want.tolist(), abs=2)


def test_other_transfers_and_matrices_are_refused() -> None:
    with pytest.raises(PictureError, match=r"transfer function \(number 8 of H.273\)"):
        centre(frame_of((9, 9, 9), matrix=1, transfer=8))
    with pytest.raises(PictureError, match=r"colour matrix \(number 14 of H.273\)"):
        centre(frame_of((9, 9, 9), matrix=9, told=14))


def test_a_picture_is_converted_at_the_size_asked_for() -> None:
    for transfer, primaries in ((1, 1), (18, 9)):
        frame = frame_of((128, 128, 128), matrix=9, bits=10, transfer=transfer, primaries=primaries)
        own = centre(frame)
        assert to_picture(frame, 48, 300).shape == (300, 48, 3)
        assert to_picture(frame, 48, 300)[280, 20].tolist() == pytest.approx(own, abs=1)


def test_the_peak_of_pq_video_is_that_of_the_display_it_was_made_on(tmp_path: Path) -> None:
    """The file tells 4000 cd/m2: the curve begins lower, and white is darker than with the usual 1000."""
    display = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(40000000,50)"
    # With frames between others, a stream of a single one gets times that x265 never set, at random.
    options = {"x265-params": f"{display}:log-level=none:qp=1:hdr10=1:bframes=0"}
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx265", rate=12, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p10le"
        codec = stream.codec_context
        codec.color_trc, codec.color_primaries, codec.colorspace, codec.color_range = 16, 9, 9, LIMITED
        white = frame_of(
            [255 * 0.580689] * 3, matrix=9, bits=10, transfer=16, primaries=9, height=64, width=64
        )
        container.mux(stream.encode(white.reformat(format="yuv420p10le")))
        container.mux(stream.encode(None))
    with av.open(str(tmp_path / "a.mp4")) as container:
        (frame,) = container.decode(video=0)
        want = 255 * (float(tone_mapped(np.array([203.0]), 4000.0)[0]) / 203) ** (1 / 2.4)
        assert 205 < want < 226
        assert centre(frame) == pytest.approx([want] * 3, abs=2)


def test_hdr_that_tells_no_matrix_has_that_of_bt_2020() -> None:
    told = frame_of((90, 80, 84), matrix=9, bits=10, transfer=18, primaries=9)
    untold = frame_of((90, 80, 84), matrix=9, told=2, bits=10, transfer=18, primaries=9)
    assert centre(untold) == centre(told)


def test_bright_colours_keep_their_hue() -> None:
    """The curve is applied to the brightest channel, and the others follow in proportion."""
    level = pq_level(np.array([800.0, 400.0, 200.0])) * 255
    picture = centre(frame_of(level.tolist(), matrix=9, bits=10, transfer=16, primaries=1))
    light = (np.array(picture) / 255) ** 2.4
    assert light / light[0] == pytest.approx([1, 0.5, 0.25], abs=0.02)
