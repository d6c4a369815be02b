"""Runs are scored as they stand: a teacher by whole shots on its own history, a student by streaming."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shotstream import cli
from shotstream.evaluation.films import held_out_stories, true_films
from shotstream.evaluation.run import EvaluationConfig, score_films
from shotstream.training.films import teacher_films, theatre_pipeline
from shotstream.training.inputs import input_codec, trained_model
from shotstream.training.previews import held_out_stories as held_out_stories_of
from shotstream.training.previews import sample_shots
from shotstream.training.run import run_recipe
from shotstream.training.scores import evaluate_run
from shotstream.training.stage_builders import build_stage
from shotstream.training.stages.teacher import TeacherStage
from tests.training.test_run import codec, teacher
from tests.training.test_student import pairs, student


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs")
    for recipe in (codec(1), teacher(1), pairs(1), student(1)):
        run_recipe(recipe, directory)
    return directory


@pytest.mark.slow
def test_a_teacher_films_on_its_own_history(runs: Path) -> None:
    model = trained_model(runs, "theatre_teacher")
    torch.nn.init.normal_(model.dit.head.head.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    pipeline = theatre_pipeline(input_codec(runs), model, teacher(1).model, (1000, 500))
    (story,) = held_out_stories(1, 3, 0)
    films = {
        context: teacher_films(pipeline, context=context, num_chunks=1, num_steps=2)(0, story)
        for context in (True, False)
    }
    assert [len(take) for take in films[True]] == [9, 9, 9]
    assert np.array_equal(films[True][0], films[False][0])
    assert not np.array_equal(films[True][1], films[False][1])
    plain = teacher_films(pipeline, num_chunks=1, num_steps=2, guidance=1.0)(0, story)
    assert not np.array_equal(films[True][0], plain[0])
    by_context = teacher_films(pipeline, num_chunks=1, num_steps=2, context_guidance=2.0)(0, story)
    assert np.array_equal(films[True][0], by_context[0]), "a first shot has no context"
    assert not np.array_equal(films[True][1], by_context[1])


def test_previews_of_a_teacher_are_guided_away_from_empty_captions(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As training drops captions, and not from an embedding that no caption has."""
    stage = build_stage(teacher(1), runs)
    assert isinstance(stage, TeacherStage)
    (story,) = held_out_stories_of(input_codec(runs), 6)[:1]
    asked: list[list[list[str]]] = []
    original = stage.model.embed

    def embed(rows: list[list[str]]) -> Tensor:
        asked.append(rows)
        return original(rows)

    monkeypatch.setattr(stage.model, "embed", embed)
    sample_shots(stage, stage.model, [(story, 0), (story, 1)], num_steps=1, guidance=1.5)
    given, free = asked
    assert [len(rows) for rows in free] == [len(rows) for rows in given] == [1, 2]
    assert all(given[1]) and not any(text for rows in free for text in rows)


@pytest.mark.slow
def test_teachers_and_students_are_scored_and_say_how_they_filmed(runs: Path) -> None:
    config = EvaluationConfig(num_stories=1, num_shots=2, num_chunks=1, judge_truth=False)
    one = evaluate_run("theatre_teacher", runs, config, sampler_steps=2)
    assert one.facts["sampler_steps"] == 2 and one.facts["context_guidance"] == 1.0
    assert one.facts["checkpoint"].startswith("step_")
    other = evaluate_run("theatre_causal_init", runs, config)
    assert other.facts["num_steps"] == 4
    assert len(other.by_shot["characters"]) == 2


@pytest.mark.slow
def test_captions_are_taken_away_by_telling_those_of_another_story(runs: Path) -> None:
    """What follows captions suffers, whatever is judged; a student is told them too."""
    config = EvaluationConfig(num_stories=6, num_shots=2, num_chunks=1, judge_truth=False)
    astray = replace(config, other_captions=True)
    own, other = (score_films(true_films(1), one) for one in (config, astray))
    means = [{row.axis: row.mean for row in report.rows} for report in (own, other)]
    assert means[0]["action"] == 1.0 and (means[1]["action"] or 0.0) < 0.7
    assert means[0]["cut"] == means[1]["cut"]
    small = replace(astray, num_stories=1)
    assert evaluate_run("theatre_causal_init", runs, small).facts["other_captions"] is True
    with pytest.raises(ValueError, match="does not read captions"):
        replace(astray, codec_only=True)


def test_what_cannot_be_scored_is_bad_input(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, message in (("theatre_codec", "makes no model"), ("theatre_inter_shot", "holds no run")):
        with pytest.raises(SystemExit) as ended:
            cli.main(["evaluate", "--run", name, "--runs", str(runs), "--stories", "1"])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
