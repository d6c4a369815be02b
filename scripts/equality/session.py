"""A session through the package's front door, `shotstream.load`; run by `films.py`, with the checkout's code.

The one place that calls the package from Python: if a name of it changes, it is told here.
"""

import hashlib
import json
import sys
from typing import Any

import shotstream


def _make(session: Any, caption: str, **options: Any) -> list[str]:
    """The hashes of a shot's frames."""
    made = [chunk.frames for chunk in session.shot(caption, **options)]
    return [hashlib.sha256(frame.tobytes()).hexdigest() for frames in made for frame in frames]


def main(command: str, path: str, *more: str) -> None:
    """`begin PATH` makes two shots, pins a picture and saves; `go-on PATH NEW` loads, makes two and saves."""
    pipeline = shotstream.load("theatre", "cpu")
    if command == "begin":
        session = pipeline.session("A story about a red bear by the sea.", seed=3)
        first = list(session.shot("Wide shot: the red bear walks to the left by the sea.", num_chunks=1))
        session.pin(first[0].frames[1], 0)
        _make(session, "Close-up: the red bear sleeps by the sea at night.", num_chunks=2, seed=9)
        session.save(path)
    else:
        session = pipeline.load_session(path)
        hashes = _make(session, "Medium shot: the red bear waves on the beach by day.", num_chunks=2)
        session.unpin()
        hashes += _make(session, "Wide shot: the red bear dances in the city by day.", num_chunks=1, steps=2)
        session.save(more[0])
        print(json.dumps(hashes))


main(*sys.argv[1:])
