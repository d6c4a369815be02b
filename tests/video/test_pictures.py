"""Pictures of other programs: shown as a viewer shows them, cropped and never squeezed."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from shotstream.geometry import PixelSize
from shotstream.video.pictures import (
    PictureError,
    fit_picture,
    picture_from_bytes,
    picture_from_uri,
    picture_to_uri,
    read_picture,
)

LEFT_RED = np.zeros((4, 8, 3), np.uint8)
LEFT_RED[:, :4] = (200, 10, 10)
LEFT_RED[:, 4:] = (10, 10, 200)


def saved(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "png", **options})  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


@pytest.mark.parametrize(("orientation", "place"), [(1, "left"), (3, "right"), (6, "top"), (8, "bottom")])
def test_a_picture_is_turned_as_its_camera_says(orientation: int, place: str) -> None:
    image = Image.fromarray(LEFT_RED)
    exif = image.getexif()
    exif[0x0112] = orientation
    found = picture_from_bytes(saved(image, exif=exif))
    half = {
        "left": found[:, : found.shape[1] // 2],
        "right": found[:, found.shape[1] // 2 :],
        "top": found[: found.shape[0] // 2],
        "bottom": found[found.shape[0] // 2 :],
    }[place]
    assert (half == (200, 10, 10)).all()


def test_what_is_transparent_is_white() -> None:
    clear = np.dstack([LEFT_RED, np.full((4, 8), 255, np.uint8)])
    clear[:, 4:, 3] = 0
    found = picture_from_bytes(saved(Image.fromarray(clear)))
    assert (found[:, :4] == (200, 10, 10)).all() and (found[:, 4:] == 255).all()
    palette = Image.fromarray(LEFT_RED).quantize(2)
    blue = palette.getpixel((7, 0))
    found = picture_from_bytes(saved(palette, transparency=blue))
    assert (found[:, 4:] == 255).all() and (found[:, :4] == (200, 10, 10)).all()


def test_sixteen_bits_become_eight_and_grey_becomes_rgb() -> None:
    grey = np.array([[0, 257 * 100, 65535]], np.uint16)
    found = picture_from_bytes(saved(Image.fromarray(grey)))
    assert found.tolist() == [[[0] * 3, [100] * 3, [255] * 3]]
    found = picture_from_bytes(saved(Image.fromarray(np.array([[0, 100, 255]], np.uint8))))
    assert found.tolist() == [[[0] * 3, [100] * 3, [255] * 3]]
    ink = Image.fromarray(LEFT_RED).convert("CMYK")
    found = picture_from_bytes(saved(ink, format="tiff"))
    assert np.abs(found.astype(int) - LEFT_RED).max() <= 2


def test_colours_are_converted_by_the_pictures_profile() -> None:
    lab_like = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(
        picture_from_bytes(saved(Image.fromarray(LEFT_RED), icc_profile=lab_like)), LEFT_RED
    )
    assert np.array_equal(
        picture_from_bytes(saved(Image.fromarray(LEFT_RED), icc_profile=b"not a profile")), LEFT_RED
    )


def test_of_an_animation_the_first_frame_is_taken() -> None:
    first, second = Image.fromarray(LEFT_RED), Image.fromarray(LEFT_RED[:, ::-1].copy())
    data = saved(first, format="webp", save_all=True, append_images=[second], lossless=True)
    assert np.array_equal(picture_from_bytes(data), LEFT_RED)


def test_a_picture_is_cropped_around_its_centre_and_never_squeezed() -> None:
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 10:30] = 250
    assert (fit_picture(wide, PixelSize(8, 16)) >= 249).all()
    tall = np.zeros((40, 20, 3), np.uint8)
    tall[15:25] = 250
    assert (fit_picture(tall, PixelSize(5, 10)) >= 249).all()


def test_enlarged_pixel_art_is_reduced_to_its_pixels() -> None:
    art = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    for factor in (1, 2, 10):
        enlarged = art.repeat(factor, axis=0).repeat(factor, axis=1)
        assert np.array_equal(fit_picture(enlarged, PixelSize(48, 80)), art)


def test_a_data_uri_holds_a_picture_without_loss() -> None:
    assert np.array_equal(picture_from_uri(picture_to_uri(LEFT_RED)), LEFT_RED)
    for uri, told in (
        ("data:text/plain;base64,aGk=", "neither a file nor a data URI"),
        ("data:image/png;base64,@@@", "damaged data URI"),
        ("data:image/png;base64,aGVsbG8=", "not a picture"),
    ):
        with pytest.raises(PictureError, match=told):
            picture_from_uri(uri)


def test_what_is_no_picture_is_refused_with_its_name(tmp_path: Path) -> None:
    missing = tmp_path / "missing.png"
    with pytest.raises(PictureError, match=r"missing.png: No such file"):
        read_picture(missing)
    with pytest.raises(PictureError, match="directory"):
        read_picture(tmp_path)
    text = tmp_path / "text.png"
    text.write_text("hello")
    with pytest.raises(PictureError, match=r"text.png: not a picture, or a damaged one"):
        read_picture(text)
    cut = tmp_path / "cut.png"
    whole = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PictureError, match=r"cut.png: not a picture, or a damaged one"):
        read_picture(cut)


def test_a_picture_of_a_hundred_megapixels_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    for side, name in ((10_000, "large.png"), (20_000, "huge.png")):
        path = tmp_path / name
        Image.new("1", (side, side)).save(path)
        with pytest.raises(PictureError, match=rf"{name}: .*at most 64 million: make it smaller"):
            read_picture(path)
