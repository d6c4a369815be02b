"""Every example runs and does what its docstring says. They use the model that comes with the package."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from shotstream.film import read_replay
from shotstream.streaming.loading import load
from shotstream.theatre.oracle.reading import read_shot
from shotstream.video.video_io import read_frames
from tests.studio.live_server import live_server

EXAMPLES = Path(__file__).parents[2] / "examples"


def _example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_is_short_and_has_a_test_and_a_row_in_the_list(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    assert f"def test_{path.stem}(" in Path(__file__).read_text(encoding="utf-8")
    assert f"({path.name})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_make_film(tmp_path: Path) -> None:
    film = _example("make_film").main(tmp_path / "film.mp4")
    frames = read_frames(film.files.film)
    assert len(frames) == film.num_new_frames == 33 + 21  # a chunk has 12 frames, the first one of a shot 9
    assert frames.shape[1:3] == (48 * 8, 80 * 8)
    assert film.files.subtitles.read_text(encoding="utf-8").count("-->") == 2
    assert film.files.storyboard.stat().st_size > 0
    assert [shot.num_chunks for shot in read_replay(film.files.replay).plan.story.shots] == [3, 2]


@pytest.mark.slow
def test_direct_live() -> None:
    film = _example("direct_live").main()
    assert [len(frames) for frames in film] == [21, 9, 9]
    assert all(frames.dtype == np.uint8 and frames.shape[1:] == (48, 80, 3) for frames in film)
    assert not np.array_equal(film[1], film[2])


@pytest.mark.slow
def test_references_and_steering() -> None:
    """The fox wears the scarf of its drawing from the first shot on; without a drawing it may wear any."""
    example = _example("references_and_steering")
    for scarf in ("scarf_cyan", "scarf_magenta"):
        picture, *film = example.main(scarf)
        assert picture.shape == (1, 48, 80, 3) and [len(frames) for frames in film] == [33, 33, 33]
        for frames in film:
            (actor,) = read_shot(frames[:21]).facts.actors
            assert (actor.actor.species, actor.actor.colour, actor.actor.scarf) == ("fox", "red", scarf)


@pytest.mark.slow
def test_undo_and_branch() -> None:
    session, branch = _example("undo_and_branch").main()
    assert [take.caption.partition(":")[0] for take in session.shots] == ["Wide shot", "Close-up"]
    assert [take.caption.partition(":")[0] for take in branch.shots] == ["Wide shot", "Medium shot"]
    assert "waits" in session.shots[1].caption  # what slept was undone
    assert session.shots[0] is branch.shots[0]
    assert session.shots[1].seed != branch.shots[1].seed


@pytest.mark.slow
def test_save_and_continue(tmp_path: Path) -> None:
    without_a_break, continued = _example("save_and_continue").main(tmp_path / "story.session")
    assert without_a_break.shape == (9, 48, 80, 3)
    assert np.array_equal(without_a_break, continued)


@pytest.mark.slow
def test_encode_clips(tmp_path: Path) -> None:
    report = _example("encode_clips").main(tmp_path)
    assert (report.num_encoded, report.num_clips, report.bad_clips) == (2, 4, ())
    assert report.is_complete
    assert len(list((tmp_path / "shards").glob("shard-*.tar"))) == 2


@pytest.mark.slow
def test_train_tiny(tmp_path: Path) -> None:
    losses = _example("train_tiny").main(tmp_path)
    assert len(losses) == 4 and losses == sorted(losses, reverse=True)
    names = {path.name for path in (tmp_path / "theatre_codec").iterdir()}
    assert names >= {"config.json", "step_0000020.pt", "step_0000040.pt"}


@pytest.mark.slow
def test_evaluate(tmp_path: Path) -> None:
    report = _example("evaluate").main(tmp_path / "sheet.png", 2)
    assert (tmp_path / "sheet.png").stat().st_size > 0
    for axis in ("set", "time", "framing"):
        row = report.row(axis)
        assert row.count == 4 and row.mean is not None and row.mean > row.chance
    assert report.row("figure").mean > 0.5


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with live_server(tmp_path_factory.mktemp("studio"), pipeline=load("theatre", "cpu")) as port:
        yield f"127.0.0.1:{port}"


@pytest.mark.slow
def test_studio_client(studio: str, tmp_path: Path) -> None:
    assert _example("studio_client").main(studio, tmp_path / "film.mp4") == [9, 12]
    assert len(read_frames(tmp_path / "film.mp4")) == 21
