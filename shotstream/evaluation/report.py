"""The report of an evaluation: tables, one line of JSON, and a contact sheet."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np

from shotstream.story import MAX_SHOTS
from shotstream.theatre.cast import ACTIONS, Action
from shotstream.theatre.oracle import (
    AXES,
    CAPTION_AXES,
    LAYOUT_CHANCE,
    SCARF_CHANCE,
    Axis,
    Scores,
    Verdict,
    joined,
    judge_captions,
    planned,
)
from shotstream.theatre.oracle.cuts import REACH, cut_score
from shotstream.theatre.render import FRAMINGS, Framing
from shotstream.theatre.world import TheatreStory

_NUM_RESAMPLES: Final = 2000
_NUM_PARTNERS: Final = 20
GAPS: Final[Mapping[str, range]] = {
    "1": range(1, 2),
    "2-3": range(2, 4),
    "4-9": range(4, 10),
    "10+": range(10, MAX_SHOTS),
}
"""Numbers of shots since a detail was last seen, by their names in tables."""
_FRAMED: Final[tuple[Axis, ...]] = ("characters", "scarf", "layout", "sharpness", "flicker", "figure")
"""Axes whose means by framing are in the tables."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AxisRow:
    """A row of the report: the scores on one axis over all stories."""

    axis: Axis
    count: int
    """Number of shots, details or cuts that were judged."""
    mean: float | None
    """Mean score; None if nothing was judged."""
    low: float | None
    """Lower end of the 95 % interval, from resampling stories; None if nothing was judged."""
    high: float | None
    """Upper end of the 95 % interval; None if nothing was judged."""
    chance: float | None
    """Score of a film that has nothing to do with its story; None for sharpness, figures and flicker, which
    have no chance level.
    """
    truth: float | None = None
    """Score of the world's own films of the same stories; None if they were not judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The report of an evaluation: scores with their intervals, by axis, shot and story."""

    facts: Mapping[str, Any]
    """Facts about what was judged: model, weights, seed, numbers of stories and shots, seconds."""
    rows: tuple[AxisRow, ...]
    """One row for each axis, in the order of `oracle.AXES`."""
    by_shot: Mapping[Axis, tuple[float | None, ...]]
    """Mean at each position in the stories, for each axis; None if nothing was judged."""
    by_framing: Mapping[Framing, Mapping[Axis, tuple[float | None, int]]]
    """Mean and number of scores on each axis, for planned shots of each framing."""
    figures: Mapping[tuple[Framing, Action], tuple[float | None, int]]
    """Mean and number of figure scores, for each planned framing and action."""
    by_gap: Mapping[str, tuple[float | None, int]]
    """Mean memory and number of details, for each of `GAPS`."""

    def row(self, axis: Axis) -> AxisRow:
        """Returns the row of an axis."""
        return next(row for row in self.rows if row.axis == axis)

    def table(self) -> str:
        """Returns the table of all axes."""
        lines = [f"{'axis':<11} {'mean':>6}   {'95 %':^13}   {'chance':>6}  {'truth':>6}  {'judged':>6}"]
        for row in self.rows:
            interval = f"{_shown(row.low)} - {_shown(row.high)}"
            lines.append(
                f"{row.axis:<11} {_shown(row.mean):>6}   {interval:^13}   {_shown(row.chance):>6}  "
                f"{_shown(row.truth):>6}  {row.count:>6}"
            )
        return "\n".join(lines)

    def framing_table(self) -> str:
        """Returns the table of the scores that depend on the framing; figures by action as well."""
        lines = [
            " ".join([f"{'':<9}", *(f"{axis:>9}" for axis in _FRAMED), *(f"{one:>7}" for one in ACTIONS)])
        ]
        for framing in FRAMINGS:
            values = [f"{_shown(self.by_framing[framing][axis][0]):>9}" for axis in _FRAMED]
            actions = [f"{_shown(self.figures[framing, action][0]):>7}" for action in ACTIONS]
            lines.append(" ".join([f"{framing:<9}", *values, *actions]))
        return "\n".join(lines)

    def shot_table(self) -> str:
        """Returns the table of the means at each position in the stories."""
        axes = ("characters", "action", "set", "framing", "memory", "sharpness")
        lines = [" ".join([f"{'shot':<5}", *(f"{axis:>10}" for axis in axes)])]
        for index in range(len(self.by_shot["sharpness"])):
            values = (f"{_shown(self.by_shot[axis][index]):>10}" for axis in axes)
            lines.append(" ".join([f"{index + 1:<5}", *values]))
        return "\n".join(lines)

    def gap_line(self, name: str) -> str:
        """Returns the memory scores by gap, a line of the table that `gap_header` begins."""
        values = [f"{_shown(mean):>6} {f'({count})':<6}" for mean, count in self.by_gap.values()]
        return " ".join([f"{name:<10}", *values, f"{_shown(self.row('memory').mean):>6}"])

    def json_line(self) -> str:
        """Returns the whole report as one line of JSON."""
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
        by_framing = {
            framing: {axis: _judged(one) for axis, one in values.items()}
            for framing, values in self.by_framing.items()
        }
        figures = {f"{framing} {action}": _judged(one) for (framing, action), one in self.figures.items()}
        by_gap = {gap: _judged(one) for gap, one in self.by_gap.items()}
        document = {"axes": axes, "by_shot": by_shot, "by_framing": by_framing, "figures": figures}
        return json.dumps({**self.facts, **document, "by_gap": by_gap})


