"""The evaluation of a theatre model on held-out stories, with the oracle; models of other worlds are refused.

The same function scores any source of films, so that ground truth, codec, teacher and student are rows of one
table.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from shotstream.evaluation.films import (
    FilmSource,
    coded_films,
    held_out_stories,
    model_films,
    true_films,
)
from shotstream.evaluation.report import Report, make_report
from shotstream.evaluation.sheet import Panel, SheetStory, draw_sheet
from shotstream.files import require_directory, write_atomically
from shotstream.streaming.choice import DEFAULT_OPTIONS, Options
from shotstream.streaming.context_sampling import named_policy
from shotstream.streaming.loading import load
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.theatre.oracle import Scores, Verdict, judge_film

_CHANCE_SEED_OFFSET = 500_009
_OTHER_SEED_OFFSET = 700_001
_NUM_CHANCE_STORIES = 64
_MAX_SHOWN = 6

Progress = Callable[[int, int], None]
"""Callback with the number of finished stories and the number of all stories."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Configuration of an evaluation: the stories, and how their films are generated.

    Raises:
        ValueError: A number is out of range, or two options exclude each other.
    """

    num_stories: int = 50
    """Number of held-out stories, at least 1."""
    num_shots: int = 5
    """Number of shots of each story, at least 1."""
    num_chunks: int = 3
    """Number of chunks of each shot, at least 1."""
    seed: int = 0
    """Seed of the stories and of the films' noise, at least 0."""
    steps: int | None = None
    """Number of denoising steps, at least 1; None takes the number that the model was trained for."""
    codec_only: bool = False
    """Whether to judge the world's films encoded and decoded instead: the best that a model with this codec
    can do.
    """
    judge_truth: bool = True
    """Whether to judge the world's own films of the same stories as well."""
    references: bool = False
    """Whether a film is given pictures of its cast and of its sets, whose details are then judged in every
    shot.
    """
    other_captions: bool = False
    """Whether to generate films from another held-out story's captions and judge them by the story's own,
    which measures the film without its captions.
    """
    returns: bool = False
    """Whether the stories have five actors in five places, which leave and return after gaps of all lengths.
    """
    policy: str | None = None
    """Name of the policy that chooses the context of each shot; None: the model's."""

    def __post_init__(self) -> None:
        for name in ("num_stories", "num_shots", "num_chunks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be at least 0")
        if self.policy is not None:
            named_policy(self.policy)
        if self.codec_only and self.other_captions:
            raise ValueError("codec_only does not read captions; leave out other_captions")
        if self.codec_only and self.references:
            raise ValueError("codec_only does not look at references; leave them out")


