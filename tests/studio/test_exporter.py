"""What a film is given away as, and when it is not: with three shots of different lengths."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import pytest

from shotstream.film.replay import read_replay
from shotstream.studio.api_error import ApiError
from shotstream.studio.exporter import Exporter
from shotstream.studio.media_store import CorruptTakeError
from shotstream.video.video_io import read_frames
from tests.studio.stage import CAPTIONS, Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    for index, length in ((0, 1), (1, 3)):
        stage.control("edit_shot", shot_id=stage.story.shots[index].shot_id, num_chunks=length)
    stage.run()
    yield stage
    stage.close()


def exporter(stage: Stage) -> Exporter:
    return Exporter(stage.app, stage.manager.film_snapshot(stage.story_id))


def refused(stage: Stage) -> str:
    with pytest.raises(ApiError) as refusal:
        exporter(stage).replay()
    assert refusal.value.code == "refused"
    return str(refusal.value)


@pytest.mark.slow
def test_a_films_chapters_are_its_shots(stage: Stage, tmp_path: Path) -> None:
    exporter(stage).mp4(tmp_path / "film.mp4")
    with av.open(tmp_path / "film.mp4") as container:
        chapters = container.chapters()
        found = [(c["metadata"]["title"], float(c["start"] * c["time_base"])) for c in chapters]
        ends = [float(c["end"] * c["time_base"]) for c in chapters]
    assert found == [
        (f"1. {CAPTIONS[0]}", 0),
        (f"2. {CAPTIONS[1]}", pytest.approx(9 / 12, abs=1e-3)),
        (f"3. {CAPTIONS[2]}", pytest.approx(42 / 12, abs=1e-3)),
    ]
    assert ends == [pytest.approx(9 / 12, abs=1e-3), pytest.approx(42 / 12, abs=1e-3), 63 / 12]
    assert len(read_frames(tmp_path / "film.mp4")) == 63


@pytest.mark.slow
def test_one_shot_alone_is_that_shot(stage: Stage, tmp_path: Path) -> None:
    exporter(stage).for_shot(stage.story.shots[1].shot_id).mp4(tmp_path / "shot.mp4")
    assert len(read_frames(tmp_path / "shot.mp4")) == 33


def test_a_replay_is_given_of_what_it_makes_again_alone(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "replay.json").write_text(exporter(stage).replay())
    replay = read_replay(tmp_path / "replay.json")
    assert list(replay.frame_sha256) == stage.hashes()
    assert [shot.num_chunks for shot in replay.plan.story.shots] == [1, 3, 2]
    # The last shot looked at another take of the second.
    stage.control("retake", shot_id=stage.story.shots[1].shot_id)
    stage.run()
    assert refused(stage) == "shot 3 is stale; make it again"
    stage.control("undo")
    # All but the first were made under another caption for all; then all.
    stage.control("edit_story", global_caption="a owl night")
    assert refused(stage) == "shot 1 was made under another global caption; make it again"
    stage.control("undo")
    stage.control("set_autoplay", on=False)
    stage.control("add_shot", shot={"caption": "a owl walks"}, index=1)
    assert "shot 2 is not made yet" in refused(stage)
    stage.control("undo")
    stage.control("add_shot", shot={"caption": "a owl walks"})
    assert exporter(stage).replay() == (tmp_path / "replay.json").read_text(), "what comes last may wait"


def test_a_replay_is_of_one_model_on_one_machine(stage: Stage) -> None:
    takes = stage.open_story.history.takes
    whole = dict(takes)
    last = takes[stage.film()[2] or ""]
    first = takes[stage.film()[0] or ""]
    takes[last.take_id] = replace(last, environment={**last.environment, "num_threads": 99})
    assert "shots 1 and 3 were made by different models or on different machines" in refused(stage)
    takes[last.take_id] = replace(last, weights_sha256="f" * 64)
    assert "shots 1 and 3" in refused(stage)
    takes |= whole
    takes[first.take_id] = replace(first, weights_sha256="f" * 64)
    assert "shots 1 and 2" in refused(stage)
    for take_id, take in whole.items():
        takes[take_id] = replace(take, weights_sha256="f" * 64)
    assert "other weights" in refused(stage)


def test_a_damaged_take_is_in_no_export(stage: Stage, tmp_path: Path) -> None:
    folder = stage.media._take_dir(stage.story_id, stage.film()[1] or "")
    (folder / "frames.mkv").write_bytes((folder / "frames.mkv").read_bytes()[:5000])
    for make in (
        lambda e: e.mp4(tmp_path / "x.mp4"),
        lambda e: e.gif(tmp_path / "x.gif"),
        Exporter.storyboard,
    ):
        with pytest.raises(CorruptTakeError):
            make(exporter(stage))
