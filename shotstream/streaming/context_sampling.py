"""Context policies: the choice of the frames of earlier shots that condition the next one.

A `ContextPolicy` chooses among the candidates (`context_candidates`), for the places that pinned pictures and
references leave; `choose_context` adds these, sorts the choice and gives each frame its RoPE phase. There are
four policies:

- `published`: the allocation of arXiv 2603.25746, section 3.2, as in its code. Every earlier shot gets
  `budget // num_shots` frames and the most recent shots one more each, so that with more shots than slots
  the oldest shots get none. Phases are shot indices, which grow with the film.
- `theatre`: this project's own. The same allocation while the shots fit the budget. Otherwise one frame each
  of the first shot, which introduced cast and place, and of the most recent `budget - 1` shots. Phases are
  ranks among the chosen shots, so no phase difference exceeds `budget`, whatever the length of the film:
  training on up to `budget` earlier shots covers all of them.
- `prompt` and `keys`: the shots that match the next one best, however old (`content_policies`). They compare
  captions, or the model's queries and keys. Phases are ranks.

Models without context frames have a budget of 0 and one of two other policies:

- `none`: nothing of earlier shots conditions the next one.
- `last_frame`: the next shot begins with the last frame of the one before it.

Another policy is a class with the members of `ContextPolicy` and a line in `POLICIES`;
`experiments/policies.py` adds three. A policy can choose candidates alone. The candidates of a shot are the
frames that some policy in `POLICIES` names in `may_choose`; `kept_frames` is their union. A new policy that
chooses other frames finds them only in shots that were generated after it was added; shards must be encoded
again.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
import torch

from shotstream.streaming.content_policies import ContentPolicy
from shotstream.streaming.context_candidates import (
    ContextCandidate,
    ContextPolicy,
    NextShot,
    frames_by_shot,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextSlot:
    """A context frame and its RoPE phase."""

    candidate: ContextCandidate
    """The frame."""
    shot_phase: int
    """RoPE phase index of the frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextPlan:
    """The context of one shot, in the order of its positions (oldest shot first)."""

    slots: tuple[ContextSlot, ...]
    target_phase: int
    """RoPE phase index of the frames to be generated."""
    own_captions: bool = True
    """Whether a context frame has the caption of its own shot; False: that of the next shot."""


def choose_context(
    candidates: Sequence[ContextCandidate],
    next_shot: NextShot,
    budget: int,
    policy: str | ContextPolicy = "theatre",
    rng: np.random.Generator | None = None,
) -> ContextPlan:
    """Returns the context plan of a shot that follows others, or that has references.

    Mandatory candidates are in it, whatever the policy, and the policy fills what is left. If there is no
    other candidate, as in a first shot with references, they share all of the budget, the oldest first.

    Args:
        candidates: References, then the candidates of all earlier shots, the oldest first; a shot's pinned
            pictures before its frames.
        next_shot: The shot to be generated.
        budget: Number of context frames that the model takes.
        policy: The policy or its name, see the module docstring.
        rng: Generator for the policy; None: one seeded by the index of the shot, so that planning a shot
            again gives the same result.

    Raises:
        ValueError: There is no candidate (a first shot has no plan: its context is empty), the budget is
            below 1, too many candidates are mandatory, or the policy is unknown or compares what is not known
            here.
    """
    if isinstance(policy, str) and policy in POLICIES_WITHOUT_CONTEXT:
        return _plan_without_context(candidates, policy)
    policy = named_policy(policy) if isinstance(policy, str) else policy
    if budget < 1:
        raise ValueError(f"the context budget must be at least 1 frame, got {budget}")
    if not candidates:
        raise ValueError("no earlier shot to sample; a first shot takes the empty context")
    mandatory = [candidate for candidate in candidates if candidate.is_mandatory]
    frames = [candidate for candidate in candidates if not candidate.is_mandatory]
    _refuse_too_many(mandatory, budget)
    if frames:
        rng = np.random.default_rng(next_shot.index) if rng is None else rng
        free = budget - len(mandatory)
        found = policy.choose(_matched(frames, next_shot, policy), free, next_shot, rng)
        assert not any(candidate.is_mandatory for candidate in found)
        chosen = [*mandatory, *found]
    else:
        shares = allocate(len(mandatory), budget)
        chosen = [one for one, count in zip(mandatory, shares, strict=True) for _ in range(count)]
    assert len(chosen) == budget
    chosen.sort(key=_position)
    shots = sorted({candidate.shot_index for candidate in chosen})
    num_references = max(0, -min(candidate.shot_index for candidate in candidates))
    phase_of = {shot: phase for phase, shot in enumerate(shots)} if policy.ranks_phases else None
    return ContextPlan(
        slots=tuple(
            ContextSlot(
                candidate=candidate,
                shot_phase=candidate.shot_index + num_references
                if phase_of is None
                else phase_of[candidate.shot_index],
            )
            for candidate in chosen
        ),
        target_phase=next_shot.index + num_references if phase_of is None else len(shots),
        own_captions=policy.own_captions,
    )


