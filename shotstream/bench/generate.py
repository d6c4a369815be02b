"""Benchmark: frames per second of a whole film, end to end.

Measured: held-out stories of the theatre, each in a session of its own, one after the other, from the
captions to encoded H.264 fragments at the scale that `shotstream generate` writes. Counted in: text, context,
denoising, commits, decoding, the encoding of frames that later shots look back at, and H.264. Not counted:
loading the model, a warm-up story, whose time is told apart and holds what is compiled, the writing of
files.

It would be cheating to reuse captions (their embeddings are remembered: every story here is new), to leave
out the commit pass or the codec, to encode while the clock stands still, or to name the rate of a shot's
later chunks alone. By default everything runs in one thread of ours, part after part, so that the parts add
up. With `overlap` H.264 has a thread of its own, as a studio has; its part is then what the engine waits for
it, and the story ends with its last fragment all the same.
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
"""In the order in which a shot goes through them; `keep` encodes what later shots may look back at."""

Pictures = Literal["film", "smooth"]

_WARM_UP_SEED_OFFSET = 900_001
_MOST_FRAMES = 24
"""Of smooth pictures there are twice as many, so that any chunk finds its own in a row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig:
    """Configuration of the films that are timed.

    Raises:
        ValueError: a number is out of range.
    """

    num_stories: int = 8
    """Measured ones; one more warms up."""
    num_shots: int = 5
    """Shots of each."""
    num_chunks: int | None = None
    """Chunks of each shot; None: the model's usual number."""
    num_steps: int | None = None
    """Denoising steps per chunk; None: the model's own."""
    scale: int = 1
    """Enlargement before H.264."""
    seed: int = 0
    """Of the stories and of their noise."""
    overlap: bool = False
    """H.264 in a thread of its own, while the next chunk is made."""
    with_h264: bool = True
    """Whether pictures are encoded at all."""
    pictures: Pictures = "film"
    """What is encoded: the film's own, or as many smooth moving ones. Random weights make noise, which takes
    an encoder several times as long as anything that one would look at."""

    def __post_init__(self) -> None:
        numbers = (self.num_stories, self.num_shots, self.num_chunks or 1, self.num_steps or 1, self.scale)
        if min(numbers) < 1:
            raise ValueError("stories, shots, chunks, steps and scale must be at least 1")


def bench_generate(
    pipeline: StreamingPipeline, config: BenchConfig, on_story: Callable[[int], None] | None = None
) -> Report:
    """Measures a pipeline; load it with `synchronize=True`, so that a GPU's parts hold their own work.

    Args:
        pipeline: what to measure.
        config: what it films.
        on_story: told the number of measured stories done.
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
    peaks = peak_rows(*devices)  # before the ceilings, whose matrices are none of a film's
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
    """A held-out story; its words are only words to a model of another family."""
    return sample_story(np.random.default_rng(seed), num_shots, held_out=True)


def smooth_pictures(num_frames: int, size: PixelSize, first_frame: int = 0) -> Frames:
    """Colours that change slowly from pixel to pixel and drift from frame to frame."""
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
    """Films stories and adds up what they took.

    Args:
        pipeline: Films them.
        config: How; its numbers of stories and shots are not used.
        budget: Once it is over a story ends with the chunk in hand.
        light: What makes the pictures that are shown; None: the pipeline's own codec.
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
        """From its captions to its last fragment."""
        config = self._config
        writer = FragmentWriter(self._pipeline.fps, H264Settings(scale=config.scale))
        story_s = time.perf_counter()
        session = (
            self._pipeline.session(story.global_caption, seed=config.seed)
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
        """From each story's captions to its first chunk in memory."""
        return tuple(self._first_frame_s)

    @property
    def intervals_s(self) -> tuple[float, ...]:
        """From chunk to chunk, cuts included."""
        return tuple(self._interval_s)

    @property
    def parts_s(self) -> Mapping[str, float]:
        """Total seconds of each of `PARTS`."""
        return self._parts_s

    @property
    def cuts_s(self) -> tuple[float, ...]:
        """From asking for each shot after a first to its first chunk in memory."""
        return tuple(self._cut_s)

    def roofline(self) -> list[Row]:
        """The transformer's parts against the device's limits, measured now.

        Without `synchronize`, on a GPU, the parts do not hold their own work.
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
        """The rows of the report, of stories that took `wall_s` in all."""
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
