"""Reads the facts of a shot from its frames alone: set, camera, actors and actions, by analysis by synthesis.

The world is known exactly, so a shot is compared with drawings of everything that it could be: first the sets
as every camera shows them, then every figure at every place before them, then every action over time. No
caption and no plan is used. A few frames of the shot are compared, chosen so that all actions can be
distinguished.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shotstream.theatre.cast import (
    COLOURS,
    SCARVES,
    SPECIES,
    TRANSPARENT,
    Actor,
)
from shotstream.theatre.oracle.backdrops import (
    SETS,
    Backdrop,
    backdrop_pictures,
    best_backdrops,
    colour_counts,
)
from shotstream.theatre.oracle.facts import ActorFacts, ShotFacts
from shotstream.theatre.oracle.figures import (
    FIGURE_WIDTH,
    Likeness,
    Wardrobe,
    likeness,
    tracked_columns,
    tracked_stances,
    wardrobe,
    windows,
)
from shotstream.theatre.palette import to_indices
from shotstream.theatre.render import SPOT_COLUMN, TOP_ROW, ZOOM, Framing, draw
from shotstream.theatre.sets import NUM_LAYOUTS, STAGE_SIZE

MAX_LOOKED_AT: Final = 8
"""Maximum number of frames of a shot that are compared."""

_NUM_SETS: Final[dict[Framing, int]] = {"wide": 3, "medium": 6, "close-up": 12}
"""Number of sets that are tried with figures, by framing; a close-up hides most of the set."""
_PRESENT: Final = 0.35
"""Share of its pixels that only an actor must explain, not the set, to be present."""
_LEGIBLE: Final = 0.03
"""Share of the picture that every other layout would change, for a layout to be legible."""
_SLACK_COST: Final = 0.05
"""Share of a figure's pixels that an action loses for each column of difference."""
_PHASES: Final = (0, 2, 4, 6)
"""Numbers of frames that an action may be ahead of the world's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotReading:
    """The facts of a shot as read, with the frames that were compared."""

    facts: ShotFacts
    looked_at: NDArray[np.int64]
    """Indices of the frames that were compared."""
    seen: NDArray[np.uint8]
    """The compared frames: `[n, h, w]` palette indices."""
    drawn: NDArray[np.uint8]
    """Drawing of these frames from the facts: `[n, h, w]` palette indices."""

    @property
    def agreement(self) -> float:
        """Share of pixels that match the drawing, in [0, 1]."""
        return float((self.seen == self.drawn).mean())


@dataclass(frozen=True, slots=True)
class _Scene:
    backdrop: Backdrop
    counts: NDArray[np.float32]
    clothes: Wardrobe
    likeness: Likeness


@dataclass(frozen=True, slots=True)
class _Part:
    """One actor's identity, and the places where it matches best."""

    species: int
    colour: int
    scarf: int
    columns: NDArray[np.int64]
    """`[n]`: indices into the table of columns."""
    stances: NDArray[np.int64]
    visible: NDArray[np.bool_]
    """`[n]`: whether drawing it explains the frame better."""

    @property
    def actor(self) -> Actor:
        """The actor."""
        return Actor(SPECIES[self.species], COLOURS[self.colour], SCARVES[self.scarf])


