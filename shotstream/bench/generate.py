"""Benchmark: frames per second of complete films.

Measured: held-out stories of the theatre, each in its own session, one after the other, from the captions to
encoded H.264 fragments at the scale of `shotstream generate`. Included: text, context, denoising, commits,
decoding, the encoding of context frames, and H.264. Not included: loading the model, a warm-up story, whose
time is reported separately and includes compilation, and writing files.

It would be cheating to reuse captions (their embeddings are cached: every story here is new), to leave out
the commit pass or the codec, to encode while the clock is stopped, or to report the rate of a shot's later
chunks alone. By default everything runs in one thread, part after part, so that the parts add up. With
`overlap` H.264 has its own thread, as in a studio; its part is then the time that the engine waits for it,
and the story still ends with its last fragment.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from shotstream.bench.budget import UNLIMITED, Budget
from shotstream.bench.light import LightSession
from shotstream.bench.power import PowerMeter
from shotstream.bench.report import Report, Row, Spread, peak_rows, pipeline_facts
from shotstream.bench.roofline import measure_ceilings, roofline_rows, shot_cost
from shotstream.geometry import PixelSize
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.session import StorySession
from shotstream.theatre.world import TheatreStory, sample_story
from shotstream.vae.tiny_decoder import TinyDecoder
from shotstream.video.fragment_thread import FragmentThread
from shotstream.video.video_io import FragmentWriter, Frames, H264Settings

PARTS = ("text", "context", "denoise", "commit", "decode", "keep", "h264")
"""Parts of a shot, in order; `keep` is the encoding of its context frames."""

Pictures = Literal["film", "smooth"]

_WARM_UP_SEED_OFFSET = 900_001
_MOST_FRAMES = 24
"""Maximum number of frames of a chunk; there are twice as many smooth frames, so that any chunk finds its own
in a row.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig:
    """Configuration of the measured films.

    Raises:
        ValueError: A number is out of range.
    """

    num_stories: int = 8
    """Number of measured stories, at least 1; one more is a warm-up."""
    num_shots: int = 5
    """Number of shots of each story, at least 1."""
    num_chunks: int | None = None
    """Number of chunks of each shot; None: the model's default length."""
    num_steps: int | None = None
    """Number of denoising steps per chunk; None: the model's own."""
    scale: int = 1
    """Factor by which frames are enlarged before H.264, at least 1."""
    seed: int = 0
    """Seed of the stories and of their noise."""
    overlap: bool = False
    """Whether H.264 has its own thread, beside the generation of the next chunk."""
    with_h264: bool = True
    """Whether frames are encoded at all."""
    pictures: Pictures = "film"
    """Frames to encode: the film's own, or as many smooth moving ones. Random weights generate noise, which
    takes an encoder several times as long as real pictures.
    """

    def __post_init__(self) -> None:
        numbers = (self.num_stories, self.num_shots, self.num_chunks or 1, self.num_steps or 1, self.scale)
        if min(numbers) < 1:
            raise ValueError("stories, shots, chunks, steps and scale must be at least 1")


def bench_generate(
    pipeline: StreamingPipeline, config: BenchConfig, on_story: Callable[[int], None] | None = None
) -> Report:
    """Returns the report of a pipeline.

    Load it with `synchronize=True`, so that a GPU's parts measure their own work.

    Args:
        pipeline: The pipeline.
        config: Configuration of the films.
        on_story: Called with the number of measured stories.
    """
    start_s = time.perf_counter()
    FilmRun(pipeline, config).film(bench_story(config.num_shots, config.seed + _WARM_UP_SEED_OFFSET))
    warm_up_s = time.perf_counter() - start_s
    run = FilmRun(pipeline, config)
    devices = pipeline.device, pipeline.codec_device
    with PowerMeter(*devices) as meter:
        start_s = time.perf_counter()
        for index in range(config.num_stories):
            run.film(bench_story(config.num_shots, config.seed + index))
            if on_story is not None:
                on_story(index + 1)
        wall_s = time.perf_counter() - start_s
    peaks = peak_rows(*devices)  # before the limits are measured, whose matrices are not part of a film
    return Report(
        bench="generate",
        facts={
            **pipeline_facts(pipeline),
            "num_steps": config.num_steps or pipeline.num_steps,
            "config": asdict(config),
        },
        rows=(
            *run.rows(wall_s),
            *run.roofline(),
            *meter.rows(run.num_frames, wall_s),
            Row("warm_up_s", "warm-up story, s", warm_up_s),
            *peaks,
        ),
    )


def bench_story(num_shots: int, seed: int) -> TheatreStory:
    """Returns a held-out story; a model of another family reads it as plain text."""
    return sample_story(np.random.default_rng(seed), num_shots, held_out=True)


def smooth_pictures(num_frames: int, size: PixelSize, first_frame: int = 0) -> Frames:
    """Returns frames with colours that change slowly from pixel to pixel and from frame to frame."""
    rows, columns = np.arange(size.height)[:, None], np.arange(size.width)[None]
    frames = np.empty((num_frames, size.height, size.width, 3), dtype=np.uint8)
    for place, frame in enumerate(frames):
        moment = first_frame + place
        for channel in range(3):
            waves = np.sin((columns + 3 * moment) / (40 + 9 * channel)) + np.sin(
                (rows + moment) / 31 + channel
            )
            frame[..., channel] = 127 + 60 * waves
    return frames


