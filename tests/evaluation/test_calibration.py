"""The oracle is calibrated: known films get the scores they are known to deserve."""

from itertools import pairwise

import pytest

from shotstream.evaluation.calibration import (
    BLURS_PX,
    FLICKERS,
    MELTS_PX,
    MOSAICS_PX,
    MOVES,
    SPECKLES,
    calibrate,
    calibration_films,
    calibration_table,
)
from shotstream.evaluation.report import Report
from shotstream.evaluation.run import EvaluationConfig, score_films
from shotstream.theatre.oracle import AXES, CAPTION_AXES, Axis

_SMALL = EvaluationConfig(num_stories=2, num_shots=2, num_chunks=1, seed=11, judge_truth=False)


def _mean(report: Report, axis: Axis) -> float:
    mean = report.row(axis).mean
    assert mean is not None
    return mean


@pytest.mark.slow
def test_a_small_calibration_orders_films_as_they_deserve() -> None:
    films = calibration_films(1, 0)
    reports = {
        name: score_films(films[name], _SMALL)
        for name in (
            "truth",
            "other story",
            "blur 0.5 px",
            "blur 2 px",
            "mosaic 4 px",
            "speckle 30%",
            "flicker 10%",
            "melt 2 px",
            "cut 2 late",
        )
    }
    truth = reports["truth"]
    assert all(row.mean is None or row.mean == 1.0 for row in truth.rows if row.axis != "flicker")
    assert _mean(truth, "flicker") == 0.0
    assert _mean(reports["other story"], "characters") < 0.5
    assert 1 > _mean(reports["blur 0.5 px"], "sharpness") > _mean(reports["blur 2 px"], "sharpness")
    assert _mean(reports["mosaic 4 px"], "sharpness") < 0.9
    assert _mean(reports["speckle 30%"], "sharpness") < 0.5
    assert 1 > _mean(reports["blur 0.5 px"], "figure") > _mean(reports["blur 2 px"], "figure")
    assert _mean(reports["speckle 30%"], "figure") < 0.75
    assert _mean(reports["flicker 10%"], "flicker") > 0.002
    assert _mean(reports["melt 2 px"], "figure") < 0.8
    assert _mean(reports["cut 2 late"], "cut") < 0.7
    assert calibration_table(reports).splitlines()[2].startswith("truth")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_calibration_films() -> None:
    """Six held-out stories: truth at the top, chance where it belongs, a steady fall between.

    `shotstream theatre calibrate` does the same with fifty, which takes ten minutes.
    """
    reports = calibrate(EvaluationConfig(num_stories=6, num_shots=3, judge_truth=False))
    truth = reports["truth"]
    for axis in AXES:
        if axis != "flicker":
            assert _mean(truth, axis) >= 0.99, axis
    assert _mean(truth, "flicker") <= 0.0005
    assert all(count == 0 or (mean or 0) >= 0.99 for mean, count in truth.figures.values())
    for axis in CAPTION_AXES:
        row = reports["other story"].row(axis)
        assert row.low is not None and row.high is not None and row.chance is not None
        slack = (row.high - row.low) / 2  # the interval is of stories, one in twenty of which lies outside
        assert row.low - slack <= row.chance <= row.high + slack, axis
    for axis in ("memory", "scarf", "layout"):
        row = reports["new details"].row(axis)
        assert row.low is not None and row.high is not None and row.chance is not None
        slack = (row.high - row.low) / 2
        assert row.low - slack <= row.chance <= row.high + slack, axis
    ladders = (
        [f"blur {radius:g} px" for radius in BLURS_PX],
        [f"mosaic {size} px" for size in MOSAICS_PX],
        [f"speckle {share:.0%}" for share in SPECKLES],
    )
    for names in ladders:
        steps = [_mean(reports[name], "sharpness") for name in ("truth", *names)]
        assert all(worse < better - 0.01 for better, worse in pairwise(steps)), names
    ladders = (*ladders, [f"flicker {share:.0%}" for share in FLICKERS], [f"melt {px} px" for px in MELTS_PX])
    for names in ladders:
        steps = [_mean(reports[name], "figure") for name in ("truth", *names)]
        # Where two pixels of a hundred flicker, no more than those can be missed.
        falls = [0.005 if name == "flicker 2%" else 0.01 for name in names]
        assert all(w < b - fall for (b, w), fall in zip(pairwise(steps), falls, strict=True)), names
    for names in (
        [f"speckle {share:.0%}" for share in SPECKLES],
        [f"flicker {share:.0%}" for share in FLICKERS],
    ):
        steps = [_mean(reports[name], "flicker") for name in ("truth", *names)]
        assert all(worse > better + 0.002 for better, worse in pairwise(steps)), names
    cuts = [_mean(reports[name], "cut") for name in ("truth", *(f"cut {late} late" for late in MOVES))]
    assert all(worse < better - 0.1 for better, worse in pairwise(cuts))