def evaluate(
    pipeline: StreamingPipeline,
    config: EvaluationConfig | None = None,
    *,
    context: bool = True,
    sheet: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Returns the scores of a model.

    Args:
        pipeline: A theatre model.
        config: The stories, and how their films are generated; None: 50 stories of 5 shots.
        context: False generates each shot in its own session, without context from earlier shots.
        sheet: Path of a PNG with some films below the ground truth; None writes none.
        progress: Called after each story.

    Raises:
        ValueError: The model is not of the theatre.
    """
    if pipeline.family != "theatre":
        raise ValueError(
            f"{pipeline.model_id} is of family {pipeline.family!r}; only the theatre can be judged"
        )
    config = config or EvaluationConfig()
    _require_effect(config, context)
    facts: dict[str, Any] = {"model": pipeline.model_id, "weights_sha256": pipeline.weights_sha256}
    if config.codec_only:
        source = coded_films(pipeline.codec, config.num_chunks)
        facts["codec_only"] = True
    else:
        source = model_films(
            pipeline,
            context=context,
            num_chunks=config.num_chunks,
            seed=config.seed,
            steps=config.steps,
            references=config.references,
            policy=config.policy,
        )
        facts |= {
            "context": context,
            "context_policy": config.policy or pipeline.context_policy,
            "num_steps": config.steps or pipeline.num_steps,
        }
    return score_films(source, config, facts=facts, sheet=sheet, progress=progress)


def _require_effect(config: EvaluationConfig, context: bool) -> None:
    if config.codec_only and (config.steps is not None or config.policy is not None or not context):
        raise ValueError("codec_only generates nothing; leave out steps and policy, and keep the context")
    if config.policy is not None and not context:
        raise ValueError("without context there is nothing to choose; leave out the policy")


def score_films(
    source: FilmSource,
    config: EvaluationConfig,
    *,
    facts: dict[str, Any] | None = None,
    sheet: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Returns the scores of any source of films; see `evaluate`.

    Args:
        source: The source of the films.
        config: The stories, and how their films are generated.
        facts: Facts about the source, for the report's JSON line.
        sheet: Path of a PNG; None writes none.
        progress: Called after each story.
    """
    started_s = time.perf_counter()
    sample = partial(held_out_stories, num_shots=config.num_shots, returns=config.returns)
    stories = sample(config.num_stories, seed=config.seed)
    others = sample(_NUM_CHANCE_STORIES, seed=config.seed + _CHANCE_SEED_OFFSET)
    told = stories
    if config.other_captions:
        told = sample(config.num_stories, seed=config.seed + _OTHER_SEED_OFFSET)
    truth = true_films(config.num_chunks)
    verdicts: list[Verdict] = []
    true_scores: list[Scores] = []
    shown: list[SheetStory] = []
    for number, story in enumerate(stories):
        takes, true_takes = source(number, told[number]), truth(number, story)
        verdicts.append(judge_film(story.shots, takes, has_references=config.references))
        if config.judge_truth:
            true = judge_film(story.shots, true_takes, has_references=config.references)
            true_scores.append(true.scores)
        if len(shown) < _MAX_SHOWN:
            panels = tuple(
                Panel(truth=true[len(true) // 2], film=take[len(take) // 2], caption=caption)
                for true, take, caption in zip(true_takes, takes, story.captions, strict=True)
            )
            shown.append(SheetStory(global_caption=story.global_caption, panels=panels))
        if progress:
            progress(number + 1, len(stories))
    if sheet is not None:
        draw_sheet(shown).save(sheet)
    facts = {
        **(facts or {}),
        "num_stories": config.num_stories,
        "num_shots": config.num_shots,
        "num_chunks": config.num_chunks,
        "seed": config.seed,
        **({"references": True} if config.references else {}),
        **({"other_captions": True} if config.other_captions else {}),
        **({"returns": True} if config.returns else {}),
        "wall_s": round(time.perf_counter() - started_s, 1),
    }
    return make_report(facts, stories, verdicts, true_scores or None, others)


def evaluate_model(
    model: str | Path = "theatre",
    config: EvaluationConfig | None = None,
    *,
    context: bool = True,
    device: str = "auto",
    options: Options = DEFAULT_OPTIONS,
    directory: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Loads a model, evaluates it, and returns the report.

    If `directory` is given, `sheet.png` and `report.json` are written into it; it is created if it does not
    exist.

    Raises:
        ValueError: There is no such model or device, the model is not of the theatre, or the directory cannot
            be written.
    """
    _require_effect(config or EvaluationConfig(), context)
    if directory is not None:
        require_directory(directory)
    pipeline = load(model, device, precision=options.precision, memory=options.memory, expert=options.expert)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    sheet = directory / "sheet.png" if directory else None
    report = evaluate(pipeline, config, context=context, sheet=sheet, progress=progress)
    if directory is not None:
        write_report(report, directory)
    return report


def evaluate_policies(
    policies: Sequence[str],
    model: str | Path = "theatre",
    config: EvaluationConfig | None = None,
    *,
    device: str = "auto",
    options: Options = DEFAULT_OPTIONS,
    directory: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Report]:
    """Loads a model, evaluates it under each context policy, on the same stories and seeds.

    The world's own films are judged once. If `directory` is given, it holds a directory for each policy, with
    the files of `evaluate_model`. `progress` counts the stories of all policies.

    Raises:
        ValueError: As in `evaluate_model`, or a policy is unknown or cannot be used with the model.
    """
    config = config or EvaluationConfig()
    for policy in policies:
        _require_effect(replace(config, policy=policy), context=True)
    if directory is not None:
        require_directory(directory)
    pipeline = load(model, device, precision=options.precision, memory=options.memory, expert=options.expert)
    for policy in policies:
        pipeline.check_policy(policy)
    reports: dict[str, Report] = {}
    for number, policy in enumerate(policies):

        def tell(done: int, total: int, before: int = number) -> None:
            if progress:
                progress(before * total + done, len(policies) * total)

        own = None if directory is None else directory / policy
        if own is not None:
            own.mkdir(parents=True, exist_ok=True)
        judged = replace(config, policy=policy, judge_truth=config.judge_truth and number == 0)
        sheet = own / "sheet.png" if own else None
        reports[policy] = evaluate(pipeline, judged, sheet=sheet, progress=tell)
        if own is not None:
            write_report(reports[policy], own)
    return reports


def write_report(report: Report, directory: Path) -> None:
    """Writes `report.json` into an existing directory."""
    write_atomically(f"{report.json_line()}\n".encode(), directory / "report.json")
