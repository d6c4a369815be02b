"""How long from a new prompt to its first pixels?

Measured: a film under way, cut by a caption it has never seen. Queue empty: the engine has nothing to do
when the prompt comes. Queue full: it comes just as the next chunk of the running shot has been begun, the
worst moment, and waits for that chunk, since a chunk is never interrupted; chunks that are made and not yet
shown are dropped. Counted in both: ending the shot with the encoding of what it keeps, captions, context,
all steps of the first chunk, decoding, and its H.264 fragment. Not counted: a network between engine
and viewer.

It would be cheating to repeat a caption (its embedding is remembered) or to stop at latents.
"""

import time

from shotstream.bench.denoise import PartConfig
from shotstream.bench.generate import bench_story
from shotstream.bench.report import Report, Row, Spread, peak_rows, pipeline_facts
from shotstream.codec.video_io import FragmentWriter, H264Settings
from shotstream.streaming.pipeline import StreamingPipeline

_PARTS = ("context", "text", "denoise", "decode")


def bench_cut(pipeline: StreamingPipeline, config: PartConfig, *, scale: int = 1) -> Report:
    """Measures cuts of a pipeline that was loaded with `synchronize=True`.

    Args:
        pipeline: What to measure.
        config: Its `num_shots` is the number of cuts of each kind; one of each warms up.
        scale: Enlargement before H.264.
    """
    story = bench_story(2 * (config.num_shots + 1) + 1, seed=0)
    writer = FragmentWriter(pipeline.fps, H264Settings(scale=scale))
    session = pipeline.session(story.global_caption)
    # A caption is met once: words of its own make each new to the memo of embeddings.
    captions = iter(f"{caption} {number}" for number, caption in enumerate(story.captions))
    first = session.shot(next(captions), num_chunks=config.num_chunks, steps=config.num_steps)
    start_s = time.perf_counter()
    next(first)
    first_chunk_s = time.perf_counter() - start_s
    running = first
    to_frames: dict[bool, list[float]] = {False: [], True: []}
    to_fragment: dict[bool, list[float]] = {False: [], True: []}
    parts: dict[str, list[float]] = {part: [] for part in _PARTS}
    for repeat in range(config.num_shots + 1):
        for is_busy in (False, True):
            prompt_s = time.perf_counter()
            if is_busy:
                next(running, None)
            shot = session.shot(next(captions), num_chunks=config.num_chunks, steps=config.num_steps)
            chunk = next(shot)
            frames_s = time.perf_counter()
            writer.write(chunk.frames)
            fragment_s = time.perf_counter()
            running = shot
            if repeat == 0:
                continue
            to_frames[is_busy].append(frames_s - prompt_s)
            to_fragment[is_busy].append(fragment_s - prompt_s)
            for part in _PARTS:
                parts[part].append(1e3 * getattr(chunk.timings, f"{part}_s"))
    rows = (
        Row("idle_s", "prompt to first pixels, queue empty, s", Spread(tuple(to_frames[False]))),
        Row("idle_h264_s", "the same, to the H.264 fragment, s", Spread(tuple(to_fragment[False]))),
        Row("busy_s", "prompt to first pixels, queue full, s", Spread(tuple(to_frames[True]))),
        Row("busy_h264_s", "the same, to the H.264 fragment, s", Spread(tuple(to_fragment[True]))),
        *(
            Row(f"{part}_ms", f"of that {part}, ms", Spread(tuple(samples)))
            for part, samples in parts.items()
        ),
        Row("first_chunk_s", "very first chunk, compilation included, s", first_chunk_s),
    )
    facts = {**pipeline_facts(pipeline), "num_steps": config.num_steps or pipeline.num_steps, "scale": scale}
    return Report(
        bench="cut", facts=facts, rows=(*rows, *peak_rows(pipeline.device, pipeline.engine.codec_device))
    )
