"""Benchmark: latency of a cut, from a new caption to its first pixels.

Measured: a film that is being generated, cut by a new caption. Queue empty: the engine is idle when the
caption arrives. Queue full: the caption arrives when the next chunk of the running shot has just been
started, the worst moment, and waits for that chunk, since a chunk is never interrupted; chunks that are
generated and not yet shown are dropped. Included in both: ending the shot with the encoding of its context
frames, captions, context, all steps of the first chunk, decoding, and its H.264 fragment. Not included: a
network between engine and viewer.

It would be cheating to repeat a caption (its embedding is cached) or to stop at latents.
"""

import time
from collections.abc import Iterator

from shotstream.bench.denoise import OnProgress, PartConfig, no_progress
from shotstream.bench.generate import bench_story
from shotstream.bench.light import LightSession
from shotstream.bench.report import Report, Row, Spread, peak_rows, pipeline_facts
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.vae.tiny_decoder import TinyDecoder
from shotstream.video.video_io import FragmentWriter, H264Settings

_PARTS = ("context", "text", "denoise", "decode")


def bench_cut(
    pipeline: StreamingPipeline, config: PartConfig, on_progress: OnProgress = no_progress, *, scale: int = 1
) -> Report:
    """Returns the report of cuts, for a pipeline that was loaded with `synchronize=True`.

    Args:
        pipeline: The pipeline.
        config: Its `num_shots` is the number of cuts of each kind; one more of each is a warm-up.
        on_progress: Called with the progress as text.
        scale: Factor by which frames are enlarged before H.264.
    """
    cuts = Cuts(pipeline, config, scale=scale)
    on_progress("warming up")
    for number, _ in enumerate(cuts.make(), start=1):
        on_progress(f"measured {number} of {config.num_shots}")
    rows = (
        Row("idle_s", "prompt to first pixels, queue empty, s", Spread(tuple(cuts.to_frames_s["idle"]))),
        Row("idle_h264_s", "the same, to the H.264 fragment, s", Spread(tuple(cuts.to_fragment_s["idle"]))),
        Row("busy_s", "prompt to first pixels, queue full, s", Spread(tuple(cuts.to_frames_s["busy"]))),
        Row("busy_h264_s", "the same, to the H.264 fragment, s", Spread(tuple(cuts.to_fragment_s["busy"]))),
        *(
            Row(f"{part}_ms", f"of that {part}, ms", Spread(tuple(samples)))
            for part, samples in cuts.parts_ms.items()
        ),
        Row("first_chunk_s", "very first chunk, compilation included, s", cuts.first_chunk_s),
    )
    facts = {**pipeline_facts(pipeline), "num_steps": config.num_steps or pipeline.num_steps, "scale": scale}
    return Report(bench="cut", facts=facts, rows=(*rows, *peak_rows(pipeline.device, pipeline.codec_device)))


class Cuts:
    """The cuts of a running film and their latencies, idle and busy in turn.

    Args:
        pipeline: The pipeline.
        config: Its `num_shots` is the number of cuts of each kind; one more of each is a warm-up.
        scale: Factor by which frames are enlarged before H.264; None: nothing is encoded.
        light: Light decoder of the shown frames; None: the pipeline's own codec.
    """

    def __init__(
        self,
        pipeline: StreamingPipeline,
        config: PartConfig,
        *,
        scale: int | None = 1,
        light: TinyDecoder | None = None,
    ) -> None:
        self._pipeline, self._config, self._light = pipeline, config, light
        self._writer = None
        if scale is not None:
            self._writer = FragmentWriter(pipeline.fps, H264Settings(scale=scale))
        self.to_frames_s: dict[str, list[float]] = {"idle": [], "busy": []}
        self.to_fragment_s: dict[str, list[float]] = {"idle": [], "busy": []}
        self.parts_ms: dict[str, list[float]] = {part: [] for part in _PARTS}
        self.first_chunk_s = 0.0

    def make(self) -> Iterator[None]:
        """Yields after one cut of each kind has been made and recorded."""
        pipeline, config = self._pipeline, self._config
        story = bench_story(2 * (config.num_shots + 1) + 1, seed=0)
        session = (
            pipeline.session(story.global_caption, quiet=True)
            if self._light is None
            else LightSession(pipeline, self._light, story.global_caption)
        )
        # Every caption is used once: unique words make each new to the cache of embeddings.
        captions = iter(f"{caption} {number}" for number, caption in enumerate(story.captions))
        running = session.shot(next(captions), num_chunks=config.num_chunks, steps=config.num_steps)
        start_s = time.perf_counter()
        next(running)
        self.first_chunk_s = time.perf_counter() - start_s
        for repeat in range(config.num_shots + 1):
            for kind in ("idle", "busy"):
                prompt_s = time.perf_counter()
                if kind == "busy":
                    next(running, None)
                running = session.shot(next(captions), num_chunks=config.num_chunks, steps=config.num_steps)
                chunk = next(running)
                frames_s = time.perf_counter()
                if self._writer is not None:
                    self._writer.write(chunk.frames)
                fragment_s = time.perf_counter()
                if repeat == 0:
                    continue
                self.to_frames_s[kind].append(frames_s - prompt_s)
                self.to_fragment_s[kind].append(fragment_s - prompt_s)
                for part in _PARTS:
                    self.parts_ms[part].append(1e3 * getattr(chunk.timings, f"{part}_s"))
            if repeat:
                yield
