"""Reports: means, intervals and levels of chance."""

import json
from dataclasses import replace

import numpy as np
import pytest

from shotstream.evaluation.films import held_out_stories
from shotstream.evaluation.report import chance_levels, gap_header, interval, make_report
from shotstream.theatre.oracle import AXES, Axis, Recalled, Scores, Verdict
from shotstream.theatre.render import FRAMINGS
from shotstream.theatre.world import TheatreStory


def _scores(value: float) -> Scores:
    scores: dict[Axis, tuple[float, ...]] = dict.fromkeys(AXES, (value, value))
    scores["scarf"], scores["layout"], scores["staging"] = (value,), (value,) * 3, ()
    return scores


def test_the_interval_holds_the_mean_and_narrows_with_more_stories() -> None:
    rng = np.random.default_rng(0)
    few = [tuple(rng.random(5)) for _ in range(10)]
    many = few * 20
    mean, low, high, count = interval(few)
    assert mean is not None and low is not None and high is not None
    assert low < mean < high and count == 50
    _, other_low, other_high, _ = interval(many)
    assert other_low is not None and other_high is not None
    assert other_high - other_low < 0.4 * (high - low)


def test_stories_count_by_what_was_judged_of_them() -> None:
    assert interval([(1.0, 1.0, 1.0), (0.0,)])[0] == 0.75
    assert interval([(), ()]) == (None, None, None, 0)


def test_chance_weighs_scarves_and_layouts_as_they_were_judged() -> None:
    stories = held_out_stories(4, 3, 0)
    levels = chance_levels(stories, [_scores(1.0)] * 4, held_out_stories(20, 3, 9))
    assert levels["memory"] == pytest.approx((1 / 4 + 3 / 3) / 4)
    assert levels["sharpness"] is None
    assert levels["cut"] == pytest.approx(4 / 13)
    assert 0.2 < (levels["framing"] or 0) < 0.5
    assert 0.1 < (levels["set"] or 0) < 0.35


def _film(story: TheatreStory, *by_shot: Scores) -> Verdict:
    """What the oracle says of a film; its figures are scored as its sets are, one for each actor."""
    scores = tuple(
        {**one, "figure": one["set"][:1] * len(shot.performances)}
        for shot, one in zip(story.shots, by_shot, strict=True)
    )
    return Verdict(seen=(), by_shot=scores)


def test_a_report_is_a_table_and_one_line() -> None:
    stories = held_out_stories(2, 2, 0)
    verdicts = []
    for story, mean in zip(stories, (0.5, 1.0), strict=True):
        scores: Scores = {axis: scores[:1] for axis, scores in _scores(mean).items()}
        verdicts.append(_film(story, scores, scores))
    report = make_report({"model": "m"}, stories, verdicts, None, held_out_stories(2, 2, 1))
    assert report.row("set").mean == 0.75 and report.row("set").count == 4
    assert report.row("staging").mean is None
    lines = report.table().splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(AXES)
    line = report.json_line()
    assert "\n" not in line
    assert json.loads(line)["axes"]["set"]["mean"] == 0.75
    assert json.loads(line)["by_shot"]["set"] == [0.75, 0.75]
    assert len(report.shot_table().splitlines()) == 3


def test_memory_is_told_by_the_number_of_shots_since_a_detail_was_last_seen() -> None:
    stories = held_out_stories(2, 1, 0)
    gaps = {1: (1.0, 1.0), 3: (0.0,), 4: (1.0, 0.0), 9: (1.0, 1.0), 30: (0.0, 1.0)}
    recalled = [
        Recalled(axis="scarf", score=score, gap=gap) for gap, scores in gaps.items() for score in scores
    ]
    first, second = (_film(story, _scores(1.0)) for story in stories)
    verdicts = [replace(first, recalled=tuple(recalled[:4])), replace(second, recalled=tuple(recalled[4:]))]
    report = make_report({}, stories, verdicts, None, stories)
    assert report.by_gap == {"1": (1.0, 2), "2-3": (0.0, 1), "4-9": (0.75, 4), "10+": (0.5, 2)}
    told = json.loads(report.json_line())["by_gap"]
    assert told["4-9"] == {"mean": 0.75, "count": 4}
    assert gap_header().split() == ["memory", "1", "2-3", "4-9", "10+", "all"]
    line = report.gap_line("prompt").split()
    assert line[:3] == ["prompt", "1.000", "(2)"] and line[7:] == ["0.500", "(2)", "1.000"]


