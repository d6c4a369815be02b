"""A process that ends while shots are open: it ends as it would have without them."""

import subprocess
import sys
from inspect import GEN_CLOSED, GEN_CREATED, GEN_RUNNING, GEN_SUSPENDED
from threading import Event
from types import SimpleNamespace
from weakref import WeakSet

import pytest

from shotstream.streaming import shot

_OPEN_SHOTS = """
import sys, threading
from shotstream.streaming.shot_request import ShotRequest
from shotstream.streaming.session import StorySession
from shotstream.streaming.shot import make_shot
from tests.streaming.tiny import tiny_pipeline

order = ShotRequest(
    global_caption="a forest", caption="a fox", seed=1, num_steps=2, num_chunks=9, takes=(), pins=()
)
held = [sys]
held.append(held)  # only the collector would find it

def drive(pipeline, begun):
    driven = StorySession(pipeline, "a forest night").shot("a fox", num_chunks=5000)
    held.append(driven)
    for _ in driven:
        begun.set()

for overlap in (False, True):
    pipeline = tiny_pipeline(overlap=overlap)
    shots = [
        StorySession(pipeline, "a forest night").shot("a fox walks", num_chunks=5),
        StorySession(pipeline, "a forest night").shot("a fox walks", num_chunks=1),
        make_shot(pipeline, order),
    ]
    for shot in shots:
        next(shot)
    list(shots[1])
    held += [*shots, StorySession(pipeline, "a forest night").shot("never begun")]
    begun = threading.Event()
    threading.Thread(target=drive, args=(tiny_pipeline(overlap=overlap), begun), daemon=True).start()
    begun.wait()
first = held[2]
sys.exit(3)
"""


@pytest.mark.slow
def test_open_shots_do_not_stop_a_process_from_ending() -> None:
    """Torch aborted the process when a shot that was still held was closed after the interpreter's end."""
    ended = subprocess.run([sys.executable, "-c", _OPEN_SHOTS], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", "")


@pytest.mark.parametrize(
    ("runs_s", "num_threads", "closed_s"), [(0.0, 1, 0.0), (0.0, 2, 0.1), (5.0, 2, 5.0), (1e9, 2, None)]
)
def test_at_the_end_a_shot_is_closed_once_nobody_makes_a_chunk_of_it_and_none_is_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, runs_s: float, num_threads: int, closed_s: float | None
) -> None:
    now, num_asked = 0.0, 0
    closed: list[float] = []

    class Shot:
        def state(self) -> str:
            return GEN_CLOSED if closed else GEN_RUNNING if now < runs_s else GEN_SUSPENDED

        def close(self) -> None:
            closed.append(now)

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def clock() -> float:
        nonlocal num_asked
        num_asked += 1
        assert num_asked < 10_000, "the thread that makes the chunk is given no time"
        return now

    held = Shot()
    ends = Event()
    for name, value in {
        "time": SimpleNamespace(sleep=sleep, monotonic=clock),
        "threading": SimpleNamespace(active_count=lambda: num_threads),
        "getgeneratorstate": lambda generator: generator.state(),
        "_open_shots": WeakSet([held]),
        "_process_ends": ends,
    }.items():
        monkeypatch.setattr(shot, name, value)
    for _ in range(2):
        shot._close_shots()  # pyright: ignore[reportPrivateUsage]
        assert ends.is_set()
        assert closed == ([] if closed_s is None else [pytest.approx(closed_s, abs=0.02)])
        if closed_s is None:
            assert 60 <= now < 61
            break


@pytest.mark.parametrize("state", [GEN_CREATED, GEN_CLOSED])
def test_at_the_end_a_shot_that_is_not_open_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    class Shot:
        def close(self) -> None:
            raise AssertionError

    held = Shot()
    monkeypatch.setattr(shot, "getgeneratorstate", lambda _: state)
    monkeypatch.setattr(shot, "_open_shots", WeakSet([held]))
    monkeypatch.setattr(shot, "_process_ends", Event())
    shot._close_shots()  # pyright: ignore[reportPrivateUsage]
