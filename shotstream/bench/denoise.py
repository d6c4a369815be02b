"""Benchmark: time of the transformer for a chunk, at each position in a shot.

Measured: shots of noise after three earlier ones, each chunk denoised in all its steps and committed, with
the context in the cache, so that later chunks attend to more. Included: noise generation, rotary tables,
every pass. Not included, and reported separately: the context's pass, and the very first shot (which compiles
and fills caches). No codec, no text encoder: the frames per second of this benchmark are an upper bound for
films, never a measurement of one.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from shotstream.bench.report import (
    Report,
    Row,
    Spread,
    milliseconds,
    peak_rows,
    pipeline_facts,
)
from shotstream.bench.roofline import measure_ceilings, roofline_rows, shot_cost
from shotstream.streaming.conditioning import Conditioning, condition_next_shot
from shotstream.streaming.context_sampling import kept_frames
from shotstream.streaming.noise import KeyedNoise
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.rollout import Rollout
from shotstream.streaming.shot_memory import ShotMemory
from shotstream.streaming.timing import Stopwatch

_NUM_EARLIER_SHOTS = 3

OnProgress = Callable[[str], None]
"""Callback with a description of the current work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartConfig:
    """Configuration of a benchmark of one part of the engine.

    Raises:
        ValueError: A number is out of range.
    """

    num_shots: int = 10
    """Number of measured shots, at least 1; one more is a warm-up."""
    num_chunks: int | None = None
    """Number of chunks of each shot; None: the model's default length."""
    num_steps: int | None = None
    """Number of denoising steps per chunk; None: the model's own."""

    def __post_init__(self) -> None:
        if min(self.num_shots, self.num_chunks or 1, self.num_steps or 1) < 1:
            raise ValueError("shots, chunks and steps must be at least 1")

    def repeats(self, on_progress: OnProgress) -> Iterator[int]:
        """Yields the indices of the measured shots, each reported before it begins."""
        for number in range(self.num_shots):
            on_progress(f"measuring {number + 1} of {self.num_shots}")
            yield number


def no_progress(_text: str) -> None:
    """Ignores the progress."""


def bench_denoise(
    pipeline: StreamingPipeline, config: PartConfig, on_progress: OnProgress = no_progress
) -> Report:
    """Returns the report of the transformer, for a pipeline that was loaded with `synchronize=True`."""
    num_chunks = config.num_chunks or pipeline.num_chunks
    num_steps = config.num_steps or pipeline.num_steps
    conditioning, text = later_shot(pipeline)
    on_progress("warming up")
    start_s = time.perf_counter()
    time_shot(pipeline, conditioning, text, num_chunks, num_steps)
    first_shot_s = time.perf_counter() - start_s
    shots = [
        time_shot(pipeline, conditioning, text, num_chunks, num_steps, seed)
        for seed in config.repeats(on_progress)
    ]
    on_progress("measuring the machine's ceilings")
    # A chunk's pass is complete once it is committed; the last of a shot is not.
    denoise = [milliseconds([shot[chunk]["denoise"] for shot in shots]) for chunk in range(num_chunks)]
    commit = milliseconds([part["commit"] for shot in shots for part in shot[1:]])
    shot_s = Spread(tuple(sum(sum(part.values()) for part in shot) for shot in shots))
    num_frames = pipeline.codec.geometry.shot_num_frames(num_chunks)
    rows = [
        Row("context_ms", "context, once per shot, ms", milliseconds([shot[0]["context"] for shot in shots])),
        *(Row(f"chunk_{i}_ms", f"chunk {i + 1}, {num_steps} steps, ms", x) for i, x in enumerate(denoise)),
        Row("commit_ms", "commit, ms", commit),
        Row("shot_s", f"shot of {num_chunks} chunks, s", shot_s),
        Row("denoise_fps", "frames per second of the transformer alone", num_frames / shot_s.p50),
        Row("first_shot_s", "first shot, compilation included, s", first_shot_s),
    ]
    peaks = peak_rows(
        pipeline.device
    )  # before the limits are measured, whose matrices are not part of a film
    grid = pipeline.codec.geometry.token_grid(pipeline.latent_size)
    cost = shot_cost(pipeline.dit.config, grid, num_chunks, num_steps, pipeline.dtype.itemsize)
    rows += [
        Row("shot_tflop", "shot, Tflop", cost.flops / 1e12),
        Row("shot_gbyte", "shot, Gbyte at the least", cost.num_bytes / 1e9),
        *roofline_rows(cost, shot_s.p50, measure_ceilings(pipeline.device, pipeline.dtype)),
    ]
    facts = {**pipeline_facts(pipeline), "num_steps": num_steps, "num_chunks": num_chunks}
    return Report(bench="denoise", facts=facts, rows=(*rows, *peaks))


def later_shot(pipeline: StreamingPipeline) -> tuple[Conditioning, Tensor]:
    """Returns random conditioning and caption embeddings of a shot that follows three others."""
    generator = torch.Generator().manual_seed(0)
    config = pipeline.dit.config
    channels, _, height, width = pipeline.chunk_shape
    num_frames = pipeline.codec.geometry.shot_num_frames(pipeline.config.num_chunks)
    memories: list[ShotMemory] = []
    for shot in range(_NUM_EARLIER_SHOTS):
        kept = kept_frames(num_frames, shot, pipeline.context_budget)
        latents = torch.randn(len(kept), channels, height, width, generator=generator)
        memories.append(
            ShotMemory(caption=str(shot), num_frames=num_frames, candidate_frames=kept, latents=latents)
        )
    told = [*(memory.caption for memory in memories), "the next shot"]
    conditioning, captions = condition_next_shot(
        memories,
        told[-1],
        config,
        pipeline.latent_size,
        pipeline.config.context_policy,
        match=partial(pipeline.matcher.match, "a film", told, 0),
        device=pipeline.device,
    )
    text = torch.randn(1, len(captions), config.text_length, config.text_dim, generator=generator)
    return conditioning, text.to(pipeline.device)


def time_shot(
    pipeline: StreamingPipeline,
    conditioning: Conditioning,
    text: Tensor,
    num_chunks: int,
    num_steps: int,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Returns seconds of each part of each chunk: context, denoise, commit.

    The context's part is in the first chunk; the commit is that of the previous chunk.
    """
    return timed_shot(pipeline, conditioning, text, num_chunks, num_steps, seed)[0]


@torch.no_grad()
def timed_shot(
    pipeline: StreamingPipeline,
    conditioning: Conditioning,
    text: Tensor,
    num_chunks: int,
    num_steps: int,
    seed: int = 0,
) -> tuple[list[dict[str, float]], Tensor]:
    """Returns the same, and the latents of the last chunk."""
    stopwatch: Stopwatch = pipeline.stopwatch()
    cache = pipeline.borrow_cache()
    try:
        noise = KeyedNoise(seeds=(seed,), shape=pipeline.chunk_shape, device=pipeline.device)
        rollout = Rollout(
            pipeline.dit, conditioning, text, cache, noise, pipeline.sigmas(num_steps), stopwatch=stopwatch
        )
        chunks = [(stopwatch.take(), latents) for latents in rollout.chunks(num_chunks)]
        return [parts_s for parts_s, _ in chunks], chunks[-1][1]
    finally:
        pipeline.return_cache(cache)
