"""Students on the command line: listed, imported by name, and the same film again from a replay."""

import json
from pathlib import Path

import pytest
import torch

from shotstream.weights.bundle import read_bundle
from shotstream.weights.students import STUDENTS
from tests.cli.test_cli import STORY, complaint, run
from tests.streaming.test_pipeline import write_tiny
from tests.streaming.tiny import tiny_pipeline
from tests.weights.conftest import TinyModel
from tests.weights.test_students import checkpoint


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHOTSTREAM_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_models_are_listed_with_what_is_installed_and_what_was_checked(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny, student = TinyModel(), STUDENTS["rolling-forcing"]
    tiny.write_diffusers(home / "wan")
    torch.save(checkpoint(student, tiny.dit), home / "student.pt")
    asked = ("weights", "import", "wan", "--as", "rolling-forcing", "--checkpoint", "student.pt")
    assert run(*asked) == 0
    said = capsys.readouterr().err
    assert "student.pt: taken: generator_ema" in said and "check that it is this one" in said
    assert "base model" not in said
    assert run("models") == 0
    lines = capsys.readouterr().out.splitlines()
    [listed] = [line.split() for line in lines if line.startswith("rolling-forcing")]
    assert listed == ["rolling-forcing", "Tencent's", "own", "1.3B", "5", "21", "/", "3", "goldens", "yes"]
    assert max(map(len, lines[:16])) <= 80
    assert run("models", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in document["students"]] == list(STUDENTS)
    assert [row["name"] for row in document["students"] if row["is_installed"]] == ["rolling-forcing"]
    assert document["others_installed"] == ["theatre"]
    assert {row["checkpoint_was_run"] for row in document["students"]} == {False}
    assert document["students"][1]["rules"]["steps"] == [1000, 750, 500, 250]
    assert run("weights", "show", "rolling-forcing") == 0
    assert "student: rolling-forcing" in capsys.readouterr().out.splitlines()
    config = read_bundle(home / "home/models/rolling-forcing", parts=()).config
    assert config["engine"]["rules"]["rolling"] is True


def test_a_students_file_of_another_student_is_told_in_one_line(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = TinyModel()
    tiny.write_diffusers(home / "wan")
    torch.save(checkpoint(STUDENTS["causal-forcing"], tiny.dit), home / "student.pt")
    asked = ("weights", "import", "wan", "--as", "causal-forcing-1step", "--checkpoint", "student.pt")
    assert run(*asked) == 2
    assert "holds generator.model, and this model's weights are in generator_ema" in complaint(capsys)
    assert run("weights", "import", "wan", "--as", "krea-14b") == 2
    assert "krea-14b makes no film here" in complaint(capsys)
    assert not (home / "home").exists()


@pytest.mark.parametrize("name", ["self-forcing", "reward-forcing"])
def test_a_film_of_a_student_is_made_and_its_replay_gives_the_same_frames(
    home: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    write_tiny(home / "tiny", tiny_pipeline(rules=STUDENTS[name].rules))
    (home / "story.yaml").write_text(STORY)
    options = ("--model", "./tiny", "--device", "cpu", "--scale", "1")
    assert run("generate", "story.yaml", *options) == 0
    assert "film.mp4: 4 shots" in capsys.readouterr().err
    assert run("generate", "film.replay.json", *options, "-o", "again.mp4") == 0
    assert "every frame equals the replay's" in capsys.readouterr().err


def test_a_story_with_a_shot_that_is_too_long_is_refused_before_anything_is_made(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny(home / "tiny", tiny_pipeline(rules=STUDENTS["self-forcing"].rules))
    (home / "story.yaml").write_text(STORY.replace("num_chunks: 6", "num_chunks: 8"))
    assert run("generate", "story.yaml", "--model", "./tiny", "--device", "cpu") == 2
    assert "8 chunks; this model's shots have at most 7" in complaint(capsys)
    assert sorted(path.name for path in home.iterdir()) == ["story.yaml", "tiny"]
