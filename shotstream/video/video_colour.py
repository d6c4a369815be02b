"""Colours of decoded frames as a BT.709 display shows them: 8-bit RGB, whatever the file was graded for.

Ordinary video keeps its values, with the colour matrix and the range that the file gives. Without a matrix it
is BT.709 from 1280 columns or 577 lines on and BT.601 below, as in players. HDR (PQ and HLG) and wide gamuts
(BT.2020, P3) become BT.709: diffuse white of 203 cd/m2 (ITU-R BT.2408) is the display's white, brighter light
is compressed by the curve of ITU-R BT.2390, darker light keeps its value, and colours outside the gamut are
clipped. Transparent parts are shown on black. Other encodings are refused.

Sources: ITU-R BT.2100-2 (PQ, HLG and its system gamma), BT.2390-10 section 5.4 (the curve), BT.1886 (2.4).
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from shotstream.video.reformat import reformat

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

Picture = UInt8[np.ndarray, "h w 3"]

# Numbers of ITU-T H.273, as FFmpeg has them.
_UNTOLD, _BT709, _BT2020_NCL, _BT2020 = 2, 1, 9, 9
_LIMITED = 1
_MATRICES = (0, 1, 2, 4, 5, 6, 7, 9)
_PQ, _HLG = 16, 18
_ORDINARY_TRANSFERS = (0, 1, 2, 4, 5, 6, 7, 11, 12, 13, 14, 15)
_WIDE_PRIMARIES = {
    _BT2020: (
        (1.660491, -0.587641, -0.072850),
        (-0.124550, 1.132900, -0.008349),
        (-0.018151, -0.100579, 1.118730),
    ),
    # Display P3, as phones record it; DCI P3 is treated as Display P3, because its own white is for cinemas.
    11: ((1.224940, -0.224940, 0.0), (-0.042057, 1.042057, 0.0), (-0.019638, -0.078636, 1.098274)),
    12: ((1.224940, -0.224940, 0.0), (-0.042057, 1.042057, 0.0), (-0.019638, -0.078636, 1.098274)),
}
"""Matrices to linear BT.709, by the number of the primaries."""
_WHITE_NITS, _HLG_NITS, _USUAL_PQ_NITS, _MOST_NITS = 203.0, 1000.0, 1000.0, 10_000.0
_DISPLAY_GAMMA = 2.4
_STEPS = 1 << 16
_ROWS_AT_ONCE = 128


class PictureError(ValueError):
    """A frame that cannot be shown as intended; the message names neither file nor frame."""


def to_picture(frame: "VideoFrame", width: int, height: int) -> Picture:
    """Returns a decoded frame as RGB at a size; at the frame's own size its pixels are kept.

    Raises:
        PictureError: Its colours are encoded in an unsupported way.
    """
    _complete_tags(frame)
    transfer, primaries = frame.color_trc, frame.color_primaries
    if frame.colorspace not in _MATRICES:
        raise PictureError(f"its colour matrix (number {int(frame.colorspace)} of H.273) is not supported")
    if transfer not in (*_ORDINARY_TRANSFERS, _PQ, _HLG):
        raise PictureError(f"its transfer function (number {transfer} of H.273) is not supported")
    if transfer in (_PQ, _HLG) or primaries in _WIDE_PRIMARIES:
        return _to_sdr(_converted(frame, width, height, "rgb48le"), transfer, primaries, _peak_nits(frame))
    if frame.format.has_palette or any(component.is_alpha for component in frame.format.components):
        pixels = _converted(frame, width, height, "rgba").astype(np.uint16)
        return ((pixels[..., :3] * pixels[..., 3:] + 127) // 255).astype(np.uint8)
    picture = _converted(frame, width, height, "rgb24")
    if (
        frame.format.name.startswith("gray") and frame.color_range == _LIMITED
    ):  # FFmpeg treats all gray video as full range
        return np.clip(np.rint((picture.astype(np.float32) - 16) * (255 / 219)), 0, 255).astype(np.uint8)
    return picture


def _complete_tags(frame: "VideoFrame") -> None:
    if frame.colorspace != _UNTOLD or frame.format.is_rgb:
        return
    if frame.color_trc in (_PQ, _HLG) or frame.color_primaries == _BT2020:
        frame.colorspace = _BT2020_NCL
    elif frame.width >= 1280 or frame.height > 576:
        frame.colorspace = _BT709


def _converted(frame: "VideoFrame", width: int, height: int, name: str) -> np.ndarray:
    from av.video.reformatter import Interpolation

    if (frame.width, frame.height) == (width, height):
        return reformat(frame, format=name).to_ndarray()
    return reformat(
        frame, width=width, height=height, format=name, interpolation=Interpolation.BICUBIC
    ).to_ndarray()


def _peak_nits(frame: "VideoFrame") -> float:
    """Returns the peak luminance of PQ video in cd/m2, from the metadata of its mastering display."""
    from av.sidedata.sidedata import Type

    side_data: Any = frame.side_data
    told = side_data.get(Type.MASTERING_DISPLAY_METADATA)
    if told is None:
        return _USUAL_PQ_NITS
    # AVMasteringDisplayMetadata: ten fractions, the brightest luminance last, and two flags.
    numbers = np.frombuffer(bytes(told), np.int32)
    if len(numbers) < 22 or not numbers[21] or numbers[19] <= 0:
        return _USUAL_PQ_NITS
    return float(np.clip(numbers[18] / numbers[19], _WHITE_NITS, _MOST_NITS))


def _to_sdr(pixels: UInt16[np.ndarray, "h w 3"], transfer: int, primaries: int, pq_nits: float) -> Picture:
    peak = {_PQ: pq_nits, _HLG: _HLG_NITS}.get(transfer, _WHITE_NITS)
    out = np.empty(pixels.shape, np.uint8)
    for top in range(0, len(pixels), _ROWS_AT_ONCE):
        light = _light_of(transfer)[pixels[top : top + _ROWS_AT_ONCE]]
        if transfer == _HLG:
            scene = light @ np.array((0.2627, 0.6780, 0.0593), np.float32)
            light *= _HLG_NITS * np.power(scene, 0.2)[..., None]
        brightest = light.max(axis=-1, keepdims=True)
        light *= tone_mapped(brightest, peak) / np.maximum(brightest, 1e-6)
        if primaries in _WIDE_PRIMARIES:
            light = light @ np.array(_WIDE_PRIMARIES[primaries], np.float32).T
        shown = np.power(np.clip(light / _WHITE_NITS, 0, 1), 1 / _DISPLAY_GAMMA)
        out[top : top + _ROWS_AT_ONCE] = np.rint(255 * shown)
    return out


@lru_cache(maxsize=4)
def _light_of(transfer: int) -> Float[np.ndarray, " steps"]:
    """Returns the light of every 16-bit level: in cd/m2; for HLG, scene light in [0, 1]."""
    level = np.arange(_STEPS) / (_STEPS - 1)
    if transfer == _PQ:
        light = pq_nits(level)
    elif transfer == _HLG:
        light = hlg_scene(level)
    else:
        light = _WHITE_NITS * level**_DISPLAY_GAMMA
    return light.astype(np.float32)


def pq_nits(level: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Returns light in cd/m2, from PQ levels in [0, 1]."""
    root = np.power(level, 32 / 2523)
    return 10_000 * np.power(np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root), 8192 / 1305)


def pq_level(nits: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Returns PQ levels in [0, 1], from light in cd/m2."""
    root = np.power(nits / 10_000, 1305 / 8192)
    return np.power((107 / 128 + 2413 / 128 * root) / (1 + 2392 / 128 * root), 2523 / 32)


def hlg_scene(level: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Returns scene light in [0, 1], from HLG levels in [0, 1]."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(level <= 0.5, level**2 / 3, (np.exp((np.maximum(level, 0.5) - c) / a) + b) / 12)


def tone_mapped(nits: Float[np.ndarray, "*n"], peak: float) -> Float[np.ndarray, "*n"]:
    """Returns light of up to `peak` cd/m2 as a display with a white of 203 cd/m2 shows it."""
    if peak <= _WHITE_NITS:
        return nits
    brightest, white = pq_level(np.array((peak, _WHITE_NITS))).tolist()
    target = white / brightest
    knee = 1.5 * target - 0.5
    level = np.clip(pq_level(nits) / brightest, 0, 1)
    t = np.clip((level - knee) / (1 - knee), 0, 1)
    curve = (
        (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * target
    )
    return np.where(level < knee, nits, pq_nits(curve * brightest))
