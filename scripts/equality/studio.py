"""A studio's folder: what the old code kept is opened by the new, listed, exported and gone on with."""

import io
import json
import signal
import subprocess
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from scripts.equality.films import frames
from scripts.equality.recording import Recording
from scripts.equality.results import sha256

SHOTS = (
    {"caption": "Wide shot: the grey robot walks to the right in the forest at sunset.", "num_chunks": 2},
    {"caption": "Close-up: the yellow owl waves in the forest at sunset.", "num_chunks": 1, "seed": "12"},
    {"caption": "Medium shot: the grey robot dances in the city by day.", "num_chunks": 2},
)
MORE_SHOTS = (
    {"caption": "Wide shot: the grey robot waves by the sea.", "num_chunks": 1, "seed": "77"},
    {"caption": "Wide shot: the yellow owl walks to the left by the sea.", "num_chunks": 2},
)
STORY = {"title": "A studio", "global_caption": "A story of a grey robot and a yellow owl.", "seed": "5"}
EXPORTS = (
    "film.mp4", "film.gif", "film.srt", "film.vtt", "film.edl", "film.fcpxml", "film.otio", "edit.zip",
    "storyboard.png", "story.yaml", "replay.json",
)  # fmt: skip


TIMED = ("telemetry", "notice")
"""Messages that come when they come."""


