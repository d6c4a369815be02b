"""Benchmark: number of CPU threads, on an idle machine and on a busy one.

Measured: the same stories generated with one thread and with one for each core, with and without prefetched
chunks, first on the machine as it is and then while other processes, one for each core, compute continuously;
from the captions to H.264, like `bench generate`. The ways alternate story by story, so that a slow minute of
the machine slows all of them. If the machine is not idle at the start, the first half is busy as well: look
at both.

It would be cheating to lower the other processes' priority or to raise one's own.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, replace

import torch

from shotstream.bench.generate import BenchConfig, FilmRun, bench_story
from shotstream.bench.published_loop import forget_captions
from shotstream.bench.report import Report, Row, Spread, pipeline_facts
from shotstream.process import num_cores
from shotstream.streaming.chunk_prefetcher import ChunkPrefetcher
from shotstream.streaming.pipeline import StreamingPipeline

_SETTLE_S = 0.5
"""Seconds until the other processes occupy the cores."""


def bench_threads(
    pipeline: StreamingPipeline, config: BenchConfig, on_story: Callable[[str], None] | None = None
) -> Report:
    """Returns the report of a pipeline on a CPU; one more story of each way is a warm-up.

    Args:
        pipeline: The pipeline.
        config: Configuration of the films; `overlap` is not used.
        on_story: Called with the progress as text.

    Raises:
        ValueError: The pipeline is not on a CPU.
    """
    if pipeline.device.type != "cpu":
        raise ValueError("threads are a CPU's; give --device cpu")
    cores = num_cores()
    ahead = pipeline.prefetcher or ChunkPrefetcher(pipeline.device, pipeline.codec_device)
    before = torch.get_num_threads(), pipeline.prefetcher
    ways = {
        f"{threads} {'thread' if threads == 1 else 'threads'}, {name}": (threads, thread)
        for threads in dict.fromkeys((1, cores))
        for name, thread in (("in turn", None), ("chunks ahead", ahead))
    }
    rows: list[Row] = []
    try:
        for state in ("idle", "busy"):
            fps: dict[str, list[float]] = {way: [] for way in ways}
            with _cores_held(cores if state == "busy" else 0):
                for index in range(-1, config.num_stories):
                    for way, (threads, thread) in ways.items():
                        torch.set_num_threads(threads)
                        pipeline.prefetcher = thread
                        rate = _film(pipeline, config, index)
                        if index >= 0:
                            fps[way].append(rate)
                    if on_story is not None:
                        on_story(f"{state} machine, {index + 1} of {config.num_stories} stories")
            rows += [
                Row(
                    f"{state}_{_key(way)}_fps", f"frames per second, {state} machine, {way}", Spread(tuple(x))
                )
                for way, x in fps.items()
            ]
    finally:
        torch.set_num_threads(before[0])
        pipeline.prefetcher = before[1]
    return Report(
        bench="threads",
        facts={**pipeline_facts(pipeline), "cores": cores, "config": asdict(config)},
        rows=tuple(rows),
    )


def _film(pipeline: StreamingPipeline, config: BenchConfig, index: int) -> float:
    """Returns the frames per second of one story."""
    forget_captions(pipeline.text_encoder)
    run = FilmRun(pipeline, replace(config, overlap=False))
    start_s = time.perf_counter()
    run.film(bench_story(config.num_shots, config.seed + index + 1))
    return run.num_frames / (time.perf_counter() - start_s)


def _key(way: str) -> str:
    return way.replace(", ", "_").replace(" ", "_")


@contextmanager
def _cores_held(number: int) -> Generator[None]:
    """Runs `number` other processes that compute continuously."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        if others:
            time.sleep(_SETTLE_S)
        yield
    finally:
        for other in others:
            other.kill()
        for other in others:
            other.wait()
