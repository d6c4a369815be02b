"""How fast is a film made, end to end?

Measured: held-out stories of the theatre, each in a session of its own, one after the other, from the
captions to encoded H.264 fragments at the scale that `shotstream generate` writes. Counted in: text, context,
denoising, commits, decoding, the encoding of frames that later shots look back at, and H.264. Not counted:
loading the model, a warm-up story, the writing of files.

It would be cheating to reuse captions (their embeddings are remembered: every story here is new), to leave
out the commit pass or the codec, to encode while the clock stands still, or to name the rate of a shot's
later chunks alone. Everything runs in one thread of ours, part after part, so that the parts add up.
"""

import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

import shotstream
from shotstream.codec.video_io import FragmentWriter, H264Settings
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.theatre.world import TheatreStory, sample_story

PARTS = ("text", "context", "denoise", "commit", "decode", "keep", "h264")
"""In the order in which a shot goes through them; `keep` encodes what later shots may look back at."""

_WARM_UP_SEED_OFFSET = 900_001


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig:
    """What is filmed.

    Raises:
        ValueError: a number is out of range.
    """

    num_stories: int = 8
    """Measured ones; one more warms up."""
    num_shots: int = 5
    """Shots of each."""
    num_chunks: int | None = None
    """Chunks of each shot; None: the model's usual number."""
    scale: int = 1
    """Enlargement before H.264."""
    seed: int = 0
    """Of the stories and of their noise."""

    def __post_init__(self) -> None:
        if min(self.num_stories, self.num_shots, self.num_chunks or 1, self.scale) < 1:
            raise ValueError("stories, shots, chunks and scale must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchReport:
    """What was measured."""

    facts: Mapping[str, object]
    """Hardware, software, model and regime."""
    num_frames: int
    """Of all measured stories."""
    wall_s: float
    """From the first story's captions to the last story's last fragment."""
    parts_s: Mapping[str, float]
    """Seconds of each part, by the names in `PARTS`."""
    first_frame_s: tuple[float, ...]
    """Per story: from its captions to the first chunk's frames in memory."""
    cut_s: tuple[float, ...]
    """Per cut: from asking for the next shot to its first chunk's frames in memory."""
    interval_s: tuple[float, ...]
    """Per chunk, the first of each story excepted: since the chunk before it."""
    peak_bytes: Mapping[str, int]
    """Peak memory of the process, and of the GPU where there is one."""

    @property
    def fps(self) -> float:
        """Frames per second end to end."""
        return self.num_frames / self.wall_s

    @property
    def explained(self) -> float:
        """Part of the wall time that the parts add up to."""
        return sum(self.parts_s.values()) / self.wall_s

    def rows(self) -> list[tuple[str, str]]:
        """(what, value) for a table."""
        per_frame = [
            (f"{part} ms per frame", f"{1000 * self.parts_s[part] / self.num_frames:.2f}") for part in PARTS
        ]
        peaks = [(f"peak memory, {kind}, MB", f"{peak / 1e6:.0f}") for kind, peak in self.peak_bytes.items()]
        return [
            ("frames per second, end to end", f"{self.fps:.1f}"),
            *per_frame,
            ("parts / wall time", f"{self.explained:.3f}"),
            ("time to first frame, s, median (max)", _median_max(self.first_frame_s)),
            ("cut to first frame, s, median (max)", _median_max(self.cut_s)),
            ("chunk interval, s, p50 / p95", " / ".join(f"{q:.3f}" for q in _quantiles(self.interval_s))),
            *peaks,
        ]

    def json_line(self) -> str:
        """Everything in one line."""
        p50_s, p95_s = _quantiles(self.interval_s)
        document = {
            "bench": "generate",
            **self.facts,
            "num_frames": self.num_frames,
            "wall_s": round(self.wall_s, 3),
            "fps": round(self.fps, 2),
            "parts_s": {part: round(self.parts_s[part], 4) for part in PARTS},
            "explained": round(self.explained, 4),
            "first_frame_s": {
                "median": _median(self.first_frame_s),
                "max": round(max(self.first_frame_s), 4),
            },
            "cut_s": {"median": _median(self.cut_s), "max": round(max(self.cut_s, default=0.0), 4)},
            "interval_s": {"p50": round(p50_s, 4), "p95": round(p95_s, 4), "count": len(self.interval_s)},
            "peak_bytes": dict(self.peak_bytes),
        }
        return json.dumps(document)


def bench_generate(
    pipeline: StreamingPipeline, config: BenchConfig, on_story: Callable[[int], None] | None = None
) -> BenchReport:
    """Measures a pipeline; load it with `synchronize=True`, so that a GPU's parts hold their own work.

    Args:
        pipeline: what to measure.
        config: what it films.
        on_story: told the number of measured stories done.
    """
    _Run(pipeline, config).film(_story(config, _WARM_UP_SEED_OFFSET))
    run = _Run(pipeline, config)
    start_s = time.perf_counter()
    for index in range(config.num_stories):
        run.film(_story(config, index))
        if on_story is not None:
            on_story(index + 1)
    wall_s = time.perf_counter() - start_s
    return BenchReport(
        facts={**_facts(pipeline), "config": asdict(config)},
        num_frames=run.num_frames,
        wall_s=wall_s,
        parts_s=run.parts_s,
        first_frame_s=tuple(run.first_frame_s),
        cut_s=tuple(run.cut_s),
        interval_s=tuple(run.interval_s),
        peak_bytes=_peak_bytes(pipeline.device),
    )


class _Run:
    """Films stories and adds up what they took."""

    def __init__(self, pipeline: StreamingPipeline, config: BenchConfig) -> None:
        self._pipeline, self._config = pipeline, config
        self.num_frames = 0
        self.parts_s: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.first_frame_s: list[float] = []
        self.cut_s: list[float] = []
        self.interval_s: list[float] = []

    def film(self, story: TheatreStory) -> None:
        writer = FragmentWriter(self._pipeline.fps, H264Settings(scale=self._config.scale))
        story_s = time.perf_counter()
        session = self._pipeline.session(story.global_caption, seed=self._config.seed)
        chunk_s: float | None = None
        for shot_index, caption in enumerate(story.captions):
            shot_s = time.perf_counter()
            for chunk in session.shot(caption, num_chunks=self._config.num_chunks):
                now_s = time.perf_counter()
                if chunk.chunk_index == 0 and shot_index == 0:
                    self.first_frame_s.append(now_s - story_s)
                elif chunk.chunk_index == 0:
                    self.cut_s.append(now_s - shot_s)
                if chunk_s is not None:
                    self.interval_s.append(now_s - chunk_s)
                chunk_s = now_s
                for part in PARTS[:5]:
                    self.parts_s[part] += getattr(chunk.timings, f"{part}_s")
                writer.write(chunk.frames)
                self.parts_s["h264"] += time.perf_counter() - now_s
                self.num_frames += len(chunk.frames)
            self.parts_s["keep"] += session.shots[-1].keep_s


def _story(config: BenchConfig, index: int) -> TheatreStory:
    return sample_story(np.random.default_rng(config.seed + index), config.num_shots, held_out=True)


def _facts(pipeline: StreamingPipeline) -> dict[str, object]:
    device = pipeline.device
    return {
        "model": pipeline.model_id,
        "weights_sha256": pipeline.weights_sha256,
        "num_steps": pipeline.num_steps,
        "pixel_size": [pipeline.pixel_size.height, pipeline.pixel_size.width],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "num_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "shotstream": shotstream.__version__,
        "commit": _commit(),
    }


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()


def _peak_bytes(device: torch.device) -> dict[str, int]:
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peaks["gpu"] = torch.cuda.max_memory_allocated(device)
    return peaks


def _quantiles(values: Sequence[float]) -> tuple[float, float]:
    """Median and 95th percentile; zeros when there is none."""
    if not values:
        return 0.0, 0.0
    median, high = np.quantile(values, (0.5, 0.95))
    return float(median), float(high)


def _median(values: Sequence[float]) -> float:
    return round(_quantiles(values)[0], 4)


def _median_max(values: Sequence[float]) -> str:
    return f"{_quantiles(values)[0]:.3f} ({max(values, default=0.0):.3f})"
