"""How a command ends: exit codes, and what a person is told, in words that are not Python's."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shotstream import cli
from shotstream.cli.shared import make_console, one_line
from shotstream.film import FilmFiles
from tests.cli.test_cli import complaint, run, tiny

__all__ = ["tiny"]


OURS = "a mistake of the program itself; please report it"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file", "a.yaml"), "a.yaml: No such file"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.EXDEV, "Invalid link", "a", None, "b"), "b: Invalid link"),
        (OSError(errno.ENAMETOOLONG, "Name too long", "x" * 999), f"{'x' * 80}…{'x' * 80}: Name too long"),
        (ValueError("a\n b"), "a b"),
        (
            UnicodeDecodeError("utf-8", b"\x92", 0, 1, "invalid start byte"),
            "a text that is not UTF-8; save it",
        ),
        (json.JSONDecodeError("Expecting value", "a\nb", 2), "a damaged JSON document (line 2)"),
        (KeyError("x"), OURS),
        (TypeError("object of type 'NoneType' has no len()"), OURS),
        (MemoryError(), "there is not enough memory"),
        (
            ModuleNotFoundError("No module named 'peft'", name="peft"),
            "the package peft is missing or damaged",
        ),
        (FloatingPointError("the loss is nan at step 3"), "the loss is nan at step 3"),
        (RuntimeError(), "a fault without a name"),
    ],
)
def test_what_went_wrong_is_told_in_a_persons_words(error: Exception, line: str) -> None:
    assert one_line(error).startswith(line)
    assert not any(word in one_line(error) for word in ("Errno", "codec", "NoneType", "Error"))


def test_names_of_files_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Rich took brackets for its markup and :fox: for a picture."""
    name = "[red]a[/] [bold :fox: 12.mp4"
    make_console().print(name)
    assert capsys.readouterr().err.rstrip("\n") == name


def test_a_film_of_any_name_is_made_and_named(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "[red]a[/] :fox: caf\udce9 \x1b[31m" + "x" * 200
    shown = name.replace("\udce9", r"\udce9").replace("\x1b", r"\x1b")
    (tiny / "[bold].yaml").write_text("global_caption: a forest\nshots: [{caption: a fox, num_chunks: 1}]\n")
    arguments = ("generate", "[bold].yaml", "--model", "./tiny", "--steps", "1", "--scale", "1", "-o")
    assert run(*arguments, f"{name}.mp4") == 0
    said = capsys.readouterr().err
    assert f"{shown}.mp4: 1 shots" in said and f"  {shown}.storyboard.png" in said, said
    assert (tiny / f"{name}.replay.json").exists()


def test_names_that_are_too_long_are_bad_input(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    FilmFiles(film=Path("x" * 234 + ".mp4"))
    with pytest.raises(ValueError, match="is too long; shorten it by 1 bytes"):
        FilmFiles(film=Path("x" * 235 + ".mp4"))
    for arguments, reason in (
        (("generate", f"{long}.yaml"), "File name too long"),
        (
            ("generate", "story.yaml", "--model", "./tiny", "-o", f"{long}.mp4"),
            "too long; shorten it by 66 bytes",
        ),
        (("generate", "story.yaml", "--model", f"./{long}"), "too long"),
        (("data", "encode", f"{long}.csv", "-o", "out"), "File name too long"),
        (("theatre", "write", long), "File name too long"),
        (("verify", long), "too long"),
    ):
        assert run(*arguments) == 2, arguments
        line = complaint(capsys)
        assert reason in line and "Errno" not in line
    assert sorted(path.name for path in tiny.iterdir()) == ["story.yaml", "tiny"]


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_sigterm_ends_a_film_as_ctrl_c_does_with_its_own_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended_by_the_system(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    arguments = ("generate", "story.yaml", "--model", "./tiny", "--steps", "1", "--scale", "1")
    with monkeypatch.context() as patch:
        patch.setattr("shotstream.film.make.draw_storyboard", ended_by_the_system)
        assert run(*arguments) == 143
    assert capsys.readouterr().err.splitlines()[-1] == (
        "shotstream: terminated; 4 finished shots are kept in film.mp4.partial: the same command resumes"
    )
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with monkeypatch.context() as patch:
        patch.setattr("shotstream.film.find_story", ended_by_the_system, raising=False)
        patch.setattr("shotstream.story.find_story", ended_by_the_system)
        assert run(*arguments) == 143
    assert run(*arguments) == 0
    assert "4 of them from before" in capsys.readouterr().err


def test_a_pipe_that_nobody_reads_ends_a_command_without_a_word() -> None:
    code = "from shotstream import cli; cli.main(['theatre', 'vocabulary'])"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_fault_of_the_disk_is_told_without_pythons_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "shards/a\n.tar")

    monkeypatch.setattr("shotstream.theatre.vocabulary.describe", full)
    assert run("theatre", "vocabulary") == 1
    assert complaint(capsys).startswith(r"shotstream: shards/a\n.tar: No space left on device (")
    assert cli.DEBUG_LOG.name == "shotstream-debug.log"


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "shotstream: interrupted\n"), (signal.SIGTERM, 143, "shotstream: terminated\n")],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_command_that_says_nothing_of_its_end_is_not_ended_in_silence(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
    said: str,
) -> None:
    """typer turned both into code 130, without a word."""
    monkeypatch.setattr("shotstream.theatre.vocabulary.describe", lambda: os.kill(os.getpid(), number))
    assert run("theatre", "vocabulary") == code
    assert capsys.readouterr() == ("", said)


def test_a_closed_output_is_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    """A film that was made was told to be a mistake of the program (`>&-`, as some services start it)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert run("theatre", "vocabulary") == 0
    assert capsys.readouterr().err == ""
