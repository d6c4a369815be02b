"""The command as a person meets it: exit codes, one line for each thing that is wrong, films that go on."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shotstream import cli
from shotstream.film import Progress, read_replay
from shotstream.film.live import LiveView
from tests import forked
from tests.streaming.test_pipeline import write_tiny
from tests.streaming.tiny import tiny_pipeline

GOLDENS = Path(__file__).parents[1] / "assets" / "goldens"
STORY = """
title: A fox
global_caption: a forest night
shots:
  - a fox walks
  - {caption: a fox sleeps, num_chunks: 1}
  - {caption: a owl flies, num_chunks: 6}
  - a owl sleeps
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a bundle of tiny random weights and a story of the words it knows."""
    write_tiny(tmp_path / "tiny", tiny_pipeline())
    (tmp_path / "story.yaml").write_text(STORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    """The exit code of the command, run in this process."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that was said."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_film_is_made_and_its_replay_gives_the_same_frames(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("generate", "story.yaml", "--model", "./tiny", "--device", "cpu", "--scale", "2") == 0
    said = capsys.readouterr().err
    assert "film.mp4: 4 shots" in said and "shot 4/4" in said
    assert "warning" not in said
    assert said.count("first frame after") == 1
    assert run("generate", "film.replay.json", "-o", "again.mp4", "--model", "./tiny", "--scale", "2") == 0
    assert "every frame equals the replay's" in capsys.readouterr().err
    assert read_replay(tiny / "again.replay.json") == read_replay(tiny / "film.replay.json")


_LONG = ("a owl flies", "a fox walks", *["a owl sleeps"] * 4, "a fox walks")


def test_a_film_of_another_policy_is_another_film_and_its_replay_gives_the_same_frames(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shots = "".join(f"  - {{caption: {one}, num_chunks: 1}}\n" for one in _LONG)
    (tiny / "long.yaml").write_text(f"title: A fox\nglobal_caption: a forest night\nshots:\n{shots}")
    made = ("generate", "long.yaml", "--model", "./tiny", "--steps", "1", "--scale", "1")
    assert run(*made) == 0
    assert run(*made, "-o", "prompt.mp4", "--context-policy", "prompt") == 0
    theatre, prompt = (read_replay(tiny / f"{name}.replay.json") for name in ("film", "prompt"))
    assert (theatre.plan.context_policy, prompt.plan.context_policy) == ("theatre", "prompt")
    assert theatre.frame_sha256[0] == prompt.frame_sha256[0]
    assert theatre.frame_sha256[6] != prompt.frame_sha256[6]
    capsys.readouterr()
    again = ("generate", "prompt.replay.json", "-o", "again.mp4", "--model", "./tiny", "--scale", "1")
    assert run(*again) == 0
    assert "every frame equals the replay's" in capsys.readouterr().err
    assert read_replay(tiny / "again.replay.json") == prompt


@pytest.mark.slow
def test_a_replay_is_never_overwritten_by_the_film_that_it_checks(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("generate", "story.yaml", "--model", "./tiny", "--steps", "1", "--scale", "1") == 0
    before = (tiny / "film.replay.json").read_bytes()
    assert run("generate", "film.replay.json", "--model", "./tiny", "--overwrite") == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert (tiny / "film.replay.json").read_bytes() == before


@pytest.mark.slow
def test_a_replay_whose_frames_come_out_different_is_a_fault(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("generate", "story.yaml", "--model", "./tiny", "--steps", "1", "--scale", "1") == 0
    path = tiny / "film.replay.json"
    document = json.loads(path.read_text())
    document["frame_sha256"][1][3] = "0" * 64
    path.write_text(json.dumps(document))
    assert run("generate", "film.replay.json", "-o", "again.mp4", "--model", "./tiny", "--scale", "1") == 1
    assert "1 frames differ from the replay's, the first one: shot 2, frame 3" in capsys.readouterr().err


@pytest.mark.slow
def test_a_film_killed_in_its_third_shot_goes_on_to_equal_hashes(tiny: Path) -> None:
    command = ["-m", "shotstream.cli", "generate", "story.yaml", "--model", "./tiny", "--scale=1"]
    process = forked.Forked([*command, "-o", "killed.mp4"], stderr=subprocess.PIPE)
    deadline_s = time.monotonic() + 120
    while not (tiny / "killed.mp4.partial" / "shot_0001.json").exists() and time.monotonic() < deadline_s:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tiny / "killed.mp4").exists()
    resumed = forked.run([*command, "-o", "killed.mp4"])
    assert resumed.returncode == 0, resumed.stderr
    assert "4 shots, 2 of them from before" in resumed.stderr
    assert forked.run([*command, "-o", "whole.mp4"]).returncode == 0
    assert read_replay(tiny / "killed.replay.json") == read_replay(tiny / "whole.replay.json")


@pytest.mark.slow
def test_the_published_examples_are_filmed_with_one_warning_of_each_kind(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = Path(__file__).parents[1] / "assets" / "stories" / "02.json"
    assert run("generate", str(example), "--model", "./tiny", "--steps", "1", "--scale", "1") == 0
    said = capsys.readouterr().err
    assert said.count("warning: words that the model does not know") == 1
    assert said.count("warning: captions longer than the 6 tokens") == 1
    assert (tiny / "film.mp4").exists()


def test_a_published_sample_is_filmed_and_what_was_not_read_is_told_once(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny / "01.json").write_text(
        '{"sample_id": "0", "frames_per_shot": [9, 20], "global_caption": "a forest night", '
        '"shot1": "a fox walks", "Shot2": "a owl flies"}'
    )
    assert run("generate", "01.json", "--model", "./tiny", "--steps", "1", "--scale", "1") == 0
    said = capsys.readouterr().err
    assert said.count("warning") == 2
    assert "warning: keys that are not read: 'sample_id'\n" in said
    assert "warning: frames_per_shot that do not fill whole chunks: 20 become 21\n" in said
    assert [len(shot) for shot in read_replay(tiny / "film.replay.json").frame_sha256] == [9, 21]


def test_an_existing_film_is_kept(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "film.mp4").write_text("mine")
    assert run("generate", "story.yaml", "--model", "./tiny") == 2
    assert "film.mp4 exists; give --overwrite" in complaint(capsys)
    assert (tiny / "film.mp4").read_text() == "mine"


@pytest.mark.parametrize(
    ("story", "reason"),
    [
        (b"global_caption: a\nshots: []\n", "a story of 0 shots"),
        (b"global_caption: a\nshots: ['']\n", "shot 1: caption is empty"),
        (b"global_caption: a\nshots: [{num_chunks: 1}]\n", "shot 1: 'caption' is missing"),
        (b"global_caption: a\nshots: [b]\nseed: 1e3\n", "seed is 1e3; write a whole number"),
        (b"global_caption: a\nshots:\n  - a fox # walks\n", "line 3: YAML ends the text before '#'"),
        (b"global_caption: \xff\n", "line 1: not UTF-8"),
        (b"a fox walks\na fox sleeps\n", "2 lines of text; write global_caption"),
    ],
)
def test_bad_stories_are_bad_input(
    tiny: Path, capsys: pytest.CaptureFixture[str], story: bytes, reason: str
) -> None:
    (tiny / "story.yaml").write_bytes(story)
    assert run("generate", "story.yaml", "--model", "./tiny") == 2
    assert reason in complaint(capsys)
    assert not (tiny / "film.mp4.partial").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("generate", "absent.yaml"), "no such file"),
        (("generate", "story.yaml", "-o", "film.mov"), "ends in .mp4"),
        (("generate", "story.yaml", "--model", "./absent"), "absent"),
        (("generate", "story.yaml", "--model", "./tiny", "--device", "cuda:99"), "cuda"),
        (("generate", "story.yaml", "--model", "./tiny", "--device", "abacus"), "abacus"),
        (("generate", "story.yaml", "--scale", "0"), "--scale"),
        (("generate", "story.yaml", "--sead", "1"), "--sead"),
        (
            ("generate", "story.yaml", "--model", "./tiny", "--precision", "int5"),
            "precision is 'int5'; give auto, float32, bfloat16 or float8",
        ),
        (
            ("generate", "story.yaml", "--model", "./tiny", "--attention", "magic"),
            "attention is 'magic'; give sdpa, cudnn or eight-bit",
        ),
        (("generate", "story.yaml", "--model", "./tiny", "--attention", "cudnn"), "needs a CUDA device"),
        (("generate", "story.yaml", "--model", "./tiny", "--attention", "cudnn"), "CUDA device"),
        (("evaluate", "--run", "absent", "--memory", "low"), "do not apply to a training run"),
        (("evaluate", "--context-policy", "latest"), "unknown context policy 'latest'; known: keys, prompt"),
        (("evaluate", "--no-context", "--context-policy", "keys"), "there is nothing to choose"),
        (("evaluate", "--codec-only", "--context-policy", "keys"), "codec_only generates nothing"),
        (("evaluate", "--steering", "--references"), "--steering steers one shot of each story"),
        (("evaluate", "--steering", "--shots", "9"), "--steering steers one shot of each story"),
        (("evaluate", "--mode", "blend"), "--mode says how shots are steered; give --steering too"),
        (
            ("evaluate", "--context-policy", "keys", "--context-policy", "prompt", "--no-context"),
            "several policies are compared on a model with context",
        ),
        (("generate", "story.yaml", "--float8-cache"), "Give --memory lowest."),
        (("serve", "--weights", "float8"), "Give --precision float8 or --memory lowest."),
        (("bench", "generate", "--dtype", "bfloat16"), "Give --precision."),
        (("serve", "--model", "./tiny", "--attention", "cudnn"), "needs a CUDA device"),
        (("bench", "cut", "--memory", "none"), "memory is 'none'; give auto, low or lowest"),
        (("generate",), "Missing argument"),
        (("genrate",), "No such command"),
        (("verify", "absent"), "no such directory"),
        (("verify", ".", "--dtype", "int8"), "int8"),
        (("train", "absent"), "there is no recipe 'absent'"),
        (("weights", "show", "./absent"), "absent"),
        (("weights", "import", "absent"), "no such directory"),
    ],
)
def test_bad_arguments_are_bad_input(
    tiny: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], reason: str
) -> None:
    assert run(*arguments) == 2
    assert reason in complaint(capsys)
    assert sorted(path.name for path in tiny.iterdir()) == ["story.yaml", "tiny"]


