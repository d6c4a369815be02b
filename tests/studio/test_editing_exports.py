"""A film of four shots of different lengths is handed over: what other programs' readers find in it."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import opentimelineio as otio
import pytest
import webvtt
from starlette.testclient import TestClient

from shotstream.video.video_io import read_frames
from tests.studio.test_app import STORY, serving, watching
from tests.video.clip_files import frame_rate

TITLE = 'Fox/Owl\\ "1" <b> & 狐 — é' + "x" * 150
SHOTS = [
    {"caption": "a fox walks", "num_chunks": 1},
    {"caption": "a owl <flies> -->\n\n2\n00:00:00,000 --> 00:00:09,000", "num_chunks": 3},
    {"caption": "a fox sleeps {\\an8} & 狐が眠る" + " more" * 90, "num_chunks": 2},
    {"caption": "a owl sleeps", "num_chunks": 1},
]
CUTS_S = [0.0, 0.75, 3.5, 5.25, 6.0]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, list[str]]]:
    """The folder with what edit.zip holds, the film as MP4, and the names of single shots' downloads."""
    folder = tmp_path_factory.mktemp("studio")
    out = folder / "handed over"
    with serving(folder) as client:
        story_id, story = made_of(client)
        base = f"/api/stories/{story_id}/export"
        answer = client.get(f"{base}/edit.zip")
        assert answer.status_code == 200
        zipfile.ZipFile(io.BytesIO(answer.content)).extractall(out)
        (out / "film.mp4").write_bytes(client.get(f"{base}/film.mp4").content)
        for name in ("film.edl", "film.fcpxml", "film.otio", "film.srt"):
            assert client.get(f"{base}/{name}").content == (out / name).read_bytes()
        names: list[str] = []
        for shot in story:
            single = client.get(f"{base}/shots/{shot}.mp4")
            names.append(single.headers["content-disposition"].split('"')[1])
            (folder / names[-1]).write_bytes(single.content)
            assert len(read_frames(folder / names[-1])) == len(read_frames(out / names[-1]))
        (out / "film.vtt").write_bytes(client.get(f"{base}/film.vtt").content)
        assert [path.name for path in (folder / "exports").iterdir()] == []
        yield out, story_id, names


def made_of(client: TestClient) -> tuple[str, list[str]]:
    answer = client.post("/api/stories", json=STORY | {"title": TITLE, "shots": SHOTS})
    assert answer.status_code == 201, answer.text
    story_id = answer.json()["story_id"]
    with watching(client, story_id) as viewer:
        return story_id, [shot.shot_id for shot in viewer.until_made().shots]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"), [("film.edl", {"rate": 24}), ("film.fcpxml", {}), ("film.otio", {})]
)
def test_a_timeline_finds_its_clips_beside_it_and_cuts_where_the_film_does(
    archive: tuple[Path, str, list[str]], name: str, options: dict[str, int]
) -> None:
    folder, _, singles = archive
    timeline = otio.adapters.read_from_file(str(folder / name), **options)
    clips = list(timeline.find_clips())
    assert [clip.name for clip in clips] == singles == [f"shot_00{number}.mp4" for number in (1, 2, 3, 4)]
    for clip, start_s, end_s in zip(clips, CUTS_S, CUTS_S[1:], strict=False):
        span = clip.range_in_parent()
        assert (span.start_time.to_seconds(), span.end_time_exclusive().to_seconds()) == (start_s, end_s)
        media = folder / clip.media_reference.target_url
        assert frame_rate(media) == span.duration.rate == 24
        assert len(read_frames(media)) == span.duration.value


@pytest.mark.slow
def test_a_clip_shows_the_films_own_frames_each_as_often(archive: tuple[Path, str, list[str]]) -> None:
    folder, _, names = archive
    film = read_frames(folder / "film.mp4")
    assert frame_rate(folder / "film.mp4") == 12 and len(film) == 72
    clips = np.concatenate([read_frames(folder / name) for name in names])
    assert clips.shape == (144, *film.shape[1:])
    assert np.abs(clips[::2].astype(int) - film).mean() < 3  # both went through H.264


@pytest.mark.slow
def test_the_mp4s_title_and_chapters_are_whole_in_another_reader(
    archive: tuple[Path, str, list[str]],
) -> None:
    folder, _, _ = archive
    with av.open(folder / "film.mp4") as container:
        assert container.metadata["title"] == TITLE
        chapters = container.chapters()
    starts = [float(chapter["start"] * chapter["time_base"]) for chapter in chapters]
    assert starts == pytest.approx(CUTS_S[:4], abs=1e-3)
    titles = [chapter["metadata"]["title"] for chapter in chapters]
    assert titles[1] == "2. a owl <flies> --> 2 00:00:00,000 --> 00:00:09,000"
    assert titles[2].startswith("3. a fox sleeps {\\an8} & 狐が眠る more") and titles[2].endswith("…")


@pytest.mark.slow
def test_subtitles_have_an_entry_for_each_shot(archive: tuple[Path, str, list[str]]) -> None:
    folder, _, _ = archive
    entries = webvtt.read(folder / "film.vtt")
    assert [entry.start_in_seconds + entry.start_time.milliseconds / 1000 for entry in entries] == CUTS_S[:4]
    assert [entry.identifier for entry in entries] == ["1", "2", "3", "4"]
    assert len(entries[2].lines) == 2 and entries[2].lines[1].endswith("…")
