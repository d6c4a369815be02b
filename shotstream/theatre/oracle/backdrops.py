"""Backdrops: every empty set as every camera shows it, and the ones that match given frames best."""

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shotstream.theatre.cast import SPRITE_SIZE
from shotstream.theatre.palette import NAMES
from shotstream.theatre.render import SPOT_COLUMN, TOP_ROW, ZOOM, Camera, Framing, panned_columns
from shotstream.theatre.sets import NUM_LAYOUTS, PLACES, STAGE_SIZE, TIMES, Place, Time, stage

SETS: Final[tuple[tuple[Place, Time, int], ...]] = tuple(product(PLACES, TIMES, range(NUM_LAYOUTS)))
"""Place, time and layout of every set."""

_MIDDLE: Final = (STAGE_SIZE.width - STAGE_SIZE.width // ZOOM["medium"]) // 2
_PAN_SLACK: Final = 2
"""Columns by which a pan may differ from the world's."""


@dataclass(frozen=True, slots=True)
class Backdrop:
    """A set behind a moving camera, and how well it matches given frames."""

    framing: Framing
    set_index: int
    """Index of the set in `SETS`."""
    camera: Camera
    lefts: NDArray[np.int64]
    """`[n]`: stage column of the left edge of the picture, in each frame."""
    matches: NDArray[np.float32]
    """`[n, h, w]`: for each stage pixel the share of its screen pixels that have its colour."""

    @property
    def agreement(self) -> float:
        """Share of the picture that matches, in [0, 1]."""
        return float(self.matches.mean())


def colour_counts(frames: NDArray[np.uint8], framing: Framing) -> NDArray[np.float32]:
    """Returns the share of each colour in the block of each stage pixel: `[n, h, w, num_colours]`."""
    zoom, num_colours = ZOOM[framing], len(NAMES)
    n, height, width = frames.shape
    blocks = frames.reshape(n, height // zoom, zoom, width // zoom, zoom).transpose(0, 1, 3, 2, 4)
    cells = blocks.reshape(-1, zoom * zoom).astype(np.int64)
    flat = np.arange(len(cells))[:, None] * num_colours + cells
    counted = np.bincount(flat.ravel(), minlength=len(cells) * num_colours).astype(np.float32)
    shape = (n, height // zoom, width // zoom, num_colours)
    return np.divide(counted, zoom * zoom, dtype=np.float32).reshape(shape)


def best_backdrops(
    counts: NDArray[np.float32], framing: Framing, frames: NDArray[np.int64], num_best: int
) -> list[Backdrop]:
    """Returns the sets that match the frames best, each with its best camera; the best first.

    Args:
        counts: Result of `colour_counts`.
        framing: Distance of the camera.
        frames: Indices of the frames in their shot, from 0.
        num_best: Number of sets to return.
    """
    pictures = _pictures(framing)
    shares = _agreeing(counts.mean(axis=0), pictures).max(axis=1)
    backdrops = [
        backdrop_of(counts, framing, frames, set_index)
        for set_index in np.argsort(-shares)[:num_best].tolist()
    ]
    return sorted(backdrops, key=lambda backdrop: -backdrop.agreement)


def backdrop_of(
    counts: NDArray[np.float32], framing: Framing, frames: NDArray[np.int64], set_index: int
) -> Backdrop:
    """Returns a set with the camera that matches best; the arguments are those of `best_backdrops`."""
    pictures = _pictures(framing)[set_index : set_index + 1]
    per_view = np.stack([_agreeing(one, pictures)[0] for one in counts])
    camera, views = _best_camera(per_view, framing, frames)
    matches = np.take_along_axis(counts, pictures[0, views][..., None].astype(np.int64), axis=3)[..., 0]
    return Backdrop(framing, set_index, camera, np.array(_lefts(framing))[views], matches)


def backdrop_pictures(backdrop: Backdrop, set_index: int) -> NDArray[np.uint8]:
    """Returns pictures of a set by the camera of a backdrop: `[n, h, w]` stage pixels."""
    views = np.searchsorted(np.array(_lefts(backdrop.framing)), backdrop.lefts)
    return _pictures(backdrop.framing)[set_index, views]


@cache
def _lefts(framing: Framing) -> tuple[int, ...]:
    width = STAGE_SIZE.width // ZOOM[framing]
    if framing == "close-up":
        return tuple(column + SPRITE_SIZE // 2 - width // 2 for column in SPOT_COLUMN.values())
    return tuple(range(STAGE_SIZE.width - width + 1))


@cache
def _pictures(framing: Framing) -> NDArray[np.uint8]:
    """Returns the pictures of all sets from all views: `[sets, views, h, w]`."""
    top, zoom = TOP_ROW[framing], ZOOM[framing]
    height, width = STAGE_SIZE.height // zoom, STAGE_SIZE.width // zoom
    stages = [stage(*choice)[top : top + height] for choice in SETS]
    return np.stack([[view[:, left : left + width] for left in _lefts(framing)] for view in stages])


def _agreeing(counts: NDArray[np.float32], pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the share of `[h, w, colours]` that matches each of `[sets, views, h, w]`."""
    height, width, num_colours = counts.shape
    offsets = (np.arange(height * width) * num_colours).reshape(height, width)
    return counts.ravel()[pictures + offsets].mean(axis=(2, 3))


def _best_camera(
    per_view: NDArray[np.float32], framing: Framing, frames: NDArray[np.int64]
) -> tuple[Camera, NDArray[np.int64]]:
    """Returns the camera whose views match best, and the index of its view in each frame."""
    still = int(per_view.mean(axis=0).argmax())
    best: tuple[float, Camera, NDArray[np.int64]] = (
        float(per_view[:, still].mean()),
        "still",
        np.full(len(frames), still),
    )
    if framing != "medium":
        return best[1:]
    order = np.arange(len(frames))
    cameras: tuple[Camera, ...] = ("pans left", "pans right")
    for camera, off in product(cameras, range(-_PAN_SLACK, _PAN_SLACK + 1)):
        views = np.array([_MIDDLE + off + panned_columns(int(frame), camera) for frame in frames])
        share = float(per_view[order, views].mean())
        if share > best[0]:
            best = (share, camera, views)
    return best[1:]
