"""A disk that is full or read-only, a database that another process holds, a server out of descriptors.

They are made to happen: small file systems in memory, mounted where only this process sees them (`unshare`).
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from tests.attacks.requests import serving
from tests.attacks.tally import Tally, fault_of_message
from tests.training.test_run import CODEC

ROOT = Path(__file__).parents[2]
LONGEST_S = 300


def attack_disk(folder: Path) -> Iterator[Tally]:
    """The rows, from a process that has file systems of its own; one row that says so where it cannot."""
    if shutil.which("unshare") is None:
        raise RuntimeError("`unshare` (util-linux) is missing: the disk cannot be filled without harm")
    apart = ["unshare", "--mount", "--map-root-user", sys.executable, "-m", "tests.attacks.disk", str(folder)]
    with subprocess.Popen(apart, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            row = json.loads(line)
            yield Tally(
                name=row["attack"],
                tried=row["tried"],
                clean=row["clean"],
                broken=row["all"],
                seconds=row["seconds"],
            )
    if process.returncode != 0:
        raise RuntimeError(f"the attacks on the disk ended with {process.returncode}")


def rows(folder: Path) -> Iterator[Tally]:
    """What `attack_disk` runs apart."""
    _run(["theatre", "write", "clips", "--stories", "4", "--shots", "3"], folder)
    for name, attack in (
        ("full disk: generate, encode, train", _full),
        ("read-only disk: the same", _read_only),
        ("full disk: serve", _full_studio),
        ("read-only disk: serve", _read_only_studio),
        ("locked database: serve", _locked_studio),
        ("64 descriptors: serve", _few_descriptors),
    ):
        tally = Tally(name=name)
        home = folder / name.replace(" ", "-").replace(":", "").replace(",", "")
        home.mkdir()
        with tally.timed():
            try:
                attack(home, folder / "clips" / "clips.csv", tally)
            except (OSError, RuntimeError, subprocess.SubprocessError, WebSocketException) as error:
                tally.add(f"{type(error).__name__}: {str(error)[-300:]}")
        yield tally


@contextlib.contextmanager
def small_disk(where: Path, size: str) -> Generator[Callable[[str], None]]:
    """A file system of so many bytes; what it gives back changes its options (`size=64m`, `ro`, `rw`)."""
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(where)], check=True)

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(where)], check=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def _commands(where: Path, clips: Path) -> Iterator[tuple[str, list[str]]]:
    yield "generate", ["generate", "fox-and-owl", "--device", "cpu", "-o", str(where / "film.mp4")]
    yield "encode", ["data", "encode", str(clips), "-o", str(where / "data"), "--shard-size", "1"]
    settings = [*CODEC, "train.num_steps=6", "train.save_every=2", "train.preview_every=1000"]
    more = [part for setting in settings for part in ("--set", setting)]
    yield "train", ["train", "theatre_codec", "--runs", str(where / "runs"), *more]


def _full(home: Path, clips: Path, tally: Tally) -> None:
    """Full: one line that says so, exit code 1; with room again, the same command resumes to its end."""
    for name, command in _commands(home / "disk", clips):
        with small_disk(home / "disk", "100k") as remount:
            code, said = _try(command, home)
            tally.add(_fault(name, code, said, 1, ("disk", "space", "full")))
            remount("size=200m")
            code, said = _try(command, home)
            tally.add(None if code == 0 else f"{name} does not go on: {code}, {said[-200:]!r}")
        (home / "disk").rmdir()


def _read_only(home: Path, clips: Path, tally: Tally) -> None:
    """Read-only: one line that says so, and no word of anything that is kept."""
    for name, command in _commands(home / "disk", clips):
        with small_disk(home / "disk", "10m") as remount:
            remount("ro")
            code, said = _try(command, home)
            fault = _fault(name, code, said, (1, 2), ("read-only", "Read-only", "write"))
            tally.add(f"{name}: says that something is kept: {said!r}" if "kept" in said else fault)
        (home / "disk").rmdir()


def _fault(
    name: str, code: int, said: str, wanted: int | tuple[int, ...], words: tuple[str, ...]
) -> str | None:
    if code not in (wanted if isinstance(wanted, tuple) else (wanted,)):
        return f"{name}: exit code {code}: {said[-200:]!r}"
    last = said.strip().splitlines()[-1] if said.strip() else ""
    if not any(word in last for word in words):
        return f"{name}: does not say why: {last!r}"
    return f"{name}: a traceback" if "Traceback" in said else fault_of_message(last)


def _full_studio(home: Path, _clips: Path, tally: Tally) -> None:
    with small_disk(home / "studio", "8m") as remount, serving(home) as (host, process, log):
        with _story(host) as (story_id, viewer):
            _fill(home / "studio")
            answer = _ask(viewer, "make_shot", shot_id=_shots(host, story_id)[0])
            tally.add(None if answer else "a control was not answered on a full disk")
            tally.add(_until(lambda: _get(host, "/readyz")[0] == 503, "/readyz does not say that it is full"))
            tally.add(fault_of_message(_get(host, "/readyz")[1].decode()[:300]))
            finished = [take for shot in _shown(host, story_id)["shots"] for take in shot["takes"]]
            tally.add(f"{len(finished)} takes are told finished on a full disk" if finished else None)
        other = _new_story(host) if _get(host, "/readyz")[0] == 200 else None
        tally.add("a full studio takes stories" if other else None)
        (home / "studio" / "filler").unlink()
        remount("size=64m")
        tally.add(_until(lambda: _get(host, "/readyz")[0] == 200, "/readyz does not recover"))
        tally.add(_makes_a_shot(host, story_id))
        _fill(home / "studio")
        status, _ = _get(host, f"/api/stories/{story_id}", "DELETE")
        tally.add(None if status == 204 else f"DELETE on a full disk answers {status}")
        tally.add(_sane(process, log))


def _read_only_studio(home: Path, _clips: Path, tally: Tally) -> None:
    """A studio whose disk has become read-only between two starts: one line that says so."""
    with small_disk(home / "studio", "64m") as remount:
        with serving(home) as (host, _, _):
            _new_story(host)
        remount("ro")
        code, said = _try(["serve", "--model", "./tiny", "--data", "studio", "--port", "0"], home)
        tally.add(_fault("serve", code, said, (1, 2), ("read-only", "Read-only", "write")))


def _locked_studio(home: Path, _clips: Path, tally: Tally) -> None:
    with serving(home) as (host, process, log):
        with _story(host) as (story_id, viewer):
            database = next((home / "studio").glob("*.sqlite"))
            with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                answer = _ask(viewer, "add_shot", shot={"caption": "a fox sleeps"})
                tally.add(None if answer else "a control was not answered while the database is locked")
                tally.add(_until(lambda: _get(host, "/readyz")[0] == 503, "/readyz does not say locked"))
                other.execute("ROLLBACK")
        tally.add(_until(lambda: _get(host, "/readyz")[0] == 200, "/readyz does not recover"))
        tally.add(_makes_a_shot(host, story_id))
        tally.add(_sane(process, log))


def _few_descriptors(home: Path, _clips: Path, tally: Tally) -> None:
    """100 connections that ask half of something: who comes later is served within a minute."""
    few = ("bash", "-c", 'ulimit -n 64; exec "$@"', "few")
    with serving(home, prefix=few) as (host, process, log), contextlib.ExitStack() as stack:
        name, _, port = host.rpartition(":")
        for _ in range(100):
            try:
                half = stack.enter_context(socket.create_connection((name, int(port)), timeout=5))
                half.sendall(b"GET / HTTP/1.1\r\nHost: ")
            except OSError:
                break
        tally.add(_until(lambda: _get(host, "/healthz")[0] == 200, "half-open connections stop the server"))
        tally.add(_sane(process, log))
        more = log.stat().st_size
        tally.add(f"{more} bytes of log" if more > 100_000 else None)


@contextlib.contextmanager
def _story(host: str) -> Generator[tuple[str, ClientConnection]]:
    story_id = _new_story(host)
    with connect(f"ws://{host}/api/stories/{story_id}/live", max_size=2**24, open_timeout=30) as viewer:
        yield story_id, viewer


def _new_story(host: str) -> str:
    shots = [{"caption": "a fox walks"}, {"caption": "a owl flies"}]
    body = {"global_caption": "a forest night", "shots": shots, "autoplay": False}
    status, answer = _get(host, "/api/stories", "POST", json.dumps(body).encode())
    return json.loads(answer)["story_id"] if status == 201 else ""


def _shown(host: str, story_id: str) -> Any:
    return json.loads(_get(host, f"/api/stories/{story_id}")[1])


def _shots(host: str, story_id: str) -> list[str]:
    return [shot["shot_id"] for shot in _shown(host, story_id)["shots"]]


def _makes_a_shot(host: str, story_id: str) -> str | None:
    with connect(f"ws://{host}/api/stories/{story_id}/live", max_size=2**24, open_timeout=30) as viewer:
        _ask(viewer, "make_shot", shot_id=_shots(host, story_id)[0])
        return _until(
            lambda: bool(_shown(host, story_id)["shots"][0]["take_id"]),
            "no shot is made when all is well again",
        )


def _ask(viewer: ClientConnection, kind: str, **fields: Any) -> Any:
    """The answer to a control, within half a minute; None: there is none."""
    viewer.send(json.dumps({"type": kind, "id": kind, **fields}))
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            raw = viewer.recv(timeout=end - time.monotonic())
        except TimeoutError:
            break
        message = json.loads(raw) if isinstance(raw, str) else {}
        if message.get("reply_to") == kind:
            return message
    return None


def _get(host: str, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError as error:
        return 0, str(error).encode()
    finally:
        connection.close()


def _until(happens: Callable[[], bool], fault: str) -> str | None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if happens():
            return None
        time.sleep(0.2)
    return fault


def _fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filler").open("ab") as file:
        while file.write(b"0" * 4096):
            file.flush()


def _sane(process: subprocess.Popen[bytes], log: Path) -> str | None:
    if process.poll() is not None:
        return f"the server has ended with {process.returncode}: {log.read_text()[-300:]!r}"
    said = log.read_text(errors="replace")
    return f"{said.count('Traceback')} tracebacks: {said[-300:]!r}" if "Traceback" in said else None


def _try(arguments: list[str], folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "shotstream.cli", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "NO_COLOR": "1",
            "COLUMNS": "200",
            "PYTHONPATH": str(ROOT),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    return done.returncode, done.stderr


def _run(arguments: list[str], folder: Path) -> None:
    code, said = _try(arguments, folder)
    if code != 0:
        raise RuntimeError(f"shotstream {' '.join(arguments)}: {said[-500:]}")


if __name__ == "__main__":
    for row in rows(Path(sys.argv[1])):
        sys.stdout.write(json.dumps({**row.document(), "all": row.broken}) + "\n")
        sys.stdout.flush()
