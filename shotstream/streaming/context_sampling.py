"""Context policies: the choice of the frames of earlier shots that condition the next one.

A `ContextCandidate` is a frame of an earlier shot that was kept, or a picture pinned to one. A
`ContextPolicy` chooses `budget` of them; `choose_context` sorts its choice and gives each frame its RoPE
phase. There are two policies:

- `published`: the allocation of arXiv 2603.25746, section 3.2, as in its code. Every earlier shot gets
  `budget // num_shots` frames and the most recent shots one more each, so that with more shots than slots
  the oldest shots get none. Phases are shot indices, which grow with the film. Pinned frames are not
  defined for it and refused.
- `theatre`: this project's own. The same allocation while the shots fit the budget. Otherwise one frame each
  of the first shot, which introduced cast and place, and of the most recent `budget - 1` shots. Pinned frames
  take slots first, and the rule applies to the remaining slots. Phases are ranks among the chosen shots, so
  no phase difference exceeds `budget`, whatever the length of the film: training on up to `budget` earlier
  shots covers all of them.

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
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Final, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextCandidate:
    """A frame that may condition the next shot: of an earlier shot, or a pinned picture."""

    shot_index: int
    """Index of the earlier shot in the film, from 0."""
    frame_index: int | None
    """Index of the video frame in that shot, from 0; None for a pinned picture."""
    pin_index: int | None = None
    """Index among the pictures pinned to that shot; None for a frame of the shot."""
    shot_num_frames: int
    """Length of that shot in video frames."""
    caption: str
    """The shot's own caption."""
    latent: Callable[[], Float[Tensor, "z h w"]] = field(repr=False, compare=False)
    """Returns the frame's normalised latent, which is read or computed when it is called."""

    def __post_init__(self) -> None:
        if (self.frame_index is None) == (self.pin_index is None):
            raise ValueError(
                "a context candidate is either a frame of a shot or a pinned picture; give exactly one index"
            )

    @property
    def is_mandatory(self) -> bool:
        """Whether every policy must choose it: a pinned picture."""
        return self.pin_index is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class NextShot:
    """The next shot, as far as a policy may use it."""

    index: int
    """Index in the film, from 0: the number of the shots before it."""
    caption: str
    """The shot's own caption."""


