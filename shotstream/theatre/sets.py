"""The sets: places, times of day and layouts, drawn as a stage of 48x80 palette indices.

A stage has a sky, a distance, three landmarks and a ground, all on a grid of four pixels, so that there are
few different patterns in a cell of the codec. A *layout* is the order of the landmarks on the thirds of the
stage. No caption mentions it: a later shot in the same place can take it only from the context of earlier
shots.
"""

from collections.abc import Callable
from functools import cache
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from shotstream.geometry import PixelSize
from shotstream.theatre.palette import INDEX

Place = Literal["meadow", "forest", "beach", "city", "mountains"]
Time = Literal["day", "sunset", "night"]
Stage = NDArray[np.uint8]

PLACES: Final[tuple[Place, ...]] = get_args(Place)
TIMES: Final[tuple[Time, ...]] = get_args(Time)
NUM_LAYOUTS: Final = 3

STAGE_SIZE: Final = PixelSize(height=48, width=80)
HORIZON: Final = 32
"""First row of the ground."""
_THIRDS: Final = (2, 28, 54)
"""First column of each third of the stage; a landmark is 24 columns wide."""


def _rect(stage: Stage, row: int, column: int, height: int, width: int, colour: str) -> None:
    stage[max(row, 0) : max(row + height, 0), max(column, 0) : max(column + width, 0)] = INDEX[colour]


def _peak(stage: Stage, base: int, centre: int, height: int, step: int, colour: str) -> None:
    """Draws a stepped hill: each row of `step` pixels is wider than the one above it."""
    for level in range(0, height, step):
        half = (level + step) if step > 1 else level + 1
        _rect(stage, base - height + level, centre - half, step, 2 * half, colour)


def _disc(stage: Stage, row: int, column: int, colour: str) -> None:
    _rect(stage, row, column + 2, 8, 4, colour)
    _rect(stage, row + 1, column + 1, 6, 6, colour)
    _rect(stage, row + 2, column, 4, 8, colour)


def _cloud(stage: Stage, row: int, column: int, colour: str) -> None:
    _rect(stage, row, column + 4, 2, 8, colour)
    _rect(stage, row + 2, column, 2, 16, colour)


def _sky(stage: Stage, time: Time) -> None:
    if time == "day":
        _rect(stage, 0, 0, 16, 80, "day_sky")
        _rect(stage, 16, 0, 16, 80, "day_haze")
        _disc(stage, 2, 66, "sun")
        _cloud(stage, 4, 10, "white")
        _cloud(stage, 8, 40, "white")
    elif time == "sunset":
        _rect(stage, 0, 0, 8, 80, "sunset_sky")
        _rect(stage, 8, 0, 12, 80, "sunset_mid")
        _rect(stage, 20, 0, 12, 80, "sunset_haze")
        _disc(stage, 10, 66, "sun")
        _cloud(stage, 4, 12, "sunset_cloud")
        _cloud(stage, 10, 42, "sunset_cloud")
    else:
        _rect(stage, 0, 0, 20, 80, "night_sky")
        _rect(stage, 20, 0, 12, 80, "night_haze")
        _disc(stage, 2, 66, "moon")
        _cloud(stage, 12, 10, "night_cloud")
        for row, column in (
            (2, 4),
            (6, 20),
            (3, 34),
            (10, 30),
            (6, 46),
            (12, 56),
            (2, 58),
            (16, 40),
            (16, 4),
        ):
            stage[row, column] = INDEX["moon"]


def _lit(time: Time, day: str, night: str) -> str:
    return night if time == "night" else day


def _round_tree(stage: Stage, column: int, time: Time) -> None:
    _rect(stage, 20, column + 10, 12, 4, _lit(time, "wood", "night_wood"))
    _rect(stage, 6, column + 6, 16, 12, f"{time}_leaf")
    _rect(stage, 8, column + 4, 12, 16, f"{time}_leaf")
    _rect(stage, 8, column + 6, 2, 4, f"{time}_meadow")
    _rect(stage, 12, column + 12, 2, 4, f"{time}_meadow")


def _pine(stage: Stage, column: int, time: Time, top: int = 4) -> None:
    _rect(stage, 28, column + 10, 4, 4, _lit(time, "wood_dark", "night_wood"))
    for level, half in enumerate((2, 4, 6, 4, 6, 8, 6, 8, 10)):
        _rect(
            stage,
            top + 2 + 2 * level + (26 - 22 - top if level else 0),
            column + 12 - half,
            2,
            2 * half,
            f"{time}_leaf",
        )


def _house(stage: Stage, column: int, time: Time) -> None:
    _rect(stage, 20, column + 4, 12, 16, _lit(time, "white", "night_stone"))
    for level in range(5):
        _rect(
            stage, 10 + 2 * level, column + 10 - 2 * level, 2, 4 + 4 * level, _lit(time, "roof", "night_roof")
        )
    _rect(stage, 24, column + 6, 4, 4, _lit(time, "day_road", "sun"))
    _rect(stage, 24, column + 14, 8, 4, _lit(time, "wood", "night_wood"))


