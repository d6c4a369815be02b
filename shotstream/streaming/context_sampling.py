"""Which frames of the earlier shots condition the next one, under a named policy.

A policy answers with a `ContextPlan`: for each of the `budget` context slots the earlier shot, the frame in
it, and the RoPE phase its shot gets. It never touches pixels or latents. Two policies:

- `published`: the allocation of arXiv 2603.25746, section 3.2, as its code does it. Every earlier shot gets
  `budget // num_shots` frames and the most recent shots one more each, so that with more shots than slots
  the oldest shots get nothing. Phases are shot indices; they grow with the film. Pinned frames are
  undefined there and refused.
- `theatre`: ours. The same allocation while the shots fit the budget. Beyond it, one frame each of the
  first shot, which introduced cast and place, and of the most recent `budget - 1` shots. Pinned frames
  take slots first, and the rule applies to what is left. Phases rank the shots kept, so no phase difference
  exceeds `budget`, whatever the length of the film: training on up to `budget` earlier shots has seen all.

Three more are ablations of arXiv 2603.25746, each `theatre` but for one thing: `first_frames` repeats each
shot's first frame instead of spreading over it, `first_and_last_frames` its first and its last, and under
`target_caption` every context frame reads the caption of the shot to be made instead of its own shot's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import torch

PolicyName = Literal["published", "theatre", "first_frames", "first_and_last_frames", "target_caption"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextSlot:
    """One context frame: where it comes from and the phase it is given."""

    shot_index: int
    """The earlier shot, 0-based in the film; also whose caption the frame reads."""
    frame_index: int | None
    """Video frame within that shot, 0-based; None for a pinned picture."""
    pin_index: int | None
    """Which pinned picture, an index into the `pins` the plan was made from; None for a frame of the shot."""
    shot_phase: int
    """RoPE phase index of the frame."""

    def __post_init__(self) -> None:
        if (self.frame_index is None) == (self.pin_index is None):
            raise ValueError(
                "a context slot holds either a frame of a shot or a pinned picture; give exactly one index"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextPlan:
    """The context of one shot, in the order of its positions (oldest shot first)."""

    slots: tuple[ContextSlot, ...]
    target_phase: int
    """RoPE phase index of the frames to be generated."""
    own_captions: bool = True
    """Whether a context frame reads the caption of its own shot; False: that of the shot to be made."""


def sample_context(
    frames_per_shot: Sequence[int], budget: int, policy: PolicyName = "theatre", *, pins: Sequence[int] = ()
) -> ContextPlan:
    """The context plan for the shot that follows shots of `frames_per_shot` video frames.

    Args:
        frames_per_shot: Number of video frames of each earlier shot, oldest first; at least one shot.
        budget: Number of context frames the model takes.
        policy: Name of the policy, see the module docstring.
        pins: The shot each pinned picture belongs to; at most `budget - 1` of them, `theatre` only.

    Raises:
        ValueError: No earlier shot (a first shot has no plan: its context is empty), an empty shot, a budget
            below 1, too many pins or a pin to a shot that is not there, pins under `published`, or an unknown
            policy.
    """
    if policy not in _POLICIES:
        raise ValueError(f"unknown context policy {policy!r}; known: {', '.join(sorted(_POLICIES))}")
    if budget < 1:
        raise ValueError(f"the context budget must be at least 1 frame, got {budget}")
    if not frames_per_shot:
        raise ValueError("no earlier shot to sample; a first shot takes the empty context")
    if min(frames_per_shot) < 1:
        raise ValueError(f"every earlier shot needs at least 1 frame, got {list(frames_per_shot)}")
    for shot_index in pins:
        if not 0 <= shot_index < len(frames_per_shot):
            raise ValueError(
                f"a frame is pinned to shot {shot_index}, but the shots are 0..{len(frames_per_shot) - 1}"
            )
    return _POLICIES[policy](frames_per_shot, budget, pins)


def max_pins(policy: PolicyName, budget: int) -> int:
    """How many pictures may be pinned: one slot is always left to the shots; 0 where pins are undefined."""
    return 0 if policy == "published" else budget - 1


def allocate(num_shots: int, budget: int) -> tuple[int, ...]:
    """Frames given to each of `num_shots` earlier shots: an equal share, the remainder to the most recent.

    With more shots than frames the oldest get none (arXiv 2603.25746, section 3.2).
    """
    base, remainder = divmod(budget, num_shots)
    return tuple(base + (index >= num_shots - remainder) for index in range(num_shots))


def spread(first: int, last: int, count: int) -> tuple[int, ...]:
    """`count` frame indices from `first` to `last`, both included when there are two; one alone is `first`.

    float32 and rounded half to even, as the published code does: exact halves go by the parity of `first`.
    """
    points = torch.linspace(float(first), float(last), count, dtype=torch.float32)
    return tuple(int(point) for point in points.round().numpy())


def max_frame_count(shot_index: int, budget: int) -> int:
    """The most frames that shot `shot_index` can ever be asked for, by any policy, with or without pins.

    That is its share as the last of `shot_index + 1` shots; later shots and pinned pictures only shrink it.
    """
    return math.ceil(budget / (shot_index + 1))


@lru_cache(maxsize=4096)
def candidate_frames(num_frames: int, max_count: int) -> tuple[int, ...]:
    """Every frame of a shot that a policy may choose for some count from 1 to `max_count`, sorted.

    A session encodes these once, while the shot is made and at its end, and forgets the shot: 1 to 3 frames
    in most places of a film, 11 of a first shot at a budget of 6. Both parities of the shot's first frame
    are covered (see `spread`).
    """
    starts = (0, 1)
    chosen = {
        frame - start
        for count in range(1, max_count + 1)
        for start in starts
        for frame in spread(start, start + num_frames - 1, count)
    }
    return tuple(sorted(chosen))


def _published(frames_per_shot: Sequence[int], budget: int, pins: Sequence[int]) -> ContextPlan:
    if pins:
        raise ValueError(
            "the published context policy has no pinned frames; unpin them or use the policy 'theatre'"
        )
    slots: list[ContextSlot] = []
    first = 0
    for shot_index, count in enumerate(allocate(len(frames_per_shot), budget)):
        last = first + frames_per_shot[shot_index] - 1
        slots += [
            ContextSlot(
                shot_index=shot_index, frame_index=frame - first, pin_index=None, shot_phase=shot_index
            )
            for frame in spread(first, last, count)
        ]
        first = last + 1
    return ContextPlan(slots=tuple(slots), target_phase=len(frames_per_shot))


def _first(first: int, last: int, count: int) -> tuple[int, ...]:
    del last
    return (first,) * count


def _first_and_last(first: int, last: int, count: int) -> tuple[int, ...]:
    return (first,) * (count - count // 2) + (last,) * (count // 2)


def _theatre(
    frames_per_shot: Sequence[int],
    budget: int,
    pins: Sequence[int],
    *,
    choose: Callable[[int, int, int], tuple[int, ...]] = spread,
    own_captions: bool = True,
) -> ContextPlan:
    if len(pins) > max_pins("theatre", budget):
        raise ValueError(
            f"{len(pins)} context frames are pinned; at most {budget - 1} of {budget} may be: unpin some"
        )
    free = budget - len(pins)
    sampled = _anchored_shots(len(frames_per_shot), free)
    kept = sorted({*sampled, *pins})
    counts = dict(zip(sampled, allocate(len(sampled), free), strict=True))
    slots: list[ContextSlot] = []
    for phase, shot_index in enumerate(kept):
        slots += [
            ContextSlot(shot_index=shot_index, frame_index=None, pin_index=pin_index, shot_phase=phase)
            for pin_index, pinned_shot in enumerate(pins)
            if pinned_shot == shot_index
        ]
        slots += [
            ContextSlot(shot_index=shot_index, frame_index=frame, pin_index=None, shot_phase=phase)
            for frame in choose(0, frames_per_shot[shot_index] - 1, counts.get(shot_index, 0))
        ]
    return ContextPlan(slots=tuple(slots), target_phase=len(kept), own_captions=own_captions)


def _anchored_shots(num_shots: int, budget: int) -> list[int]:
    """The first shot and the most recent ones, `budget` in all; the last shot alone when one is free."""
    if num_shots <= budget:
        return list(range(num_shots))
    if budget == 1:
        return [num_shots - 1]
    return [0, *range(num_shots - budget + 1, num_shots)]


_POLICIES: dict[str, Callable[[Sequence[int], int, Sequence[int]], ContextPlan]] = {
    "published": _published,
    "theatre": _theatre,
    "first_frames": partial(_theatre, choose=_first),
    "first_and_last_frames": partial(_theatre, choose=_first_and_last),
    "target_caption": partial(_theatre, own_captions=False),
}
