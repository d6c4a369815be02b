"""Files on their way out: nothing stays behind, and a wrong range is told what is there."""

import asyncio
import errno
import json
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from shotstream.studio.download import DownloadResponse
from shotstream.studio.limits import Limits
from tests.studio.test_app import made, serving

BAD_RANGES = ("bytes=1000000000-", "bytes=abc", "bytes=9-5", "lines=0-1", "bytes", "bytes=-,-", "bytes=--1")


def sent(
    path: Path, range_: str | None, *, method: str = "GET", breaks: bool = False
) -> tuple[Any, list[int]]:
    """(What the client was sent: status, headers, body; how often the end was told)."""
    told: list[int] = []
    messages: list[Any] = []

    async def send(message: Any) -> None:
        if breaks:
            raise OSError(errno.EPIPE, "the client is gone")
        messages.append(message)

    async def receive() -> Any:
        await asyncio.sleep(60)

    headers = [] if range_ is None else [(b"range", range_.encode())]
    scope = {"type": "http", "method": method, "headers": headers, "asgi": {"spec_version": "2.4"}}
    response = DownloadResponse(path, "video/mp4", on_finished=lambda: told.append(1))
    try:
        asyncio.run(response(scope, receive, send))
    except OSError:
        assert breaks
    if not messages:
        return None, told
    kept = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    body = b"".join(m.get("body", b"") for m in messages[1:])
    return (messages[0]["status"], kept, body), told


@pytest.mark.parametrize("range_", BAD_RANGES)
def test_a_range_that_is_not_there_is_416_with_a_problem(tmp_path: Path, range_: str) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"0123456789")
    (status, headers, body), told = sent(path, range_)
    assert (status, headers["content-range"], told) == (416, "bytes */10", [1])
    problem = json.loads(body)
    assert problem["code"] == "invalid" and "0 to 9" in problem["message"]
    assert int(headers["content-length"]) == len(body)


def test_the_end_is_told_once_whatever_the_client_does(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"0123456789")
    assert sent(path, None) == ((200, sent(path, None)[0][1], b"0123456789"), [1])
    (status, headers, body), told = sent(path, "bytes=2-4")
    assert (status, headers["content-range"], body, told) == (206, "bytes 2-4/10", b"234", [1])
    assert sent(path, "bytes=-3")[0][2] == b"789"
    assert sent(path, None, method="HEAD")[1] == [1]
    assert sent(path, None, breaks=True) == (None, [1])
    assert sent(path, "bytes=abc", breaks=True) == (None, [1])


@pytest.mark.slow
def test_no_export_stays_behind_and_their_number_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad range left one for each request."""
    with serving(tmp_path, limits=Limits(look_ahead_s=100.0, export_files=2)) as client:
        story_id, story = made(client)
        base = f"/api/stories/{story_id}/export"
        names = ("story.yaml", "film.mp4", f"shots/{story.shots[0].shot_id}.mp4")
        for number, range_ in enumerate(BAD_RANGES):
            answer = client.get(f"{base}/{names[number % 3]}", headers={"range": range_})
            assert answer.status_code == 416 and answer.json()["code"] == "invalid"
        assert client.get(f"{base}/film.mp4", headers={"range": "bytes=0-9"}).status_code == 206
        assert list((tmp_path / "exports").iterdir()) == []
        # Clients who do not fetch what was made for them.
        monkeypatch.setattr(DownloadResponse, "__call__", unfetched)
        for _ in range(2):
            assert client.get(f"{base}/story.yaml").status_code == 500
        answer = client.get(f"{base}/story.yaml")
        assert (answer.status_code, answer.json()["code"]) == (503, "busy")
        assert len(list((tmp_path / "exports").iterdir())) == 2


async def unfetched(*_: object) -> None:
    raise RuntimeError


def test_a_recording_has_the_ranges_that_players_ask_for(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        story_id, story = made(client)
        url = f"/api/stories/{story_id}/takes/{story.shots[0].take_id}/media.mp4"
        whole = client.get(url).content
        assert client.get(url, headers={"range": "bytes=10-19"}).content == whole[10:20]
        assert client.get(url, headers={"range": f"bytes={len(whole)}-"}).status_code == 416
        assert client.get(url).content == whole


@pytest.mark.slow
@pytest.mark.parametrize("name", ["recording.mp4", "frames.mkv"])
def test_a_damaged_take_is_not_handed_out_and_is_soon_there_again(tmp_path: Path, name: str) -> None:
    with serving(tmp_path) as client:
        story_id, story = made(client)
        take_id = story.shots[1].take_id
        path = tmp_path / "media" / story_id / str(take_id) / name
        base = f"/api/stories/{story_id}"
        urls = {
            "recording.mp4": [f"{base}/takes/{take_id}/media.mp4"],
            "frames.mkv": [f"{base}/takes/{take_id}/frames/7.png", f"{base}/export/film.gif"],
        }[name]
        whole = [client.get(url).content for url in urls]
        path.write_bytes(path.read_bytes()[:5000])
        for url in urls:
            answer = client.get(url)
            assert (answer.status_code, answer.json()["code"]) == (503, "busy"), answer.text
            assert "damaged" in answer.json()["message"]
        assert [fetched(client, url) for url in urls] == whole
        assert list((tmp_path / "exports").iterdir()) == []


def fetched(client: TestClient, url: str) -> bytes:
    deadline_s = time.monotonic() + 60
    while (answer := client.get(url)).status_code != 200:
        assert answer.status_code == 503 and time.monotonic() < deadline_s
        time.sleep(0.05)
    return answer.content


def test_readiness_says_that_the_disk_is_full_and_that_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with serving(tmp_path) as client:
        assert client.get("/readyz").text == "ready\n"
        with monkeypatch.context() as broken:
            broken.setattr("shotstream.studio.media_store.MediaStore.check_writable", full)
            answer = client.get("/readyz")
            assert (answer.status_code, answer.text) == (
                503,
                "the disk is full; free some space, or delete a story\n",
            )
        assert client.get("/readyz").status_code == 200
        assert not list((tmp_path / "media").iterdir())
