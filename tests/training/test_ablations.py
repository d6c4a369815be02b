"""Ablations: a row changes what it says and nothing else, in every stage; a fork begins where the base is."""

from pathlib import Path

import pytest
import torch

from shotstream.theatre.oracle import AXES
from shotstream.training.ablations import (
    ROWS,
    STAGES,
    RowConfig,
    prepare_row,
    row_recipes,
    run_row,
    table_line,
)
from shotstream.training.checkpoint import load_checkpoint
from shotstream.training.recipes import recipe, to_document
from shotstream.training.run import run_recipe, trained_model
from tests.training.test_run import CODEC, TEACHER
from tests.training.test_student import nested

PLACES = ("", "teacher.", "pairs.teacher.", "dmd.teacher.", "dmd.teacher.")
SMALL = (
    *(f"{stage}:{setting}" for stage, place in zip(STAGES, PLACES, strict=True) for setting in nested(place)),
    "mini_ode_pairs:loop.num_steps=1",
    "mini_ode_pairs:stage.substeps=1",
    "mini_causal_init:stage.pairs.substeps=1",
    "mini_causal_init:loop.num_steps=1",
    "mini_causal_init:stage.num_steps=1",
    "mini_intra_shot:loop.num_steps=1",
    "mini_inter_shot:loop.num_steps=1",
    "mini_intra_shot:stage.dmd.fake_updates=1",
    "mini_inter_shot:stage.dmd.fake_updates=1",
    "mini_intra_shot:stage.dmd.fake_warmup_steps=0",
    "mini_inter_shot:stage.dmd.fake_warmup_steps=0",
    "mini_inter_shot:stage.lora_rank=2",
)


def leaves(value: object, path: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, object] = {}
    for name, part in value.items():
        found |= leaves(part, f"{path}.{name}")
    return found


@pytest.mark.parametrize("name", [name for name in ROWS if name != "full"])
def test_a_row_differs_from_the_full_one_in_what_it_says_in_every_stage(name: str) -> None:
    full = {one.name: one for one in row_recipes("full", RowConfig(), 100)}
    row = row_recipes(name, RowConfig(), 100)
    assert [one.name for one in row] == [stage for stage in STAGES if stage not in ROWS[name].left_out]
    for one in row:
        changed, old = leaves(to_document(one.stage)), leaves(to_document(full[one.name].stage))
        differing = {key.partition("teacher.")[2] or key[1:] for key in old if changed[key] != old[key]}
        pairs = {"mini_ode_pairs": "", "mini_causal_init": "pairs."}.get(one.name)
        own = {f"{pairs}{key}" for key in ROWS[name].pairs} if pairs is not None else set()
        assert differing == set(ROWS[name].changes) | own, one.name
    names = {one.name for one in row}
    assert all(inputs in {*names, "theatre_codec", "theatre_text"} for one in row for inputs in one.inputs)


def test_seeds_reach_every_stage_of_a_row() -> None:
    rows = [row_recipes("full", RowConfig(seed=seed), 100) for seed in (0, 1)]
    for one, other in zip(*rows, strict=True):
        old, new = leaves(to_document(one.stage)), leaves(to_document(other.stage))
        assert {key.rpartition(".")[2] for key in old if old[key] != new[key]} == {"seed"}, one.name


def test_wrong_rows_and_overrides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no_phase"):
        row_recipes("nothing", RowConfig(), 1)
    with pytest.raises(ValueError, match="names no stage"):
        row_recipes("full", RowConfig(overrides=("stage.seed=1",)), 1)
    with pytest.raises(ValueError, match="train theatre_teacher"):
        prepare_row("full", tmp_path, RowConfig())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_row_runs_from_the_shared_teacher_to_its_line_and_goes_on_where_it_was(tmp_path: Path) -> None:
    """The row with a new parameter: at the fork it computes what the base does."""
    run_recipe(recipe("theatre_codec", [*CODEC, "loop.num_steps=1"]), tmp_path)
    run_recipe(recipe("theatre_teacher", [*TEACHER, "loop.num_steps=2"]), tmp_path)
    config = RowConfig(teacher_steps=1, overrides=SMALL, num_stories=1, num_shots=2)
    prepared = prepare_row("shot_embedding", tmp_path, config)
    step, forked = load_checkpoint(prepared.directory / "fork.pt")
    _, base = load_checkpoint(tmp_path / "theatre_teacher" / "step_0000002.pt")
    assert step == 2 and not forked["weights"].pop("dit.shot_embedding.weight").any()
    assert forked["weights"].keys() == base["weights"].keys()
    average = forked["ema"]
    assert average["num_updates"] == 0
    assert all(
        torch.equal(forked["weights"][name], base["ema"].get(name, value))
        for name, value in base["weights"].items()
    )
    report = run_row(prepared)
    student = trained_model(prepared.directory, "mini_inter_shot")
    assert student.dit.shot_embedding is not None and student.dit.config.phase_angle == 0
    line = table_line("shot_embedding", report, AXES)
    assert line.count("|") == len(AXES) + 3 and "learnable embedding" in line
    again = run_row(prepare_row("shot_embedding", tmp_path, config))
    assert [row.mean for row in again.rows] == [row.mean for row in report.rows]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_row_takes_from_the_full_one_what_is_the_same_and_trains_what_is_not(tmp_path: Path) -> None:
    run_recipe(recipe("theatre_codec", [*CODEC, "loop.num_steps=1"]), tmp_path)
    run_recipe(recipe("theatre_teacher", [*TEACHER, "loop.num_steps=2"]), tmp_path)
    config = RowConfig(teacher_steps=1, overrides=SMALL, num_stories=1, num_shots=2)
    run_row(prepare_row("full", tmp_path, config))
    taken: dict[str, set[str]] = {}
    for name in ("inter_only", "published_init", "no_phase"):
        prepared = prepare_row(name, tmp_path, config)
        run_row(prepared)
        taken[name] = {path.parent.name for path in prepared.directory.glob("*/adopted")}
    assert taken == {
        "inter_only": {"mini_teacher", "mini_ode_pairs", "mini_causal_init"},
        "published_init": {"mini_teacher"},
        "no_phase": set(),
    }
