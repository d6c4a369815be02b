"""Scores of steering: whether a running shot does what its new caption says, and keeps the rest.

The first shot of a held-out story is steered after one of its chunks: its actors turn to another action. The
chunk after the switch and the one after that are judged by the oracle, as shots of their own, against what
the shot should show by then; the frames before the switch show whose scarf and which layout must stay. The
same shot without the switch is judged in the same frames.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

import numpy as np
from jaxtyping import UInt8

from shotstream.evaluation.films import held_out_stories
from shotstream.evaluation.report import interval
from shotstream.geometry import WAN_GEOMETRY
from shotstream.story import Steer, SteerMode
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.theatre.captions import turn_caption
from shotstream.theatre.oracle.facts import ShotFacts, is_same_character, pair_up, planned
from shotstream.theatre.oracle.judge import judge_captions
from shotstream.theatre.oracle.portraits import portray
from shotstream.theatre.oracle.reading import read_shot
from shotstream.theatre.palette import to_indices, to_rgb
from shotstream.theatre.render import Shot, render
from shotstream.theatre.world import TheatreStory, turn_of

NUM_CHUNKS = 4
"""Length of the shots in chunks."""
_STREAM = 1_000_037
_AXES = ("characters", "set", "time", "framing", "action", "figure", "flicker", "scarf", "layout")


@dataclass(frozen=True, kw_only=True, slots=True)
class SteeringReport:
    """The scores of steered shots beside those of the same shots without a switch."""

    facts: Mapping[str, Any]
    """What was judged."""
    adopted: tuple[float, ...]
    """Share of the shots whose actors all do what the caption says, in the first chunk after the switch and
    in the second.
    """
    steered: Mapping[str, float]
    """Mean score on each axis in the first chunk after the switch."""
    unsteered: Mapping[str, float]
    """The same of the shots without a switch, against what they should show."""
    added_ms: float
    """Median milliseconds that a chunk takes longer after a switch."""

    def table(self) -> str:
        """Returns the scores as a table."""
        lines = [f"{'axis':<11} {'steered':>8} {'without':>8} {'change':>8}"]
        for axis in self.steered:
            one, other = self.steered[axis], self.unsteered[axis]
            lines.append(f"{axis:<11} {one:>8.3f} {other:>8.3f} {one - other:>+8.3f}")
        chunks = ", ".join(f"{share:.3f} in chunk {number}" for number, share in enumerate(self.adopted, 1))
        return "\n".join([*lines, f"adopted: {chunks} after the switch; {self.added_ms:+.1f} ms"])

    def json_line(self) -> str:
        """Returns the report as one line of JSON."""
        values = {
            "adopted": [round(share, 4) for share in self.adopted],
            "steered": {axis: round(score, 4) for axis, score in self.steered.items()},
            "unsteered": {axis: round(score, 4) for axis, score in self.unsteered.items()},
            "added_ms": round(self.added_ms, 2),
        }
        return json.dumps({**self.facts, **values})


@dataclass(frozen=True, kw_only=True, slots=True)
class SteeredShot:
    """A shot that is steered: its plan with one turn, and its captions."""

    story: TheatreStory
    shot: Shot
    """The plan, with a turn at the start of a chunk."""
    caption: str
    """The caption of the turn."""
    chunk_index: int
    """First chunk after it."""

    @property
    def turned(self) -> Shot:
        """The plan of what it shows from the turn on, as a shot of its own."""
        return replace(self.shot, performances=self.shot.turns[0].performances, turns=())

    def piece(self, frames: UInt8[np.ndarray, "f h w 3"], after: int) -> UInt8[np.ndarray, "g h w 3"]:
        """Returns the frames of a chunk as a shot of its own; `after` chunks after the turn's first one.

        A shot has one frame before its groups of four; the first frame of the chunk stands for it.
        """
        first = WAN_GEOMETRY.shot_num_frames(self.chunk_index + after)
        chunk = frames[first : first + WAN_GEOMETRY.chunk_num_frames(1)]
        return np.concatenate([chunk[:1], chunk])


def steered_shots(num_stories: int, seed: int) -> list[SteeredShot]:
    """Returns the shots to steer: the first one of each held-out story, with a camera that stays still."""
    found: list[SteeredShot] = []
    for number, story in enumerate(held_out_stories(num_stories, 1, seed)):
        rng = np.random.default_rng((seed, _STREAM, number))
        shot = story.shots[0]
        if shot.camera != "still":
            # A pan that ends meanwhile would be another camera in each piece.
            continue
        chunk_index = 1 + int(rng.integers(NUM_CHUNKS - 2))
        turn = turn_of(shot, chunk_index, rng)
        caption = turn_caption(shot.performances, turn.performances, rng)
        found.append(
            SteeredShot(
                story=story, shot=replace(shot, turns=(turn,)), caption=caption, chunk_index=chunk_index
            )
        )
    return found


def evaluate_steering(
    pipeline: StreamingPipeline | None,
    *,
    num_stories: int = 100,
    seed: int = 0,
    mode: str = "recache",
    progress: Callable[[int, int], None] | None = None,
) -> SteeringReport:
    """Returns the scores of a model's steered shots.

    Args:
        pipeline: A theatre model; None judges the world's own shots.
        num_stories: Number of held-out stories; those whose camera pans at first are left out.
        seed: Seed of the stories and of their noise.
        mode: How the shots are steered.
        progress: Called after each story.

    Raises:
        ValueError: The model is not of the theatre, there are no stories, or the mode is unknown.
    """
    if mode not in get_args(SteerMode):
        raise ValueError(f"mode {mode!r}; it is one of {', '.join(get_args(SteerMode))}")
    if num_stories < 1 or (pipeline is not None and pipeline.family != "theatre"):
        raise ValueError("steering is scored with a model of the theatre, on at least one story")
    shots = steered_shots(num_stories, seed)
    adopted: list[list[float]] = [[], []]
    scores: tuple[dict[str, list[float]], dict[str, list[float]]] = ({}, {})
    added_s: list[float] = []
    for number, one in enumerate(shots):
        films: list[tuple[np.ndarray, float]] = []
        for steers in (True, False):
            films.append(_film(pipeline, one, seed + number, cast("SteerMode", mode) if steers else None))
        for (frames, _), plan, kept in zip(films, (one.turned, one.shot), scores, strict=True):
            _collect(kept, _judge(one, plan, frames))
        for after in range(2):
            facts = read_shot(one.piece(films[0][0], after)).facts
            adopted[after].append(float(judge_captions(planned(one.turned), facts)["action"][0] == 1))
        added_s.append(films[0][1] - films[1][1])
        if progress:
            progress(number + 1, len(shots))
    steered, unsteered = (
        {axis: interval([kept[axis]])[0] or 0.0 for axis in _AXES if kept.get(axis)} for kept in scores
    )
    return SteeringReport(
        facts={
            "model": "truth" if pipeline is None else pipeline.model_id,
            "mode": mode,
            "num_shots": len(shots),
            "seed": seed,
        },
        adopted=tuple(float(np.mean(shares)) for shares in adopted),
        steered=steered,
        unsteered=unsteered,
        added_ms=1000 * float(np.median(added_s)),
    )


def _film(
    pipeline: StreamingPipeline | None, one: SteeredShot, seed: int, mode: SteerMode | None
) -> tuple[UInt8[np.ndarray, "f h w 3"], float]:
    """Returns the frames of a shot, and the seconds that its chunk after the turn took."""
    if pipeline is None:
        plan = one.shot if mode is not None else replace(one.shot, turns=())
        return to_rgb(render(plan, WAN_GEOMETRY.shot_num_frames(NUM_CHUNKS))), 0.0
    session = pipeline.session(one.story.global_caption, seed=seed, quiet=True)
    steer = [] if mode is None else [Steer(caption=one.caption, chunk_index=one.chunk_index, mode=mode)]
    frames: list[np.ndarray] = []
    taken_s, before_s = 0.0, time.perf_counter()
    for chunk in session.shot(one.story.captions[0], num_chunks=NUM_CHUNKS, then=steer):
        now_s = time.perf_counter()
        if chunk.chunk_index == one.chunk_index:
            taken_s = now_s - before_s
        before_s = now_s
        frames.append(chunk.frames)
    return np.concatenate(frames), taken_s


def _judge(one: SteeredShot, plan: Shot, frames: UInt8[np.ndarray, "f h w 3"]) -> dict[str, Sequence[float]]:
    """Returns the scores of the chunk after the turn against a plan."""
    before = read_shot(frames[: WAN_GEOMETRY.shot_num_frames(one.chunk_index)]).facts
    piece = one.piece(frames, 0)
    seen = read_shot(piece).facts
    portrait = portray(plan, seen, to_indices(piece))
    captions = judge_captions(planned(plan), seen)
    return {
        **{axis: captions[axis] for axis in ("characters", "set", "time", "framing", "action")},
        "figure": portrait.figures,
        "flicker": (portrait.flicker,),
        "scarf": _same_scarves(planned(plan), before, seen),
        "layout": (float(before.layout == seen.layout),)
        if before.layout_legible and seen.layout_legible
        else (),
    }


def _same_scarves(plan: ShotFacts, before: ShotFacts, seen: ShotFacts) -> list[float]:
    """Returns for each actor that is recognised before and after whether its scarf is the same."""
    pairs = zip(plan.actors, pair_up(plan, before), pair_up(plan, seen), strict=True)
    return [
        float(was.actor.scarf == now.actor.scarf)
        for wanted, was, now in pairs
        if was is not None
        and now is not None
        and is_same_character(wanted, was)
        and is_same_character(wanted, now)
    ]


def _collect(kept: dict[str, list[float]], found: Mapping[str, Sequence[float]]) -> None:
    for axis, values in found.items():
        kept.setdefault(axis, []).extend(values)
