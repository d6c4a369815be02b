"""`shotstream serve` as a process: killed at any moment, it goes on where it was."""

import json
import os
import random
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from shotstream.story import Steer
from shotstream.studio.schemas.server_messages import FROM_SERVER
from shotstream.studio.schemas.state import StoryState
from tests.forked import Forked
from tests.streaming.test_pipeline import write_tiny
from tests.streaming.tiny import tiny_pipeline


@contextmanager
def serving(folder: Path) -> Generator[tuple[str, Forked]]:
    """(Address, process); killed at the end."""
    arguments = ("serve", "--model", "./tiny", "--data", "studio", "--port", "0", "--device", "cpu")
    process = Forked(
        ["-m", "shotstream.cli", *arguments, "--look-ahead", "1000"],
        cwd=folder,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"},
    )
    assert process.stderr is not None
    try:
        said = ""
        while "open at" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        yield said.partition("http://")[2].partition("/")[0], process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def request(address: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"} if data else {}
    asked = urllib.request.Request(f"http://{address}{path}", data, headers)
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return json.loads(answer.read())


def watch(address: str, story_id: str) -> ClientConnection:
    return connect(f"ws://{address}/api/stories/{story_id}/live", max_size=2**24)


def stories(socket: ClientConnection) -> Iterator[StoryState]:
    """The story as it is told, until the server is gone."""
    try:
        for raw in socket:
            message = None if isinstance(raw, bytes) else FROM_SERVER.validate_json(raw)
            if message is not None and message.type == "story":
                yield message.story
    except ConnectionClosed:
        return


def shots(num: int) -> list[dict[str, Any]]:
    return [{"caption": f"a {who} walks", "num_chunks": 3} for who in ("fox", "owl") * num][:num]


@pytest.mark.slow
def test_nothing_finished_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny", tiny_pipeline())
    told: StoryState | None = None
    with serving(tmp_path) as (address, process):
        body = {"global_caption": "a forest", "shots": shots(12)}
        story_id = request(address, "/api/stories", body)["story_id"]
        with watch(address, story_id) as socket:
            for told in stories(socket):
                if told.making is not None and told.making.shot_index == 4:
                    process.send_signal(signal.SIGKILL)
                    break
    assert told is not None
    with serving(tmp_path) as (address, _):
        kept = StoryState.model_validate_json(json.dumps(request(address, f"/api/stories/{story_id}")))
        assert kept.shots[:4] == told.shots[:4]
        assert {shot.status for shot in kept.shots[4:]} <= {"done", "queued"}
        with watch(address, story_id) as socket:
            done = next(s for s in stories(socket) if all(shot.status == "done" for shot in s.shots))
        # The story went on from the same memory: its frames are those of a run that nobody killed.
        replay = request(address, f"/api/stories/{story_id}/export/replay.json")
    session = tiny_session(done)
    assert replay["frame_sha256"] == session


def tiny_session(story: StoryState) -> list[list[str]]:
    from shotstream.film.replay import hash_frames

    session = tiny_pipeline().session(story.global_caption, seed=int(story.seed))
    return [
        [
            h
            for chunk in session.shot(
                shot.caption,
                num_chunks=shot.num_chunks,
                then=[Steer(**one.model_dump()) for one in shot.then],
            )
            for h in hash_frames(chunk.frames)
        ]
        for shot in story.shots
    ]


@pytest.mark.slow
def test_a_steer_that_was_answered_is_not_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny", tiny_pipeline())
    steer = {"type": "steer", "id": "1", "caption": "a owl sleeps", "mode": "blend"}
    with serving(tmp_path) as (address, process):
        shot = {"caption": "a fox walks", "num_chunks": 30}
        story_id = request(address, "/api/stories", {"global_caption": "a forest", "shots": [shot]})[
            "story_id"
        ]
        with watch(address, story_id) as socket:
            for raw in socket:
                message = None if isinstance(raw, bytes) else FROM_SERVER.validate_json(raw)
                if message is not None and message.type == "media" and message.chunk_index == 0:
                    socket.send(json.dumps(steer))
                if message is not None and message.type in ("done", "error"):
                    assert message.type == "done"
                    process.send_signal(signal.SIGKILL)
                    break
    with serving(tmp_path) as (address, _):
        (then,) = state(address, story_id).shots[0].then
        assert (then.caption, then.mode) == (steer["caption"], steer["mode"]) and then.chunk_index >= 1
        with watch(address, story_id) as socket:
            done = next(s for s in stories(socket) if s.shots[0].status == "done")
        replay = request(address, f"/api/stories/{story_id}/export/replay.json")
    assert done.shots[0].takes[0].then == (then,)
    assert replay["frame_sha256"] == tiny_session(done)


@pytest.mark.slow
def test_interrupting_the_server_ends_it_well_and_tells_the_viewers(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny", tiny_pipeline())
    with serving(tmp_path) as (address, process):
        story_id = request(address, "/api/stories", {"global_caption": "a forest", "shots": shots(1)})[
            "story_id"
        ]
        with watch(address, story_id) as socket:
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            kinds = [json.loads(raw)["type"] for raw in drained(socket) if isinstance(raw, str)]
        assert process.wait(20) in (0, 130)
        assert "notice" in kinds


def drained(socket: ClientConnection) -> Iterator[str | bytes]:
    try:
        yield from socket
    except ConnectionClosed:
        return


@pytest.mark.slow
def test_killed_twenty_times_at_random_moments_nothing_finished_is_lost(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny", tiny_pipeline())
    rng = random.Random(7)
    finished: dict[str, set[str]] = {}
    """The takes that a viewer was told of, by story."""
    for round_index in range(20):
        with serving(tmp_path) as (address, process):
            for story_id, told in finished.items():
                assert told <= takes(state(address, story_id)), f"round {round_index}"
            story_id = next(reversed(finished), "")
            if not story_id or all(shot.status == "done" for shot in state(address, story_id).shots):
                body = {"global_caption": "a forest", "shots": shots(60)}
                story_id = request(address, "/api/stories", body)["story_id"]
                finished[story_id] = set()
            # A clock of its own kills: a server with nothing to tell must not outlive its round.
            clock = threading.Timer(rng.uniform(0.05, 1.2), process.kill)
            with watch(address, story_id) as socket:
                clock.start()
                for story in stories(socket):
                    finished[story_id] |= takes(story)
    assert len(set().union(*finished.values())) > 2


def state(address: str, story_id: str) -> StoryState:
    return StoryState.model_validate_json(json.dumps(request(address, f"/api/stories/{story_id}")))


def takes(story: StoryState) -> set[str]:
    return {take.take_id for shot in story.shots for take in shot.takes}
