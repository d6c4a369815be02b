"""What a connection may take of the server: half-open ones of every kind, against a server at an address."""

import errno
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from shotstream.studio.connections import RepeatedLogFilter
from shotstream.studio.limits import Limits
from shotstream.studio.rate_limit import TokenBucket, TokenBuckets
from shotstream.studio.routers.viewer_socket import _RateLimit
from shotstream.studio.server import _tell_fault
from tests.studio.live_server import live_server, wait_until

QUICK = Limits(request_s=0.6, body_s=0.8, unread_s=0.6, look_ahead_s=100.0, messages_per_s=0.1)
MOST = 6
HALF = {
    "says nothing": b"",
    "a head that stops": b"GET / HTTP/1.1\r\nHost: local",
    "a body that stops": b"POST /api/stories HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with live_server(tmp_path_factory.mktemp("studio"), limits=QUICK, max_connections=MOST) as port:
        yield port


def opened(port: int, said: bytes = b"") -> socket.socket:
    one = socket.create_connection(("127.0.0.1", port), timeout=20)
    one.sendall(said)
    return one


def is_ended(one: socket.socket) -> bool:
    """Whether the server has ended a connection, after all that it had to say was read."""
    one.settimeout(0.01)
    try:
        while one.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def alive(port: int) -> int:
    with opened(port, b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n") as one:
        return int(one.recv(65536)[9:12])


@pytest.mark.parametrize("kind", HALF)
def test_a_request_that_does_not_come_ends_its_connection(port: int, kind: str) -> None:
    with opened(port, HALF[kind]) as one:
        start_s = time.monotonic()
        assert not is_ended(one)
        wait_until(lambda: is_ended(one))
        assert time.monotonic() - start_s > 0.4, "it had its time"
    assert alive(port) == 200


@pytest.mark.parametrize("kind", ["head", "body"])
def test_a_byte_now_and_then_is_no_request(port: int, kind: str) -> None:
    with opened(port, HALF[f"a {kind} that stops"].replace(b": 9", b": 900")) as one:

        def drips() -> bool:
            try:
                one.send(b"a")
            except OSError:
                return True
            return is_ended(one)

        wait_until(drips)


def test_a_connection_is_given_its_time_anew_for_each_request(port: int) -> None:
    with opened(port) as one:
        for _ in range(4):
            time.sleep(0.3)
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            one.settimeout(20)
            answer = b""
            while not answer.endswith(b"alive\n"):
                answer += one.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
        wait_until(lambda: is_ended(one))


@pytest.mark.slow
def test_who_does_not_read_what_was_asked_for_is_left(port: int) -> None:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        one.connect(("127.0.0.1", port))
        one.settimeout(1)
        asked = b"GET /js/player.js HTTP/1.1\r\nHost: localhost\r\n\r\n"

        def is_reset() -> bool:
            # A reset drops what is waiting here, so that asking on fails.
            try:
                one.send(asked * 50)
            except TimeoutError:
                return False
            except OSError:
                return True
            return False

        wait_until(is_reset)


@pytest.mark.parametrize("kind", HALF)
def test_half_open_connections_make_room_for_whole_ones(port: int, kind: str) -> None:
    with ExitStack() as stack:
        for _ in range(4 * MOST):
            stack.enter_context(opened(port, HALF[kind]))
            assert alive(port) == 200


def test_connections_that_do_not_read_make_room(port: int) -> None:
    asked = b"GET /js/player.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 300
    with ExitStack() as stack:
        for _ in range(MOST):
            one = stack.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            one.connect(("127.0.0.1", port))
            one.settimeout(0.2)
            with suppress(TimeoutError):
                one.sendall(asked)
        wait_until(lambda: alive(port) == 200)


def test_viewers_are_no_half_open_connections_and_others_are_told_to_wait(port: int) -> None:
    base = f"http://127.0.0.1:{port}/api/stories"
    story = httpx2.post(base, json={"global_caption": "a forest night", "autoplay": False}).json()
    live = f"{base}/{story['story_id']}/live".replace("http", "ws", 1)
    with ExitStack() as stack:
        viewers = [stack.enter_context(connect(live)) for _ in range(MOST)]
        full = httpx2.get(f"http://127.0.0.1:{port}/healthz")
        assert (full.status_code, full.json()["code"]) == (503, "busy")
        assert full.headers["retry-after"] == "5"
        for viewer in viewers:
            assert json.loads(viewer.recv(timeout=20))["type"] == "hello"
            viewer.send('{"type": "set_autoplay", "id": "1", "on": false}')
        for viewer in viewers:
            while json.loads(viewer.recv(timeout=20))["type"] != "done":
                pass
    wait_until(lambda: alive(port) == 200)


def test_a_burst_is_answered_control_by_control_and_then_the_connection_ends(port: int) -> None:
    """Once whoever sent all of it at once was cut off without a word."""
    base = f"http://127.0.0.1:{port}/api/stories"
    story = httpx2.post(base, json={"global_caption": "a forest night", "autoplay": False}).json()
    live = f"{base}/{story['story_id']}/live".replace("http", "ws", 1)
    answers: list[Any] = []
    with connect(live, max_queue=None) as viewer, pytest.raises(ConnectionClosed) as closed:
        for number in range(150):
            viewer.send(f'{{"type": "set_autoplay", "id": "{number}", "on": false}}')
        while True:
            answers.append(json.loads(viewer.recv(timeout=20)))
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 4429
    answered = [answer for answer in answers if answer["type"] in ("done", "error")]
    assert [int(answer["reply_to"]) for answer in answered] == list(range(len(answered))), "each, in order"
    codes = [answer.get("code") for answer in answered]
    assert codes[:2] == [None, "too_fast"] and codes.count("too_fast") == 100
    shown = httpx2.get(f"{base}/{story['story_id']}")
    assert shown.status_code == 200


def test_a_message_beyond_all_bounds_ends_the_connection(port: int) -> None:
    base = f"http://127.0.0.1:{port}/api/stories"
    story = httpx2.post(base, json={"global_caption": "a forest night", "autoplay": False}).json()
    live = f"{base}/{story['story_id']}/live".replace("http", "ws", 1)
    for text in (["a" * (3 * 2**20)], "a" * (3 * 2**20)):  # in fragments, and in one piece
        with connect(live, max_size=None) as viewer, pytest.raises(ConnectionClosed) as closed:
            viewer.send(text)
            while True:
                viewer.recv(timeout=20)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009


def test_a_lack_of_files_is_told_in_lines_and_not_as_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import anyio

    async def out_of_files(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with live_server(tmp_path) as port:
        address = f"http://127.0.0.1:{port}/js/main.js"
        monkeypatch.setattr(anyio, "open_file", out_of_files)
        for _ in range(3):
            # Begun or not when the file is opened: that is Starlette's choice.
            with suppress(httpx2.TransportError):
                assert httpx2.get(address).json()["code"] == "busy"
        monkeypatch.undo()
        assert httpx2.get(address).status_code == 200
    written = "".join(capfd.readouterr())
    assert written.count("ulimit") == 1 and "Traceback" not in written and len(written.splitlines()) <= 2


def test_what_was_too_fast_is_forgotten_after_a_rest() -> None:
    rate_limit = _RateLimit(50.0)
    while rate_limit.try_take():
        pass
    assert rate_limit.num_excess == 1
    time.sleep(0.05)
    assert rate_limit.try_take(), "one may pass"
    while rate_limit.try_take():
        pass
    assert rate_limit.num_excess == 2, "that was no rest"
    rate_limit._bucket._time_s -= 2.0
    assert rate_limit.try_take() and rate_limit.num_excess == 0


def test_a_bucket_lets_through_at_its_rate() -> None:
    bucket = TokenBucket(10.0, 3.0)
    assert bucket.is_full and [bucket.try_take() for _ in range(4)] == [True, True, True, False]
    assert not bucket.is_full and bucket.wait_s == 1
    bucket._time_s -= 0.1
    assert [bucket.try_take(), bucket.try_take()] == [True, False]
    bucket._time_s -= 100.0
    assert [bucket.try_take() for _ in range(4)] == [True, True, True, False], "no more than it holds"
    slow = TokenBucket(0.05, 1.0)
    assert slow.try_take() and 19 <= slow.wait_s <= 20


def test_of_too_many_names_the_one_that_came_least_lately_is_forgotten() -> None:
    buckets = TokenBuckets(0.001, 1.0, max_keys=2)
    assert buckets.for_key("a").try_take() and buckets.for_key("b").try_take()
    assert not buckets.for_key("a").try_take()
    assert buckets.for_key("c").try_take()
    assert not buckets.for_key("a").try_take() and buckets.for_key("b").try_take()


def test_the_same_warning_is_written_once_a_minute_with_how_often_it_came() -> None:
    seldom = RepeatedLogFilter()

    def written(level: int, message: str, *values: object, is_fault: bool = False) -> str | None:
        fault = (ValueError, ValueError(), None) if is_fault else None
        record = logging.LogRecord("uvicorn.error", level, "", 0, message, values, fault)
        return record.getMessage() if seldom.filter(record) else None

    assert written(logging.WARNING, "no %s", "room") == "no room"
    assert [written(logging.WARNING, "no %s", "room") for _ in range(3)] == [None] * 3
    assert written(logging.WARNING, "something else") == "something else"
    assert [written(logging.ERROR, "a fault", is_fault=True) for _ in range(2)] == ["a fault"] * 2
    seldom._logged = {key: (since_s - 61, number) for key, (since_s, number) in seldom._logged.items()}
    again = written(logging.WARNING, "no %s", "room")
    assert again is not None and again.startswith("no room") and "3 more times" in again
    assert written(logging.WARNING, "no %s", "room") is None


def test_a_lack_of_descriptors_is_one_line_and_another_fault_is_told_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import asyncio

    loop = asyncio.new_event_loop()
    try:
        _tell_fault(loop, {"message": "accept", "exception": OSError(errno.EMFILE, "Too many open files")})
        assert [record.exc_info for record in caplog.records] == [None]
        assert "ulimit" in caplog.text
        _tell_fault(loop, {"message": "odd", "exception": OSError(errno.EIO, "broken")})
        assert caplog.records[-1].exc_info is not None
    finally:
        loop.close()


@pytest.mark.skipif(os.name != "posix", reason="descriptors are bounded there")
@pytest.mark.parametrize(("allowed", "wanted", "most"), [(64, 512, 22), (1000, 100, 100), (20, 512, 4)])
def test_there_are_fewer_connections_than_descriptors(allowed: int, wanted: int, most: int) -> None:
    """In a process of its own, which has three open and the folder that it counts them in."""
    code = (
        "import resource, sys; from shotstream.studio.connections import usable_connections as m; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({allowed}, {allowed})); print(m({wanted}))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert most - 1 <= int(told.stdout) <= most


def test_as_many_descriptors_as_are_allowed_are_asked_for() -> None:
    code = (
        "import resource, sys; from shotstream.studio.connections import usable_connections as m; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 300)); print(m(100)); "
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split("\n")[:2] == ["100", "(300, 300)"]


def test_no_token_is_written_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    token = "a-secret-of-16-characters"
    with live_server(tmp_path, token=token) as port:
        address = f"http://127.0.0.1:{port}"
        assert httpx2.get(f"{address}/", params={"token": token}).status_code == 303
        assert httpx2.get(f"{address}/", params={"token": token + "x"}).status_code == 401
        bearer = {"authorization": f"Bearer {token}"}
        assert httpx2.get(f"{address}/no", headers=bearer).status_code == 404
        with opened(port, f"GET /?token={token} HTTP/9\r\n\r\n".encode()) as one:
            wait_until(lambda: is_ended(one))
        with pytest.raises(InvalidStatus), connect(f"ws://127.0.0.1:{port}/no?token={token}"):
            pass
    written = "".join(capfd.readouterr())
    assert "Invalid HTTP request" in written and token not in written
