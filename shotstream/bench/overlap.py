"""Benchmark: gain from running parts of the generation in parallel.

Measured: the same stories from captions to their last fragment, three ways in one process, in turn with
rotating order: one part after the other; H.264 in its own thread (`video/fragment_thread.py`); each chunk
denoised while the previous one is decoded and encoded (`streaming/chunk_prefetcher.py`). All frames are the
engine's. Every story begins without cached captions. Reported separately: the time from a cut to its first
pixels, since prefetching could make a viewer wait. On a machine with other load a second thread also gets a
larger share of it: compare on an idle one.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, replace

from shotstream.bench.generate import BenchConfig, FilmRun, bench_story
from shotstream.bench.published_loop import forget_captions
from shotstream.bench.report import Report, Row, Spread, pipeline_facts
from shotstream.streaming.chunk_prefetcher import ChunkPrefetcher
from shotstream.streaming.pipeline import StreamingPipeline

_WAYS = ("between", "beside", "ahead")


def bench_overlap(
    pipeline: StreamingPipeline, config: BenchConfig, on_story: Callable[[int], None] | None = None
) -> Report:
    """Returns the report of the three ways.

    `overlap` of the config is not used, and one more story is a warm-up.
    """
    was_ahead = pipeline.prefetcher
    thread = was_ahead or ChunkPrefetcher(pipeline.device, pipeline.codec_device)
    turns: list[dict[str, float]] = []
    cuts_s: dict[str, list[float]] = {way: [] for way in _WAYS}
    num_frames = 0
    try:
        for index in range(-1, config.num_stories):
            story = bench_story(config.num_shots, config.seed + index + 1)
            turn: dict[str, float] = {}
            for way in (*_WAYS[index % 3 :], *_WAYS[: index % 3]):
                forget_captions(pipeline.text_encoder)
                pipeline.prefetcher = thread if way == "ahead" else None
                run = FilmRun(pipeline, replace(config, overlap=way == "beside"))
                start_s = time.perf_counter()
                run.film(story)
                turn[way] = time.perf_counter() - start_s
                num_frames = run.num_frames
                if index >= 0:
                    cuts_s[way] += run.cuts_s
            if index >= 0:
                turns.append(turn)
                if on_story is not None:
                    on_story(index + 1)
    finally:
        pipeline.prefetcher = was_ahead
    return Report(
        bench="overlap",
        facts={**pipeline_facts(pipeline), "config": asdict(config)},
        rows=_rows(turns, cuts_s, num_frames),
    )


def _rows(turns: list[dict[str, float]], cuts_s: dict[str, list[float]], num_frames: int) -> tuple[Row, ...]:
    def ratio(way: str) -> Spread:
        return Spread(tuple(turn["between"] / turn[way] for turn in turns))

    def fps(way: str) -> Spread:
        return Spread(tuple(num_frames / turn[way] for turn in turns))

    return (
        Row("ratio", "time in turn / with H.264 beside", ratio("beside")),
        Row("ahead_ratio", "time in turn / with chunks made ahead", ratio("ahead")),
        Row("between_fps", "frames per second, in turn", fps("between")),
        Row("beside_fps", "frames per second, H.264 beside", fps("beside")),
        Row("ahead_fps", "frames per second, chunks made ahead", fps("ahead")),
        *(
            Row(f"{way}_cut_s", f"first chunk in memory after a cut, s ({way})", Spread(tuple(seconds)))
            for way, seconds in cuts_s.items()
            if seconds
        ),
    )