def test_a_damaged_bundle_is_bad_input(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tiny / "tiny" / "dit.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert run("generate", "story.yaml", "--model", "./tiny") == 2
    assert "sha256" in complaint(capsys)
    weights.write_bytes(content[:100])
    assert run("generate", "story.yaml", "--model", "./tiny") == 2
    assert "dit.safetensors" in complaint(capsys)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_unfinished_work_of_another_film_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shotstream.film.make.draw_storyboard", interrupt)
        assert run("generate", "story.yaml", "--model", "./tiny", "--steps", "1", "--scale", "1") == 130
    said = capsys.readouterr().err
    assert "interrupted; 4 finished shots are kept in film.mp4.partial: the same command resumes" in said
    assert (
        run("generate", "story.yaml", "--model", "./tiny", "--steps", "1", "--scale", "1", "--seed", "8") == 2
    )
    assert "unfinished work with another seed" in complaint(capsys)
    assert run("generate", "story.yaml", "--model", "./tiny", "--steps", "1", "--scale", "1") == 0
    assert "4 of them from before" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_a_full_disk_is_a_fault_and_finished_shots_stay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shotstream.film.make.draw_storyboard", full)
        assert run("generate", "story.yaml", "--model", "./tiny", "--steps", "1", "--scale", "1") == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "No space left on device; 4 finished shots are kept in film.mp4.partial" in said
    assert run("generate", "story.yaml", "--model", "./tiny", "--steps", "1", "--scale", "1") == 0


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("stop", "word", "code"),
    [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_who_ends_a_film_is_told_what_is_kept(
    capsys: pytest.CaptureFixture[str], stop: signal.Signals, word: str, code: int
) -> None:
    arguments = ("generate", "story.yaml", "--model", "./tiny", "--steps", "1", "--scale", "1")
    shown = LiveView.__call__

    def end_in(shot: int) -> Callable[[LiveView, Progress], None]:
        def call(view: LiveView, progress: Progress) -> None:
            shown(view, progress)
            if (progress.shot_index, progress.chunk_index) == (shot, 0):
                os.kill(os.getpid(), stop)
                time.sleep(10)

        return call

    def last_line() -> str:
        return capsys.readouterr().err.strip().splitlines()[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveView, "__call__", end_in(0))
        assert run(*arguments) == code
        assert last_line() == (
            f"shotstream: {word}; no shot was finished, and nothing is kept: the same command starts again"
        )
        patch.setattr(LiveView, "__call__", end_in(1))
        assert run(*arguments) == code
        kept = "finished shot is kept in film.mp4.partial: the same command resumes"
        assert last_line() == f"shotstream: {word}; 1 {kept}"
        patch.setattr(LiveView, "__call__", end_in(3))
        assert run(*arguments) == code
        kept = "finished shots are kept in film.mp4.partial: the same command resumes"
        assert last_line() == f"shotstream: {word}; 3 {kept}"

        def end(*_: object) -> None:
            os.kill(os.getpid(), stop)
            time.sleep(10)

        patch.setattr(sys.modules["shotstream.cli.generate"], "load_warm", end)
        assert run(*arguments) == code
        assert last_line() == f"shotstream: {word}; 3 {kept}"
    assert run(*arguments) == 0
    assert "4 shots, 3 of them from before" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EIO])
