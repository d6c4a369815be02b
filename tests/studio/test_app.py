"""The server as a browser meets it: routes, the live protocol, bad input, and who may come in."""

import base64
import errno
import io
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from shotstream.film import FilmFiles, FilmSettings, count_differences, make_film
from shotstream.film.replay import hash_frames, read_replay
from shotstream.studio.app import StudioSettings, create_app
from shotstream.studio.database import StorageError
from shotstream.studio.limits import Limits
from shotstream.studio.schemas.server_messages import FROM_SERVER
from shotstream.studio.schemas.state import StoryState
from shotstream.video.video_io import read_frames
from tests.streaming.tiny import tiny_pipeline
from tests.studio.database import write_empty_database

HOST = "127.0.0.1:8720"
STORY = {
    "title": "A fox",
    "global_caption": "a forest night",
    "shots": [{"caption": "a fox walks"}, {"caption": "a owl flies", "num_chunks": 3}],
}
NOBODY = "f" * 16


@contextmanager
def serving(folder: Path, **changes: Any) -> Iterator[TestClient]:
    settings = replace(StudioSettings(data_dir=folder, scale=2, limits=Limits(look_ahead_s=100.0)), **changes)
    write_empty_database(folder / "stories.sqlite")
    app = create_app(settings, tiny_pipeline())
    with TestClient(app, base_url=f"http://{HOST}", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with serving(tmp_path) as client:
        yield client


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server for what needs no empty one."""
    with serving(tmp_path_factory.mktemp("shared")) as client:
        yield client


@pytest.fixture(scope="module")
def finished(shared: TestClient) -> tuple[str, StoryState]:
    """A story of `shared` that is made; nobody changes it."""
    return made(shared)


@contextmanager
def watching(client: TestClient, story_id: str, **headers: str) -> Iterator["Viewer"]:
    url = f"/api/stories/{story_id}/live"
    with client.websocket_connect(url, headers={"host": HOST, **headers}) as socket:
        yield Viewer(socket)


class Viewer:
    """A page without a picture."""

    def __init__(self, socket: WebSocketTestSession) -> None:
        self.socket = socket
        self.pictures: dict[str, list[bytes]] = {}
        self.story: StoryState | None = None
        self.expected: Any = None

    def next(self) -> Any:
        """The next message; a picture is put where its header said."""
        raw = self.socket.receive()
        if raw["type"] == "websocket.close":
            return raw["code"]
        if raw.get("bytes") is not None:
            assert self.expected is not None and len(raw["bytes"]) == self.expected.num_bytes
            self.pictures.setdefault(self.expected.take_id, []).append(raw["bytes"])
            self.expected = None
            return self.next()
        assert self.expected is None, "a picture follows its header at once"
        message = FROM_SERVER.validate_json(raw["text"])
        if message.type == "media":
            self.expected = message
        if message.type == "story":
            self.story = message.story
        return message

    def until(self, type_: str) -> Any:
        while (message := self.next()).type != type_:
            pass
        return message

    def until_made(self) -> StoryState:
        while self.story is None or any(shot.status != "done" for shot in self.story.shots):
            self.next()
        return self.story

    def send(self, text: str) -> Any:
        """The answer to a message, sent as it is."""
        self.socket.send_text(text)
        while (message := self.next()).type not in ("done", "error"):
            pass
        return message

    def ask(self, **message: Any) -> Any:
        return self.send(json.dumps(message))


def create(client: TestClient, **changes: Any) -> str:
    answer = client.post("/api/stories", json=STORY | changes)
    assert answer.status_code == 201, answer.text
    return answer.json()["story_id"]


def made(client: TestClient) -> tuple[str, StoryState]:
    story_id = create(client)
    with watching(client, story_id) as viewer:
        return story_id, viewer.until_made()


def test_a_story_is_watched_while_it_is_made_and_taken_home(client: TestClient, tmp_path: Path) -> None:
    story_id = create(client)
    with watching(client, story_id) as viewer:
        assert viewer.next().type == "hello"
        story = viewer.until_made()
    base = f"/api/stories/{story_id}"
    for shot in story.shots:
        assert shot.take_id is not None
        recording = client.get(f"{base}/takes/{shot.take_id}/media.mp4")
        assert recording.content == b"".join(viewer.pictures[shot.take_id])
        assert "immutable" in recording.headers["cache-control"]
        (tmp_path / "take.mp4").write_bytes(recording.content)
        assert len(read_frames(tmp_path / "take.mp4")) == shot.takes[0].num_frames
    assert [summary["story_id"] for summary in client.get("/api/stories").json()] == [story_id]
    assert client.get(base).json()["num_frames"] == 21 + 33
    assert len(client.get(f"{base}/shots").json()) == len(client.get(f"{base}/takes").json()) == 2
    assert [branch["name"] for branch in client.get(f"{base}/branches").json()] == ["Main"]


def test_a_frame_is_the_engines_own(
    shared: TestClient, finished: tuple[str, StoryState], tmp_path: Path
) -> None:
    story_id, story = finished
    take_id = story.shots[1].take_id
    base = f"/api/stories/{story_id}/takes/{take_id}"
    (tmp_path / "frame.png").write_bytes(shared.get(f"{base}/frames/7.png").content)
    frame = np.asarray(Image.open(tmp_path / "frame.png"))
    assert hash_frames(frame[None])[0] == shared.get(f"{base}/hashes").json()[7]
    assert shared.get(f"{base}/frames/33.png").status_code == 404


@pytest.mark.slow
def test_every_export_is_what_it_says(client: TestClient, tmp_path: Path) -> None:
    story_id, story = made(client)
    base = f"/api/stories/{story_id}/export"
    film = tmp_path / "film.mp4"
    film.write_bytes(client.get(f"{base}/film.mp4").content)
    assert len(read_frames(film)) == 54
    film.write_bytes(client.get(f"{base}/shots/{story.shots[1].shot_id}.mp4").content)
    assert len(read_frames(film)) == 66  # at the timelines' 24 frames per second
    gif = Image.open(io.BytesIO(client.get(f"{base}/film.gif").content))
    lengths_ms: list[int] = []
    for index in range(getattr(gif, "n_frames", 1)):
        gif.seek(index)
        lengths_ms.append(gif.info["duration"])
    assert sum(lengths_ms) == 4500  # 54 frames at 12 fps; equal neighbours may be one longer frame
    assert "00:00:01,750 --> 00:00:04,500" in client.get(f"{base}/film.srt").text
    assert client.get(f"{base}/film.vtt").text.startswith("WEBVTT\n\n1\n00:00:00.000 --> 00:00:01.750\n")
    assert "00:00:00:00 00:00:02:18 00:00:01:18 00:00:04:12" in client.get(f"{base}/film.edl").text
    assert client.get(f"{base}/storyboard.png").content.startswith(b"\x89PNG")
    again = client.post("/api/stories/import", content=client.get(f"{base}/story.yaml").content)
    assert again.status_code == 201
    assert [s["num_chunks"] for s in again.json()["shots"]] == [2, 3]
    (tmp_path / "replay.json").write_bytes(client.get(f"{base}/replay.json").content)
    replay = read_replay(tmp_path / "replay.json")
    assert [list(shot) for shot in replay.frame_sha256] == [
        client.get(f"/api/stories/{story_id}/takes/{shot.take_id}/hashes").json() for shot in story.shots
    ]
    assert not list((tmp_path / "exports").iterdir())


@pytest.mark.slow
def test_a_film_with_a_pinned_frame_is_made_again_from_its_replay(client: TestClient, tmp_path: Path) -> None:
    story_id, story = made(client)
    with watching(client, story_id) as viewer:
        assert viewer.next().type == "hello"
        viewer.ask(type="pin", id="1", frame={"take_id": story.shots[0].take_id, "frame_index": 11})
        viewer.ask(type="add_shot", id="2", shot={"caption": "a fox sleeps"})
        while viewer.story is None or len(viewer.story.shots) < 3:
            viewer.next()
        viewer.until_made()
    path = tmp_path / "replay.json"
    path.write_bytes(client.get(f"/api/stories/{story_id}/export/replay.json").content)
    replay = read_replay(path)
    assert replay.plan.pins == ((), (), ((0, 11),))
    settings = FilmSettings(files=FilmFiles(film=tmp_path / "again.mp4"))
    pipeline = tiny_pipeline()
    again = make_film(pipeline, replay.plan, replay.environment, settings, lambda _: None)
    assert count_differences(again, replay) == (0, "")
    unpinned = replace(settings, files=FilmFiles(film=tmp_path / "without.mp4"))
    without = make_film(pipeline, replace(replay.plan, pins=()), replay.environment, unpinned, lambda _: None)
    assert count_differences(without, replay)[1].startswith("shot 3")


@pytest.mark.slow
def test_a_film_that_cannot_be_replayed_is_not_given_a_replay(client: TestClient) -> None:
    story_id, story = made(client)
    replay = f"/api/stories/{story_id}/export/replay.json"
    assert client.get(replay).status_code == 200
    with watching(client, story_id) as viewer:
        viewer.ask(type="retake", id="1", shot_id=story.shots[0].shot_id)
        while viewer.story is None or viewer.story.shots[1].status != "stale":
            viewer.next()
    refused = client.get(replay)
    assert (refused.status_code, refused.json()["code"]) == (409, "refused")
    assert client.get(f"/api/stories/{story_id}/export/film.mp4").status_code == 200


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("no json", "malformed"),
        ("[1]", "malformed"),
        ("[" * 20_000, "malformed"),
        ('{"type": "undo"', "malformed"),
        ('{"type": "dance", "id": "1"}', "unknown_event"),
        ('{"id": "1"}', "invalid"),
        ('{"type": "undo"}', "invalid"),
        ('{"type": "undo", "id": 5}', "invalid"),
        ('{"type": "undo", "id": "1", "more": true}', "invalid"),
        ('{"type": "add_shot", "id": "1", "shot": {"caption": "a\\u0000fox"}}', "invalid"),
        ('{"type": "add_shot", "id": "1", "shot": {"caption": "\\ud800"}}', "invalid"),
        ('{"type": "add_shot", "id": "1", "shot": {"caption": 3}}', "invalid"),
        ('{"type": "add_shot", "id": "1", "shot": {"caption": "a", "seed": 3}}', "invalid"),
        ('{"type": "add_shot", "id": "1", "shot": {"caption": "' + "a" * 3000 + '"}}', "limit"),
        ('{"type": "add_shot", "id": "1", "shot": {"caption": "' + "a" * 2**20 + '"}}', "too_large"),
        ('{"type": "switch_branch", "id": "1", "branch_id": "../../etc/passwd"}', "invalid"),
        ('{"type": "remove_shot", "id": "1", "shot_id": "' + NOBODY + '"}', "not_found"),
        ('{"type": "redo", "id": "1"}', "refused"),
        ('{"type": "playhead", "at": null, "playing": NaN}', "invalid"),
    ],
)
def test_bad_messages_are_answered_and_the_story_goes_on(shared: TestClient, text: str, code: str) -> None:
    story_id = create(shared)
    with watching(shared, story_id) as viewer:
        answer = viewer.send(text)
        assert (answer.type, answer.code) == ("error", code)
        assert "\n" not in answer.message and len(answer.message) <= 300
        story = viewer.until_made()
    assert [shot.caption for shot in story.shots] == ["a fox walks", "a owl flies"]


def test_binary_messages_are_refused(shared: TestClient) -> None:
    with watching(shared, create(shared)) as viewer:
        viewer.socket.send_bytes(b"\x00\x01")
        assert viewer.until("error").code == "malformed"
        viewer.until_made()


def test_too_many_messages_are_told_once_and_then_end_the_connection(tmp_path: Path) -> None:
    # So few that none is let through, however slow this machine is.
    with serving(tmp_path, limits=Limits(messages_per_s=0.001)) as client:
        story_id = create(client)
        with watching(client, story_id) as viewer:
            for _ in range(130):
                viewer.socket.send_text('{"type": "playhead", "at": null, "playing": false}')
            assert viewer.until("error").code == "too_fast"
            while not isinstance(code := viewer.next(), int):
                assert code.type != "error"
            assert code == 4429
        assert client.get(f"/api/stories/{story_id}").status_code == 200


def test_two_pages_on_one_story_see_the_same(shared: TestClient) -> None:
    story_id = create(shared)
    with watching(shared, story_id) as one, watching(shared, story_id) as other:
        one.ask(type="edit_story", id="1", title="Another title")
        while other.story is None or other.story.title != "Another title":
            other.next()
        assert other.until_made().shots == one.until_made().shots


@pytest.mark.slow
def test_a_hundred_viewers_come_and_go_and_the_story_goes_on(client: TestClient) -> None:
    story_id = create(client)
    for _ in range(100):
        with watching(client, story_id):
            pass
    with watching(client, story_id) as viewer:
        viewer.until_made()
    deadline_s = time.monotonic() + 10
    while b"shotstream_viewers 0.0" not in client.get("/metrics").content:
        assert time.monotonic() < deadline_s, "viewers were left behind"
        time.sleep(0.05)


def test_a_story_that_is_not_there_is_told_so(shared: TestClient) -> None:
    for story_id in (NOBODY, "nothing"):
        with watching(shared, story_id) as viewer:
            assert viewer.next().code == "not_found"
            assert viewer.next() == 4404
    with pytest.raises(WebSocketDisconnect), watching(shared, "../.."):
        pass


def test_deleting_a_story_tells_its_viewers_and_leaves_nothing(client: TestClient, tmp_path: Path) -> None:
    story_id, _ = made(client)
    with watching(client, story_id) as viewer:
        viewer.until("story")
        assert client.delete(f"/api/stories/{story_id}").status_code == 204
        assert viewer.until("notice").code == "deleted"
        assert viewer.next() == 4404
    assert client.get(f"/api/stories/{story_id}").status_code == 404
    assert client.delete(f"/api/stories/{story_id}").status_code == 404
    assert not list((tmp_path / "media").iterdir())


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "malformed"),
        (b"[]", 400, "invalid"),
        (b"{}", 400, "invalid"),
        (b'{"bundled": "../../etc/passwd"}', 404, "not_found"),
        (b'{"bundled": "fox-and-owl", "title": "Mine"}', 400, "invalid"),
        (b'{"global_caption": "a", "unknown": 1}', 400, "invalid"),
        (b'{"global_caption": "a", "shots": [{"caption": "a\\u0007"}]}', 400, "invalid"),
        (b'{"global_caption": "' + b"a" * 3000 + b'"}', 409, "limit"),
        (b'{"global_caption": "' + b"a" * 100_000 + b'"}', 413, "too_large"),
    ],
)
def test_bad_bodies_are_refused(shared: TestClient, body: bytes, status: int, code: str) -> None:
    before = shared.get("/api/stories").json()
    answer = shared.post("/api/stories", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert shared.get("/api/stories").json() == before


def test_a_body_that_hides_its_length_is_cut_off(shared: TestClient) -> None:
    before = shared.get("/api/stories").json()

    def pieces() -> Iterator[bytes]:
        for _ in range(200):
            yield b"a" * 10_000

    answer = shared.post("/api/stories/import", content=pieces())
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert shared.get("/api/stories").json() == before


@pytest.mark.parametrize("text", [b"\xff\xfe", b"shots: [", b"a: !!python/object:os.system {}", b""])
def test_bad_story_files_are_refused(shared: TestClient, text: bytes) -> None:
    answer = shared.post("/api/stories/import", content=text)
    assert answer.status_code == 400
    assert "story.yaml" not in answer.json()["message"], "no path of this machine is told"


@pytest.mark.parametrize(
    "path",
    [
        "/api/stories/..%2f..%2fetc%2fpasswd",
        f"/api/stories/{NOBODY}/takes/{NOBODY}/media.mp4",
        f"/api/stories/{NOBODY}/takes/..%2f..%2fstories.sqlite/media.mp4",
        f"/api/stories/{NOBODY}/export/film.mp4",
        f"/api/stories/{NOBODY}/export/..%2f..%2flock",
        "/..%2fevents.py",
        "/api/nothing",
    ],
)
def test_paths_lead_nowhere(shared: TestClient, path: str) -> None:
    answer = shared.get(path)
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found" or "no page" in answer.text


def test_a_take_of_another_story_is_not_given(shared: TestClient, finished: tuple[str, StoryState]) -> None:
    _, story = finished
    other = create(shared)
    take_id = story.shots[0].take_id
    assert shared.get(f"/api/stories/{other}/takes/{take_id}/media.mp4").status_code == 404


def test_a_disk_that_does_not_give_a_file_is_no_fault_of_the_program(
    shared: TestClient, finished: tuple[str, StoryState], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    story_id, story = finished
    media = shared.app.state.backend.app.media  # pyright: ignore
    monkeypatch.setattr(media, "recording_path", unreadable)
    answer = shared.get(f"/api/stories/{story_id}/takes/{story.shots[0].take_id}/media.mp4")
    assert (answer.status_code, answer.json()["code"]) == (507, "storage")
    assert answer.json()["message"] == "the disk fails; see the system's log"


def test_pages_of_other_sites_are_kept_out(shared: TestClient) -> None:
    story_id = create(shared)
    foreign = {"origin": "http://evil.example"}
    assert shared.post("/api/stories", json=STORY, headers=foreign).status_code == 403
    assert shared.delete(f"/api/stories/{story_id}", headers=foreign).status_code == 403
    assert shared.get("/api/stories", headers={"host": "evil.example"}).status_code == 403
    with watching(shared, story_id, **foreign) as viewer:
        assert viewer.next() == 4401
    with watching(shared, story_id, host="evil.example") as viewer:
        assert viewer.next() == 4401
    with watching(shared, story_id, origin=f"http://{HOST}") as viewer:
        assert viewer.next().type == "hello"


def test_with_a_token_only_who_knows_it_comes_in(tmp_path: Path) -> None:
    with serving(tmp_path, token="0123456789abcdef") as client:
        assert client.get("/healthz").status_code == 200
        ways = client.app.openapi()["paths"].items()  # pyright: ignore
        asked = [(method, path.replace("{", "").replace("}", "")) for path, ways in ways for method in ways]
        assert len(asked) > 15
        asked += [("get", path) for path in ("/", "/metrics", "/readyz", "/api/docs", "/api/openapi.json")]
        asked += [("get", path) for path in ("/?token=wrong", "/js/main.js", "/nothing")]
        for method, path in [*asked, *(("head", path) for method, path in asked if method == "get")]:
            assert client.request(method, path).status_code == 401, path
        with watching(client, NOBODY) as viewer:
            assert viewer.next() == 4401
        bearer = {"authorization": "Bearer 0123456789abcdef"}
        assert client.get("/api/stories", headers=bearer).status_code == 200
        entered = client.get("/?token=0123456789abcdef&story=1", follow_redirects=False)
        assert (entered.status_code, entered.headers["location"]) == (303, "./?story=1")
        assert (
            "HttpOnly" in entered.headers["set-cookie"] and "SameSite=Strict" in entered.headers["set-cookie"]
        )
        story_id = create(client)  # The cookie is sent along from now on.
        cookie = entered.headers["set-cookie"].partition(";")[0]
        with watching(client, story_id, cookie=cookie) as viewer:
            assert viewer.next().type == "hello"


def test_every_answer_has_a_strict_policy(shared: TestClient) -> None:
    for path in ("/", "/api/stories", "/api/docs", "/nothing"):
        headers = shared.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_the_list_of_routes_needs_nobody_else(shared: TestClient) -> None:
    page = shared.get("/api/docs").text
    files = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert "../js/openapi.js" in files, "relative: the page may be shown under any path"
    assert all(re.fullmatch(r"(\.\./)?[a-z][a-z./]*", file) for file in files)
    assert all(shared.get(f"/api/{file}").status_code == 200 for file in files)
    assert shared.get("/api/openapi.json").json()["paths"]["/api/stories"]["post"]


def test_cast_and_place_cards_are_pictures_of_what_they_say(shared: TestClient) -> None:
    told = shared.get("/api/suggestions").json()
    for kind, size in (("cast", (16, 16)), ("sets", (80, 48)), ("skies", (80, 48))):
        pictures = [card["picture"] for card in told[kind]]
        assert len(set(pictures)) == len(pictures) > 2
        for picture in pictures:
            head, _, data = picture.partition(",")
            assert head == "data:image/png;base64"
            assert Image.open(io.BytesIO(base64.b64decode(data))).size == size
    held_out = {f"{colour} {species}" for species, colour in told["held_out"]}
    assert not held_out & {card["words"] for card in told["cast"]}


@pytest.mark.slow
def test_head_tells_of_everything_that_get_gives(
    shared: TestClient, finished: tuple[str, StoryState]
) -> None:
    story_id, story = finished
    base, shot = f"/api/stories/{story_id}", story.shots[1]
    take = f"{base}/takes/{shot.take_id}"
    exact = [
        f"{take}/media.mp4",
        f"{take}/frames/7.png",
        f"{take}/hashes",
        base,
        f"{base}/shots",
        "/api/model",
    ]
    exact += ["/", "/js/main.js", "/api/docs", "/api/openapi.json", "/healthz", "/readyz"]
    for path in exact:
        got, head = shared.get(path), shared.head(path)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(got.content))), path
        assert head.headers["content-type"] == got.headers["content-type"]
    # A film is not made to be told of.
    for name in ("film.mp4", "film.gif", "storyboard.png", f"shots/{shot.shot_id}.mp4"):
        head = shared.head(f"{base}/export/{name}")
        assert head.status_code == 200 and head.content == b"" and "content-length" not in head.headers
        assert head.headers["content-type"] == shared.get(f"{base}/export/{name}").headers["content-type"]
    part = shared.head(f"{take}/media.mp4", headers={"range": "bytes=10-19"})
    assert (part.status_code, part.headers["content-length"]) == (206, "10")
    for path in (
        f"{take}/frames/33.png",
        f"{base}/export/nothing.mp4",
        f"{base}/export/shots/{NOBODY}.mp4",
        "/no",
    ):
        assert shared.head(path).status_code == 404, path


def test_what_is_a_persons_own_is_kept_by_no_one_between(
    shared: TestClient, finished: tuple[str, StoryState]
) -> None:
    story_id, story = finished
    base = f"/api/stories/{story_id}"
    for path in ("/", "/api/stories", "/js/main.js", base, f"{base}/export/film.srt", "/nothing", "/metrics"):
        assert shared.get(path).headers["cache-control"] == "no-store", path
    for path in ("media.mp4", "frames/7.png", "hashes"):
        kept = shared.get(f"{base}/takes/{story.shots[0].take_id}/{path}").headers["cache-control"]
        assert kept.startswith("private,") and "immutable" in kept


def test_health_and_metrics(client: TestClient) -> None:
    assert client.get("/healthz").text == "alive\n"
    assert client.get("/readyz").text == "ready\n"
    made(client)
    assert "shotstream_frames_total 54.0" in client.get("/metrics").text


def test_suggestions_are_words_that_are_understood(shared: TestClient) -> None:
    told = shared.get("/api/suggestions").json()
    assert "fox" in told["species"] and "purple" in told["colours"] and "in the forest" in told["places"]
    advice = shared.post(
        "/api/captions/check", json={"global_caption": "a forest", "caption": "a zebra walks"}
    )
    assert advice.json()["unknown_words"] == ["zebra"]
    assert {story["name"] for story in shared.get("/api/bundled").json()} >= {"fox-and-owl"}


def test_what_is_understood_of_a_caption_is_told_before_its_shot_is_made(tmp_path: Path) -> None:
    app = create_app(StudioSettings(data_dir=tmp_path / "reader"), tiny_pipeline(reads=True))
    with TestClient(app, base_url=f"http://{HOST}") as reading:
        body = {
            "global_caption": "Zed is a robot.",
            "caption": "He waves to a dragon.",
            "earlier": ["Zed is red."],
        }
        answer = reading.post("/api/captions/check", json=body)
        assert answer.status_code == 200, answer.text
        advice = answer.json()
        assert advice["understood"] == "The red robot waves."
        assert advice["unknown_words"] == ["dragon: frog?"] and advice["warnings"] == []
        advice = reading.post("/api/captions/check", json={**body, "seed": "3"}).json()
        assert advice["understood"].startswith("Medium shot") and "the seed chose" in advice["warnings"][0]


def test_two_servers_do_not_share_a_folder(client: TestClient, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="another server"):
        create_app(StudioSettings(data_dir=tmp_path), tiny_pipeline())
    assert client.get("/readyz").status_code == 200


@pytest.mark.slow
def test_a_story_goes_on_in_the_next_server(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        story_id, before = made(client)
    with serving(tmp_path) as client, watching(client, story_id) as viewer:
        viewer.ask(type="add_shot", id="1", shot={"caption": "a fox sleeps"})
        after = viewer.until_made()
        assert after.shots[:2] == before.shots
        assert viewer.ask(type="undo", id="2").type == "done"
