"""Ablations: a row changes what it says and nothing else, in every stage; a fork begins where the base is."""

from pathlib import Path

import pytest
import torch

from experiments.ablations import (
    ROWS,
    STAGES,
    RowConfig,
    prepare_row,
    row_recipes,
    run_row,
    table_line,
)
from experiments.shot_embedding import ShotEmbeddingDiT
from shotstream.configs import differing_settings
from shotstream.theatre.oracle import AXES
from shotstream.training.checkpoint import load_checkpoint
from shotstream.training.inputs import trained_model
from shotstream.training.recipes import recipe
from shotstream.training.run import run_recipe
from tests.training.test_run import CODEC, MODEL, STORIES, TEACHER

SMALL = (
    *(f"{stage}:{setting}" for stage in STAGES for setting in MODEL),
    *(
        f"{stage}:{setting}"
        for stage in ("mini_teacher", "mini_ode_pairs", "mini_intra_shot")
        for setting in STORIES
    ),
    "mini_inter_shot:data.batch_size=2",
    "mini_inter_shot:data.num_latent_frames=[3, 6]",
    "mini_ode_pairs:train.num_steps=1",
    "mini_ode_pairs:stage.substeps=1",
    "mini_causal_init:train.num_steps=1",
    "mini_intra_shot:train.num_steps=1",
    "mini_inter_shot:train.num_steps=1",
    "mini_intra_shot:stage.fake_updates=1",
    "mini_inter_shot:stage.fake_updates=1",
    "mini_intra_shot:stage.fake_warmup_steps=0",
    "mini_inter_shot:stage.fake_warmup_steps=0",
    "mini_inter_shot:stage.lora_rank=2",
)


@pytest.mark.parametrize("name", [name for name in ROWS if name != "full"])
def test_a_row_differs_from_the_full_one_in_what_it_says_in_every_stage(name: str) -> None:
    full = {one.name: one for one in row_recipes("full", RowConfig(), 100)}
    row = row_recipes(name, RowConfig(), 100)
    assert [one.name for one in row] == [stage for stage in STAGES if stage not in ROWS[name].left_out]
    for one in row:
        own = set(ROWS[name].pairs) if one.name == "mini_ode_pairs" else set()
        # A model of another class differs as a whole.
        expected = {"model"} if ROWS[name].num_shot_embeddings else set(ROWS[name].changes) | own
        if name == "intra_only" or name == "inter_only":
            expected |= {"inputs.student"} if one.name == "mini_inter_shot" else set()
        assert set(differing_settings(full[one.name], one)) == expected, one.name
    names = {one.name for one in row}
    assert all(inputs in {*names, "theatre_codec"} for one in row for inputs in one.inputs.names())


def test_seeds_reach_every_stage_of_a_row() -> None:
    rows = [row_recipes("full", RowConfig(seed=seed), 100) for seed in (0, 1)]
    for one, other in zip(*rows, strict=True):
        assert differing_settings(one, other) == ["train.seed"], one.name


def test_wrong_rows_and_overrides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no_phase"):
        row_recipes("nothing", RowConfig(), 1)
    with pytest.raises(ValueError, match="names no stage"):
        row_recipes("full", RowConfig(overrides=("train.seed=1",)), 1)
    with pytest.raises(ValueError, match="train theatre_teacher"):
        prepare_row("full", tmp_path, RowConfig())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_row_runs_from_the_shared_teacher_to_its_line_and_goes_on_where_it_was(tmp_path: Path) -> None:
    """The row with a new parameter: at the fork it computes what the base does."""
    run_recipe(recipe("theatre_codec", [*CODEC, "train.num_steps=1"]), tmp_path)
    run_recipe(recipe("theatre_teacher", [*TEACHER, "train.num_steps=2"]), tmp_path)
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
    assert isinstance(student.dit, ShotEmbeddingDiT) and student.dit.config.phase_angle == 0
    line = table_line("shot_embedding", report, AXES)
    assert line.count("|") == len(AXES) + 3 and "learnable embedding" in line
    again = run_row(prepare_row("shot_embedding", tmp_path, config))
    assert [row.mean for row in again.rows] == [row.mean for row in report.rows]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_row_takes_from_the_full_one_what_is_the_same_and_trains_what_is_not(tmp_path: Path) -> None:
    run_recipe(recipe("theatre_codec", [*CODEC, "train.num_steps=1"]), tmp_path)
    run_recipe(recipe("theatre_teacher", [*TEACHER, "train.num_steps=2"]), tmp_path)
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
