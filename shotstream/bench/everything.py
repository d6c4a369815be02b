"""All questions about one model, in one process and within a time limit.

Measured: what each question's own file says, in the order of what matters most, with repetitions chosen so
that the 1.3B model at 480x832 on one data-centre GPU is done in under ten minutes. A question that the
limit leaves no room for is named as not asked, never guessed.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from shotstream.bench.baseline import bench_baseline
from shotstream.bench.codec import bench_decode, bench_encode
from shotstream.bench.cut import bench_cut
from shotstream.bench.denoise import PartConfig, bench_denoise
from shotstream.bench.generate import BenchConfig, bench_generate
from shotstream.bench.report import Report
from shotstream.bench.shots import PROBED, bench_shots
from shotstream.streaming.pipeline import StreamingPipeline

STEP_COUNTS = (4, 2, 1)
"""The dial: denoising steps at which the transformer is measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EverythingConfig:
    """How much of everything.

    Raises:
        ValueError: a number is out of range.
    """

    limit_s: float = 540.0
    """No question but the first is begun after it."""
    num_repeats: int = 5
    """Shots, cuts or decodes of each kind."""
    num_stories: int = 2
    """Stories end to end, and stories against the published loop."""
    num_shots: int = 3
    """Shots of each story."""
    num_chunks: int | None = None
    """Chunks of each shot; None: the model's usual number."""
    probed_shots: tuple[int, ...] = PROBED
    """Shots of a long film whose cost is told."""
    scale: int = 1
    """Enlargement before H.264."""

    def __post_init__(self) -> None:
        if self.limit_s <= 0 or min(self.num_repeats, self.num_stories, self.num_shots, self.scale) < 1:
            raise ValueError("the limit must be above 0; repeats, stories, shots and scale at least 1")


@dataclass(frozen=True, slots=True)
class Answer:
    """One question, asked or not."""

    name: str
    report: Report | None
    """None: the time limit had passed."""
    wall_s: float


def bench_everything(
    pipeline: StreamingPipeline, config: EverythingConfig, tell: Callable[[str], None] = lambda _: None
) -> Iterator[Answer]:
    """Every answer as it comes; `tell` is given the name of each question as it is asked."""
    part = PartConfig(num_shots=config.num_repeats, num_chunks=config.num_chunks)
    film = BenchConfig(
        num_stories=config.num_stories,
        num_shots=config.num_shots,
        num_chunks=config.num_chunks,
        scale=config.scale,
    )
    questions: dict[str, Callable[[], Report]] = {
        "generate": lambda: bench_generate(pipeline, film),
        **{
            f"denoise, {steps} steps": lambda steps=steps: bench_denoise(
                pipeline, replace(part, num_steps=steps)
            )
            for steps in STEP_COUNTS
        },
        "decode": lambda: bench_decode(pipeline, part),
        "encode": lambda: bench_encode(pipeline, part),
        "cut": lambda: bench_cut(pipeline, part, scale=config.scale),
        "baseline": lambda: bench_baseline(pipeline, film),
        "shots": lambda: bench_shots(pipeline, part, probed=config.probed_shots),
    }
    start_s = time.perf_counter()
    for index, (name, ask) in enumerate(questions.items()):
        asked_s = time.perf_counter()
        if index and asked_s - start_s > config.limit_s:
            yield Answer(name, None, 0.0)
            continue
        tell(name)
        report = ask()
        yield Answer(name, report, time.perf_counter() - asked_s)


def as_markdown(answers: list[Answer], command: str) -> str:
    """A document of all answers, for bench/results/: tables, then the JSON lines."""
    now = datetime.now(UTC)
    lines = [f"# bench all, {now:%Y-%m-%d}", "", f"`{command}`", ""]
    for answer in answers:
        lines += [f"## {answer.name}", ""]
        if answer.report is None:
            lines += ["Not asked: the time limit had passed.", ""]
            continue
        lines += ["| measured | value, or p50 / p95 |", "|---|---|"]
        lines += [f"| {label} | {value} |" for label, value in answer.report.table()]
        lines += ["", f"Took {answer.wall_s:.0f} s.", ""]
    lines += ["## JSON", "", "```"]
    lines += [answer.report.json_line() for answer in answers if answer.report is not None]
    return "\n".join([*lines, "```", ""])
