"""Reports: means, intervals and levels of chance."""

import json

import numpy as np
import pytest

from shotstream.evaluation.films import held_out_stories
from shotstream.evaluation.report import chance_levels, interval, make_report
from shotstream.theatre.oracle import AXES, Axis, Scores, Verdict
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