def _matched(
    candidates: Sequence[ContextCandidate], next_shot: NextShot, policy: ContextPolicy
) -> Sequence[ContextCandidate]:
    """Returns the candidates, with their matches if the policy compares."""
    if policy.compares is None:
        return candidates
    if next_shot.match is None:
        raise ValueError(
            f"this context policy compares {policy.compares} of a film, which are not known here; take one "
            "that does not, such as 'theatre'"
        )
    matches = next_shot.match(policy.compares, candidates)
    return [replace(one, match=match) for one, match in zip(candidates, matches, strict=True)]


def _refuse_too_many(mandatory: Sequence[ContextCandidate], budget: int) -> None:
    """Raises ValueError if mandatory candidates leave no place for a frame of an earlier shot."""
    num_references = sum(candidate.shot_index < 0 for candidate in mandatory)
    num_pins, most = len(mandatory) - num_references, max_pictures(budget)
    if len(mandatory) <= most:
        return
    if not num_references:
        raise ValueError(
            f"{num_pins} context frames are pinned; at most {most} of {budget} may be: unpin some"
        )
    pinned = f" and {num_pins} pinned pictures" if num_pins else ""
    raise ValueError(
        f"{num_references} references{pinned} for {most} places in a shot's context; give fewer, or name "
        "under 'shots' which shots each is for"
    )


def _plan_without_context(candidates: Sequence[ContextCandidate], policy: str) -> ContextPlan:
    if any(candidate.is_mandatory for candidate in candidates):
        raise ValueError(NO_MEMORY)
    last = max(candidates, key=_position) if policy == LAST_FRAME and candidates else None
    slots = () if last is None else (ContextSlot(candidate=last, shot_phase=0),)
    return ContextPlan(slots=slots, target_phase=0, own_captions=False)


def _position(candidate: ContextCandidate) -> tuple[int, bool, int]:
    """Returns the sort key: oldest shot first, in it the pinned pictures, then its frames, in order."""
    if candidate.pin_index is not None:
        return candidate.shot_index, False, candidate.pin_index
    assert candidate.frame_index is not None
    return candidate.shot_index, True, candidate.frame_index


def max_pictures(budget: int) -> int:
    """Returns the maximum number of references and pinned pictures: one place is left to earlier shots."""
    return max(budget - 1, 0)


def allocate(num_shots: int, budget: int) -> tuple[int, ...]:
    """Returns the number of frames of each of `num_shots` earlier shots.

    All get equal shares, and the most recent ones the remainder. With more shots than frames the oldest get
    none (arXiv 2603.25746, section 3.2).
    """
    base, remainder = divmod(budget, num_shots)
    return tuple(base + (index >= num_shots - remainder) for index in range(num_shots))


def spread(first: int, last: int, count: int) -> tuple[int, ...]:
    """Returns `count` evenly spaced frame indices from `first` to `last`, inclusive; a single one is `first`.

    It is computed in float32 and rounds half to even, like the published code: exact halves depend on the
    parity of `first`.
    """
    points = torch.linspace(float(first), float(last), count, dtype=torch.float32)
    return tuple(int(point) for point in points.round().numpy())


def kept_frames(num_frames: int, shot_index: int, budget: int) -> tuple[int, ...]:
    """Returns the video frames of a shot that are kept for later shots: all that a policy may choose, sorted.

    A session encodes these once, while the shot is generated and at its end, and keeps nothing else of the
    shot: 1 to 3 frames for most shots of a film, 11 for a first shot at a budget of 6.

    Args:
        num_frames: Length of the shot in video frames.
        shot_index: Index of the shot in the film, from 0. The largest share of shot `i` is that as the last
            of `i + 1` shots; later shots and pinned pictures only reduce it.
        budget: Number of context frames that the model takes; 0: the last frame is kept, which the next shot
            may begin with.
    """
    if budget == 0:
        return (num_frames - 1,)
    max_count = math.ceil(budget / (shot_index + 1))
    return tuple(
        sorted({frame for policy in POLICIES.values() for frame in policy.may_choose(num_frames, max_count)})
    )


