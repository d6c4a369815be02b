"""A model that draws the world as its captions say, and chooses what they do not say once per session."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from shotstream.geometry import PixelSize
from shotstream.story import Reference
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.pipeline_config import PipelineConfig
from shotstream.theatre.cast import SCARVES, Actor, Scarf
from shotstream.theatre.palette import to_rgb
from shotstream.theatre.render import Shot, render
from shotstream.theatre.sets import NUM_LAYOUTS, Place
from shotstream.theatre.world import TheatreStory


@dataclass(frozen=True)
class FakeChunk:
    frames: np.ndarray


class FakeSession:
    def __init__(self, shots: dict[str, Shot]) -> None:
        self._shots = shots
        self._scarves: dict[tuple[str, str], Scarf] = {}
        self._layouts: dict[Place, int] = {}

    def shot(
        self,
        caption: str,
        *,
        num_chunks: int,
        seed: int,
        steps: int | None,  # noqa: ARG002 (a drawing takes none)
    ) -> Iterator[FakeChunk]:
        shot, rng = self._shots[caption], np.random.default_rng(seed)
        layout = self._layouts.setdefault(shot.place, int(rng.integers(NUM_LAYOUTS)))
        performances = tuple(replace(one, actor=self._dressed(one.actor, rng)) for one in shot.performances)
        frames = to_rgb(render(replace(shot, layout=layout, performances=performances), 12 * num_chunks - 3))
        yield FakeChunk(frames[:9])
        for start in range(9, len(frames), 12):
            yield FakeChunk(frames[start : start + 12])

    def _dressed(self, actor: Actor, rng: np.random.Generator) -> Actor:
        scarf = SCARVES[int(rng.integers(len(SCARVES)))]
        return replace(actor, scarf=self._scarves.setdefault((actor.species, actor.colour), scarf))


class FakePipeline(StreamingPipeline):
    def __init__(self, stories: Sequence[TheatreStory], family: str = "theatre") -> None:
        self._family = family
        self.group = None
        self.config = PipelineConfig(
            family="theatre",
            model_id="fake",
            fps=12,
            pixel_size=PixelSize(48, 80),
            num_chunks=3,
            context_policy="theatre",
        )
        self._shots = {
            caption: shot
            for story in stories
            for caption, shot in zip(story.captions, story.shots, strict=True)
        }

    @property
    def family(self) -> str:  # type: ignore[override]
        return self._family

    @property
    def model_id(self) -> str:
        return "fake"

    @property
    def weights_sha256(self) -> str:
        return "0" * 64

    @property
    def context_policy(self) -> str:
        return "theatre"

    @property
    def num_steps(self) -> int:
        return 4

    def session(  # type: ignore[override]
        self,
        global_caption: str,  # noqa: ARG002 (a shot knows its caption)
        *,
        seed: int = 0,  # noqa: ARG002 (a shot brings its own)
        references: Sequence[Reference] = (),
        policy: str | None = None,  # noqa: ARG002 (a drawing remembers everything)
        quiet: bool = False,
    ) -> FakeSession:
        assert quiet and not references
        return FakeSession(self._shots)
