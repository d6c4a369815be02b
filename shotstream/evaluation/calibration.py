"""Calibration of the oracle: its scores of films for which they are known in advance.

The world's own films score 1 on every axis, and 0 on flicker. Films of other stories are at chance level on
the caption axes, and films with new details in each shot are at chance level on the memory axes. If films are
blurred, mosaicked, speckled, flickered or melted, or their cuts are moved, scores fall step by step.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from shotstream.evaluation.films import (
    FilmSource,
    blurred,
    changed,
    films_with_moved_cuts,
    flickered,
    forgetful_films,
    melted,
    mosaicked,
    shuffled_films,
    speckled,
    true_films,
)
from shotstream.evaluation.report import Report
from shotstream.evaluation.run import EvaluationConfig, score_films
from shotstream.theatre.oracle import AXES

BLURS_PX = (0.5, 1.0, 2.0, 4.0)
MOSAICS_PX = (2, 4, 8)
SPECKLES = (0.02, 0.1, 0.3, 0.6)
FLICKERS = (0.02, 0.1, 0.3)
MELTS_PX = (1, 2, 4)
MOVES = (1, 2, 3, 4)

_JUDGED_IN_FULL = ("truth", "other story", "new details")
_NUM_DEGRADED_STORIES = 12
"""Maximum number of stories of a degraded film; its scores fall in steps wider than their spread."""


def calibration_films(num_chunks: int, seed: int) -> dict[str, FilmSource]:
    """Returns films whose scores are known in advance, by name."""
    true = true_films(num_chunks)
    films = {
        "truth": true,
        "other story": shuffled_films(num_chunks, seed),
        "new details": forgetful_films(num_chunks, seed),
    }
    films |= {f"blur {radius:g} px": changed(true, partial(blurred, radius_px=radius)) for radius in BLURS_PX}
    films |= {f"mosaic {size} px": changed(true, partial(mosaicked, size_px=size)) for size in MOSAICS_PX}
    films |= {
        f"speckle {share:.0%}": changed(true, partial(speckled, share=share, rng=np.random.default_rng(seed)))
        for share in SPECKLES
    }
    films |= {
        f"flicker {share:.0%}": changed(
            true, partial(flickered, share=share, rng=np.random.default_rng(seed))
        )
        for share in FLICKERS
    }
    films |= {
        f"melt {reach} px": changed(true, partial(melted, reach_px=reach, rng=np.random.default_rng(seed)))
        for reach in MELTS_PX
    }
    films |= {f"cut {late} late": films_with_moved_cuts(num_chunks, late) for late in MOVES}
    return films


def calibrate(
    config: EvaluationConfig, progress: Callable[[str], None] | None = None
) -> Mapping[str, Report]:
    """Returns a report for each calibration film; `progress` is called with each name before its turn."""
    reports: dict[str, Report] = {}
    for name, films in calibration_films(config.num_chunks, config.seed).items():
        if progress:
            progress(name)
        fewer = replace(config, num_stories=min(config.num_stories, _NUM_DEGRADED_STORIES))
        judged = config if name in _JUDGED_IN_FULL else fewer
        reports[name] = score_films(films, judged, facts={"films": name})
    return reports


def calibration_table(reports: Mapping[str, Report]) -> str:
    """Returns a table of the mean of each axis: chance level first, then one line per film."""
    first = next(iter(reports.values()))
    lines = [" ".join([f"{'':<12}", *(f"{axis[:8]:>8}" for axis in AXES)])]
    lines.append(_line("chance", [row.chance for row in first.rows]))
    lines += [_line(name, [row.mean for row in report.rows]) for name, report in reports.items()]
    return "\n".join(lines)


def _line(name: str, values: list[float | None]) -> str:
    return " ".join(
        [f"{name:<12}", *(f"{'-' if value is None else format(value, '.3f'):>8}" for value in values)]
    )
