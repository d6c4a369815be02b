"""A process that ends while shots are open: it ends as it would have without them."""

import subprocess
import sys

import pytest

_OPEN_SHOTS = """
import sys, threading
from shotstream.streaming.order import ShotOrder
from shotstream.streaming.session import StorySession
from shotstream.streaming.shot import make_shot
from tests.streaming.tiny import tiny_engine

order = ShotOrder(
    global_caption="a forest", caption="a fox", seed=1, num_steps=2, num_chunks=9, takes=(), pins=()
)
held = [sys]
held.append(held)  # only the collector would find it

def drive(engine, begun):
    driven = StorySession(engine, "a forest night").shot("a fox", num_chunks=5000)
    held.append(driven)
    for _ in driven:
        begun.set()

for overlap in (False, True):
    engine = tiny_engine(overlap=overlap)
    shots = [
        StorySession(engine, "a forest night").shot("a fox walks", num_chunks=5),
        StorySession(engine, "a forest night").shot("a fox walks", num_chunks=1),
        make_shot(engine, order),
    ]
    for shot in shots:
        next(shot)
    list(shots[1])
    held += [*shots, StorySession(engine, "a forest night").shot("never begun")]
    begun = threading.Event()
    threading.Thread(target=drive, args=(tiny_engine(overlap=overlap), begun), daemon=True).start()
    begun.wait()
first = held[2]
sys.exit(3)
"""


@pytest.mark.slow
def test_open_shots_do_not_stop_a_process_from_ending() -> None:
    """Torch aborted the process when a shot that was still held was closed after the interpreter's end."""
    ended = subprocess.run([sys.executable, "-c", _OPEN_SHOTS], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", "")
