"""Scores of the actors' drawings, frame by frame, and of changes that no motion of a drawing explains.

For every frame and every planned actor, the drawing is searched that explains most of the picture: any stance
at any place, in the framing that was read for the shot, with one scarf for the whole shot. The score does not
depend on who the actor is or what it does, which other axes judge, but on how much of the figure is there:
eyes, ears, scarf and outline, and nothing beside them.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shotstream.theatre.cast import COLOURS, SCARVES, SPECIES, SPRITE_SIZE, TRANSPARENT, Actor
from shotstream.theatre.oracle.backdrops import (
    SETS,
    Backdrop,
    backdrop_of,
    backdrop_pictures,
    colour_counts,
)
from shotstream.theatre.oracle.facts import ShotFacts
from shotstream.theatre.oracle.figures import (
    FIGURE_WIDTH,
    Counts,
    Wardrobe,
    likeness_of,
    wardrobe,
    windows,
)
from shotstream.theatre.render import HEAD_ROW, TOP_ROW, ZOOM, Shot, draw, shown
from shotstream.theatre.sets import STAGE_SIZE

LEAST_SHOWN: Final = 0.5
"""Minimum share of an actor's width that the plan shows in a frame, for the frame to count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrait:
    """The scores of a shot's figures, and its flicker."""

    figures: tuple[float, ...]
    """Share of each planned actor's pixels that its best drawings explain, in [0, 1]."""
    flicker: float
    """Share of the pixels that change between frames although the drawings do not, in [0, 1]; 0 is best."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The best drawing of an actor in each frame."""

    overlay: NDArray[np.uint8]
    """`[n, h, w]` stage pixels, `TRANSPARENT` around the actor."""
    box: NDArray[np.bool_]
    """`[n, h, w]`: whether a pixel is in the square of the sprite."""


def portray(shot: Shot, facts: ShotFacts, frames: NDArray[np.uint8]) -> Portrait:
    """Returns the scores of the drawings in every frame of a shot.

    Args:
        shot: The plan.
        facts: Result of `read_shot` for the frames; set, camera and framing are used.
        frames: Palette indices `[f, 48, 80]`.
    """
    framing, order = facts.framing, np.arange(len(frames))
    counts = colour_counts(frames, framing)
    backdrop = backdrop_of(counts, framing, order, SETS.index((facts.place, facts.time, facts.layout)))
    clothes = wardrobe(framing)
    # The last planned actor stands in front: pixels that it covers do not count for the others.
    drawn: list[_Drawn] = []
    left, matches = counts, backdrop.matches
    for performance in reversed(shot.performances):
        drawn.insert(0, _best(left, matches, clothes, backdrop, performance.actor))
        covered = drawn[0].overlay != TRANSPARENT
        left = np.where(covered[..., None], 0, left)
        matches = np.where(covered, 0, matches)
    figures = tuple(
        _wholeness(shot, index, drawn, counts, backdrop.matches) for index in range(len(shot.performances))
    )
    picture = backdrop_pictures(backdrop, backdrop.set_index)
    for one in drawn:
        picture = np.where(one.overlay != TRANSPARENT, one.overlay, picture)
    return Portrait(figures=figures, flicker=_flicker(frames, picture, ZOOM[framing]))


def _best(counts: Counts, matches: Counts, clothes: Wardrobe, backdrop: Backdrop, actor: Actor) -> _Drawn:
    """Returns the drawing of an actor that explains each frame best, with one scarf for the whole shot."""
    species = SPECIES.index(actor.species)
    figures = slice(species * clothes.num_stances, (species + 1) * clothes.num_stances)
    body, scarves = likeness_of(counts, clothes, species, COLOURS.index(actor.colour))
    body -= windows(matches[:, clothes.rows, :, None])[:, :, 0] @ clothes.whole[figures].T
    gains = body[..., None] + scarves
    per_frame = gains.reshape(len(counts), -1, len(SCARVES))
    scarf = int(per_frame.max(axis=1).sum(axis=0).argmax())
    places = per_frame[..., scarf].argmax(axis=1)
    wearer = Actor(actor.species, actor.colour, SCARVES[scarf])
    top = TOP_ROW[backdrop.framing]
    n, height, width = matches.shape
    canvas = np.full((n, STAGE_SIZE.height, width), TRANSPARENT, dtype=np.uint8)
    box = np.zeros(canvas.shape, dtype=np.bool_)
    for frame, place in enumerate(places.tolist()):
        pose, lower = clothes.stances[place % clothes.num_stances]
        column = place // clothes.num_stances - FIGURE_WIDTH
        draw(canvas[frame], wearer, pose, column, lower)
        row = HEAD_ROW - pose.lift + lower
        box[frame, row : row + SPRITE_SIZE, max(column, 0) : max(column + SPRITE_SIZE, 0)] = True
    shown_rows = slice(top, top + height)
    return _Drawn(canvas[:, shown_rows], box[:, shown_rows])


def _wholeness(shot: Shot, index: int, drawn: list[_Drawn], counts: Counts, empty: Counts) -> float:
    """Returns the share of correct pixels of a figure; stray pixels in its square count as errors."""
    own = drawn[index].overlay
    others = [one.overlay for number, one in enumerate(drawn) if number != index]
    in_front = [one.overlay != TRANSPARENT for one in drawn[index + 1 :]]
    there = (own != TRANSPARENT) & ~np.any([np.zeros(own.shape, dtype=np.bool_), *in_front], axis=0)
    right = np.where(there, _agreeing(counts, own), 0).sum(axis=(1, 2))
    explained = np.max([empty, *(_agreeing(counts, other) for other in others)], axis=0)
    stray = np.where(drawn[index].box & (own == TRANSPARENT), 1 - explained, 0).sum(axis=(1, 2))
    whole = np.maximum(there.sum(axis=(1, 2)) + stray, 1)
    counted = np.array([shown(shot, index, frame) >= LEAST_SHOWN for frame in range(len(own))])
    return float((right / whole)[counted].mean())


def _agreeing(counts: Counts, overlay: NDArray[np.uint8]) -> Counts:
    """Returns the share of each stage pixel's block that has the overlay's colour; 0 around the overlay."""
    there = overlay != TRANSPARENT
    colours = np.where(there, overlay, 0)[..., None].astype(np.int64)
    return np.where(there, np.take_along_axis(counts, colours, axis=3)[..., 0], 0)


def _flicker(frames: NDArray[np.uint8], picture: NDArray[np.uint8], zoom: int) -> float:
    if len(frames) < 2:
        return 0.0
    moved = (picture[1:] != picture[:-1]).repeat(zoom, axis=1).repeat(zoom, axis=2)
    return float(((frames[1:] != frames[:-1]) & ~moved).mean())
