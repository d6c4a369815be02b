"""`train` and `evaluate`: what they offer, what they refuse before loading, what is kept."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shotstream.cli import main
from shotstream.files import require_directory
from shotstream.training import recipes
from shotstream.training.checkpoint import save_atomically
from shotstream.training.recipes import RECIPES
from tests.training.test_loop import Signalled


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    out = capsys.readouterr()
    return caught.value.code or 0, out.out, " ".join(out.err.split())


def test_help_names_every_recipe_and_each_module_makes_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = told(capsys, "train", "--help")
    assert code == 0 and all(name in out for name in RECIPES)
    assert [recipes.recipe(name).name for name in RECIPES] == list(RECIPES)


PROGRAM = """
import sys
from shotstream.cli import main
for arguments in (["train", "cinema"], ["train", "wan_teacher", "--start-from", "no"], ["train", "--help"]):
    try:
        main(arguments)
    except SystemExit as end:
        print(arguments[0], end.code, "torch" in sys.modules)
"""


def test_a_name_that_is_none_is_refused_before_anything_is_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("train ")]
    assert lines == ["train 2 False", "train 2 False", "train 0 False"]
    assert "there is no recipe 'cinema'; there are theatre_codec, " in done.stderr
    assert "no: no such file" in done.stderr


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("something was loaded")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "theatre_codec", "--runs", "{file}"), "is a file, and a directory is needed there"),
        (("train", "theatre_codec", "--runs", "{file}/runs"), "is a file, and a directory is needed there"),
        (("train", "theatre_codec", "--set", "stage.pace=2"), "there is no setting 'stage.pace'"),
        (("train", "theatre_codec", "--set", "data.batch_size=0"), "batch_size is 0"),
        (("train", "theatre_teacher", "--runs", "{empty}"), "run `shotstream train theatre_codec` first"),
        (("train", "theatre_intra_shot", "--runs", "{empty}"), "run `shotstream train theatre_codec` first"),
        (("train", "wan_causal_init", "--runs", "{empty}"), "run `shotstream train wan_teacher` first"),
        (("train", "theatre_intra_shot", "--set", "train.num_steps=20"), "would never learn"),
        (("evaluate", "-o", "{file}"), "is a file, and a directory is needed there"),
        (("evaluate", "--stories", "0"), "num_stories is 0"),
        (("evaluate", "--codec-only", "--no-context"), "codec_only generates nothing"),
        (("evaluate", "--guidance", "2"), "name its run with --run"),
        (("evaluate", "--run", "theatre_teacher", "-o", "{file}"), "is a file, and a directory is needed"),
    ],
)
def test_what_can_be_found_wrong_is_found_before_a_model_is_loaded(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Some of these once came after 44 seconds of loading, one after ten minutes of training."""
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("training.run.build_stage", "evaluation.run.load"):
        monkeypatch.setattr(f"shotstream.{name}", refuse)
    places = {"file": tmp_path / "file", "empty": tmp_path / "empty"}
    code, _, err = told(capsys, *(one.format(**places) for one in arguments))
    assert (code, message in err) == (2, True), err
    assert not list((tmp_path / "empty").iterdir())


def test_a_folder_that_cannot_be_written_is_told_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_directory(tmp_path / "new" / "runs")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} cannot be written to"):
        require_directory(tmp_path / "new" / "runs")


@pytest.mark.parametrize(
    ("event", "saved_before", "code", "message"),
    [
        (signal.SIGINT, None, 130, "interrupted; 3 of 9 steps are kept in {run}/step_0000003.pt; the same"),
        (signal.SIGTERM, None, 0, "stopped at step 3 of 9; 3 of 9 steps are kept in {run}/step_0000003.pt"),
        (KeyboardInterrupt(), None, 130, "interrupted; no step of it is kept; the same command begins again"),
        (
            KeyboardInterrupt(),
            1,
            130,
            "interrupted; 1 of 9 steps are kept in {run}/step_0000001.pt; the same",
        ),
    ],
)
def test_a_run_that_is_stopped_says_what_is_kept_and_how_to_go_on(
    event: signal.Signals | BaseException,
    saved_before: int | None,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also when a second Ctrl-C does not wait for the save: then what is on the disk counts."""
    stage = Signalled(event)  # type: ignore[arg-type]
    monkeypatch.setattr("shotstream.training.run.build_stage", lambda *_: stage)
    run = tmp_path / "theatre_codec"
    if isinstance(event, BaseException):
        if saved_before:
            run.mkdir()
            save_atomically({"step": saved_before, "stage": {"done": saved_before}}, run / "step_0000001.pt")

        def interrupted(step: int) -> dict[str, float]:
            del step
            raise event

        stage.step = interrupted  # type: ignore[method-assign]
    settings = ("train.num_steps=9", "train.tensorboard=false", "train.save_every=9")
    found, _, err = told(
        capsys, "train", "theatre_codec", "--runs", tmp_path, *(x for one in settings for x in ("--set", one))
    )
    assert (found, message.format(run=run) in err) == (code, True), err


@pytest.mark.parametrize(
    ("number", "steps", "code", "said"),
    [
        (signal.SIGINT, 0, 130, "interrupted; no step of it is kept; the same command begins again"),
        (signal.SIGTERM, 4, 143, "terminated; 4 of 9 steps are kept in {run}/step_0000004.pt; the same"),
    ],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_who_ends_a_run_while_it_is_read_is_told_what_is_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    steps: int,
    code: int,
    said: str,
) -> None:
    """It said "nothing was made" of a run with steps on the disk."""
    run = tmp_path / "theatre_codec"
    if steps:
        run.mkdir()
        save_atomically({"step": steps, "stage": {"done": steps}}, run / "step_0000004.pt")
    monkeypatch.setattr("shotstream.training.run.prepare_run", lambda *_, **__: signal.raise_signal(number))
    found, _, err = told(capsys, "train", "theatre_codec", "--runs", tmp_path, "--set", "train.num_steps=9")
    assert (found, err.startswith(f"shotstream: {said.format(run=run)}")) == (code, True), err


def test_a_run_that_stops_where_it_was_told_or_has_nothing_left_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shotstream.training.run.build_stage", lambda *_: Signalled(ValueError("unreached")))
    base = ("train", "theatre_codec", "--runs", tmp_path, "--set", "train.tensorboard=false")
    for settings, message in (
        (("train.num_steps=9", "train.stop_at=1"), "stopped at step 1 of 9, as train.stop_at says"),
        (("train.num_steps=2",), "theatre_codec: 2 steps done; "),
        (("train.num_steps=2",), "theatre_codec: 2 steps done before, so nothing was left to do"),
    ):
        code, _, err = told(capsys, *base, *(x for one in settings for x in ("--set", one)))
        assert (code, message in err) == (0, True), err
