"""Masks of every way an actor can look, to be compared with frames.

A stance is a pose at its height over the ground. The colours of a figure are roles (base, shade, light,
scarf) or fixed, so one mask per role serves every colour and every scarf.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shotstream.theatre.cast import (
    ACTIONS,
    COLOURS,
    SCARVES,
    SPECIES,
    SPRITE_SIZE,
    TRANSPARENT,
    Action,
    Actor,
    Facing,
    Pose,
    pose_at,
)
from shotstream.theatre.palette import INDEX
from shotstream.theatre.render import HEAD_ROW, TOP_ROW, ZOOM, Framing, bob, figure, walked_columns
from shotstream.theatre.sets import STAGE_SIZE

Counts = NDArray[np.float32]

_HIGHEST, _LOWEST = 4, 1
_FIRST_ROW: Final = HEAD_ROW - _HIGHEST
_NUM_ROWS: Final = SPRITE_SIZE + _HIGHEST + _LOWEST
_PERIOD: Final = 16
"""Number of frames after which every action repeats."""
_FIXED: Final = ("outline", "white", "pink", "beak", "lens")
_SHADES: Final = ("", "_shade", "_light")
FIGURE_WIDTH: Final = figure(Actor("fox", "red", "white"), Pose()).shape[1]


@dataclass(frozen=True, slots=True)
class Performed:
    """An action with the properties that change its pictures."""

    action: Action
    facing: Facing
    mirrored: bool


@dataclass(frozen=True, slots=True)
class Wardrobe:
    """The masks of all figures in one framing. The index of a figure is `species * num_stances + stance`."""

    stances: tuple[tuple[Pose, int], ...]
    """The pose of each stance, and the number of rows that it is lowered by."""
    performed: tuple[Performed, ...]
    tracks: NDArray[np.int64]
    """`[performed, _PERIOD]`: the stance in every frame; frame 0 is row 0 and repeats as frame 16."""
    rows: slice
    """Rows of the picture, in stage pixels, that a figure may cover."""
    whole: Counts
    """`[figures, pixels]`: 1 for the pixels of the figure."""
    roles: Counts
    """`[3, figures, pixels]`: 1 for the pixels of base, shade and light."""
    scarf: Counts
    """`[figures, pixels]`: 1 for the pixels of the scarf."""
    fixed: Counts
    """`[fixed colours, figures, pixels]`: 1 for the pixels of each fixed colour."""

    @property
    def num_stances(self) -> int:
        """Number of stances of each species."""
        return len(self.stances)


@dataclass(frozen=True, slots=True)
class Likeness:
    """Number of stage pixels of each figure that match the frames, for each place; a pixel may match in part.

    The first two axes are the frame and the column of the figure's left edge, which begins at `-FIGURE_WIDTH`
    of the picture.
    """

    coloured: Counts
    """`[n, columns, figures, colours]`: matching pixels without the scarf."""
    scarf: Counts
    """`[n, columns, figures, scarves]`: matching pixels of the scarf."""

    def of(self, species: int, colour: int, scarf: int, num_stances: int) -> Counts:
        """Returns the number of matching pixels of one actor: `[n, columns, stances]`."""
        figures = slice(species * num_stances, (species + 1) * num_stances)
        return self.coloured[:, :, figures, colour] + self.scarf[:, :, figures, scarf]


@cache
def wardrobe(framing: Framing) -> Wardrobe:
    """Returns the masks of a framing."""
    performed = [
        Performed(action, facing, mirrored)
        for action, facing, mirrored in product(ACTIONS, ("right", "left"), (False, True))
        if (action == "walks" or facing == "right") and (action == "waves" or not mirrored)
    ]
    tracks: list[list[tuple[Pose, int]]] = []
    for one in performed:
        poses = [pose_at(one.action, t, facing=one.facing, mirrored=one.mirrored) for t in range(_PERIOD)]
        tracks.append([(pose, bob(one.action, pose, framing)) for pose in poses])
    stances = tuple(dict.fromkeys(stance for track in tracks for stance in track))
    top = TOP_ROW[framing]
    bottom = top + STAGE_SIZE.height // ZOOM[framing]
    first, last = max(_FIRST_ROW, top), min(_FIRST_ROW + _NUM_ROWS, bottom)
    pictures = np.stack([_picture(kind, *stance) for kind in SPECIES for stance in stances])
    pictures = pictures[:, first - _FIRST_ROW : last - _FIRST_ROW].reshape(len(pictures), -1)
    example = Actor("fox", "red", "scarf_orange")
    return Wardrobe(
        stances=stances,
        performed=tuple(performed),
        tracks=np.array([[stances.index(stance) for stance in track] for track in tracks]),
        rows=slice(first - top, last - top),
        whole=(pictures != TRANSPARENT).astype(np.float32),
        roles=np.stack([pictures == INDEX[example.colour + shade] for shade in _SHADES]).astype(np.float32),
        scarf=(pictures == INDEX[example.scarf]).astype(np.float32),
        fixed=np.stack([pictures == INDEX[name] for name in _FIXED]).astype(np.float32),
    )


def likeness(counts: Counts, clothes: Wardrobe) -> Likeness:
    """Returns the matching pixels of every figure at every place; `counts` comes from `colour_counts`."""
    band = counts[:, clothes.rows]

    def agreeing(names: list[str], masks: Counts) -> Counts:
        return windows(band[..., [INDEX[name] for name in names]]) @ masks.T

    coloured = sum(
        agreeing([colour + shade for colour in COLOURS], masks)
        for shade, masks in zip(_SHADES, clothes.roles, strict=True)
    )
    fixed = sum(agreeing([name], masks) for name, masks in zip(_FIXED, clothes.fixed, strict=True))
    assert isinstance(coloured, np.ndarray)
    scarf = agreeing(list(SCARVES), clothes.scarf)
    return Likeness(np.moveaxis(coloured + fixed, 2, -1), np.moveaxis(scarf, 2, -1))


def likeness_of(counts: Counts, clothes: Wardrobe, species: int, colour: int) -> tuple[Counts, Counts]:
    """Returns the matching pixels of one species in one colour, without the scarf and of the scarf.

    The shapes are `[n, columns, stances]`, and `[n, columns, stances, scarves]` for the scarf.
    """
    figures = slice(species * clothes.num_stances, (species + 1) * clothes.num_stances)
    shades = [COLOURS[colour] + shade for shade in _SHADES]
    seen = windows(counts[:, clothes.rows][..., [INDEX[name] for name in (*shades, *_FIXED, *SCARVES)]])
    num_body = len(shades) + len(_FIXED)
    masks = np.concatenate([clothes.roles[:, figures], clothes.fixed[:, figures]])
    body = np.einsum("ncki,ksi->ncs", seen[:, :, :num_body], masks, optimize=True)
    return body, np.moveaxis(seen[:, :, num_body:] @ clothes.scarf[figures].T, 2, -1)


def windows(band: Counts) -> Counts:
    """Returns the pixels under a figure at every place: `[n, rows, w, k]` to `[n, columns, k, pixels]`.

    Pixels outside the picture are 0.
    """
    padding = ((0, 0), (0, 0), (FIGURE_WIDTH, FIGURE_WIDTH), (0, 0))
    cut = np.lib.stride_tricks.sliding_window_view(np.pad(band, padding), FIGURE_WIDTH, axis=2)
    n, rows, columns, k, width = cut.shape
    return np.ascontiguousarray(cut.transpose(0, 2, 3, 1, 4)).reshape(n, columns, k, rows * width)


def tracked_columns(one: Performed, frames: NDArray[np.int64], framing: Framing) -> NDArray[np.int64]:
    """Returns the stage columns that the actor has moved, at each frame."""
    if one.action != "walks":
        return np.zeros_like(frames)
    return np.array([walked_columns(int(frame), one.facing, ZOOM[framing]) for frame in frames])


def tracked_stances(one: int, frames: NDArray[np.int64], clothes: Wardrobe) -> NDArray[np.int64]:
    """Returns the stance of a performed action at each frame, counted from 0."""
    return clothes.tracks[one, frames % _PERIOD]


def _picture(species: str, pose: Pose, lower: int) -> NDArray[np.uint8]:
    drawn = figure(Actor(species, "red", "scarf_orange"), pose)  # type: ignore[arg-type]
    canvas = np.full((_NUM_ROWS, FIGURE_WIDTH), TRANSPARENT, dtype=np.uint8)
    top = HEAD_ROW - pose.lift + lower - _FIRST_ROW
    canvas[top : top + SPRITE_SIZE] = drawn
    return canvas