class Server:
    """`shotstream serve` over a folder."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stderr is not None
        output = ""
        while "open at" not in output:
            line = process.stderr.readline()
            if not line:
                raise ValueError(f"the server ended: {output}")
            output += line
        self.host = output.partition("http://")[2].partition("/")[0]

    def get(self, path: str, body: Any = None) -> bytes:
        """The answer of a route under /api/; with a body it is posted."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"} if data else {}
        request = urllib.request.Request(f"http://{self.host}/api/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def json(self, path: str, body: Any = None) -> Any:
        """The same, parsed."""
        return json.loads(self.get(path, body))

    def watch(self, story_id: str) -> ClientConnection:
        """A viewer's socket."""
        return connect(f"ws://{self.host}/api/stories/{story_id}/live", max_size=2**24)


@contextmanager
def served(run: Recording, folder: Path) -> Iterator[Server]:
    """A server that ends, as a person ends it, with the block."""
    options = ("--port", 0, "--device", "cpu", "--look-ahead", 1000, "--scale", 1)
    process = run.checkout.start("serve", "--data", folder, *options)
    try:
        yield Server(process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


class Viewer:
    """One viewer of a story, who remembers of what form every message was."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.story: Any = None
        self.forms: dict[str, Any] = {}
        self.chunks: dict[str, list[str]] = {}
        """Of each take, in order: the hashes of a chunk's frames, and of its picture."""
        self._media: Any = None

    def receive(self) -> Any:
        """The next message; None for a picture."""
        raw = self._socket.recv(timeout=60)
        if isinstance(raw, bytes):
            self.chunks.setdefault(self._media["take_id"], []).append(sha256(raw))
            return None
        message = json.loads(raw)
        kind = message["type"]
        self.forms[kind] = _joined(self.forms.get(kind), _form(message))
        if kind == "media":
            self._media = message
            self.chunks.setdefault(message["take_id"], []).extend(message["frame_sha256"])
        if kind == "story":
            self.story = message["story"]
        return message

    def send(self, kind: str, **fields: Any) -> None:
        """Sends a control and waits for its answer."""
        self._socket.send(json.dumps({"type": kind, "id": kind, **fields}))
        while True:
            message = self.receive()
            if message and message.get("reply_to") == kind:
                if message["type"] != "done":
                    raise ValueError(f"{kind} was refused: {message}")
                return

    def wait_until_generated(self) -> None:
        """Waits until every shot has its take."""
        end_s = time.monotonic() + 120
        while self.story is None or any(shot["status"] != "done" for shot in self.story["shots"]):
            if time.monotonic() > end_s:
                raise ValueError("the shots were not made in time")
            self.receive()


def _form(value: Any) -> Any:
    """Keys and types of a message."""
    if isinstance(value, dict):
        return {key: _form(item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        form: Any = None
        for item in value:
            form = _joined(form, _form(item))
        return [form]
    return [type(value).__name__]


def _joined(one: Any, other: Any) -> Any:
    """What both are of: messages of a type leave some fields empty."""
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _joined(one.get(key), other.get(key)) for key in sorted({*one, *other})}
    if (
        isinstance(one, list)
        and isinstance(other, list)
        and all(isinstance(item, str) for item in [*one, *other])
    ):
        return sorted({*one, *other})
    return one if isinstance(one, dict) else other


def studio(run: Recording) -> None:
    """A story is directed; what was kept of it is read by another server."""
    if run.continues_itself:
        with run.section("studio/directed"), served(run, run.empty_dir("studio")) as server:
            direct(server)
    folder = run.copy_from_old("studio", "studio opened")
    with run.section("studio/opened"), served(run, folder) as server:
        for story in server.json("stories"):
            keep_story(run, server, "studio/opened", story["story_id"])
        keep_exports(run, server, "studio/opened", story["story_id"])
        with run.section("studio/gone on"), server.watch(story["story_id"]) as socket:
            viewer = Viewer(socket)
            more = {
                "caption": "Wide shot: the yellow owl jumps on the beach by day.",
                "num_chunks": 1,
                "seed": "8",
            }
            viewer.send("add_shot", shot=more)
            viewer.send("set_autoplay", on=True)
            viewer.wait_until_generated()
            run.add("studio/gone on/chunks", list(viewer.chunks.values())[-1])
    with run.section("studio/anew"), served(run, run.empty_dir("studio anew")) as server:
        viewer = direct(server)
        run.add("studio/anew/chunks", list(viewer.chunks.values()))
        run.add(
            "studio/anew/messages",
            {kind: viewer.forms[kind] for kind in sorted(viewer.forms) if kind not in TIMED},
        )
        schema = server.json("openapi.json")
        run.add("studio/anew/routes", {path: sorted(methods) for path, methods in schema["paths"].items()})
        run.add("studio/anew/suggestions", server.json("suggestions"))
        run.add("studio/anew/bundled", server.json("bundled"))
        run.add("studio/anew/model", _form(server.json("model")))


def direct(server: Server) -> Viewer:
    """Makes a story with a pin, another take, a branch, an edit, a shot moved and an undo."""
    story_id = server.json("stories", {**STORY, "shots": SHOTS, "autoplay": False})["story_id"]
    with server.watch(story_id) as socket:
        viewer = Viewer(socket)
        viewer.send("set_autoplay", on=True)
        viewer.wait_until_generated()
        first, second, third = (shot["shot_id"] for shot in viewer.story["shots"])
        viewer.send("pin", frame={"take_id": viewer.story["shots"][0]["take_id"], "frame_index": 3})
        viewer.send("retake", shot_id=third)
        while len(viewer.story["shots"][2]["takes"]) < 2:
            viewer.receive()
        viewer.wait_until_generated()
        viewer.send("branch", shot_id=second)
        viewer.send(
            "edit_shot", shot_id=first, caption="Close-up: the grey robot sleeps in the city at night."
        )
        viewer.send("remake_stale")
        viewer.wait_until_generated()
        for shot in MORE_SHOTS:
            viewer.send("add_shot", shot=shot)
        viewer.send("set_autoplay", on=True)
        viewer.wait_until_generated()
        viewer.send("move_shot", shot_id=first, index=1)
        viewer.send("undo")
    return viewer


def keep_story(run: Recording, server: Server, what: str, story_id: str) -> None:
    """Records all that the server tells of a story, whose ids are those that it was made with."""
    run.add(f"{what}/stories", server.json("stories"))
    story = server.json(f"stories/{story_id}")
    run.add(f"{what}/story", story)
    for part in ("shots", "takes", "branches"):
        run.add(f"{what}/{part}", server.json(f"stories/{story_id}/{part}"))
    for take in server.json(f"stories/{story_id}/takes"):
        at, name = f"stories/{story_id}/takes/{take['take_id']}", f"{what}/take {take['take_id']}"
        run.add(f"{name}/frames", server.json(f"{at}/hashes"))
        run.add(f"{name}/media", sha256(server.get(f"{at}/media.mp4")))
        run.add(f"{name}/last frame", _pixels(server.get(f"{at}/frames/{take['num_frames'] - 1}.png")))


def keep_exports(run: Recording, server: Server, what: str, story_id: str) -> None:
    """Records every export of the film."""
    for name in EXPORTS:
        content = server.get(f"stories/{story_id}/export/{name}")
        kind = name.rpartition(".")[2]
        if kind == "zip":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                run.add(
                    f"{what}/export {name}", {part: sha256(archive.read(part)) for part in archive.namelist()}
                )
        elif kind in ("mp4", "gif"):
            path = run.work / f"exported.{kind}"
            path.write_bytes(content)
            run.add(f"{what}/export {name}", frames(path))
            run.add(f"{what}/export {name} file", sha256(content))
        elif kind == "png":
            run.add(f"{what}/export {name}", _pixels(content))
        elif kind == "json":
            run.add(f"{what}/export {name}", json.loads(content))
        else:
            run.add(f"{what}/export {name}", content.decode())


def _pixels(content: bytes) -> str:
    with Image.open(io.BytesIO(content)) as image:
        return sha256(np.asarray(image.convert("RGBA")).tobytes())
