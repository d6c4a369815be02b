"""Benchmark: time of the codec to decode latents, and to encode the frames that become context.

Decode: whole shots of random latents, chunk by chunk with the state between, up to frames in main memory,
like the engine, with conversion to uint8 and the copy from a GPU. Encode: the context frames of a finished
shot, each alone as a video of one frame. No transformer, no text encoder, no H.264. The first shot is a
warm-up and reported separately.
"""

import time

import numpy as np
import torch

from shotstream.bench.denoise import OnProgress, PartConfig, no_progress
from shotstream.bench.report import Report, Row, Spread, milliseconds, peak_rows, pipeline_facts, synchronize
from shotstream.streaming.context_sampling import kept_frames
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.vae.codec import DecodeState


def bench_decode(
    pipeline: StreamingPipeline, config: PartConfig, on_progress: OnProgress = no_progress
) -> Report:
    """Returns the report of decoding."""
    num_chunks = config.num_chunks or pipeline.num_chunks
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(num_chunks, 1, *pipeline.chunk_shape, generator=generator).to(pipeline.codec_device)
    on_progress("warming up")
    start_s = time.perf_counter()
    _decode_shot(pipeline, latents)
    warm_up_s = time.perf_counter() - start_s
    shots = [_decode_shot(pipeline, latents) for _ in config.repeats(on_progress)]
    num_frames = pipeline.codec.geometry.shot_num_frames(num_chunks)
    shot_s = Spread(tuple(map(sum, shots)))
    later = milliseconds([chunk_s for shot in shots for chunk_s in shot[1:]])
    rows = (
        Row("first_chunk_ms", "a shot's first chunk, ms", milliseconds([shot[0] for shot in shots])),
        Row("chunk_ms", "a later chunk, ms", later),
        Row("decode_fps", "frames per second of the decoder alone", num_frames / shot_s.p50),
        Row("warm_up_s", "first shot, compilation included, s", warm_up_s),
    )
    facts = {**pipeline_facts(pipeline), "num_chunks": num_chunks}
    return Report(bench="decode", facts=facts, rows=(*rows, *peak_rows(pipeline.codec_device)))


def bench_encode(
    pipeline: StreamingPipeline, config: PartConfig, on_progress: OnProgress = no_progress
) -> Report:
    """Returns the report of encoding context frames."""
    num_frames = pipeline.codec.geometry.shot_num_frames(config.num_chunks or pipeline.num_chunks)
    size = pipeline.pixel_size
    shape = (num_frames, size.height, size.width, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    rows: list[Row] = []
    warm_up_s = 0.0
    # The first shot of a film has the most context frames, a shot beyond the budget the fewest.
    for shot_index, name in ((0, "first"), (pipeline.context_budget, "late")):
        kept = frames[list(kept_frames(num_frames, shot_index, pipeline.context_budget))]
        warm_up_s += _encode_s(pipeline, kept)
        samples = milliseconds([_encode_s(pipeline, kept) for _ in config.repeats(on_progress)])
        rows.append(Row(f"{name}_shot_ms", f"{len(kept)} frames of a film's {name} shot, ms", samples))
        per_frame = samples.p50 / len(kept)
        rows.append(Row(f"{name}_shot_ms_per_frame", "of that, ms per frame", per_frame))
    rows.append(Row("warm_up_s", "first calls, compilation included, s", warm_up_s))
    return Report(
        bench="encode", facts=pipeline_facts(pipeline), rows=(*rows, *peak_rows(pipeline.codec_device))
    )


def _decode_shot(pipeline: StreamingPipeline, latents: torch.Tensor) -> list[float]:
    state: DecodeState | None = None
    chunks_s: list[float] = []
    for chunk in latents:
        synchronize(pipeline.codec_device)
        start_s = time.perf_counter()
        _, state = pipeline.decode(chunk, state)
        chunks_s.append(time.perf_counter() - start_s)
    return chunks_s


def _encode_s(pipeline: StreamingPipeline, frames: np.ndarray) -> float:
    synchronize(pipeline.codec_device)
    start_s = time.perf_counter()
    pipeline.encode_frames(frames)
    return time.perf_counter() - start_s
