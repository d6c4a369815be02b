"""Captions of the theatre's own stories.

Captions are natural, varied English. They name species, colour, place, time, framing, action, side and
camera; the caption of a shot may leave out what the global caption says already. They never mention scarves
or layouts.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from shotstream.theatre.cast import Action, Actor
from shotstream.theatre.render import Camera, Framing, Performance, Shot, Spot
from shotstream.theatre.sets import Place, Time

PLACE_PHRASES: Final[dict[Place, tuple[str, ...]]] = {
    "meadow": ("in the meadow", "in a green meadow", "out in the meadow"),
    "forest": ("in the forest", "in the woods", "deep in the forest"),
    "beach": ("on the beach", "at the beach", "by the sea"),
    "city": ("in the city", "in town", "on a city street"),
    "mountains": ("in the mountains", "in the snowy mountains", "up in the snow"),
}
TIME_PHRASES: Final[dict[Time, tuple[str, ...]]] = {
    "day": ("by day", "on a sunny day", "in the daytime"),
    "sunset": ("at sunset", "at dusk", "in the evening"),
    "night": ("at night", "under the stars", "in the moonlight"),
}
FRAMING_PHRASES: Final[dict[Framing, tuple[str, ...]]] = {
    "wide": ("wide shot", "a wide view", "long shot"),
    "medium": ("medium shot", "a medium view", "mid shot"),
    "close-up": ("close-up", "a close view", "close shot"),
}
ACTION_PHRASES: Final[dict[Action, tuple[str, ...]]] = {
    "stands": ("stands still", "stands quietly", "waits"),
    "walks": ("walks", "strolls", "goes for a walk"),
    "jumps": ("jumps", "hops up and down", "leaps"),
    "waves": ("waves", "waves hello", "is waving"),
    "sleeps": ("sleeps", "naps", "is fast asleep"),
    "dances": ("dances", "is dancing", "dances happily"),
}
SPOT_PHRASES: Final[dict[Spot, tuple[str, ...]]] = {
    "left": ("on the left", "on the left side"),
    "middle": ("", "in the middle"),
    "right": ("on the right", "on the right side"),
}
CAMERA_PHRASES: Final[dict[Camera, tuple[str, ...]]] = {
    "still": ("",),
    "pans left": ("the camera pans left",),
    "pans right": ("the camera pans right",),
}
GLOBAL_PATTERNS: Final[tuple[str, ...]] = (
    "{cast} {place} {time}.",
    "A story about {cast} {place} {time}.",
    "{time}, {cast} {place}.",
    "The little adventure of {cast}, {place} {time}.",
    "{place} {time}, with {cast}.",
)
SHOT_PATTERNS: Final[tuple[str, ...]] = (
    "{framing}: {who} {place} {time}{camera}.",
    "{framing}, {time}: {who} {place}{camera}.",
    "{place} {time}, {who}, {framing}{camera}.",
    "{who} {place} {time}. {framing}{camera}.",
    "{framing}. {time}, {who} {place}{camera}.",
)


def _pick(rng: np.random.Generator, phrases: Sequence[str]) -> str:
    return phrases[int(rng.integers(len(phrases)))]


def _tidy(text: str) -> str:
    """Returns the text without the gaps of omitted parts, each sentence capitalised."""
    words = " ".join(text.split())
    for wrong, right in (
        (" ,", ","),
        (" .", "."),
        (", ,", ","),
        (", :", ":"),
        (",,", ","),
        (",.", "."),
        (". ,", "."),
        (".,", "."),
    ):
        words = words.replace(wrong, right)
    sentences = [part.strip(" ,") for part in words.split(".")]
    return " ".join(part[0].upper() + part[1:] + "." for part in sentences if part)


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def global_caption(cast: Sequence[Actor], place: Place, time: Time, rng: np.random.Generator) -> str:
    """Returns the global caption of a story: its cast, and the place and time of most of its shots."""
    names = " and ".join(_article(f"{actor.colour} {actor.species}") for actor in cast)
    pattern = _pick(rng, GLOBAL_PATTERNS)
    return _tidy(
        pattern.format(
            cast=names, place=_pick(rng, PLACE_PHRASES[place]), time=_pick(rng, TIME_PHRASES[time])
        )
    )


def _performed(performance: Performance, named: bool, spot: str, rng: np.random.Generator) -> str:
    actor = performance.actor
    name = f"the {actor.colour} {actor.species}" if named else f"the {actor.species}"
    action = _pick(rng, ACTION_PHRASES[performance.action])
    if performance.action == "walks":
        action += f" to the {performance.facing}"
    return f"{name} {action} {spot}".strip()


def turn_caption(
    before: Sequence[Performance], after: Sequence[Performance], rng: np.random.Generator
) -> str:
    """Returns the caption that a running shot gets when its actors turn to something else.

    It names those that do; nothing else of the shot changes.
    """
    turned = [now for was, now in zip(before, after, strict=True) if now != was]
    parts = [_performed(one, rng.random() < 0.75, "", rng) for one in turned]
    return _tidy(f"{' and '.join(parts)}.")


def shot_caption(shot: Shot, place: Place, time: Time, rng: np.random.Generator) -> str:
    """Returns the caption of one shot.

    Args:
        shot: The shot.
        place: The place in the global caption; a shot there need not repeat it.
        time: The time in the global caption.
        rng: The generator that chooses the words.
    """
    parts: list[str] = []
    for performance in shot.performances:
        alone = len(shot.performances) == 1 and performance.action != "walks"
        spot = _pick(rng, SPOT_PHRASES[performance.spot]) if alone else ""
        parts.append(_performed(performance, rng.random() < 0.75, spot, rng))
    where = "" if shot.place == place and rng.random() < 0.25 else _pick(rng, PLACE_PHRASES[shot.place])
    when = "" if shot.time == time and rng.random() < 0.25 else _pick(rng, TIME_PHRASES[shot.time])
    camera = CAMERA_PHRASES[shot.camera][0]
    text = _pick(rng, SHOT_PATTERNS).format(
        framing=_pick(rng, FRAMING_PHRASES[shot.framing]),
        who=" and ".join(parts),
        place=where,
        time=when,
        camera=f", {camera}" if camera else "",
    )
    return _tidy(text)
