"""Renders shots: a stage, a camera and performing actors become frames of palette indices.

Framing is a zoom: wide shows the whole stage, medium half of it, close-up a quarter; a stage pixel is drawn
as a block of 1, 2 or 4 pixels in height and width.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from shotstream.theatre.cast import SPRITE_SIZE, TRANSPARENT, Action, Actor, Facing, Pose, pose_at, sprite
from shotstream.theatre.palette import INDEX
from shotstream.theatre.sets import NUM_LAYOUTS, STAGE_SIZE, Place, Time, stage

Framing = Literal["wide", "medium", "close-up"]
Spot = Literal["left", "middle", "right"]
Camera = Literal["still", "pans left", "pans right"]

FRAMINGS: Final[tuple[Framing, ...]] = get_args(Framing)
FPS: Final = 12

ZOOM: Final[dict[Framing, int]] = {"wide": 1, "medium": 2, "close-up": 4}
TOP_ROW: Final[dict[Framing, int]] = {"wide": 0, "medium": 20, "close-up": 24}
HEAD_ROW: Final = 24
SPOT_COLUMN: Final[dict[Spot, int]] = {"left": 16, "middle": 32, "right": 48}
_PAIR_COLUMNS: Final[dict[Framing, tuple[int, int]]] = {
    "wide": (16, 48),
    "medium": (20, 44),
    "close-up": (20, 44),
}
_PAN_REACH: Final = 8
_Z_OVERHANG: Final = 2
_Z: Final = ("zz.", ".z.", ".zz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """The performance of one actor in one shot."""

    actor: Actor
    action: Action
    spot: Spot = "middle"
    """Third of the stage; with two actors the first stands left and the second right."""
    facing: Facing = "right"
    """Direction of a walk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A change of what the actors of a running shot do. They go on from where they are."""

    frame: int
    """First frame of it, at least 1."""
    performances: tuple[Performance, ...]
    """What the same actors do from then on; where they stand has no meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """A shot of the world: everything that determines its frames."""

    place: Place
    time: Time
    layout: int
    framing: Framing
    performances: tuple[Performance, ...]
    camera: Camera = "still"
    turns: tuple[Turn, ...] = ()
    """What the actors turn to while the shot runs, in order."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.performances) <= 2:
            raise ValueError(f"a shot shows one or two actors, got {len(self.performances)}")
        if self.framing == "close-up" and len(self.performances) == 2:
            raise ValueError("a close-up shows one actor; use a medium or a wide shot for two")
        if self.camera != "still" and (self.framing != "medium" or len(self.performances) == 2):
            raise ValueError("the camera pans in medium shots of one actor only")
        if not 0 <= self.layout < NUM_LAYOUTS:
            raise ValueError(f"layout {self.layout} does not exist: there are {NUM_LAYOUTS}")
        cast = [one.actor for one in self.performances]
        if any([one.actor for one in turn.performances] != cast for turn in self.turns):
            raise ValueError("the actors of a shot stay the same in every turn of it")

    def performances_at(self, frame: int) -> tuple[Performance, ...]:
        """Returns what the actors do in a frame."""
        found = self.performances
        for turn in self.turns:
            found = turn.performances if turn.frame <= frame else found
        return found


def walked_columns(frame: int, facing: Facing, zoom: int) -> int:
    """Returns the stage columns walked since the shot began: 2 screen pixels in 2 frames; close-up: 0."""
    if zoom == ZOOM["close-up"]:
        return 0
    steps = (frame + 1) // 2
    return steps * (2 // zoom) * (1 if facing == "right" else -1)


def panned_columns(frame: int, camera: Camera) -> int:
    """Returns the stage columns between the camera and the centre of its pan: from -8 to 8, or back."""
    if camera == "still":
        return 0
    travelled = min((frame + 1) // 2, 2 * _PAN_REACH) - _PAN_REACH
    return travelled if camera == "pans right" else -travelled


def bob(action: Action, pose: Pose, framing: Framing) -> int:
    """Returns the rows by which an actor is lower than in its pose.

    In a close-up, only the head shows that an actor walks.
    """
    return 1 if framing == "close-up" and action == "walks" and pose.feet == "left" else 0


def _column(shot: Shot, index: int, frame: int) -> int:
    """Returns the stage column of an actor: where it began, and what it has walked since."""
    column, start, zoom = _first_column(shot, index), 0, ZOOM[shot.framing]
    now = shot.performances[index]
    for turn in (*(turn for turn in shot.turns if turn.frame <= frame), None):
        end = frame if turn is None else turn.frame
        if now.action == "walks":
            column += walked_columns(end, now.facing, zoom) - walked_columns(start, now.facing, zoom)
        if turn is not None:
            start, now = end, turn.performances[index]
    return column


def _first_column(shot: Shot, index: int) -> int:
    performance, zoom = shot.performances[index], ZOOM[shot.framing]
    alone = len(shot.performances) == 1
    column = SPOT_COLUMN[performance.spot] if alone else _PAIR_COLUMNS[shot.framing][index]
    if performance.action != "walks" or shot.framing == "close-up":
        return column
    run_up = (-16 if performance.facing == "right" else 16) // zoom if alone else 0
    return column + run_up


def _view_column(shot: Shot, frame: int) -> int:
    """Returns the stage column of the left edge of the picture."""
    zoom = ZOOM[shot.framing]
    if zoom == 1:
        return 0
    width = STAGE_SIZE.width // zoom
    if len(shot.performances) == 2:
        return (STAGE_SIZE.width - width) // 2
    column = SPOT_COLUMN[shot.performances[0].spot] + SPRITE_SIZE // 2 - width // 2
    return column + panned_columns(frame, shot.camera)


def shown(shot: Shot, index: int, frame: int) -> float:
    """Returns the share of an actor's columns that a frame of the plan shows, in [0, 1]."""
    left = _column(shot, index, frame) - _view_column(shot, frame)
    right = min(left + SPRITE_SIZE, STAGE_SIZE.width // ZOOM[shot.framing])
    return max(right - max(left, 0), 0) / SPRITE_SIZE


@cache
def figure(actor: Actor, pose: Pose) -> NDArray[np.uint8]:
    """Returns the sprite with a sleeper's letter z: 16x18 palette indices, `TRANSPARENT` around it."""
    picture = np.full((SPRITE_SIZE, SPRITE_SIZE + _Z_OVERHANG), TRANSPARENT, dtype=np.uint8)
    picture[:, :SPRITE_SIZE] = sprite(actor, pose)
    if pose.snore:
        row, column = (2, 14) if pose.snore == 1 else (0, 15)
        for dy, line in enumerate(_Z):
            for dx, mark in enumerate(line):
                if mark == "z":
                    picture[row + dy, column + dx] = INDEX["white"]
    picture.setflags(write=False)
    return picture


def draw(picture: NDArray[np.uint8], actor: Actor, pose: Pose, column: int, lower: int = 0) -> None:
    """Draws an actor onto a stage-sized picture in place, clipped at the sides and `lower` rows lower."""
    drawn = figure(actor, pose)
    top = HEAD_ROW - pose.lift + lower
    left = max(0, -column)
    right = min(drawn.shape[1], picture.shape[1] - column)
    if right > left:
        view = picture[top : top + SPRITE_SIZE, column + left : column + right]
        part = drawn[:, left:right]
        np.copyto(view, part, where=part != TRANSPARENT)


def frame_at(shot: Shot, frame: int, *, empty: bool = False) -> NDArray[np.uint8]:
    """Returns frame `frame` of a shot, from 0: `[48, 80]` palette indices; `empty` leaves the actors out."""
    zoom = ZOOM[shot.framing]
    picture = stage(shot.place, shot.time, shot.layout).copy()
    for index, performance in enumerate(() if empty else shot.performances_at(frame)):
        mirrored = len(shot.performances) == 2 and index == 0
        pose = pose_at(performance.action, frame, facing=performance.facing, mirrored=mirrored)
        lower = bob(performance.action, pose, shot.framing)
        draw(picture, performance.actor, pose, _column(shot, index, frame), lower)
    if zoom == 1:
        return picture
    top, left = TOP_ROW[shot.framing], _view_column(shot, frame)
    height, width = STAGE_SIZE.height // zoom, STAGE_SIZE.width // zoom
    return np.kron(picture[top : top + height, left : left + width], np.ones((zoom, zoom), dtype=np.uint8))


def render(shot: Shot, num_frames: int, *, empty: bool = False) -> NDArray[np.uint8]:
    """Returns the first `num_frames` frames of a shot: `[f, 48, 80]` palette indices. A pure function.

    Args:
        shot: The shot.
        num_frames: Number of frames, at least 1.
        empty: Whether to leave the actors out.
    """
    return np.stack([frame_at(shot, frame, empty=empty) for frame in range(num_frames)])