def _windmill(stage: Stage, column: int, time: Time) -> None:
    _rect(stage, 14, column + 8, 18, 8, f"{time}_stone")
    _rect(stage, 24, column + 10, 8, 4, _lit(time, "wood_dark", "night_wood"))
    _rect(stage, 10, column + 10, 4, 4, _lit(time, "roof", "night_roof"))
    sail = _lit(time, "white", "night_snow")
    for step in range(4):
        for row, col in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            _rect(stage, 13 + row * (2 + 2 * step), column + 11 + col * (2 + 2 * step), 2, 2, sail)
    _rect(stage, 13, column + 11, 2, 2, sail)


def _big_trunk(stage: Stage, column: int, time: Time) -> None:
    _rect(stage, 4, column + 6, 28, 12, _lit(time, "wood", "night_wood"))
    _rect(stage, 4, column + 8, 28, 2, "wood_dark")
    _rect(stage, 16, column + 12, 6, 4, "outline")
    _rect(stage, 30, column + 4, 2, 16, _lit(time, "wood", "night_wood"))
    _rect(stage, 0, column, 8, 24, f"{time}_leaf")


def _mushroom(stage: Stage, column: int, time: Time) -> None:
    _rect(stage, 20, column + 8, 12, 8, _lit(time, "white", "night_snow"))
    _rect(stage, 10, column + 4, 4, 16, _lit(time, "roof", "night_roof"))
    _rect(stage, 14, column + 2, 6, 20, _lit(time, "roof", "night_roof"))
    for row, col in ((12, 6), (12, 14), (16, 4), (16, 10), (16, 18)):
        _rect(stage, row, column + col, 2, 2, _lit(time, "white", "night_snow"))


def _umbrella(stage: Stage, column: int, time: Time) -> None:
    _rect(stage, 16, column + 11, 16, 2, _lit(time, "wood", "night_wood"))
    for band in range(6):
        colour = _lit(time, "roof", "night_roof") if band % 2 == 0 else _lit(time, "white", "night_snow")
        inset = 2 if band in (0, 5) else 0
        _rect(stage, 8 + inset, column + 4 * band, 8 - inset, 4, colour)


def _palm(stage: Stage, column: int, time: Time) -> None:
    _rect(stage, 10, column + 10, 22, 4, _lit(time, "wood", "night_wood"))
    for row in (14, 20, 26):
        _rect(stage, row, column + 10, 2, 4, "wood_dark")
    for row, col, width in (
        (4, 4, 16),
        (6, 0, 8),
        (6, 16, 8),
        (8, 0, 4),
        (8, 20, 4),
        (8, 8, 8),
        (10, 6, 4),
        (10, 14, 4),
    ):
        _rect(stage, row, column + col, 2, width, f"{time}_leaf")


def _lighthouse(stage: Stage, column: int, time: Time) -> None:
    for band in range(5):
        colour = _lit(time, "roof", "night_roof") if band % 2 == 0 else _lit(time, "white", "night_snow")
        _rect(stage, 12 + 4 * band, column + 8, 4, 8, colour)
    _rect(stage, 6, column + 8, 6, 8, "sun")
    _rect(stage, 4, column + 6, 2, 12, _lit(time, "day_road", "night_road"))
    _rect(stage, 10, column + 6, 2, 12, _lit(time, "day_road", "night_road"))


def _tower(stage: Stage, column: int, time: Time) -> None:
    _rect(stage, 2, column + 4, 30, 16, f"{time}_road")
    for row in range(4, 30, 4):
        for col in (6, 12):
            _rect(stage, row, column + col, 2, 4, _lit(time, "day_haze", "sun"))


def _shop(stage: Stage, column: int, time: Time) -> None:
    _rect(stage, 14, column, 18, 24, _lit(time, "sunset_sand", "night_sand"))
    for band in range(6):
        colour = _lit(time, "roof", "night_roof") if band % 2 == 0 else _lit(time, "white", "night_snow")
        _rect(stage, 18, column + 4 * band, 4, 4, colour)
    _rect(stage, 24, column + 2, 6, 10, _lit(time, "day_haze", "sun"))
    _rect(stage, 24, column + 16, 8, 6, _lit(time, "wood_dark", "night_wood"))


def _clock_tower(stage: Stage, column: int, time: Time) -> None:
    _rect(stage, 8, column + 6, 24, 12, _lit(time, "roof", "night_roof"))
    _rect(stage, 4, column + 8, 4, 8, _lit(time, "roof", "night_roof"))
    _rect(stage, 0, column + 10, 4, 4, _lit(time, "roof", "night_roof"))
    _disc(stage, 10, column + 8, _lit(time, "white", "moon"))
    _rect(stage, 11, column + 11, 4, 2, "outline")
    _rect(stage, 13, column + 12, 2, 3, "outline")
    _rect(stage, 24, column + 10, 8, 4, _lit(time, "wood_dark", "night_wood"))


