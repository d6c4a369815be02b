"""Does a chunk cost more the longer the film is?

Measured: one film, its shots 1, 10, 50 and 100 probed: the later chunks of a probed shot, its first chunk
apart, since it also pays for text and context, what it keeps, memory, and the size of the saved session.
The shots between are one chunk long, which changes nothing that a later shot's cost depends on.
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


def bench_shots(
    pipeline: StreamingPipeline,
    config: PartConfig,
    *,
    probed: tuple[int, ...] = PROBED,
    on_shot: Callable[[int], None] | None = None,
) -> Report:
    """Measures a film of `max(probed)` shots; `num_shots` of the config is not used.

    Args:
        pipeline: What to measure; loaded with `synchronize=True`.
        config: Chunks of a probed shot (at least 2), and steps.
        probed: Numbers of the shots, from 1.
        on_shot: Told the number of shots done.
    """
    num_chunks = max(2, config.num_chunks or pipeline.num_chunks)
    list(pipeline.session("warm-up").shot("a fox", num_chunks=2, steps=config.num_steps))
    session = pipeline.session("a fox in the forest")
    rows: list[Row] = []
    for number in range(1, max(probed) + 1):
        if number in probed:
            rows += _probe(session, number, num_chunks, config.num_steps, pipeline.device)
        else:
            list(session.shot(_caption(number), num_chunks=1, steps=config.num_steps))
        if on_shot is not None:
            on_shot(number)
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


def _caption(number: int) -> str:
    return f"a fox walks at night {number}"
