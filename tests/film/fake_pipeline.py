"""A pipeline and a session without a model: frames are a hash of everything they may depend on."""

import hashlib
import json
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shotstream.film import Environment, FilmPlan
from shotstream.geometry import VideoGeometry
from shotstream.story import Reference, Shot, Steer, Story
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.session import StorySession

ENVIRONMENT = Environment(shotstream="0", torch="0", device="cpu", dtype="float32", num_threads=1)


@dataclass(frozen=True, kw_only=True)
class FakeChunk:
    frames: np.ndarray


class FakeSession(StorySession):
    def __init__(self, pipeline: "FakePipeline", history: list[str]) -> None:
        self._pipeline, self.history = pipeline, history
        self.pins: list[str] = []

    def shot(
        self,
        caption: str,
        *,
        num_chunks: int = 3,
        seed: int | None = None,
        steps: int | None = None,
        then: Sequence[Steer] = (),
    ) -> Iterator[FakeChunk]:
        shot_index = len(self.history)
        for chunk_index in range(num_chunks):
            self._pipeline.before_chunk(shot_index, chunk_index)
            told = [one for one in then if one.chunk_index <= chunk_index]
            key = repr((self.history, caption, seed, steps, chunk_index, self.pins, *told))
            digest = hashlib.sha256(key.encode()).digest()
            generator = np.random.default_rng(list(digest))
            num_frames = 12 if chunk_index else 9
            yield FakeChunk(frames=generator.integers(0, 256, (num_frames, 16, 24, 3), dtype=np.uint8))
        self.history.append(repr((caption, seed, steps, num_chunks)))

    def pin(self, image: np.ndarray, shot_index: int) -> None:
        self.pins.append(f"{shot_index} {hashlib.sha256(image.tobytes()).hexdigest()}")

    def unpin(self) -> None:
        self.pins = []

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.history))


class FakePipeline(StreamingPipeline):
    """`stop_at` (shot, chunk): where this process is killed or `error` is raised."""

    fps = 12
    geometry = VideoGeometry()

    def __init__(self, stop_at: tuple[int, int] | None = None, error: BaseException | None = None) -> None:
        self.stop_at, self.error = stop_at, error
        self.num_chunks_made = 0

    def session(
        self,
        global_caption: str,
        *,
        seed: int = 0,
        references: Sequence[Reference] = (),
        policy: str | None = None,  # noqa: ARG002 (its frames depend on all earlier shots)
        quiet: bool = False,
    ) -> FakeSession:
        assert not references
        assert quiet, "the film's warnings are those of its story"
        return FakeSession(self, [f"{global_caption} {seed}"][:0])

    def load_session(self, path: Path, *, quiet: bool = False) -> FakeSession:
        assert quiet
        return FakeSession(self, json.loads(path.read_text()))

    def before_chunk(self, shot_index: int, chunk_index: int) -> None:
        self.num_chunks_made += 1
        if (shot_index, chunk_index) == self.stop_at:
            if self.error is not None:
                raise self.error
            os.kill(os.getpid(), signal.SIGKILL)


def plan(num_shots: int = 4, seed: int = 7, num_chunks: int = 2) -> FilmPlan:
    shots = tuple(
        Shot(caption=f"Shot {i}: a --> fox.", num_chunks=num_chunks, seed=100 * seed + i)
        for i in range(num_shots)
    )
    return FilmPlan(
        model_id="fake",
        weights_sha256="0" * 64,
        context_policy="theatre",
        num_steps=4,
        seed=seed,
        story=Story(title="A fox", global_caption="A red fox.", shots=shots),
    )