def _snowy_pine(stage: Stage, column: int, time: Time) -> None:
    _pine(stage, column, time)
    for row, col, width in ((6, 10, 4), (14, 6, 4), (18, 14, 4), (22, 4, 6), (24, 14, 4)):
        _rect(stage, row, column + col, 2, width, f"{time}_snow")


def _cabin(stage: Stage, column: int, time: Time) -> None:
    _rect(stage, 20, column + 4, 12, 16, _lit(time, "wood", "night_wood"))
    for row in (22, 26, 30):
        _rect(stage, row, column + 4, 1, 16, "wood_dark")
    for level in range(4):
        _rect(stage, 12 + 2 * level, column + 8 - 2 * level, 2, 8 + 4 * level, f"{time}_snow")
    _rect(stage, 24, column + 6, 4, 4, "sun")
    _rect(stage, 24, column + 14, 8, 4, "outline")


def _snowman(stage: Stage, column: int, time: Time) -> None:
    snow = _lit(time, "white", "night_snow")
    _rect(stage, 22, column + 4, 10, 16, snow)
    _rect(stage, 12, column + 6, 10, 12, snow)
    _rect(stage, 4, column + 8, 8, 8, "outline")
    _rect(stage, 10, column + 6, 2, 12, "outline")
    _rect(stage, 14, column + 8, 2, 2, "outline")
    _rect(stage, 14, column + 14, 2, 2, "outline")
    _rect(stage, 17, column + 11, 2, 4, "beak")
    _rect(stage, 25, column + 11, 2, 2, "outline")


_LANDMARKS: Final[dict[Place, tuple[Callable[[Stage, int, Time], None], ...]]] = {
    "meadow": (_round_tree, _house, _windmill),
    "forest": (_big_trunk, _mushroom, _pine),
    "beach": (_palm, _umbrella, _lighthouse),
    "city": (_tower, _shop, _clock_tower),
    "mountains": (_snowy_pine, _cabin, _snowman),
}


def _distance(stage: Stage, place: Place, time: Time) -> None:
    if place == "meadow":
        for centre, height in ((8, 8), (36, 12), (70, 8)):
            _peak(stage, HORIZON, centre, height, 4, f"{time}_hill")
            _rect(stage, HORIZON - 4, centre - 20, 4, 40, f"{time}_hill")
    elif place == "forest":
        _rect(stage, 16, 0, 16, 80, f"{time}_meadow")
        for column in range(0, 80, 8):
            _rect(stage, 12, column + (column // 8 % 2) * 2, 4, 4, f"{time}_meadow")
    elif place == "beach":
        _rect(stage, 24, 0, 8, 80, f"{time}_sea")
        for column in (4, 36, 60):
            _rect(stage, 26, column, 1, 8, f"{time}_haze")
    elif place == "city":
        for column, height in ((0, 12), (16, 8), (40, 12), (64, 8)):
            _rect(stage, HORIZON - height, column, height, 16, f"{time}_stone")
    else:
        for centre, height in ((12, 20), (44, 16), (72, 20)):
            _peak(stage, HORIZON, centre, height, 2, f"{time}_peak")
            _peak(stage, HORIZON - height + 6, centre, 6, 2, f"{time}_snow")


_GROUND: Final[dict[Place, tuple[str, str]]] = {
    "meadow": ("grass", "meadow"), "forest": ("grass", "meadow"), "beach": ("sand", "sand"),
    "city": ("stone", "road"), "mountains": ("snow", "snow"),
}  # fmt: skip


def _ground(stage: Stage, place: Place, time: Time) -> None:
    upper, lower = _GROUND[place]
    _rect(stage, HORIZON, 0, 16, 80, f"{time}_{upper}")
    _rect(stage, 40, 0, 8, 80, f"{time}_{lower}")
    if place == "city":
        for column in range(0, 80, 16):
            _rect(stage, 44, column + 4, 2, 8, _lit(time, "white", "night_snow"))
        return
    speck = {"meadow": "sun", "forest": "roof", "beach": "white", "mountains": f"{time}_peak"}[place]
    if time == "night" and place != "mountains":
        speck = {"meadow": "night_hill", "forest": "night_roof", "beach": "night_stone"}[place]
    for index, column in enumerate(range(2, 80, 8)):
        row = 36 if index % 2 else 44
        _rect(stage, row, column, 2, 2, speck)


@cache
def stage(place: Place, time: Time, layout: int) -> Stage:
    """Returns the empty stage: `[48, 80]` palette indices.

    Raises:
        ValueError: The layout is not one of `NUM_LAYOUTS`.
    """
    if not 0 <= layout < NUM_LAYOUTS:
        raise ValueError(f"layout {layout} does not exist: there are {NUM_LAYOUTS}")
    picture = np.zeros((STAGE_SIZE.height, STAGE_SIZE.width), dtype=np.uint8)
    _sky(picture, time)
    _distance(picture, place, time)
    _ground(picture, place, time)
    for third, column in enumerate(_THIRDS):
        _LANDMARKS[place][(third + layout) % NUM_LAYOUTS](picture, column, time)
    picture.setflags(write=False)
    return picture