@lru_cache(maxsize=4096)
def _spread_frames(num_frames: int, max_count: int, first: int) -> frozenset[int]:
    """Returns the frames that are spread over a shot, for any count up to `max_count`; see `spread`."""
    return frozenset(
        frame - first
        for count in range(1, max_count + 1)
        for frame in spread(first, first + num_frames - 1, count)
    )


class PublishedPolicy:
    """The policy `published`; see the module docstring."""

    ranks_phases = False
    own_captions = True
    compares = None

    def may_choose(self, num_frames: int, max_count: int) -> Collection[int]:
        """Returns the frames that `choose` may choose, for both parities of a shot's first frame."""
        return _spread_frames(num_frames, max_count, 0) | _spread_frames(num_frames, max_count, 1)

    def choose(
        self,
        candidates: Sequence[ContextCandidate],
        budget: int,
        next_shot: NextShot,
        rng: np.random.Generator,
    ) -> list[ContextCandidate]:
        """Returns frames spread over every shot, by its share of the budget."""
        del next_shot, rng
        shots = frames_by_shot(candidates)
        chosen: list[ContextCandidate] = []
        first = 0
        for frames, count in zip(shots.values(), allocate(len(shots), budget), strict=True):
            num_frames = next(iter(frames.values())).shot_num_frames
            # Counted in the film, whose parity decides how halves are rounded.
            chosen += [frames[index - first] for index in spread(first, first + num_frames - 1, count)]
            first += num_frames
        return chosen


class TheatrePolicy:
    """The policy `theatre`; see the module docstring."""

    ranks_phases = True
    own_captions = True
    compares = None

    def frames_of(self, num_frames: int, count: int) -> tuple[int, ...]:
        """Returns the indices of `count` chosen frames of a shot; here, spread over it."""
        return spread(0, num_frames - 1, count)

    def may_choose(self, num_frames: int, max_count: int) -> Collection[int]:
        """Returns the frames that `choose` may choose."""
        return _spread_frames(num_frames, max_count, 0)

    def choose(
        self,
        candidates: Sequence[ContextCandidate],
        budget: int,
        next_shot: NextShot,
        rng: np.random.Generator,
    ) -> list[ContextCandidate]:
        """Returns frames of the shots kept, by their shares of the budget."""
        del next_shot, rng
        chosen: list[ContextCandidate] = []
        shots = frames_by_shot(candidates)
        kept = _anchored(list(shots), budget)
        for shot_index, count in zip(kept, allocate(len(kept), budget), strict=True):
            frames = shots[shot_index]
            num_frames = next(iter(frames.values())).shot_num_frames
            chosen += [frames[index] for index in self.frames_of(num_frames, count)]
        return chosen


def _anchored(shots: Sequence[int], budget: int) -> Sequence[int]:
    """Returns the first shot and the most recent ones, `budget` in all; for a budget of 1 the last shot."""
    if len(shots) <= budget:
        return shots
    return [shots[0], *shots[1 - budget :]] if budget > 1 else shots[-1:]


LAST_FRAME: Final = "last_frame"
POLICIES_WITHOUT_CONTEXT: Final = ("none", LAST_FRAME)
"""Names of the policies of models without context frames; see the module docstring."""
NO_MEMORY: Final = "this model has no memory across shots, so that no picture can be pinned"

POLICIES: Final[dict[str, ContextPolicy]] = {
    "published": PublishedPolicy(),
    "theatre": TheatrePolicy(),
    "prompt": ContentPolicy("captions", max_shots=3),
    "keys": ContentPolicy("keys"),
}
"""The context policies by the names that configs and bundles use."""


def named_policy(name: str) -> ContextPolicy:
    """Returns the policy with a name; raises ValueError for an unknown one."""
    if name not in POLICIES:
        raise ValueError(f"unknown context policy {name!r}; known: {', '.join(sorted(POLICIES))}")
    return POLICIES[name]