def test_what_is_kept_is_looked_up_when_a_disk_fails(capsys: pytest.CaptureFixture[str], number: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), "somewhere")

    for function in ("shotstream.film.workdir.make_atomically", "shotstream.film.make.WorkDir"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(function, fail)
            assert run("generate", "story.yaml", "--model", "./tiny", "--steps", "1", "--scale", "1") == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said == (
            f"shotstream: film.mp4: {os.strerror(number)}; no shot was finished, and nothing is kept: "
            "the same command starts again"
        )


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("story.yaml/film.mp4", "story.yaml is a file, and no directory for a film; give another name"),
        ("x" * 235 + ".mp4", "is too long; shorten it by 1 bytes"),
        ("狐" * 80 + ".mp4", "is too long; shorten it by 6 bytes"),
        ("/proc/films/film.mp4", "/proc"),
    ],
)
def test_a_place_where_no_film_can_be_is_told_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, output: str, reason: str
) -> None:
    monkeypatch.setattr(sys.modules["shotstream.cli.generate"], "load_warm", None)
    if output.startswith("/proc"):
        monkeypatch.setattr(os, "access", lambda path, _: str(path) != "/proc")
    assert run("generate", "story.yaml", "--model", "./tiny", "-o", output) == 2
    said = complaint(capsys)
    assert reason in said and "Errno" not in said