@runtime_checkable
class ContextPolicy(Protocol):
    """The protocol of context policies: a rule that chooses the context of a shot among candidates."""

    @property
    def ranks_phases(self) -> bool:
        """Whether RoPE phases are ranks among the chosen shots; False: indices of shots in the film."""
        ...

    @property
    def own_captions(self) -> bool:
        """Whether a context frame has the caption of its own shot; False: that of the next shot."""
        ...

    @property
    def allows_pins(self) -> bool:
        """Whether mandatory candidates are allowed."""
        ...

    def may_choose(self, num_frames: int, max_count: int) -> Collection[int]:
        """Returns the video frames of a shot that this policy may choose; they are kept as candidates.

        Args:
            num_frames: Length of the shot in video frames.
            max_count: Maximum number of its frames in an equal share of the budget.
        """
        ...

    def choose(
        self,
        candidates: Sequence[ContextCandidate],
        budget: int,
        next_shot: NextShot,
        rng: np.random.Generator,
    ) -> Sequence[ContextCandidate]:
        """Returns exactly `budget` of the candidates, including all mandatory ones, in any order.

        Args:
            candidates: Candidates of all earlier shots, the oldest first; a shot's pinned pictures before its
                frames. At least one is not mandatory, and at most `budget - 1` are.
            budget: Number of context frames that the model takes; a candidate may be chosen repeatedly.
            next_shot: The shot to be generated.
            rng: The only source of randomness.
        """
        ...


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
    """Returns the context plan of a shot that follows others.

    Args:
        candidates: Candidates of all earlier shots, the oldest first; a shot's pinned pictures before its
            frames.
        next_shot: The shot to be generated.
        budget: Number of context frames that the model takes.
        policy: The policy or its name, see the module docstring.
        rng: Generator for the policy; None: one seeded by the index of the shot, so that planning a shot
            again gives the same result.

    Raises:
        ValueError: There is no earlier shot (a first shot has no plan: its context is empty), the budget is
            below 1, there are too many pins or pins that the policy does not allow, or the policy is unknown.
    """
    if isinstance(policy, str) and policy in POLICIES_WITHOUT_CONTEXT:
        return _plan_without_context(candidates, policy)
    policy = named_policy(policy) if isinstance(policy, str) else policy
    if budget < 1:
        raise ValueError(f"the context budget must be at least 1 frame, got {budget}")
    num_pins = sum(candidate.is_mandatory for candidate in candidates)
    if num_pins == len(candidates):
        raise ValueError("no earlier shot to sample; a first shot takes the empty context")
    if num_pins and not policy.allows_pins:
        raise ValueError(
            "this context policy has no pinned frames; unpin them or use one that has, such as 'theatre'"
        )
    if num_pins > budget - 1:
        raise ValueError(
            f"{num_pins} context frames are pinned; at most {budget - 1} of {budget} may be: unpin some"
        )
    rng = np.random.default_rng(next_shot.index) if rng is None else rng
    chosen = sorted(policy.choose(candidates, budget, next_shot, rng), key=_position)
    assert len(chosen) == budget and sum(candidate.is_mandatory for candidate in chosen) == num_pins
    shots = sorted({candidate.shot_index for candidate in chosen})
    phase_of = {shot: phase for phase, shot in enumerate(shots)} if policy.ranks_phases else None
    return ContextPlan(
        slots=tuple(
            ContextSlot(
                candidate=candidate,
                shot_phase=candidate.shot_index if phase_of is None else phase_of[candidate.shot_index],
            )
            for candidate in chosen
        ),
        target_phase=next_shot.index if phase_of is None else len(shots),
        own_captions=policy.own_captions,
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


def frame_candidates(
    shot_index: int,
    num_frames: int,
    frame_indices: Sequence[int],
    latent_of: Callable[[int], Float[Tensor, "z h w"]],
    *,
    caption: str = "",
) -> list[ContextCandidate]:
    """Returns frames of an earlier shot as candidates.

    Args:
        shot_index: Index of the shot in the film, from 0.
        num_frames: Length of the shot in video frames.
        frame_indices: Indices of the candidate frames.
        latent_of: Returns the latent of one of them; it is called only if the latent is needed.
        caption: The shot's own caption.

    Raises:
        ValueError: The shot is empty.
    """
    if num_frames < 1:
        raise ValueError(f"every earlier shot needs at least 1 frame, got {num_frames}")
    return [
        ContextCandidate(
            shot_index=shot_index,
            frame_index=frame_index,
            shot_num_frames=num_frames,
            caption=caption,
            latent=partial(latent_of, frame_index),
        )
        for frame_index in frame_indices
    ]


def max_pins(policy: str, budget: int) -> int:
    """Returns the maximum number of pinned pictures: one slot is left to shots; 0 if pins are unsupported."""
    if policy in POLICIES_WITHOUT_CONTEXT:
        return 0
    return budget - 1 if named_policy(policy).allows_pins else 0


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
    allows_pins = False

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
    allows_pins = True

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
        """Returns the pinned pictures and frames of the shots kept, by their shares of what is left."""
        del next_shot, rng
        chosen = [candidate for candidate in candidates if candidate.is_mandatory]
        free = budget - len(chosen)
        shots = frames_by_shot(candidates)
        kept = _anchored(list(shots), free)
        for shot_index, count in zip(kept, allocate(len(kept), free), strict=True):
            frames = shots[shot_index]
            num_frames = next(iter(frames.values())).shot_num_frames
            chosen += [frames[index] for index in self.frames_of(num_frames, count)]
        return chosen


class KeptFrames(dict[int, ContextCandidate]):
    """The candidates of one shot by frame index; raises ValueError for a frame that was not kept."""

    def __missing__(self, frame_index: int) -> ContextCandidate:
        one = next(iter(self.values()))
        raise ValueError(
            f"the context policy wants frame {frame_index} of shot {one.shot_index}, of which frames "
            f"{', '.join(map(str, self))} are kept: name it in the policy's may_choose, and make the shot "
            "(or the shards that hold it) again"
        )


def frames_by_shot(candidates: Sequence[ContextCandidate]) -> dict[int, KeptFrames]:
    """Returns the frames of each shot, by their indices, without pinned pictures."""
    shots: dict[int, KeptFrames] = {}
    for candidate in candidates:
        if candidate.frame_index is not None:
            shots.setdefault(candidate.shot_index, KeptFrames())[candidate.frame_index] = candidate
    return shots


def _anchored(shots: Sequence[int], budget: int) -> Sequence[int]:
    """Returns the first shot and the most recent ones, `budget` in all; for a budget of 1 the last shot."""
    if len(shots) <= budget:
        return shots
    return [shots[0], *shots[1 - budget :]] if budget > 1 else shots[-1:]


LAST_FRAME: Final = "last_frame"
POLICIES_WITHOUT_CONTEXT: Final = ("none", LAST_FRAME)
"""Names of the policies of models without context frames; see the module docstring."""
NO_MEMORY: Final = "this model has no memory across shots, so that no picture can be pinned"

POLICIES: Final[dict[str, ContextPolicy]] = {"published": PublishedPolicy(), "theatre": TheatrePolicy()}
"""The context policies by the names that configs and bundles use."""


def named_policy(name: str) -> ContextPolicy:
    """Returns the policy with a name; raises ValueError for an unknown one."""
    if name not in POLICIES:
        raise ValueError(f"unknown context policy {name!r}; known: {', '.join(sorted(POLICIES))}")
    return POLICIES[name]
