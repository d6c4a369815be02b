"""`python -m experiments`: `shotstream` with the ablations, and what `ablate` refuses before it trains."""

from pathlib import Path

import pytest
import torch

from experiments import ablations
from experiments.__main__ import main
from experiments.ablations import ROWS, STAGES, RowConfig, prepare_row, table_header
from shotstream.cli import app
from shotstream.theatre.oracle import AXES
from tests.training.test_checkpoint import poison, write_checkpoint


@pytest.fixture(autouse=True)
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ablate` is added to a list of this test's own."""
    monkeypatch.setattr(app, "registered_commands", [*app.registered_commands])
    monkeypatch.setenv("COLUMNS", "200")


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    out = capsys.readouterr()
    return caught.value.code or 0, out.out, " ".join(out.err.split())


def test_help_names_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "ablate", "--help")
    assert code == 0 and all(name in out for name in ROWS)


@pytest.mark.parametrize("name", STAGES)
def test_the_recipes_are_known_to_train(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "train", name, "--dry-run")
    assert code == 0 and f'"name": "{name}"' in out


def refuse(*_: object) -> None:
    raise AssertionError("something was loaded")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "there is no row 'nothing'; there are full, no_phase, "),
        (("full", "--runs", "{file}"), "is a file, and a directory is needed there"),
        (("full", "--set", "mini_teacher:stage.pace=1"), "there is no setting 'stage.pace'"),
        (("full", "--set", "train.seed=1"), "names no stage"),
    ],
)
def test_what_can_be_found_wrong_is_found_before_anything_is_read(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablations, "load_checkpoint", refuse)
    code, _, err = told(capsys, "ablate", *(one.format(file=tmp_path / "file") for one in arguments))
    assert (code, message in err) == (2, True), err


def test_a_row_that_cannot_be_scored_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    for wrong in ({"num_stories": 0}, {"num_shots": 0}, {"seed": -1}, {"teacher_steps": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RowConfig(**wrong)
    with pytest.raises(ValueError, match="there is no row 'nothing'"):
        prepare_row("nothing", tmp_path, RowConfig())


@pytest.mark.parametrize("form", ["file", "directory"])
def test_the_teacher_that_is_forked_is_never_run(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theatre_teacher").mkdir()
    state = {"weights": {"a": torch.ones(2)}, "ema": {"a": torch.ones(2), "num_updates": 1}}
    path = write_checkpoint(tmp_path / "theatre_teacher" / "step_0000007", 7, state, form)
    poison(path, tmp_path / "victim", "metadata")
    code, _, err = told(capsys, "ablate", "no_phase", "--runs", tmp_path)
    assert code == 2 and "it wants to run posix.mkdir" in err
    assert not (tmp_path / "victim").exists()


def test_rows_of_a_table_stand_under_a_header() -> None:
    header, rule = table_header(AXES).splitlines()
    names = [cell.strip() for cell in header.strip("|").split("|")]
    assert names == ["row", "of the paper", *AXES]
    assert rule == "|" + "---|" * len(names)