@pytest.mark.slow
def test_a_fault_of_ours_is_one_line_and_its_traceback_goes_to_the_log(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug\nin two lines")

    monkeypatch.setattr("shotstream.film.make.draw_storyboard", broken)
    arguments = ("generate", "story.yaml", "--model", "./tiny", "--steps", "1", "--scale", "1")
    assert run(*arguments) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("shotstream: a bug in two lines (")
    assert not (tiny / cli.DEBUG_LOG).exists()
    assert run("--debug", *arguments) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert "in two lines" in (tiny / cli.DEBUG_LOG).read_text()


@pytest.mark.goldens
def test_verify_passes_on_the_goldens_and_fails_on_nothing_and_on_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good").mkdir()
    golden = GOLDENS / "schedule.safetensors"
    content = golden.read_bytes()
    (tmp_path / "good" / golden.name).write_bytes(content)
    assert run("verify", str(tmp_path / "good")) == 0
    assert "all within tolerance" in capsys.readouterr().out
    (tmp_path / "good" / "[x].safetensors").write_bytes(content[:-16])
    assert run("verify", str(tmp_path / "good")) == 1
    shown = capsys.readouterr().out
    assert "[x].safetensors" in shown and "\\[" not in shown
    (tmp_path / "empty").mkdir()
    assert run("verify", str(tmp_path / "empty")) == 1
    assert "comparisons failed" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shotstream.verify.bundled_goldens", lambda: tmp_path / "good")
        assert run("verify") == 1
    assert "[x].safetensors" in capsys.readouterr().out


def test_a_caption_is_read_and_what_is_not_there_is_refused_if_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cast = ("--global", "Bruno, the grey bear, lives in the city.")
    assert run("theatre", "read", "Close-up: Bruno waves to a dragon.", *cast) == 0
    *told, line = capsys.readouterr().out.splitlines()
    assert told[0].endswith("the grey bear waves.") and any("dragon: frog?" in text for text in told)
    assert json.loads(line) == {
        "place": "city",
        "time": None,
        "framing": "close-up",
        "camera": None,
        "actors": [{"species": "bear", "colour": "grey", "action": "waves", "staging": None}],
        "unknown": ["dragon"],
    }
    assert run("theatre", "read", "Bruno sleeps.", *cast, "--json") == 0
    assert json.loads(capsys.readouterr().out)["actors"][0]["action"] == "sleeps"
    assert run("theatre", "read", "A dragon waves.", "--strict") == 2
    assert "dragon: frog?" in complaint(capsys)


@pytest.mark.slow
def test_a_film_tells_what_it_understood_and_strictly_makes_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny(tmp_path / "reader", tiny_pipeline(reads=True))
    monkeypatch.chdir(tmp_path)
    story = "global_caption: Zed is a red robot in town.\nshots: [He waves at noon., A dragon by day.]"
    (tmp_path / "story.yaml").write_text(story)
    command = (
        "generate",
        "story.yaml",
        "--model",
        "./reader",
        "--device",
        "cpu",
        "--scale",
        "1",
        "--steps",
        "1",
    )
    assert run(*command, "--strict") == 2
    assert "dragon: frog?" in complaint(capsys) and not (tmp_path / "film.mp4").exists()
    assert run(*command) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "shot 1: Medium shot in the city by day: the red robot waves." in said
    assert '"actions"' not in said and '"colour": "red", "action": "waves"' in said
    assert "warning: not in this world: dragon: frog? (shot 2)" in said


@pytest.mark.usefixtures("tiny")
def test_models_and_vocabulary_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("weights", "show", "./tiny") == 0
    assert "dit: " in capsys.readouterr().out
    assert run("weights", "show") == 0
    assert "theatre" in capsys.readouterr().out
    assert run("theatre", "vocabulary") == 0
    words = capsys.readouterr().out.split()
    assert "fox" in words and "close-up" in words and "colours" in words


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_measurements_end_in_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("bench", "generate", "--model", "./tiny", "--stories", "1", "--shots", "1", "--scale", "1")
    assert run(*arguments) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["num_frames"] == 21
    assert run("evaluate", "--model", "./tiny", "--stories", "0") == 2
    assert "num_stories is 0" in complaint(capsys)


def test_help_comes_without_loading_torch() -> None:
    code = "import sys, shotstream.cli; sys.exit('torch' in sys.modules or 'rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_a_command_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert "generate" in capsys.readouterr().out
    assert run("--version") == 0
