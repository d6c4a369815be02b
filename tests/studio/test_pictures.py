"""Pictures over HTTP: uploads and their limits, story files with references, and captions that cite."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from shotstream.studio.limits import Limits
from shotstream.studio.security import SecurityMiddleware
from shotstream.video.pictures import picture_to_uri
from tests.studio.test_app import NOBODY, Viewer, create, serving, watching

BYTES = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving(tmp_path_factory.mktemp("studio")) as client:
        yield client


def picture(width: int = 96, height: int = 32) -> Image.Image:
    """A red middle part of 3 : 2, between bars of blue."""
    pixels = np.full((height, width, 3), (0, 0, 255), np.uint8)
    side = (width - height * 3 // 2) // 2
    pixels[:, side : width - side] = (200, 30, 30)
    return Image.fromarray(pixels)


def file_of(image: Image.Image, kind: str = "png") -> bytes:
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


def upload(client: TestClient, story_id: str, data: bytes) -> Any:
    return client.post(f"/api/stories/{story_id}/pictures", content=data, headers=BYTES)


def wait(viewer: Viewer, *statuses: str) -> None:
    """Reads until the shots have these statuses."""
    while viewer.story is None or tuple(shot.status for shot in viewer.story.shots) != statuses:
        viewer.next()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_picture_is_cropped_around_its_centre_and_shown_as_the_model_sees_it(
    client: TestClient, kind: str
) -> None:
    story_id = create(client)
    answer = upload(client, story_id, file_of(picture(), kind))
    assert answer.status_code == 201, answer.text
    found = answer.json()
    seen = Image.open(io.BytesIO(base64.b64decode(found["image"].partition(",")[2])))
    assert seen.size == (48, 32), "at the model's size"
    assert np.asarray(seen)[..., 2].max() < 128, "its sides are cropped, never squeezed"
    assert "not one of this model's world" in found["outside"] and "@" not in found["outside"]
    path = f"/api/stories/{story_id}/pictures/{found['picture_id']}.png"
    stored = client.get(path)
    assert stored.content == base64.b64decode(found["image"].partition(",")[2])
    assert "immutable" in stored.headers["cache-control"] and client.head(path).status_code == 200
    # It is not another story's.
    other = create(client)
    assert client.get(path.replace(story_id, other)).status_code == 404
    with watching(client, other) as viewer:
        given = {"reference_id": "a", "picture_id": found["picture_id"], "caption": "a fox"}
        assert viewer.ask(type="add_reference", id="1", reference=given).code == "not_found"


def test_what_is_no_picture_is_refused_in_one_line(client: TestClient) -> None:
    story_id = create(client)
    for data, status, told in (
        (b"", 400, "it is missing"),
        (b"a fox", 400, "not a picture, or a damaged one"),
        (file_of(picture())[:60], 400, "not a picture, or a damaged one"),
        (file_of(Image.new("1", (9000, 9000))), 400, "at most 64 million"),
    ):
        answer = upload(client, story_id, data)
        assert answer.status_code == status and told in answer.json()["message"], answer.text
    assert upload(client, NOBODY, file_of(picture())).status_code == 404
    assert client.get(f"/api/stories/{story_id}/pictures/{'0' * 64}.png").status_code == 404
    assert client.get(f"/api/stories/{story_id}/pictures/..%2f..%2fstudio.id.png").status_code == 404


def test_only_pictures_and_story_files_may_be_large(tmp_path: Path) -> None:
    with serving(tmp_path, limits=Limits(upload_bytes=1000, picture_bytes=5000, story_bytes=3000)) as client:
        story_id = create(client)
        noise = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
        data = file_of(Image.fromarray(noise))
        assert 1000 < len(data) < 3000
        assert upload(client, story_id, data).status_code == 201
        assert upload(client, story_id, data + bytes(5000)).status_code == 413
        story = b"global_caption: a forest\nshots: [a fox]\n"
        assert client.post("/api/stories/import", content=story + b"#" * 2000).status_code == 201
        assert client.post("/api/stories/import", content=story + b"#" * 3000).status_code == 413
        body = {"global_caption": "a" * 1500}
        assert client.post("/api/stories", json=body).status_code == 413
        assert client.put(f"/api/stories/{story_id}/pictures", content=data).status_code == 413


def test_few_pictures_are_received_at_the_same_time() -> None:
    """They are held in memory, and whoever sends one may be slow."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guard = SecurityMiddleware(app, token=None, limits=Limits(uploads=1))
    scope = {
        "type": "http",
        "method": "POST",
        "path": f"/api/stories/{NOBODY}/pictures",
        "headers": [(b"host", b"127.0.0.1")],
        "scheme": "http",
        "query_string": b"",
        "root_path": "",
    }
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def run() -> None:
        goes_on = anyio.Event()

        async def slow() -> dict[str, Any]:
            await goes_on.wait()
            return {"type": "http.request", "body": b"a", "more_body": False}

        async def at_once() -> dict[str, Any]:
            return {"type": "http.request", "body": b"a", "more_body": False}

        async with anyio.create_task_group() as group:
            group.start_soon(guard, dict(scope), slow, send)
            await anyio.sleep(0.05)
            await guard(dict(scope), at_once, send)
            goes_on.set()
        await guard(dict(scope), at_once, send)

    anyio.run(run)
    assert statuses == [503, 201, 201]


