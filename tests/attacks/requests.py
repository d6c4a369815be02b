"""Hostile requests and messages to a studio that runs: every one answered, nothing let in, nothing broken."""

import http.client
import json
import os
import random
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from tests.attacks.tally import Tally, fault_of_message
from tests.streaming.test_pipeline import write_tiny
from tests.streaming.tiny import tiny_pipeline

TOKEN = "a-token-of-at-least-sixteen"
MOST_MEMORY_MORE = 300 * 2**20
NOBODY = "f" * 16
OPEN_TO_ALL = {"/healthz"}

_PATHS = (
    "%2e%2e/%2e%2e/etc/passwd",
    "..%5c..%5cwindows",
    "%00",
    "%ff%fe",
    "a" * 5000,
    "🦊",
    "' OR 1=1 --",
    "-1",
)
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 1e308, 2**63, 10**400, "", " ", "x" * 20_000, "\x00", "\ud800", "\u202e",
    "<img src=x>", "'; DROP TABLE stories; --", [], {}, [[[[]]]], {"caption": {"caption": {}}}, ["a"] * 2000,
)  # fmt: skip
_BODIES = (
    b"", b"{", b"[]", b"null", b"{}" * 1000, b'{"a":' * 3000, b"\xff\xfe{\x00}\x00", b"\x00" * 4096,
    b'{"global_caption": NaN}', b'{"global_caption": "x", "shots": ' + b"[" * 50_000,
    b"title: !!bool x", b"a: &a [*a]", b"shots:\n- 1\n- 2001-01-01", b"title: " + b"9" * 5000,
)  # fmt: skip
_HEADERS: tuple[dict[str, str], ...] = (
    {}, {"Range": "bytes=9999999-"}, {"Range": "bytes=-0"}, {"Range": "bytes=5-1,7-"}, {"Range": "chars=0-"},
    {"Accept-Encoding": "br;q=x"}, {"If-None-Match": "*"}, {"Content-Type": "application/xml"},
    {"Content-Type": "application/json; charset=utf-16"}, {"X-Forwarded-For": "127.0.0.1"},
    {"Cookie": "session=" + "x" * 3000}, {"Origin": "http://evil.example"}, {"Host": "evil.example"},
    {"X-HTTP-Method-Override": "DELETE"}, {"Transfer-Encoding": "chunked"}, {"Expect": "100-continue"},
)  # fmt: skip


@contextmanager
def serving(
    folder: Path, *arguments: str, prefix: tuple[str, ...] = ()
) -> Generator[tuple[str, subprocess.Popen[bytes], Path]]:
    """(host:port, process, its log) of `shotstream serve` with a model of random weights, in `folder`."""
    if not (folder / "tiny").exists():
        write_tiny(folder / "tiny", tiny_pipeline())
    log = folder / "serve.log"
    command = [
        *prefix,
        sys.executable,
        "-m",
        "shotstream.cli",
        "serve",
        "--model",
        "./tiny",
        "--device",
        "cpu",
    ]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--data", "studio", "--port", "0", "--look-ahead", "1000", *arguments],
            cwd=folder,
            stderr=file,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "NO_COLOR": "1",
                "COLUMNS": "200",
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
        )
    try:
        for _ in range(1200):
            if found := re.search(r"http://([^/\s]+)/", log.read_text(errors="replace")):
                yield found[1], process, log
                return
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            break
        raise RuntimeError(f"the studio did not open: {log.read_text(errors='replace')[-500:]}")
    finally:
        process.kill()
        process.wait()