class FilmRun:
    """Generates films of stories and adds up the times of their parts.

    Args:
        pipeline: The pipeline.
        config: Configuration of the films; its numbers of stories and shots are not used.
        budget: Time budget; once it is over a story ends with the current chunk.
        light: Light decoder of the shown frames; None: the pipeline's own codec.
    """

    def __init__(
        self,
        pipeline: StreamingPipeline,
        config: BenchConfig,
        budget: Budget = UNLIMITED,
        light: TinyDecoder | None = None,
    ) -> None:
        self._light = light
        self._pipeline, self._config, self._budget = pipeline, config, budget
        self._smooth: Frames | None = None
        if config.pictures == "smooth":
            self._smooth = smooth_pictures(2 * _MOST_FRAMES, pipeline.pixel_size)
        self.num_frames = 0
        self._num_shots = 0
        self._parts_s: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._first_frame_s: list[float] = []
        self._cut_s: list[float] = []
        self._interval_s: list[float] = []

    def film(self, story: TheatreStory) -> None:
        """Generates a film from captions to its last fragment."""
        config = self._config
        writer = FragmentWriter(self._pipeline.fps, H264Settings(scale=config.scale))
        story_s = time.perf_counter()
        session = (
            self._pipeline.session(story.global_caption, seed=config.seed, quiet=True)
            if self._light is None
            else LightSession(self._pipeline, self._light, story.global_caption)
        )
        if not config.with_h264:
            self._film(session, story, story_s, lambda _: None)
            return
        if not config.overlap:
            self._film(session, story, story_s, writer.write)
            return
        encoded: list[Future[tuple[bytes, bytes]]] = []
        with FragmentThread(writer) as thread:
            self._film(session, story, story_s, lambda frames: encoded.append(thread.submit(frames)))
            ended_s = time.perf_counter()
        self._parts_s["h264"] += time.perf_counter() - ended_s
        for future in encoded:
            future.result()

    def _film(
        self,
        session: StorySession | LightSession,
        story: TheatreStory,
        story_s: float,
        write: Callable[[np.ndarray], object],
    ) -> None:
        config = self._config
        chunk_s: float | None = None
        start = 0
        for shot_index, caption in enumerate(story.captions):
            shot_s = time.perf_counter()
            for chunk in session.shot(caption, num_chunks=config.num_chunks, steps=config.num_steps):
                now_s = time.perf_counter()
                if chunk.chunk_index == 0 and shot_index == 0:
                    self._first_frame_s.append(now_s - story_s)
                elif chunk.chunk_index == 0:
                    self._cut_s.append(now_s - shot_s)
                if chunk_s is not None:
                    self._interval_s.append(now_s - chunk_s)
                chunk_s = now_s
                for part in PARTS[:5]:
                    self._parts_s[part] += getattr(chunk.timings, f"{part}_s")
                write(chunk.frames if self._smooth is None else self._smooth[start:][: len(chunk.frames)])
                start = (start + len(chunk.frames)) % _MOST_FRAMES
                self._parts_s["h264"] += time.perf_counter() - now_s
                self.num_frames += len(chunk.frames)
                if self._budget.is_over:
                    return
            self._num_shots += 1
            self._parts_s["keep"] += session.shots[-1].keep_s

    @property
    def first_frames_s(self) -> tuple[float, ...]:
        """Seconds from each story's captions to its first chunk in memory."""
        return tuple(self._first_frame_s)

    @property
    def intervals_s(self) -> tuple[float, ...]:
        """Seconds between consecutive chunks, including cuts."""
        return tuple(self._interval_s)

    @property
    def parts_s(self) -> Mapping[str, float]:
        """Total seconds of each of `PARTS`."""
        return self._parts_s

    @property
    def cuts_s(self) -> tuple[float, ...]:
        """Seconds from the request of each shot after the first to its first chunk in memory."""
        return tuple(self._cut_s)

    def roofline(self) -> list[Row]:
        """Returns the transformer's parts compared with the device's limits, which are measured now.

        Without `synchronize`, the parts on a GPU do not measure their own work.
        """
        pipeline, config = self._pipeline, self._config
        shot = shot_cost(
            pipeline.dit.config,
            self._pipeline.geometry.token_grid(pipeline.latent_size),
            config.num_chunks or self._pipeline.num_chunks,
            config.num_steps or self._pipeline.num_steps,
            pipeline.dtype.itemsize,
        )
        passes_s = sum(self._parts_s[part] for part in ("context", "denoise", "commit"))
        ceilings = measure_ceilings(pipeline.device, pipeline.dtype)
        return roofline_rows(shot * self._num_shots, passes_s, ceilings)

    def rows(self, wall_s: float) -> tuple[Row, ...]:
        """Returns the rows of the report, for stories that took `wall_s` in all."""
        fps = self.num_frames / wall_s
        return (
            Row("fps", "frames per second, end to end", fps),
            Row("real_time_factor", "real-time factor (1: as fast as it plays)", fps / self._pipeline.fps),
            *(
                Row(f"{part}_ms_per_frame", f"{part}, ms per frame", 1e3 * part_s / self.num_frames)
                for part, part_s in self._parts_s.items()
            ),
            Row("explained", "parts / wall time", sum(self._parts_s.values()) / wall_s),
            Row(
                "first_frame_s",
                "first chunk in memory after the captions, s",
                Spread(tuple(self._first_frame_s)),
            ),
            Row("cut_s", "first chunk in memory after a cut, s", Spread(tuple(self._cut_s))),
            Row("interval_s", "between chunks, cuts included, s", Spread(tuple(self._interval_s))),
            Row("num_frames", "frames", self.num_frames),
            Row("wall_s", "wall time, s", wall_s),
        )