def test_a_fall_from_one_shot_to_the_next_is_seen() -> None:
    stories = held_out_stories(1, 2, 0)
    good: Scores = {axis: (1.0,) for axis in AXES}
    bad: Scores = {axis: (0.25,) for axis in AXES}
    report = make_report({}, stories, [_film(stories[0], good, bad)], None, stories)
    assert report.by_shot["characters"] == (1.0, 0.25)


def test_framings_and_what_actors_do_in_them_are_told_apart() -> None:
    stories = held_out_stories(3, 4, 0)
    verdicts = []
    for story in stories:
        values = [0.25 if shot.framing == "wide" else 1.0 for shot in story.shots]
        verdicts.append(_film(story, *({axis: (value,) for axis in AXES} for value in values)))
    report = make_report({}, stories, verdicts, None, stories)
    shots = [shot for story in stories for shot in story.shots]
    wide = sum(shot.framing == "wide" for shot in shots)
    assert report.by_framing["wide"]["scarf"] == (0.25, wide)
    assert report.by_framing["medium"]["scarf"][0] == 1.0
    for (framing, action), (mean, count) in report.figures.items():
        acting = [one for shot in shots if shot.framing == framing for one in shot.performances]
        assert count == sum(one.action == action for one in acting)
        assert mean == (None if not count else 0.25 if framing == "wide" else 1.0)
    assert json.loads(report.json_line())["by_framing"]["wide"]["scarf"] == {"mean": 0.25, "count": wide}
    assert [line.split()[0] for line in report.framing_table().splitlines()[1:]] == list(FRAMINGS)


def test_an_interval_is_the_middle_95_percent_of_what_other_stories_would_have_given() -> None:
    """Of a hundred stories, each right or wrong as a whole: the binomial's interval, shots or no shots."""
    right = [(1.0,) * 4] * 70 + [(0.0,) * 4] * 30
    mean, low, high, count = interval(right)
    assert (mean, count) == (0.7, 400)
    # 1.96 sqrt(0.7 * 0.3 / 100) = 0.0898; of 400 independent shots it would be half of that
    assert low == pytest.approx(0.7 - 0.0898, abs=0.015)
    assert high == pytest.approx(0.7 + 0.0898, abs=0.015)
    assert interval([(0.25,)] * 5) == (0.25, 0.25, 0.25, 5)


def test_each_axis_of_a_report_has_its_own_numbers_in_their_columns() -> None:
    stories = held_out_stories(3, 2, 0)
    values = {axis: 0.05 * (1 + number) for number, axis in enumerate(AXES)}
    truths: list[Scores] = [{axis: (1.0 - values[axis],) for axis in AXES} for _ in stories]
    films = [_film(story, *({axis: (values[axis],) for axis in AXES},) * 2) for story in stories]
    figures = sum(len(shot.performances) for story in stories for shot in story.shots)
    report = make_report({"model": "m"}, stories, films, truths, held_out_stories(4, 2, 1))
    for line, axis in zip(report.table().splitlines()[1:], AXES, strict=True):
        row, told = report.row(axis), json.loads(report.json_line())["axes"][axis]
        wanted = values["set"] if axis == "figure" else values[axis]
        assert row.mean == row.low == row.high == pytest.approx(wanted)
        assert row.truth == pytest.approx(1.0 - values[axis])
        assert row.count == (figures if axis == "figure" else 6)
        for name in ("mean", "low", "high", "chance", "truth"):
            value = getattr(row, name)
            assert told[name] == (None if value is None else pytest.approx(value, abs=5e-5))
        shown = line.split()
        numbers = [float(one) for one in shown if one not in ("-", axis)]
        assert shown[0] == axis and numbers[-1] == row.count
        assert numbers[:3] == pytest.approx([wanted] * 3, abs=5e-4)
        assert numbers[-2] == pytest.approx(row.truth, abs=5e-4)


def test_chance_is_what_another_storys_shot_would_score() -> None:
    """On stories that are all alike, another one's shot is right on every axis of the captions."""
    (story,) = held_out_stories(1, 1, 0)
    levels = chance_levels([story], [_scores(1.0)], [story])
    for axis in ("characters", "species", "colour", "set", "time", "framing", "action"):
        assert levels[axis] == 1.0
    assert (levels["scarf"], levels["layout"]) == (0.25, 1 / 3)
    assert levels["flicker"] is levels["figure"] is levels["sharpness"] is None
