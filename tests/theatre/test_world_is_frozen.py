"""What the shipped model was trained on: its pictures and its words may not change by accident.

A change here is a new world: it needs a newly trained model, and only then new hashes.
"""

import hashlib
import itertools

import numpy as np

from shotstream.theatre.cast import ACTIONS, COLOURS, SCARVES, SPECIES, Actor, pose_at, sprite
from shotstream.theatre.palette import NAMES, RGB
from shotstream.theatre.render import render
from shotstream.theatre.sets import NUM_LAYOUTS, PLACES, TIMES, stage
from shotstream.theatre.world import sample_story


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def test_the_palette() -> None:
    assert _hash(" ".join(NAMES).encode(), RGB.tobytes()) == "6889686f8b0d462b"


def test_the_stages() -> None:
    stages = (stage(*choice).tobytes() for choice in itertools.product(PLACES, TIMES, range(NUM_LAYOUTS)))
    assert _hash(*stages) == "128df1fca0a330b8"


def test_the_sprites() -> None:
    poses = [
        pose_at(action, frame, facing=facing, mirrored=mirrored)
        for action in ACTIONS
        for facing in ("left", "right")
        for mirrored in (False, True)
        for frame in range(17)
    ]
    actors = [
        Actor(species, colour, SCARVES[index % 4])
        for index, (species, colour) in enumerate(itertools.product(SPECIES, COLOURS))
    ]
    sprites = (sprite(actor, pose).tobytes() for actor in actors for pose in dict.fromkeys(poses))
    assert _hash(*sprites) == "a112779a79b6626f"


def test_the_stories_their_words_and_their_frames() -> None:
    words, pictures = [], []
    for held_out in (False, True):
        rng = np.random.default_rng(123)
        for number in range(30):
            story = sample_story(rng, 1 + number % 8, held_out=held_out)
            words.append("\n".join((story.global_caption, *story.captions)).encode())
            pictures.append(render(story.shots[-1], 33).tobytes())
    assert _hash(*words) == "a50c557515f01b1e"
    assert _hash(*pictures) == "e4f70b676ce46494"