def attack_requests(tries: int, folder: Path, rng: random.Random) -> Iterator[Tally]:
    """A row for each way in."""
    with serving(folder, "--token", TOKEN) as (host, process, log):
        story_id = _story(host)
        before = _memory(process.pid)
        routes = _routes(host, story_id)
        for name, attack, count in (
            ("requests with the token", _with_token, tries * 2 // 3),
            ("requests without it", _without, tries // 6),
            ("bytes that are not HTTP", _raw, tries // 30),
            ("messages to the WebSocket", _messages, tries // 8),
        ):
            tally = Tally(name=name)
            with tally.timed():
                for _ in range(count):
                    tally.add(attack(host, routes, story_id, rng))
            yield tally
        yield _afterwards(host, process, log, before, story_id)


def _afterwards(host: str, process: subprocess.Popen[bytes], log: Path, before: int, story_id: str) -> Tally:
    """Is it still the same server, without a traceback and without much more memory?"""
    tally = Tally(name="checks of the studio afterwards")
    tally.add(None if process.poll() is None else "the server has ended")
    status, _ = _ask(host, "GET", f"/api/stories/{story_id}", b"", {"Authorization": f"Bearer {TOKEN}"})
    tally.add(None if status == 200 else f"the story answers {status}")
    said = log.read_text(errors="replace")
    tally.add(f"{said.count('Traceback')} tracebacks: {said[-300:]!r}" if "Traceback" in said else None)
    more = _memory(process.pid) - before
    tally.add(f"{more / 2**20:.0f} MiB more memory" if more > MOST_MEMORY_MORE else None)
    return tally


def _ask(host: str, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value.encode("utf-8"))
        if body and "Transfer-Encoding" not in headers:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        try:
            if "Transfer-Encoding" in headers:
                connection.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n")
            elif body:
                connection.send(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all of it was sent: the answer is there
        answer = connection.getresponse()
        return answer.status, answer.read(2**22)
    finally:
        connection.close()


def _story(host: str) -> str:
    shots = [{"caption": "a fox walks"}, {"caption": "a owl flies"}]
    body = json.dumps({"title": "A fox", "global_caption": "a forest night", "shots": shots}).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://{host}/api/stories", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())["story_id"]


def _routes(host: str, story_id: str) -> list[tuple[str, str]]:
    """(method, path with names in braces) of all that the server says it has, and pages."""
    _, text = _ask(host, "GET", "/api/openapi.json", b"", {"Authorization": f"Bearer {TOKEN}"})
    listed = [
        (method.upper(), path.replace("{story_id}", story_id))
        for path, methods in json.loads(text)["paths"].items()
        for method in methods
    ]
    pages = ("/", "/api/docs", "/metrics", "/readyz", "/js/main.js", f"/api/stories/{story_id}/live")
    return [*listed, *(("GET", page) for page in pages)]


def _hostile(routes: list[tuple[str, str]], rng: random.Random) -> tuple[str, str, bytes, dict[str, str]]:
    method, path = rng.choice(routes)
    if method == "DELETE":  # of others' stories alone: the one that is watched stays
        path = re.sub(r"[0-9a-f]{16}", NOBODY, path)
    odd = (NOBODY, "0", *_PATHS)
    path = re.sub(r"\{[a-z_]+\}", lambda _: rng.choice(odd), path)
    if rng.random() < 0.2:
        path += rng.choice(
            ("/", "?" + "a=1&" * 500, "/../../..", "%2f..%2f..%2fetc%2fpasswd", "?token=x", "//")
        )
    if rng.random() < 0.15:
        method = rng.choice(("PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "get", "FOO"))
    body = b""
    if method in ("POST", "PUT", "PATCH") or rng.random() < 0.05:
        body = rng.choice(_BODIES) if rng.random() < 0.5 else _document(rng)
    headers = {"Content-Type": "application/json", **rng.choice(_HEADERS)}
    return method, re.sub(r"[^\x21-\x7e]", lambda odd: "%" + odd[0].encode().hex("%"), path), body, headers


def _document(rng: random.Random) -> bytes:
    keys = ("title", "global_caption", "shots", "seed", "autoplay", "bundled", "caption", "x", "__proto__")
    document = {key: rng.choice(_VALUES) for key in rng.sample(keys, rng.randrange(1, 5))}
    if rng.random() < 0.5:
        document["shots"] = [{"caption": rng.choice(_VALUES), "num_chunks": rng.choice(_VALUES)}]
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _with_token(host: str, routes: list[tuple[str, str]], _story_id: str, rng: random.Random) -> str | None:
    method, path, body, headers = _hostile(routes, rng)
    headers = {**headers, "Authorization": f"Bearer {TOKEN}"}
    return _fault(host, method, path, body, headers, may_be_let_in=True)


def _without(host: str, routes: list[tuple[str, str]], _story_id: str, rng: random.Random) -> str | None:
    method, path, body, headers = _hostile(routes, rng)
    wrong = rng.choice(
        (
            {},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": f"Bearer {TOKEN[:-1]}"},
            {"Authorization": f"Bearer {TOKEN.upper()}"},
            {"Authorization": "Bearer "},
            {"Authorization": f"Basic {TOKEN}"},
            {"Cookie": f"shotstream={TOKEN}x; shotstream_token=1; token={TOKEN}x"},
            {"Cookie": "=" * 2000},
        )
    )
    return _fault(host, method, path, body, {**headers, **wrong}, may_be_let_in=False)


def _fault(
    host: str, method: str, path: str, body: bytes, headers: dict[str, str], *, may_be_let_in: bool
) -> str | None:
    asked = f"{method} {path[:80]} {body[:40]!r} {headers}"
    try:
        status, answer = _ask(host, method, path, body, headers)
    except (OSError, http.client.HTTPException) as error:
        return f"{asked}: no answer ({error!r})"
    if status >= 500 and status not in (503, 507):
        return f"{asked}: {status} {answer[:100]!r}"
    if not may_be_let_in and status < 400 and path.partition("?")[0] not in OPEN_TO_ALL:
        return f"{asked}: let in, {status}"
    if status >= 400 and answer.startswith(b"{"):
        problem = json.loads(answer)
        message = problem.get("message", problem.get("detail", "")) if isinstance(problem, dict) else ""
        wording = fault_of_message(str(message))
        return f"{asked}: {status}, {wording}" if wording else None
    return None


def _raw(host: str, _routes: list[tuple[str, str]], _story_id: str, rng: random.Random) -> str | None:
    """Bytes that are no request: the server may close; it must not die (seen afterwards)."""
    name, _, port = host.rpartition(":")
    request = b"GET /healthz HTTP/1.1\r\nHost: " + host.encode() + b"\r\n\r\n"
    place = rng.randrange(len(request))
    odd = rng.choice(
        (rng.randbytes(300), request[:place] + rng.randbytes(3) + request[place:], b"\x16\x03\x01" * 9)
    )
    with socket.create_connection((name, int(port)), timeout=10) as client:
        client.sendall(odd)
        client.shutdown(socket.SHUT_WR)
        try:
            while client.recv(65536):
                pass
        except TimeoutError:
            return f"{odd[:60]!r}: neither answered nor closed within 10 s"
        except ConnectionResetError:
            pass
    return None


_TYPES = (
    "add_shot", "edit_shot", "remove_shot", "move_shot", "make_shot", "retake", "choose_take", "cut", "stop",
    "undo", "redo", "branch", "switch_branch", "pin", "unpin", "set_autoplay", "edit_story", "remake_stale",
    "playhead", "cut_shown", "__class__", "",
)  # fmt: skip
_FIELDS = (
    "shot_id",
    "take_id",
    "branch_id",
    "pin_id",
    "index",
    "caption",
    "shot",
    "frame_index",
    "on",
    "playing",
)


def _messages(host: str, _routes: list[tuple[str, str]], story_id: str, rng: random.Random) -> str | None:
    """One hostile message, and then an honest control: that one must be answered."""
    document: Any = {"type": rng.choice(_TYPES), "id": rng.choice(("1", "", None, "x" * 100))}
    document |= {name: rng.choice((*_VALUES, NOBODY)) for name in rng.sample(_FIELDS, rng.randrange(5))}
    odd: str | bytes = json.dumps(document)
    if rng.random() < 0.3:
        odd = rng.choice(
            ("", "{", "[]", "null", '{"type":' * 5000, b"\x00" * 100, rng.randbytes(50), '{"id": 1e999}')
        )
    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        address = f"ws://{host}/api/stories/{story_id}/live"
        with connect(address, additional_headers=headers, max_size=2**24, open_timeout=30) as viewer:
            viewer.send(odd)
            viewer.send('{"type": "set_autoplay", "id": "honest", "on": false}')
            while True:
                raw = viewer.recv(timeout=30)
                message = json.loads(raw) if isinstance(raw, str) else {}
                if message.get("type") == "error" and (fault := fault_of_message(message["message"])):
                    return f"{odd[:100]!r}: {fault}"
                if message.get("type") == "done" and message.get("reply_to") == "honest":
                    return None
    except (OSError, WebSocketException) as error:
        return f"{odd[:100]!r}: {error!r}"


def _memory(pid: int) -> int:
    """Bytes that a process holds in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