def gap_header() -> str:
    """Returns the header of the table of memory scores by `GAPS`."""
    return " ".join([f"{'memory':<10}", *(f"{gap:>6} {'':<6}" for gap in GAPS), f"{'all':>6}"])


def make_report(
    facts: Mapping[str, Any],
    stories: Sequence[TheatreStory],
    verdicts: Sequence[Verdict],
    true_scores: Sequence[Scores] | None,
    chance_stories: Sequence[TheatreStory],
) -> Report:
    """Returns the report: means, intervals and reference levels.

    Args:
        facts: What was judged, for the JSON line.
        stories: The stories of the films.
        verdicts: The oracle's verdict on each film.
        true_scores: The scores of the world's own films; None if they were not judged.
        chance_stories: Other stories of the same kind, for the chance levels.
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
    framed, figures = _by_framing(stories, verdicts)
    recalled = [one for verdict in verdicts for one in verdict.recalled]
    return Report(
        facts=facts,
        rows=tuple(rows),
        by_shot=by_shot,
        by_framing=framed,
        figures=figures,
        by_gap={
            name: _mean([one.score for one in recalled if one.gap in gaps]) for name, gaps in GAPS.items()
        },
    )


def _by_framing(
    stories: Sequence[TheatreStory], verdicts: Sequence[Verdict]
) -> tuple[
    dict[Framing, dict[Axis, tuple[float | None, int]]],
    dict[tuple[Framing, Action], tuple[float | None, int]],
]:
    """Returns the means by planned framing, and those of figures by framing and action."""
    framed: dict[Framing, list[Scores]] = {framing: [] for framing in FRAMINGS}
    figures: dict[tuple[Framing, Action], list[float]] = {key: [] for key in product(FRAMINGS, ACTIONS)}
    for story, verdict in zip(stories, verdicts, strict=True):
        for shot, scores in zip(story.shots, verdict.by_shot, strict=True):
            framed[shot.framing].append(scores)
            for performance, score in zip(shot.performances, scores["figure"], strict=True):
                figures[shot.framing, performance.action].append(score)
    by_axis: dict[Framing, dict[Axis, tuple[float | None, int]]] = {
        framing: {axis: _mean(joined(scores)[axis]) for axis in AXES} for framing, scores in framed.items()
    }
    return by_axis, {key: _mean(scores) for key, scores in figures.items()}


def _mean(scores: Sequence[float]) -> tuple[float | None, int]:
    return (float(np.mean(scores)) if scores else None), len(scores)


def interval(
    per_story: Sequence[Sequence[float]],
) -> tuple[float | None, float | None, float | None, int]:
    """Returns the mean of all scores, its 95 % interval by resampling stories, and the number of scores.

    Stories are the independent samples, not their shots. The resampling is seeded.
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
    """Returns the chance level of each axis: the score of a film that has nothing to do with its story.

    On the caption axes it is the score of another story's shot. On the memory axes it is 1 / the number of
    possible details. On the cut axis it is the mean over all positions of the search. Sharpness, figures and
    flicker have none.
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
    return "-" if value is None else f"{value:.4f}" if 0 < value < 0.1 else f"{value:.3f}"


def _judged(one: tuple[float | None, int]) -> dict[str, float | int | None]:
    return {"mean": _rounded(one[0]), "count": one[1]}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