def test_a_story_file_brings_its_pictures_and_names_those_that_it_lacks(client: TestClient) -> None:
    uri = picture_to_uri(np.asarray(picture(48)))
    story = f"""
global_caption: a forest night
references:
  - id: scout
    image: {uri}
    caption: a fox
    shots: [2]
  - id: den
    image: ../pictures/den.jpg
    caption: a forest
    role: place
    shots: cited
shots:
  - caption: a fox walks
    then:
      - caption: a fox sleeps
        mode: keep
  - "@scout walks"
  - "a owl flies @den"
"""
    answer = client.post("/api/stories/import", content=story.encode())
    assert answer.status_code == 201, answer.text
    created = answer.json()
    told = "pictures that are not in the file: den.jpg (@den); add them under Cast"
    assert created["warnings"] == [told]
    scout, den = created["cast"]
    assert (scout["shots"], scout["role"], scout["file_name"]) == ([2], "subject", "")
    assert (den["picture_id"], den["file_name"], den["shots"]) == (None, "den.jpg", "cited")
    assert created["shots"][0]["then"] == [{"caption": "a fox sleeps", "chunk_index": 1, "mode": "keep"}]
    story_id = created["story_id"]
    with watching(client, story_id) as viewer:
        wait(viewer, "done", "done", "failed")
        failed = viewer.story.shots[2].failure
        assert failed == "the picture of @den is missing (den.jpg); add it under Cast, and try again"
        picture_id = upload(client, story_id, file_of(picture())).json()["picture_id"]
        viewer.ask(type="edit_reference", id="1", reference_id="den", picture_id=picture_id)
        wait(viewer, "done", "done", "done")
        assert viewer.story.cast[1].file_name == ""
    again = client.post(
        "/api/stories/import", content=client.get(f"/api/stories/{story_id}/export/story.yaml").content
    )
    assert [(one["reference_id"], one["picture_id"]) for one in again.json()["cast"]] == [
        ("scout", scout["picture_id"]),
        ("den", picture_id),
    ]


@pytest.mark.parametrize(
    ("references", "told"),
    [
        ("[{id: a, image: 'data:image/png;base64,AAAA', caption: a fox}]", "not a picture, or a damaged one"),
        ("[{id: a, image: 'data:text/html,a', caption: a fox}]", "neither a file nor a data URI"),
        ("[{id: a b, image: a.png, caption: a fox}]", "reference 1: the id a b is no word"),
        ("[]", "shot 1: the caption cites @nobody, which no reference has; there are: none"),
    ],
)
def test_a_story_file_with_a_bad_cast_is_refused_in_one_line(
    client: TestClient, references: str, told: str
) -> None:
    text = f'global_caption: a forest\nreferences: {references}\nshots: ["@nobody walks"]\n'
    answer = client.post("/api/stories/import", content=text.encode())
    assert answer.status_code in (400, 409) and told in answer.json()["message"], answer.text


def test_files_of_the_server_are_not_read_for_a_story_file(client: TestClient, tmp_path: Path) -> None:
    picture().save(tmp_path / "secret.png")
    text = (
        "global_caption: a forest\nshots: [a fox]\n"
        f"references: [{{id: a, image: '{tmp_path / 'secret.png'}', caption: a fox}}]\n"
    )
    cast = client.post("/api/stories/import", content=text.encode()).json()["cast"]
    assert cast[0]["picture_id"] is None and cast[0]["file_name"] == "secret.png"


def test_a_caption_is_checked_with_what_it_cites_and_with_what_it_steers(client: TestClient) -> None:
    def check(**body: Any) -> Any:
        answer = client.post("/api/captions/check", json={"global_caption": "a forest", **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    cast = [{"reference_id": "scout", "caption": "a fox"}]
    assert check(caption="@scout walks", references=cast)["unknown_words"] == []
    assert check(caption="@scout wallks", references=cast)["unknown_words"] == ["wallks"]
    told = check(caption="@nobody walks", references=cast)
    assert told["warnings"] == ["the caption cites @nobody, which no reference has; there are: @scout"]
    steered = {
        "caption": "@scout sleeps",
        "running": ["@scout walks"],
        "earlier": ["a owl", ["a fox", "a owl"]],
    }
    assert check(**steered, references=cast)["warnings"] == []
    assert check(**steered)["warnings"][0].startswith("the caption cites @scout")


def test_subtitles_have_each_caption_while_it_holds(client: TestClient) -> None:
    shots = [
        {"caption": "a fox walks", "num_chunks": 3, "then": [{"caption": "a fox sleeps", "chunk_index": 1}]},
        {"caption": "a owl flies"},
    ]
    story_id = create(client, shots=shots)
    with watching(client, story_id) as viewer:
        viewer.until_made()
    lines = client.get(f"/api/stories/{story_id}/export/film.srt").text.splitlines()
    assert lines[1:3] == ["00:00:00,000 --> 00:00:00,750", "a fox walks"]
    assert lines[5:7] == ["00:00:00,750 --> 00:00:02,750", "a fox sleeps"]
    assert lines[9:11] == ["00:00:02,750 --> 00:00:04,500", "a owl flies"]
    told = client.get(f"/api/stories/{story_id}/export/film.vtt").text
    assert "00:00:00.750 --> 00:00:02.750\na fox sleeps" in told
    assert "a fox walks / a fox sleeps" in client.get(f"/api/stories/{story_id}/export/film.otio").text
