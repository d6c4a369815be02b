"""Replay files: a film's plan, its environment, and the SHA-256 of every frame, to generate it again.

Frames are identical if the hashes of each uint8 RGB frame "h w 3" in memory order are equal. That is expected
on the same hardware, dtype, number of threads and torch version. The file is JSON with a version; unknown
versions and keys are refused.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import UInt8

from shotstream.documents import DocumentError, parse_json, read_text
from shotstream.story import MAX_SEED, NO_TEXT, Story, StoryError, story_from_document

FORMAT = "shotstream-replay/1"
_MAX_REPLAY_BYTES = 1 << 28
MAX_STEPS = 1000
_SHA256 = re.compile(r"[0-9a-f]{64}")


Pins = tuple[tuple[int, int], ...]
"""Pinned frames, each as (index of the shot, index of the frame in it), both from 0, in the order of
pinning.
"""


class ReplayError(ValueError):
    """A replay file that cannot be used; the message is one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmPlan:
    """The plan of a film: everything that its frames depend on, on a given machine."""

    model_id: str
    """Name of the model."""
    weights_sha256: str
    """SHA-256 of the model's weights."""
    context_policy: str
    """Name of the policy that chooses the context frames."""
    num_steps: int
    """Number of denoising steps per chunk."""
    seed: int
    """Seed of the session."""
    story: Story
    """The story; every shot has a length and a seed."""
    pins: tuple[Pins, ...] = ()
    """The frames that are pinned while a shot is generated, for each shot; empty: none in any shot."""

    def __post_init__(self) -> None:
        _check_pins(self.pins, len(self.story.shots))
        if any(shot.num_chunks is None or shot.seed is None for shot in self.story.shots):
            raise ReplayError("a plan names the length and the seed of every shot")
        if not (0 <= self.seed <= MAX_SEED and 1 <= self.num_steps <= MAX_STEPS):
            raise ReplayError(
                f"a plan of seed {self.seed} and {self.num_steps} steps; allowed are 0 to {MAX_SEED} and "
                f"1 to {MAX_STEPS}"
            )

    def to_document(self) -> dict[str, Any]:
        """Returns the plan as plain values; `from_document` reads them."""
        values = {name: getattr(self, name) for name in _PLAN_KEYS if name != "story"}
        pins = {"pins": self.pins} if self.pins else {}
        return {**values, "story": self.story.to_document(), **pins}

    @classmethod
    def from_document(cls, document: object) -> "FilmPlan":
        """Returns the plan in parsed JSON; raises ReplayError if it is invalid."""
        has_pins = isinstance(document, dict) and "pins" in document
        values = _checked(document, {**_PLAN_KEYS, "pins": list} if has_pins else _PLAN_KEYS)
        if has_pins:
            values["pins"] = tuple(map(_pins, values["pins"]))
        try:
            values["story"] = story_from_document(values["story"])
        except StoryError as error:
            raise ReplayError(f"its story is damaged: {error}") from error
        if values["story"].warnings:
            raise ReplayError(f"its story is damaged: {values['story'].warnings[0]}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """The environment of a film: what identical frames depend on besides the plan."""

    shotstream: str
    """Version of this package."""
    torch: str
    """Version of torch."""
    device: str
    """Kind of device and its name."""
    dtype: str
    """Dtype of the model's weights and activations."""
    num_threads: int
    """Number of threads that torch computes with."""

    def differences(self, other: "Environment") -> list[str]:
        """Returns the differences, as "name: mine, theirs"; empty if both can give identical frames."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{name}: {mine[name]}, {theirs[name]}" for name in mine if mine[name] != theirs[name]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """The replay file of a finished film: its plan, its environment and its frame hashes."""

    plan: FilmPlan
    """The plan of the film."""
    environment: Environment
    """The environment in which it was generated."""
    frame_sha256: tuple[tuple[str, ...], ...]
    """SHA-256 of each frame, shot by shot."""

    def to_json(self) -> str:
        """Returns the text of the replay file."""
        document = {
            "format": FORMAT,
            "plan": self.plan.to_document(),
            "environment": asdict(self.environment),
            "frame_sha256": self.frame_sha256,
        }
        return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def hash_frames(frames: UInt8[np.ndarray, "f h w 3"]) -> tuple[str, ...]:
    """Returns the SHA-256 of each frame's bytes, row by row."""
    return tuple(hashlib.sha256(frame.tobytes()).hexdigest() for frame in frames)


def is_replay(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file is marked as a replay file, of any version."""
    path = Path(path)
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        # An editor may have saved it as UTF-16, and a tool may have sorted its keys.
        return b'"shotstream-replay/' in file.read(4096).replace(b"\0", b"")


def read_replay(path: str | os.PathLike[str]) -> Replay:
    """Returns the replay in a file.

    Raises:
        ReplayError: The file is unreadable, damaged or of another version.
    """
    path = Path(path)
    try:
        document = parse_json(read_text(path, _MAX_REPLAY_BYTES))
        if not isinstance(document, dict) or cast("dict[str, Any]", document).get("format") != FORMAT:
            raise ReplayError(f"not a replay file of the format {FORMAT!r}")
        values = _checked(document, {"format": str, "plan": dict, "environment": dict, "frame_sha256": list})
        replay = Replay(
            plan=FilmPlan.from_document(values["plan"]),
            environment=Environment(**_checked(values["environment"], _ENVIRONMENT_KEYS)),
            frame_sha256=tuple(map(_hashes, values["frame_sha256"])),
        )
        num_shots = len(replay.plan.story.shots)
        if len(replay.frame_sha256) != num_shots:
            raise ReplayError(f"damaged: {num_shots} shots, and hashes of {len(replay.frame_sha256)}")
        return replay
    except (ReplayError, DocumentError) as error:
        raise ReplayError(f"{path}: {error}") from error


def compare_frames(
    expected: Sequence[Sequence[str]], found: Sequence[Sequence[str]], on_difference: Callable[[str], None]
) -> int:
    """Returns the number of frames that differ; the place of the first one is passed to `on_difference`."""
    num_different = 0
    for shot_index in range(max(len(expected), len(found))):
        shots = [list(side[shot_index]) if shot_index < len(side) else [] for side in (expected, found)]
        for frame_index in range(max(map(len, shots))):
            hashes = [shot[frame_index] if frame_index < len(shot) else None for shot in shots]
            if hashes[0] != hashes[1]:
                if num_different == 0:
                    on_difference(f"shot {shot_index + 1}, frame {frame_index}")
                num_different += 1
    return num_different


_PLAN_KEYS: dict[str, type] = {
    "model_id": str,
    "weights_sha256": str,
    "context_policy": str,
    "num_steps": int,
    "seed": int,
    "story": dict,
}
_ENVIRONMENT_KEYS: dict[str, type] = {
    "shotstream": str,
    "torch": str,
    "device": str,
    "dtype": str,
    "num_threads": int,
}


def _hashes(document: object) -> tuple[str, ...]:
    hashes = cast("list[object]", document) if isinstance(document, list) else [None]
    if not hashes or not all(isinstance(found, str) and _SHA256.fullmatch(found) for found in hashes):
        raise ReplayError("damaged: the hashes of a shot are not a list of sha256 in hex")
    return tuple(cast("list[str]", hashes))


def _pins(document: object) -> Pins:
    frames = cast("list[object]", document) if isinstance(document, list) else [None]
    for frame in frames:
        places = cast("list[object]", frame) if isinstance(frame, list) else []
        if len(places) != 2 or any(type(place) is not int for place in places):
            raise ReplayError("damaged: a pinned frame is not a shot and a frame of it")
    return tuple(cast("tuple[int, int]", tuple(cast("list[int]", frame))) for frame in frames)


def _check_pins(pins: Sequence[Pins], num_shots: int) -> None:
    if pins and len(pins) != num_shots:
        raise ReplayError(f"a plan of {num_shots} shots tells of pinned frames for {len(pins)}")
    for index, pinned in enumerate(pins):
        for shot, frame in pinned:
            if not (0 <= shot < index and frame >= 0):
                raise ReplayError(f"shot {index + 1} cannot look at frame {frame} of shot {shot + 1}")


def _checked(document: object, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Returns the document if it has exactly the keys of `kinds` with values of those kinds."""
    if not isinstance(document, dict):
        raise ReplayError("damaged: an object is missing")
    values = dict(cast("dict[str, Any]", document))
    if values.keys() != kinds.keys():
        odd = sorted(values.keys() ^ kinds.keys())
        raise ReplayError(f"damaged: the key {odd[0]!r} is missing or unknown")
    for name, kind in kinds.items():
        if type(values[name]) is not kind:
            raise ReplayError(f"damaged: {name} is of the wrong kind")
        if kind is str and (bad := NO_TEXT.search(values[name])):
            raise ReplayError(f"damaged: {name} holds the character U+{ord(bad[0]):04X}")
    return values
