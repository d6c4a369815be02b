"""The palette of the theatre: every pixel of the world has one of these colours.

A fixed palette makes the world easy to learn and its films sharp: the codec predicts a colour index per pixel
instead of RGB values, and the oracle compares pictures colour by colour. Actors keep their colours at every
time of day; only the sets change with the light.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_HEX: Final[dict[str, str]] = {
    # actors
    "outline": "1f1728",
    "white": "ffffff",
    "pink": "f5a0b5",
    "beak": "e8871e",
    "lens": "59e3f0",
    "red": "e04040",
    "red_shade": "a82438",
    "red_light": "f79a80",
    "yellow": "f5cb3a",
    "yellow_shade": "c28f1c",
    "yellow_light": "fff0a0",
    "green": "55b84a",
    "green_shade": "2c7f3f",
    "green_light": "b4e88c",
    "blue": "3f7fe0",
    "blue_shade": "2751a8",
    "blue_light": "9accff",
    "purple": "a45cd0",
    "purple_shade": "6f379c",
    "purple_light": "dba8f2",
    "grey": "99a0b2",
    "grey_shade": "666d82",
    "grey_light": "d3d9e4",
    "scarf_orange": "ff9420",
    "scarf_cyan": "1fd2d2",
    "scarf_magenta": "ff3f9c",
    # skies
    "day_sky": "62b8f2",
    "day_haze": "aee0fa",
    "sunset_sky": "8b529f",
    "sunset_mid": "ec6a6a",
    "sunset_haze": "ffb570",
    "night_sky": "10133a",
    "night_haze": "2a2f70",
    "sun": "ffe36b",
    "moon": "f6f2cf",
    "sunset_cloud": "ffd3b4",
    "night_cloud": "424890",
    # land
    "day_hill": "8fd470",
    "day_grass": "6cc24f",
    "day_meadow": "4ba63e",
    "sunset_hill": "b98d52",
    "sunset_grass": "a3a042",
    "sunset_meadow": "7f8a38",
    "night_hill": "2a5872",
    "night_grass": "20604e",
    "night_meadow": "174840",
    "day_leaf": "2f8040",
    "sunset_leaf": "6c6b2e",
    "night_leaf": "368a5c",
    "wood": "86532f",
    "wood_dark": "5c3826",
    "night_wood": "3c2c40",
    "day_sand": "f3db92",
    "sunset_sand": "e9ab6e",
    "night_sand": "5f5c80",
    "day_sea": "3393dc",
    "sunset_sea": "b5557f",
    "night_sea": "1c3478",
    "day_stone": "8f9bb0",
    "sunset_stone": "7d5874",
    "night_stone": "32356a",
    "day_road": "5a6075",
    "sunset_road": "5a4058",
    "night_road": "22253f",
    "day_snow": "e6f0fb",
    "sunset_snow": "f5cbc4",
    "night_snow": "7089c6",
    "day_peak": "a3b8da",
    "sunset_peak": "c48a96",
    "night_peak": "44589a",
    "roof": "c2453c",
    "night_roof": "6e2c4a",
}

NAMES: Final[tuple[str, ...]] = tuple(_HEX)
"""Colour names in palette order."""

INDEX: Final[dict[str, int]] = {name: index for index, name in enumerate(NAMES)}
"""Palette index by colour name."""

RGB: Final[NDArray[np.uint8]] = np.array(
    [[int(value[i : i + 2], 16) for i in (0, 2, 4)] for value in _HEX.values()], dtype=np.uint8
)
"""The palette, `[num_colours, 3]`, uint8."""


def to_rgb(indices: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns colour indices `[...]` as uint8 RGB `[..., 3]`."""
    return RGB[indices]


def to_indices(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the index of the nearest palette colour of every pixel: uint8 RGB `[..., 3]` to `[...]`.

    Exact palette colours map to themselves. Distance is Euclidean in RGB.
    """
    flat = rgb.reshape(-1, 3)
    packed = (flat[:, 0].astype(np.uint32) << 16) | (flat[:, 1].astype(np.uint32) << 8) | flat[:, 2]
    unique, inverse = np.unique(packed, return_inverse=True)
    colours = np.stack([unique >> 16 & 255, unique >> 8 & 255, unique & 255], axis=-1).astype(np.int32)
    nearest = np.empty(len(unique), dtype=np.uint8)
    for start in range(0, len(unique), 4096):
        block = colours[start : start + 4096, None, :] - RGB[None].astype(np.int32)
        nearest[start : start + 4096] = (block * block).sum(-1).argmin(-1)
    return nearest[inverse].reshape(rgb.shape[:-1])


LEAST_SHARE_IN_WORLD: Final = 0.95
"""Minimum share of the pixels of a picture of this world that have its colours."""
_NEAR: Final = 24
"""Maximum distance of a colour in RGB from one of the palette, for pictures that were compressed."""


def share_in_palette(picture: NDArray[np.uint8]) -> float:
    """Returns the share of the pixels of an RGB picture whose colour is, nearly, one of the palette."""
    away = to_rgb(to_indices(picture)).astype(np.int64) - picture
    return float(((away * away).sum(axis=-1) <= _NEAR**2).mean())
