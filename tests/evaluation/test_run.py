"""Evaluations: a model that remembers and one that cannot, on the same stories."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shotstream.evaluation.films import held_out_stories, true_films
from shotstream.evaluation.run import EvaluationConfig, evaluate, evaluate_policies, score_films
from shotstream.streaming.loading import load
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.theatre.oracle import AXES, CAPTION_AXES
from shotstream.theatre.world import HELD_OUT
from tests.evaluation.fake_pipeline import FakePipeline

_CONFIG = EvaluationConfig(num_stories=4, num_shots=3, num_chunks=1, seed=2, judge_truth=False)


@pytest.mark.slow
def test_memory_is_what_context_brings(tmp_path: Path) -> None:
    pipeline = FakePipeline(held_out_stories(4, 3, 2))
    told: list[tuple[int, int]] = []
    with_context = evaluate(
        pipeline, _CONFIG, sheet=tmp_path / "sheet.png", progress=lambda *done: told.append(done)
    )
    without = evaluate(pipeline, _CONFIG, context=False)
    assert with_context.row("memory").mean == 1.0
    alone = without.row("memory").mean
    assert alone is not None and alone < 0.6
    for axis in CAPTION_AXES:
        assert with_context.row(axis).mean == without.row(axis).mean == 1.0
    assert told[-1] == (4, 4)
    with Image.open(tmp_path / "sheet.png") as page:
        assert page.width > 700
    found = json.loads(without.json_line())
    assert found["context"] is False and found["model"] == "fake" and found["num_stories"] == 4
    assert set(found["axes"]) == set(AXES)


@pytest.mark.slow
def test_the_world_itself_scores_one_and_is_the_level_of_truth() -> None:
    config = EvaluationConfig(num_stories=2, num_shots=3, num_chunks=1, seed=1)
    report = score_films(true_films(1), config)
    for row in report.rows:
        assert row.mean == row.truth
        assert row.mean is None or row.mean == (0.0 if row.axis == "flicker" else 1.0)


def test_evaluated_stories_are_held_out_and_a_function_of_the_seed() -> None:
    stories = held_out_stories(5, 5, 0)
    assert stories == held_out_stories(8, 5, 0)[:5] != held_out_stories(5, 5, 1)
    for story in stories:
        assert {(actor.species, actor.colour) for actor in story.cast} & HELD_OUT


def test_a_model_of_another_world_is_refused() -> None:
    with pytest.raises(ValueError, match="only the theatre can be judged"):
        evaluate(FakePipeline([], family="wan"), _CONFIG)


def test_numbers_out_of_range_are_refused() -> None:
    for name in ("num_stories", "num_shots", "num_chunks"):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            EvaluationConfig(**{name: 0})
    with pytest.raises(ValueError, match="seed is -1"):
        EvaluationConfig(seed=-1)


def test_frames_of_chunks_are_joined_in_order() -> None:
    stories = held_out_stories(1, 1, 0)
    report = score_films(true_films(2), EvaluationConfig(num_stories=1, num_shots=1, num_chunks=2))
    assert report.row("sharpness").mean == 1.0
    assert len(np.concatenate(true_films(2)(0, stories[0]))) == 21


@pytest.mark.slow
def test_the_codec_alone_bounds_its_models(bundled: StreamingPipeline) -> None:
    """Encoding and decoding the truth keeps places and framings, and loses some edges."""
    config = EvaluationConfig(num_stories=2, num_shots=2, num_chunks=1, codec_only=True, judge_truth=False)
    report = evaluate(bundled, config)
    assert report.row("set").mean == report.row("framing").mean == 1
    assert 0.8 < report.row("sharpness").mean < 1


def test_options_that_the_codec_alone_cannot_follow_are_refused(bundled: StreamingPipeline) -> None:
    with pytest.raises(ValueError, match="generates nothing"):
        evaluate(bundled, EvaluationConfig(codec_only=True), context=False)


@pytest.fixture
def bundled() -> StreamingPipeline:
    return load("theatre", device="cpu")


@pytest.mark.slow
def test_several_policies_are_scored_on_the_same_stories(tmp_path: Path) -> None:
    config = EvaluationConfig(num_stories=1, num_shots=3, num_chunks=1, seed=4, steps=1, returns=True)
    told: list[tuple[int, int]] = []
    reports = evaluate_policies(
        ["theatre", "prompt"],
        config=config,
        device="cpu",
        directory=tmp_path,
        progress=lambda *done: told.append(done),
    )
    assert list(reports) == ["theatre", "prompt"] and told == [(1, 2), (2, 2)]
    for policy, report in reports.items():
        assert report.facts["context_policy"] == policy and report.facts["returns"] is True
        written = json.loads((tmp_path / policy / "report.json").read_text())
        assert written == json.loads(report.json_line())
        assert (tmp_path / policy / "sheet.png").is_file()
        assert sum(count for _, count in report.by_gap.values()) == report.row("memory").count
    assert reports["theatre"].row("set").truth == 1.0 and reports["prompt"].row("set").truth is None
    (alone,) = evaluate_policies(["prompt"], config=replace(config, judge_truth=False)).values()
    assert {**json.loads(alone.json_line()), "wall_s": 0} == {
        **json.loads(reports["prompt"].json_line()),
        "wall_s": 0,
    }


def test_returning_stories_are_held_out_and_a_function_of_the_seed() -> None:
    stories = held_out_stories(3, 12, 0, returns=True)
    assert stories == held_out_stories(5, 12, 0, returns=True)[:3] != held_out_stories(3, 12, 1, returns=True)
    assert all({(actor.species, actor.colour) for actor in story.cast} & HELD_OUT for story in stories)


def test_a_policy_that_can_have_no_effect_or_is_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown context policy 'latest'"):
        EvaluationConfig(policy="latest")
    with pytest.raises(ValueError, match="leave out steps and policy"):
        evaluate_policies(["keys"], config=EvaluationConfig(codec_only=True), directory=tmp_path / "none")
    with pytest.raises(ValueError, match="there is nothing to choose"):
        evaluate(FakePipeline([]), replace(_CONFIG, policy="keys"), context=False)
    assert not (tmp_path / "none").exists()
