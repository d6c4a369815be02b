"""Benchmark: cost of a chunk as a function of the film's length and of the shot's length.

Measured: one film with shots 1, 10, 50 and 100 probed: the later chunks of a probed shot; its first chunk
separately, since it includes text and context; the encoding of its context frames; memory; and the size of
the saved session. Other shots are one chunk long, which does not change the cost of later ones. Then one long
shot, its chunks by position: each costs more than the previous one until the window is full, then the same.
"""

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from shotstream.bench.denoise import PartConfig
from shotstream.bench.report import Report, Row, Spread, milliseconds, peak_bytes, pipeline_facts
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.session import StorySession

PROBED = (1, 10, 50, 100)
LONG_SHOT_WINDOWS = 4
"""Length of the long shot, in windows of the local cache."""


def bench_shots(
    pipeline: StreamingPipeline,
    config: PartConfig,
    *,
    probed: tuple[int, ...] = PROBED,
    on_shot: Callable[[int], None] | None = None,
    between_steps: int | None = None,
    with_long_shot: bool = True,
    is_over: Callable[[], bool] = lambda: False,
) -> Report:
    """Returns the report of a film of `max(probed)` shots; `num_shots` of the config is not used.

    Args:
        pipeline: The pipeline; loaded with `synchronize=True`.
        config: Number of chunks of a probed shot (at least 2), and of steps.
        probed: Numbers of the probed shots, from 1.
        on_shot: Called with the number of finished shots.
        between_steps: Denoising steps of the shots between, whose frames are not used; None: those of the
            others.
        with_long_shot: Whether to add a long shot at the end.
        is_over: Returns whether the shot is the last; called after each.
    """
    num_chunks = max(2, config.num_chunks or pipeline.num_chunks)
    list(pipeline.session("warm-up", quiet=True).shot("a fox", num_chunks=2, steps=config.num_steps))
    session = pipeline.session("a fox in the forest", quiet=True)
    rows: list[Row] = []
    for number in range(1, max(probed) + 1):
        if number in probed:
            rows += _probe(session, number, num_chunks, config.num_steps, pipeline.device)
        else:
            list(session.shot(_caption(number), num_chunks=1, steps=between_steps or config.num_steps))
        if on_shot is not None:
            on_shot(number)
        if is_over():
            break
    if with_long_shot:
        rows += _probe_length(session, config.num_steps, pipeline.dit.config.window_chunks)
    facts = {
        **pipeline_facts(pipeline),
        "num_chunks": num_chunks,
        "num_steps": config.num_steps or pipeline.num_steps,
    }
    return Report(bench="shots", facts=facts, rows=tuple(rows))


def _probe(
    session: StorySession, number: int, num_chunks: int, num_steps: int | None, device: torch.device
) -> list[Row]:
    chunks = [
        asdict(chunk.timings)
        for chunk in session.shot(_caption(number), num_chunks=num_chunks, steps=num_steps)
    ]
    later: Spread = milliseconds([sum(chunk.values()) for chunk in chunks[1:]])
    rows = [
        Row(f"shot_{number}_chunk_ms", f"shot {number}, a later chunk, ms", later),
        Row(f"shot_{number}_first_ms", "its first chunk, ms", 1e3 * sum(chunks[0].values())),
        Row(f"shot_{number}_keep_ms", "what it keeps, ms", 1e3 * session.shots[-1].keep_s),
        *(
            Row(f"shot_{number}_{kind}_mb", f"peak memory so far, {kind}, MB", peak / 1e6)
            for kind, peak in peak_bytes(device).items()
        ),
    ]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "session"
        session.save(path)
        rows.append(Row(f"shot_{number}_saved_kb", "saved session, kB", path.stat().st_size / 1e3))
    return rows


def _probe_length(session: StorySession, num_steps: int | None, window: int) -> list[Row]:
    """Returns rows of a long shot's chunks: the second, the last that fills the window, and later ones."""
    stream = session.shot("a fox walks on and on", num_chunks=LONG_SHOT_WINDOWS * window, steps=num_steps)
    chunks_s = [sum(asdict(chunk.timings).values()) for chunk in stream]
    return [
        Row("long_shot_chunk_2_ms", "a long shot's chunk 2, ms", 1e3 * chunks_s[1]),
        Row(
            f"long_shot_chunk_{window}_ms",
            f"its chunk {window}, the window full, ms",
            1e3 * chunks_s[window - 1],
        ),
        *(
            Row(
                f"long_shot_window_{part + 1}_ms",
                f"its chunks {part * window + 1} to {(part + 1) * window}, ms",
                milliseconds(chunks_s[part * window : (part + 1) * window]),
            )
            for part in range(1, LONG_SHOT_WINDOWS)
        ),
    ]


def _caption(number: int) -> str:
    return f"a fox walks at night {number}"