def look_at(num_frames: int) -> NDArray[np.int64]:
    """Returns indices of frames that distinguish every action.

    They include both halves of groups of four frames, in groups with even and with odd index.
    """
    num_groups = (num_frames - 1) // 4
    first_half, second_half = 2, 4
    telling = [4 * group + (first_half if group % 4 < 2 else second_half) for group in range(num_groups)]
    others = [4 * group + (second_half if group % 4 < 2 else first_half) for group in range(num_groups)]
    if num_groups > MAX_LOOKED_AT:
        last = 4 * (num_groups // 4) - 4
        telling = telling[:4] + telling[last : last + 4]
    return np.array(sorted([*telling, *others, 0][:MAX_LOOKED_AT]), dtype=np.int64)


def read_shot(frames: NDArray[np.uint8]) -> ShotReading:
    """Returns the facts of a shot, read from its frames.

    Args:
        frames: RGB `[f, 48, 80, 3]`; a colour outside the palette is read as the nearest one in it.
    """
    size = (STAGE_SIZE.height, STAGE_SIZE.width, 3)
    if frames.ndim != 4 or frames.shape[1:] != size or not len(frames):
        raise ValueError(f"frames of shape {frames.shape}; the oracle reads frames of {size}")
    looked_at = look_at(len(frames))
    seen = to_indices(frames[looked_at])
    scene = _scene(seen, looked_at)
    parts = _parts(scene)
    drawn = _draw(scene, parts, scene.backdrop.set_index)
    place, time, layout = SETS[scene.backdrop.set_index]
    facts = ShotFacts(
        place=place,
        time=time,
        layout=layout,
        layout_legible=_is_legible(scene, parts, drawn),
        framing=scene.backdrop.framing,
        camera=scene.backdrop.camera,
        actors=tuple(_actor(scene, parts, index, looked_at) for index in range(len(parts))),
    )
    return ShotReading(facts=facts, looked_at=looked_at, seen=seen, drawn=drawn)


def _scene(seen: NDArray[np.uint8], looked_at: NDArray[np.int64]) -> _Scene:
    """Returns the set, framing and camera that match best, together with one actor before them."""
    candidates: list[tuple[float, Framing, list[Backdrop], NDArray[np.float32]]] = []
    for framing, num_sets in _NUM_SETS.items():
        counts = colour_counts(seen, framing)
        backdrops = best_backdrops(counts, framing, looked_at, num_sets)
        candidates.append((backdrops[0].agreement, framing, backdrops, counts))
    best: tuple[float, _Scene] | None = None
    for share, framing, backdrops, counts in sorted(candidates, key=lambda candidate: -candidate[0]):
        clothes = wardrobe(framing)
        figure_share = clothes.whole.sum(axis=1).max() / counts[0, ..., 0].size
        if best and share + 2 * figure_share <= best[0]:
            continue
        alike = likeness(counts, clothes)
        any_colours = alike.coloured.max(axis=-1) + alike.scarf.max(axis=-1)
        for backdrop in backdrops:
            gains = any_colours - _hidden(backdrop.matches, clothes)
            explained = float(gains.max(axis=(1, 2)).clip(min=0).mean()) / counts[0, ..., 0].size
            if best is None or backdrop.agreement + explained > best[0]:
                best = (backdrop.agreement + explained, _Scene(backdrop, counts, clothes, alike))
    assert best is not None
    return best[1]


def _hidden(matches: NDArray[np.float32], clothes: Wardrobe) -> NDArray[np.float32]:
    """Returns the matching pixels of the set that each figure would hide: `[n, columns, figures]`."""
    return windows(matches[:, clothes.rows, :, None])[:, :, 0] @ clothes.whole.T


def _parts(scene: _Scene) -> list[_Part]:
    """Returns the actors of a shot from left to right; one is added while it explains the frames better."""
    parts: list[_Part] = []
    matches = scene.backdrop.matches
    max_actors = 1 if scene.backdrop.framing == "close-up" else 2
    for _ in range(max_actors):
        hidden = _hidden(matches, scene.clothes)
        part = _best_identity(scene, hidden)
        drawn = _with(scene, matches, part)
        if _support(scene, part, matches, drawn) < _PRESENT:
            break
        parts.append(part)
        matches = drawn
    return sorted(parts, key=lambda part: int(part.columns[0]))


def _best_identity(scene: _Scene, hidden: NDArray[np.float32]) -> _Part:
    num_stances = scene.clothes.num_stances
    n, columns, figures = hidden.shape
    shape = (n, columns, figures // num_stances, num_stances)
    alike = scene.likeness
    coloured = (alike.coloured - hidden[..., None]).reshape(*shape, -1)
    scarf = alike.scarf.reshape(*shape, -1)
    best: tuple[float, tuple[int, int, int]] = (-1.0, (0, 0, 0))
    for number in range(len(SCARVES)):
        gains = (coloured + scarf[..., number, None]).max(axis=(1, 3)).clip(min=0).sum(axis=0)
        species, colour = np.unravel_index(int(gains.argmax()), gains.shape)
        if gains.max() > best[0]:
            best = (float(gains.max()), (int(species), int(colour), number))
    species, colour, number = best[1]
    gains = coloured[:, :, species, :, colour] + scarf[:, :, species, :, number]
    places = gains.reshape(n, -1).argmax(axis=1)
    return _Part(
        species,
        colour,
        number,
        places // num_stances,
        places % num_stances,
        gains.reshape(n, -1).max(axis=1) > 0,
    )


def _overlay(scene: _Scene, part: _Part) -> NDArray[np.uint8]:
    """Returns the actor alone, where it matches best: `[n, h, w]` stage pixels, else `TRANSPARENT`."""
    top = TOP_ROW[scene.backdrop.framing]
    n, height, width = scene.backdrop.matches.shape
    canvas = np.full((n, STAGE_SIZE.height, width), TRANSPARENT, dtype=np.uint8)
    for frame in np.flatnonzero(part.visible):
        pose, lower = scene.clothes.stances[part.stances[frame]]
        draw(canvas[frame], part.actor, pose, int(part.columns[frame]) - FIGURE_WIDTH, lower)
    return canvas[:, top : top + height]


def _with(scene: _Scene, matches: NDArray[np.float32], part: _Part) -> NDArray[np.float32]:
    """Returns the matching pixels after an actor is drawn."""
    overlay = _overlay(scene, part)
    there = overlay != TRANSPARENT
    colours = np.where(there, overlay, 0)[..., None].astype(np.int64)
    return np.where(there, np.take_along_axis(scene.counts, colours, axis=3)[..., 0], matches)


def _support(scene: _Scene, part: _Part, before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Returns the share of an actor's pixels that only it explains."""
    num_pixels = (_overlay(scene, part) != TRANSPARENT).sum()
    least = scene.clothes.whole.sum(axis=1).max() * len(before) / 4
    return float((after - before).sum() / max(num_pixels, least))


def _actor(scene: _Scene, parts: list[_Part], index: int, looked_at: NDArray[np.int64]) -> ActorFacts:
    """Returns the facts of one actor, while the others stand where they were read."""
    part, clothes, framing = parts[index], scene.clothes, scene.backdrop.framing
    before = scene.backdrop.matches
    for other in parts[:index] + parts[index + 1 :]:
        before = _with(scene, before, other)
    figures = slice(part.species * clothes.num_stances, (part.species + 1) * clothes.num_stances)
    gains = scene.likeness.of(part.species, part.colour, part.scarf, clothes.num_stances)
    gains = gains - _hidden(before, clothes)[:, :, figures]
    slack = _SLACK_COST * float(clothes.whole[figures].sum(axis=1).mean())
    tolerant = gains.copy()
    tolerant[:, 1:] = np.maximum(tolerant[:, 1:], gains[:, :-1] - slack)
    tolerant[:, :-1] = np.maximum(tolerant[:, :-1], gains[:, 1:] - slack)

    starts = np.arange(-FIGURE_WIDTH, STAGE_SIZE.width)[:, None]
    order = np.arange(len(looked_at))
    best: tuple[float, int, int] = (-np.inf, 0, 0)
    for number, performed in enumerate(clothes.performed):
        moved = tracked_columns(performed, looked_at, framing)
        columns = starts + moved - scene.backdrop.lefts + FIGURE_WIDTH
        inside = (columns >= 0) & (columns < gains.shape[1])
        for phase in _PHASES:
            stances = tracked_stances(number, looked_at + phase, clothes)
            found = tolerant[order, columns.clip(0, gains.shape[1] - 1), stances]
            sums = np.where(inside, found, 0).sum(axis=1)
            if sums.max() > best[0]:
                best = (float(sums.max()), number, int(sums.argmax()))
    performed = clothes.performed[best[1]]
    column = int(starts[best[2], 0])
    return ActorFacts(
        actor=part.actor,
        action=performed.action,
        facing=performed.facing,
        spot=min(SPOT_COLUMN, key=lambda spot: abs(SPOT_COLUMN[spot] - column)),
    )


def _draw(scene: _Scene, parts: list[_Part], set_index: int) -> NDArray[np.uint8]:
    """Returns the drawing of the frames before a set: `[n, h, w]` screen pixels."""
    picture = backdrop_pictures(scene.backdrop, set_index)
    for part in parts:
        overlay = _overlay(scene, part)
        picture = np.where(overlay != TRANSPARENT, overlay, picture)
    zoom = ZOOM[scene.backdrop.framing]
    return picture.repeat(zoom, axis=1).repeat(zoom, axis=2)


def _is_legible(scene: _Scene, parts: list[_Part], drawn: NDArray[np.uint8]) -> bool:
    own = scene.backdrop.set_index
    first = own - own % NUM_LAYOUTS
    others = (_draw(scene, parts, first + layout) for layout in range(NUM_LAYOUTS) if first + layout != own)
    return min(float((other != drawn).mean()) for other in others) >= _LEGIBLE
