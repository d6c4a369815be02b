"""Pictures of the theatre's actors and sets as a person may give them for references.

An actor is drawn before some set of the world or before one colour, at any zoom; a set is drawn without
actors. The caption of such a picture names what it shows, and no more.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from shotstream.theatre.captions import PLACE_PHRASES, TIME_PHRASES
from shotstream.theatre.cast import ACTIONS, SPRITE_SIZE, TRANSPARENT, Actor, pose_at, sprite
from shotstream.theatre.palette import NAMES
from shotstream.theatre.render import FRAMINGS, ZOOM, Performance, Shot, frame_at
from shotstream.theatre.sets import NUM_LAYOUTS, PLACES, STAGE_SIZE, TIMES, Place, Time

_PLAIN_SHARE: Final = 0.5
_NUM_FRAMES: Final = 9


def actor_picture(actor: Actor, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Returns a picture of one actor: `[48, 80]` palette indices."""
    action = ACTIONS[int(rng.integers(len(ACTIONS)))] if rng.random() < 0.5 else "stands"
    frame = int(rng.integers(_NUM_FRAMES))
    framing = FRAMINGS[int(rng.integers(len(FRAMINGS)))]
    if rng.random() >= _PLAIN_SHARE:
        shot = Shot(
            place=PLACES[int(rng.integers(len(PLACES)))],
            time=TIMES[int(rng.integers(len(TIMES)))],
            layout=int(rng.integers(NUM_LAYOUTS)),
            framing=framing,
            performances=(Performance(actor=actor, action=action),),
        )
        return frame_at(shot, frame)
    zoom = ZOOM[framing]
    drawn = sprite(actor, pose_at(action, frame, facing="right"))
    drawn = drawn.repeat(zoom, axis=0).repeat(zoom, axis=1)
    ground = "white" if rng.random() < 0.5 else NAMES[int(rng.integers(len(NAMES)))]
    picture = np.full((STAGE_SIZE.height, STAGE_SIZE.width), NAMES.index(ground), dtype=np.uint8)
    # In a close-up the feet are below the picture, as they are in a shot.
    top = max((STAGE_SIZE.height - drawn.shape[0]) // 2, 0)
    left = (STAGE_SIZE.width - SPRITE_SIZE * zoom) // 2
    part = drawn[: STAGE_SIZE.height - top]
    view = picture[top : top + part.shape[0], left : left + part.shape[1]]
    np.copyto(view, part, where=part != TRANSPARENT)
    return picture


def place_picture(place: Place, time: Time, layout: int) -> NDArray[np.uint8]:
    """Returns a picture of a set without actors: `[48, 80]` palette indices."""
    somebody = Performance(actor=Actor("fox", "red", "white"), action="stands")
    shot = Shot(place=place, time=time, layout=layout, framing="wide", performances=(somebody,))
    return frame_at(shot, 0, empty=True)


def actor_caption(actor: Actor) -> str:
    """Returns the caption of a picture of an actor."""
    return f"the {actor.colour} {actor.species}"


def place_caption(place: Place, time: Time) -> str:
    """Returns the caption of a picture of a set."""
    return f"{PLACE_PHRASES[place][0]} {TIME_PHRASES[time][0]}"
