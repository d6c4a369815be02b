"""What does it bring to encode H.264 in a thread of its own?

Measured: the same stories from captions to their last fragment, twice in one process, turn by turn, who
begins alternating: with H.264 between the chunks and with it beside them (`codec/fragment_thread.py`). The
frames are the engine's in both. Every story begins without memory of its captions. On a machine that does
other work too a second thread also wins a larger share of it: compare on an idle one.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, replace

from shotstream.bench.generate import BenchConfig, FilmRun, bench_story
from shotstream.bench.published_loop import forget_captions
from shotstream.bench.report import Report, Row, Spread, pipeline_facts
from shotstream.streaming.pipeline import StreamingPipeline


def bench_overlap(
    pipeline: StreamingPipeline, config: BenchConfig, on_story: Callable[[int], None] | None = None
) -> Report:
    """Measures both ways; `overlap` of the config is not used, and one more story warms up."""
    turns: list[dict[bool, float]] = []
    num_frames = 0
    for index in range(-1, config.num_stories):
        story = bench_story(config.num_shots, config.seed + index + 1)
        turn: dict[bool, float] = {}
        for overlap in (True, False) if index % 2 else (False, True):
            forget_captions(pipeline.text_encoder)
            run = FilmRun(pipeline, replace(config, overlap=overlap))
            start_s = time.perf_counter()
            run.film(story)
            turn[overlap] = time.perf_counter() - start_s
            num_frames = run.num_frames
        if index >= 0:
            turns.append(turn)
            if on_story is not None:
                on_story(index + 1)
    rows = (
        Row(
            "ratio", "time between the chunks / beside them", Spread(tuple(t[False] / t[True] for t in turns))
        ),
        Row("between_fps", "frames per second, between", Spread(tuple(num_frames / t[False] for t in turns))),
        Row("beside_fps", "frames per second, beside", Spread(tuple(num_frames / t[True] for t in turns))),
    )
    return Report(bench="overlap", facts={**pipeline_facts(pipeline), "config": asdict(config)}, rows=rows)
