"""Benchmark: speed of the engine against the published loop.

Measured: the same stories filmed by both in one process, turn by turn, who begins alternating, from the
captions to decoded frames in memory; weights, dtype, threads, attention kernel, sampler and noise are the
same, and the pictures are compared. The ratio of a story is the published loop's time over the engine's; a
machine that is busy with other things slows both. Not counted: loading, a warm-up story each, H.264.

It would be cheating to handicap the baseline with anything but what `published_loop` says that it does, or
to let the engine remember captions from a turn before: both begin each story without memory of any.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from shotstream.bench.generate import BenchConfig, bench_story
from shotstream.bench.published_loop import PublishedLoop, forget_captions
from shotstream.bench.report import Report, Row, Spread, pipeline_facts, synchronize
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.theatre.world import TheatreStory

_WARM_UP_SEED_OFFSET = 800_001


@dataclass(frozen=True, slots=True)
class _Turn:
    """The measured times of one story's film."""

    wall_s: float
    first_frame_s: float
    frames: np.ndarray


def bench_baseline(
    pipeline: StreamingPipeline,
    config: BenchConfig,
    on_story: Callable[[int], None] | None = None,
    *,
    is_over: Callable[[], bool] = lambda: False,
    warm_up_chunks: int | None = None,
) -> Report:
    """Measures both.

    Args:
        pipeline: The engine's model; the baseline takes its parts.
        config: What is filmed; its scale is not used.
        on_story: Told the number of measured stories done.
        is_over: Asked after each measured story, whether it was the last.
        warm_up_chunks: Of the shots of the story that warms up; None: as of the others.

    Raises:
        ValueError: More chunks than the published loop can make.
    """
    loop = PublishedLoop(pipeline)
    turns: list[tuple[_Turn, _Turn]] = []
    for index in range(-1, config.num_stories):
        seed = config.seed + (index if index >= 0 else _WARM_UP_SEED_OFFSET)
        story = bench_story(config.num_shots, seed)
        filmed = config
        if index < 0 and warm_up_chunks is not None:
            filmed = replace(config, num_chunks=warm_up_chunks)
        if index % 2:
            ours = _ours(pipeline, filmed, story)
            theirs = _theirs(pipeline, loop, filmed, story)
        else:
            theirs = _theirs(pipeline, loop, filmed, story)
            ours = _ours(pipeline, filmed, story)
        if index >= 0:
            turns.append((ours, theirs))
            if on_story is not None:
                on_story(index + 1)
            if is_over():
                break
    different = [np.mean((ours.frames != theirs.frames).any(axis=-1)) for ours, theirs in turns]
    rows = (
        Row("ratio", "published loop / engine, whole story", _ratio(turns, "wall_s")),
        Row("first_frame_ratio", "published loop / engine, first frame", _ratio(turns, "first_frame_s")),
        Row("engine_s", "a story, engine, s", Spread(tuple(ours.wall_s for ours, _ in turns))),
        Row("published_s", "a story, published loop, s", Spread(tuple(theirs.wall_s for _, theirs in turns))),
        Row(
            "engine_first_frame_s",
            "first frame, engine, s",
            Spread(tuple(ours.first_frame_s for ours, _ in turns)),
        ),
        Row(
            "published_first_frame_s",
            "first frame, published loop, s",
            Spread(tuple(theirs.first_frame_s for _, theirs in turns)),
        ),
        Row("different_pixels", "part of all pixels that differ", float(np.mean(different))),
    )
    facts = {
        **pipeline_facts(pipeline),
        "num_steps": config.num_steps or pipeline.num_steps,
        "config": asdict(config),
    }
    return Report(bench="baseline", facts=facts, rows=rows)


def _ours(pipeline: StreamingPipeline, config: BenchConfig, story: TheatreStory) -> _Turn:
    forget_captions(pipeline.text_encoder)
    frames: list[np.ndarray] = []
    first_frame_s = 0.0
    start_s = time.perf_counter()
    session = pipeline.session(story.global_caption, seed=config.seed)
    for caption in story.captions:
        for chunk in session.shot(caption, num_chunks=config.num_chunks, steps=config.num_steps):
            first_frame_s = first_frame_s or time.perf_counter() - start_s
            frames.append(chunk.frames)
    synchronize(pipeline.device)
    return _Turn(time.perf_counter() - start_s, first_frame_s, np.concatenate(frames))


def _theirs(
    pipeline: StreamingPipeline, loop: PublishedLoop, config: BenchConfig, story: TheatreStory
) -> _Turn:
    frames: list[np.ndarray] = []
    first_frame_s = 0.0
    start_s = time.perf_counter()
    for shot in loop.film(
        story.global_caption,
        story.captions,
        seed=config.seed,
        num_chunks=config.num_chunks or pipeline.num_chunks,
        num_steps=config.num_steps or pipeline.num_steps,
    ):
        first_frame_s = first_frame_s or time.perf_counter() - start_s
        frames.append(shot.frames)
    synchronize(pipeline.device)
    return _Turn(time.perf_counter() - start_s, first_frame_s, np.concatenate(frames))


def _ratio(turns: list[tuple[_Turn, _Turn]], name: str) -> Spread:
    return Spread(tuple(getattr(theirs, name) / getattr(ours, name) for ours, theirs in turns))
