"""Scores of many films as a table, as one line of JSON, and as a sheet of pictures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from shotstream.theatre.oracle import (
    AXES,
    CAPTION_AXES,
    LAYOUT_CHANCE,
    SCARF_CHANCE,
    Axis,
    Scores,
    Verdict,
    judge_captions,
    planned,
)
from shotstream.theatre.oracle.cuts import REACH, cut_score
from shotstream.theatre.world import TheatreStory

_NUM_RESAMPLES: Final = 2000
_NUM_PARTNERS: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class AxisRow:
    """One axis over all stories."""

    axis: Axis
    count: int
    """Shots, details or cuts that could be judged."""
    mean: float | None
    """None when nothing could be judged."""
    low: float | None
    """Lower end of the 95 % interval, by resampling stories."""
    high: float | None
    """Upper end."""
    chance: float | None
    """What a film scores that knows nothing of its story; None for sharpness, which has no such level."""
    truth: float | None = None
    """What the world's own film of the same stories scores; None when it was not judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What an evaluation found."""

    facts: Mapping[str, Any]
    """What was judged: model, weights, seed, numbers of stories and shots, seconds."""
    rows: tuple[AxisRow, ...]
    """In the order of `oracle.AXES`."""
    by_shot: Mapping[Axis, tuple[float | None, ...]]
    """For each axis the mean at each place in the stories; None where nothing could be judged."""

    def row(self, axis: Axis) -> AxisRow:
        """The row of an axis."""
        return next(row for row in self.rows if row.axis == axis)

    def table(self) -> str:
        """A table for people."""
        lines = [f"{'axis':<11} {'mean':>6}   {'95 %':^13}   {'chance':>6}  {'truth':>6}  {'judged':>6}"]
        for row in self.rows:
            interval = f"{_shown(row.low)} - {_shown(row.high)}"
            lines.append(
                f"{row.axis:<11} {_shown(row.mean):>6}   {interval:^13}   {_shown(row.chance):>6}  "
                f"{_shown(row.truth):>6}  {row.count:>6}"
            )
        return "\n".join(lines)

    def shot_table(self) -> str:
        """A table of the means at each place in the stories, for people."""
        axes = ("characters", "action", "set", "framing", "memory", "sharpness")
        lines = [" ".join([f"{'shot':<5}", *(f"{axis:>10}" for axis in axes)])]
        for index in range(len(self.by_shot["sharpness"])):
            values = (f"{_shown(self.by_shot[axis][index]):>10}" for axis in axes)
            lines.append(" ".join([f"{index + 1:<5}", *values]))
        return "\n".join(lines)

    def json_line(self) -> str:
        """Everything, for programs, without a line break."""
        axes = {
            row.axis: {
                "mean": _rounded(row.mean),
                "low": _rounded(row.low),
                "high": _rounded(row.high),
                "chance": _rounded(row.chance),
                "truth": _rounded(row.truth),
                "count": row.count,
            }
            for row in self.rows
        }
        by_shot = {axis: [_rounded(value) for value in values] for axis, values in self.by_shot.items()}
        return json.dumps({**self.facts, "axes": axes, "by_shot": by_shot})


def make_report(
    facts: Mapping[str, Any],
    stories: Sequence[TheatreStory],
    verdicts: Sequence[Verdict],
    true_scores: Sequence[Scores] | None,
    chance_stories: Sequence[TheatreStory],
) -> Report:
    """Means, intervals and levels.

    Args:
        facts: what was judged, for the JSON line.
        stories: the stories filmed.
        verdicts: what the oracle says of each film.
        true_scores: what the world's own films score; None when they were not judged.
        chance_stories: other stories of the same kind, whose shots are taken for the answer.
    """
    scores = [verdict.scores for verdict in verdicts]
    chances = chance_levels(stories, scores, chance_stories)
    rows: list[AxisRow] = []
    for axis in AXES:
        mean, low, high, count = interval([story[axis] for story in scores])
        truth = interval([story[axis] for story in true_scores])[0] if true_scores else None
        rows.append(
            AxisRow(axis=axis, count=count, mean=mean, low=low, high=high, chance=chances[axis], truth=truth)
        )
    num_shots = max(len(verdict.by_shot) for verdict in verdicts)
    by_shot: dict[Axis, tuple[float | None, ...]] = {
        axis: tuple(
            interval([verdict.by_shot[index][axis] for verdict in verdicts if index < len(verdict.by_shot)])[
                0
            ]
            for index in range(num_shots)
        )
        for axis in AXES
    }
    return Report(facts=facts, rows=tuple(rows), by_shot=by_shot)


def interval(
    per_story: Sequence[Sequence[float]],
) -> tuple[float | None, float | None, float | None, int]:
    """Mean over everything judged, its 95 % interval by resampling stories, and how much was judged.

    The stories are the independent draws, not their shots. The resampling is seeded.
    """
    sums = np.array([sum(scores) for scores in per_story])
    counts = np.array([len(scores) for scores in per_story])
    if not counts.sum():
        return None, None, None, 0
    chosen = np.random.default_rng(0).integers(len(sums), size=(_NUM_RESAMPLES, len(sums)))
    resampled_counts = counts[chosen].sum(axis=1)
    means = sums[chosen].sum(axis=1)[resampled_counts > 0] / resampled_counts[resampled_counts > 0]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(sums.sum() / counts.sum()), float(low), float(high), int(counts.sum())


def chance_levels(
    stories: Sequence[TheatreStory], scores: Sequence[Scores], chance_stories: Sequence[TheatreStory]
) -> dict[Axis, float | None]:
    """What a film scores on each axis that has nothing to do with its story.

    On the caption axes another story's shot is taken for the answer. A detail is right by chance in one of
    as many cases as there are of it. A cut falls anywhere in the reach of the search. Sharpness has none.
    """
    levels: dict[Axis, float | None] = dict.fromkeys(AXES)
    rng = np.random.default_rng(0)
    others = [planned(shot) for story in chance_stories for shot in story.shots]
    judged = [
        judge_captions(planned(shot), others[int(other)])
        for story in stories
        for shot in story.shots
        for other in rng.integers(len(others), size=_NUM_PARTNERS)
    ]
    for axis in CAPTION_AXES:
        values = [score for one in judged for score in one[axis]]
        levels[axis] = float(np.mean(values)) if values else None
    num_scarves = sum(len(story["scarf"]) for story in scores)
    num_layouts = sum(len(story["layout"]) for story in scores)
    levels["scarf"], levels["layout"] = SCARF_CHANCE, LAYOUT_CHANCE
    if num_scarves + num_layouts:
        expected = num_scarves * SCARF_CHANCE + num_layouts * LAYOUT_CHANCE
        levels["memory"] = expected / (num_scarves + num_layouts)
    levels["cut"] = float(np.mean([cut_score(offset) for offset in range(-REACH, REACH + 1)]))
    return levels


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
