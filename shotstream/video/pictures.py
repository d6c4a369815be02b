"""Still pictures of other programs, as RGB frames: opened as a viewer shows them, cropped, never squeezed.

A picture is turned as its camera says (EXIF), its colours are converted to sRGB, what is transparent becomes
white, and 16-bit values become 8-bit ones. Of an animation the first frame is taken.
"""

import base64
import binascii
import io
import os
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from shotstream.geometry import PixelSize

MAX_PICTURE_PIXELS = 64_000_000
"""Maximum number of pixels of a picture; beyond, opening it would take gigabytes of memory."""
MAX_PICTURE_BYTES = 64 << 20
"""Maximum size of a picture's file in bytes."""
_BACKGROUND = (255, 255, 255, 255)
_URI = "data:image/png;base64,"


class PictureError(ValueError):
    """A picture that cannot be used; the message is one line."""


def read_picture(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the picture in a file.

    Raises:
        PictureError: There is no such file, it is no picture that Pillow reads, or it is too large.
    """
    path = Path(path)
    try:
        num_bytes = path.stat().st_size
        if not path.is_file():
            raise PictureError(f"{path}: no picture but a directory; give a file")
        if num_bytes > MAX_PICTURE_BYTES:
            raise PictureError(
                f"{path}: {num_bytes >> 20} MiB; a picture has at most {MAX_PICTURE_BYTES >> 20}: make it "
                "smaller"
            )
        return picture_from_bytes(path.read_bytes())
    except OSError as error:
        raise PictureError(f"{path}: {error.strerror or error}") from error
    except PictureError as error:
        told = str(error)
        raise PictureError(told if told.startswith(f"{path}: ") else f"{path}: {told}") from error


def picture_from_bytes(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the picture in the content of a file; errors as in `read_picture`."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures, which are refused below before their pixels are read.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                _refuse_large(image.width, image.height)
                return np.array(_as_seen(image))
    except Image.DecompressionBombError as error:
        raise PictureError(f"too many pixels; at most {_in_words()}: make it smaller") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, PictureError):
            raise
        raise PictureError("not a picture, or a damaged one; give a PNG, a JPEG or a WebP") from error


def fit_picture(picture: UInt8[np.ndarray, "h w 3"], size: PixelSize) -> UInt8[np.ndarray, "fit_h fit_w 3"]:
    """Returns a picture at a size: cropped around its centre to the proportions, then resized.

    A picture whose pixels are blocks of equal ones, such as enlarged pixel art, is reduced to them exactly.
    """
    image = Image.fromarray(picture)
    factor = picture.shape[0] / size.height
    is_whole = factor.is_integer() and picture.shape[1] / size.width == factor
    method = Image.Resampling.BOX if is_whole else Image.Resampling.BICUBIC
    width = min(image.width, max(round(image.height * size.width / size.height), 1))
    height = min(image.height, max(round(image.width * size.height / size.width), 1))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    cropped = image.crop((left, top, left + width, top + height))
    return np.array(cropped.resize((size.width, size.height), method))


def picture_to_uri(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    """Returns a picture as a data URI that holds a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png", optimize=True)
    return _URI + base64.b64encode(buffer.getvalue()).decode()


def picture_from_uri(uri: str) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the picture in a data URI of any format that Pillow reads; errors as in `read_picture`."""
    head, _, body = uri.partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64")):
        raise PictureError("its image is neither a file nor a data URI of a picture in base64")
    try:
        return picture_from_bytes(base64.b64decode(body, validate=True))
    except binascii.Error as error:
        raise PictureError("its image is a damaged data URI") from error


def _refuse_large(width: int, height: int) -> None:
    if width * height > MAX_PICTURE_PIXELS:
        raise PictureError(f"{width} x {height} pixels; a picture has at most {_in_words()}: make it smaller")


def _in_words() -> str:
    return f"{MAX_PICTURE_PIXELS // 1_000_000} million"


def _as_seen(image: Image.Image) -> Image.Image:
    """Returns a picture as a viewer shows it, in RGB."""
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.asarray(image, dtype=np.float64)
        most = 65535.0 if levels.max(initial=0) > 255 else 255.0
        image = Image.fromarray(np.rint(levels.clip(0, most) * (255 / most)).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        below = Image.new("RGBA", image.size, _BACKGROUND)
        image = Image.alpha_composite(below, image).convert("RGB")
    elif profile and image.mode in ("RGB", "CMYK", "L"):
        image = _in_srgb(image, profile)
    return image.convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Returns a picture in sRGB; one whose profile is damaged, or of another kind of colours, as it is."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        found = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image
    return image if found is None else found
