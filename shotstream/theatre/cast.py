"""The cast: species, colours, scarves, and how each action is performed.

Sprites are 16x16: 14x14 drawn pixels and an automatic dark outline. A pose is a head, a face that may look
aside, a body with arms and feet, and a scarf. A pose lasts two or four frames, aligned with the codec's
groups of four frames. No caption mentions the colour of a scarf: a later shot can take it only from the
context of earlier shots.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from shotstream.theatre.palette import INDEX

Species = Literal["fox", "rabbit", "bear", "frog", "robot", "owl"]
Colour = Literal["red", "yellow", "green", "blue", "purple", "grey"]
Scarf = Literal["scarf_orange", "scarf_cyan", "scarf_magenta", "white"]
Action = Literal["stands", "walks", "jumps", "waves", "sleeps", "dances"]
Facing = Literal["left", "right"]

SPECIES: Final[tuple[Species, ...]] = get_args(Species)
COLOURS: Final[tuple[Colour, ...]] = get_args(Colour)
SCARVES: Final[tuple[Scarf, ...]] = get_args(Scarf)
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)

SPRITE_SIZE: Final = 16
TRANSPARENT: Final = 255

_HEADS: Final[dict[Species, str]] = {
    "fox": """
        ..B........B..
        .BBB......BBB.
        .BSBB....BBSB.
        .BBBBBBBBBBBB.
        .BBBBBBBBBBBB.
        BBBBBBBBBBBBBB
        BWWBBBBBBBBWWB
        .WWWWBBBBWWWW.
        ...WWWWWWWW...""",
    "rabbit": """
        ..BBB....BBB..
        ..BpB....BpB..
        ..BpB....BpB..
        ..BpBBBBBBpB..
        ..BBBBBBBBBB..
        .BBBBBBBBBBBB.
        .BBBBBBBBBBBB.
        .BBLBBBBBBLBB.
        ..BBBBBBBBBB..""",
    "bear": """
        ..BB......BB..
        .BSSB....BSSB.
        .BSBBBBBBBBSB.
        ..BBBBBBBBBB..
        .BBBBBBBBBBBB.
        .BBBBBBBBBBBB.
        .BBBBLLLLBBBB.
        .BBBLLLLLLBBB.
        ..BBBLLLLBBB..""",
    "frog": """
        ..............
        ..BBB....BBB..
        .BWWWB..BWWWB.
        .BWWWB..BWWWB.
        .BBBBBBBBBBBB.
        BBBBBBBBBBBBBB
        BSSSSSSSSSSSSB
        BBLLLLLLLLLLBB
        ..LLLLLLLLLL..""",
    "robot": """
        ......WW......
        ......SS......
        .SBBBBBBBBBBS.
        .BLLLLLLLLLLB.
        SBLoooooooolBS
        SBLoooooooolBS
        SBLoooooooolBS
        .BLLLLLLLLLLB.
        .SBBBBBBBBBBS.""",
    "owl": """
        .B..........B.
        .BBB......BBB.
        .BBBBBBBBBBBB.
        .BWWWWBBWWWWB.
        .WWWWWWWWWWWW.
        .WWWWWWWWWWWW.
        .BWWWWyyWWWWB.
        .BBBBByyBBBBB.
        ..SBBBBBBBBS..""",
}

# The face: eyes open, eyes shut. It moves one pixel when the actor looks aside.
_FACES: Final[dict[Species, tuple[str, str]]] = {
    "fox": ("4,4 5,4 4,9 5,9|7,6 7,7", "5,3 5,4 5,9 5,10|7,6 7,7"),
    "rabbit": ("5,4 6,4 5,9 6,9|p:6,6 p:6,7 W:7,6 W:7,7", "6,3 6,4 6,9 6,10|p:6,6 p:6,7 W:7,6 W:7,7"),
    "bear": ("4,4 5,4 4,9 5,9|6,6 6,7", "5,3 5,4 5,9 5,10|6,6 6,7"),
    "frog": ("2,3 3,3 2,10 3,10|", "S:2,2 S:2,3 S:2,4 S:2,9 S:2,10 S:2,11 3,2 3,3 3,4 3,9 3,10 3,11|"),
    "robot": ("c:4,4 c:4,5 c:5,4 c:5,5 c:4,8 c:4,9 c:5,8 c:5,9|", "c:5,4 c:5,5 c:5,8 c:5,9|"),
    "owl": ("4,3 4,4 5,3 5,4 4,9 4,10 5,9 5,10|", "5,2 5,3 5,4 5,9 5,10 5,11|"),
}

_BODY: Final = """
    ...ssssssss...
    ...BLLLLssB...
    ...BLLLLssB...
    ...BBLLLLBB..."""
_FEET: Final[dict[str, str]] = {
    "both": "...BB....BB...",
    "left": "..BB.....B....",
    "right": "....B.....BB..",
    "none": "....SSSSSS....",
}
# Arms: row,column of the drawn pixels, for the actor's left side of the picture; the other is mirrored.
_ARMS: Final[dict[str, str]] = {
    "down": "10,2 11,2",
    "out": "L:8,0 L:9,0 9,1 10,2",
    "up": "L:5,0 L:6,0 7,0 8,0 8,1 9,1 9,2",
}


@dataclass(frozen=True, slots=True)
class Pose:
    """The pose of an actor in one frame."""

    left_arm: str = "down"
    """Arm on the left of the picture: down, out or up."""
    right_arm: str = "down"
    """Arm on the right of the picture: down, out or up."""
    feet: str = "both"
    """Feet: both, left, right or none (tucked in)."""
    look: int = 0
    """Columns that the face moves: -1 is left, 0 none, 1 right."""
    eyes_open: bool = True
    lean: int = 0
    """Columns that the head moves: -1 is left, 0 none, 1 right."""
    lift: int = 0
    """Rows between the actor and the ground; 0 stands on it."""
    snore: int = 0
    """Index of the letter z that floats above the head; 0 is none."""


@dataclass(frozen=True, slots=True)
class Actor:
    """A member of the cast. Captions mention its species and colour, never its scarf."""

    species: Species
    colour: Colour
    scarf: Scarf


def pose_at(action: Action, frame: int, *, facing: Facing, mirrored: bool = False) -> Pose:
    """Returns the pose of an action in a frame, counted from 0.

    Poses change in the middle of a group of four frames, or from group to group; frame 0 is a group of its
    own. `mirrored` makes the left arm the waving one, so that two actors can wave at each other.
    """
    group, second_half = (frame + 3) // 4, frame > 0 and (frame - 1) % 4 >= 2
    direction = 1 if facing == "right" else -1
    if action == "walks":
        return Pose(feet="left" if second_half else "right", look=direction)
    if action == "jumps":
        high = (group % 2 == 1) == second_half and frame > 0
        return Pose("up", "up", feet="none", lift=4) if high else Pose("out", "out")
    if action == "waves":
        arm = "out" if second_half else "up"
        return Pose(arm, "down") if mirrored else Pose("down", arm)
    if action == "sleeps":
        return Pose(eyes_open=False, feet="none", lift=-1, snore=1 + group % 2)
    if action == "dances":
        left = group % 2 == 1
        feet = "left" if left else "right"
        return Pose("up" if left else "out", "out" if left else "up", feet=feet, lean=-1 if left else 1)
    return Pose(eyes_open=group % 4 != 3)


def _rows(art: str) -> list[str]:
    return [line.strip() for line in art.strip().splitlines()]


def _put(canvas: NDArray[np.uint8], marks: str, column: int, default: str, colours: dict[str, int]) -> None:
    for mark in marks.split():
        kind, _, place = mark.rpartition(":")
        row, col = (int(number) for number in place.split(","))
        canvas[1 + row, 1 + col + column] = colours[kind or default]


@cache
def sprite(actor: Actor, pose: Pose) -> NDArray[np.uint8]:
    """Returns 16x16 palette indices, `TRANSPARENT` around the figure, without its lift and its letter z."""
    colours = {
        "B": INDEX[actor.colour], "S": INDEX[f"{actor.colour}_shade"], "L": INDEX[f"{actor.colour}_light"],
        "W": INDEX["white"], "o": INDEX["outline"], "p": INDEX["pink"], "y": INDEX["beak"], "c":
        INDEX["lens"], "l": INDEX[f"{actor.colour}_light"], "s": INDEX[actor.scarf], ".": TRANSPARENT,
    }  # fmt: skip
    canvas = np.full((SPRITE_SIZE, SPRITE_SIZE), TRANSPARENT, dtype=np.uint8)
    for row, line in enumerate([*_rows(_BODY), _FEET[pose.feet]], start=10):
        canvas[row, 1:15] = [colours[mark] for mark in line]
    for row, line in enumerate(_rows(_HEADS[actor.species]), start=1):
        for column, mark in enumerate(line, start=1 + pose.lean):
            if mark != ".":
                canvas[row, min(max(column, 0), 15)] = colours[mark]
    eyes = _FACES[actor.species][0 if pose.eyes_open else 1]
    for part in eyes.split("|"):
        _put(canvas, part, pose.look + pose.lean, "o", colours)
    for arm, mirrored in ((pose.left_arm, False), (pose.right_arm, True)):
        view = canvas[:, ::-1] if mirrored else canvas
        _put(view, _ARMS[arm], 0, "B", colours)
    figure = canvas != TRANSPARENT
    grown = figure.copy()
    grown[1:] |= figure[:-1]
    grown[:-1] |= figure[1:]
    grown[:, 1:] |= figure[:, :-1]
    grown[:, :-1] |= figure[:, 1:]
    canvas[grown & ~figure] = colours["o"]
    return canvas
