"""Context policies: the choice of the frames of earlier shots that condition the next one.

A `ContextCandidate` is a frame that was kept of an earlier shot, or a picture pinned to one. A
`ContextPolicy` chooses `budget` of them; `choose_context` puts what it chose in order and gives each its RoPE
phase. Two policies:

- `published`: the allocation of arXiv 2603.25746, section 3.2, as its code does it. Every earlier shot gets
  `budget // num_shots` frames and the most recent shots one more each, so that with more shots than slots
  the oldest shots get nothing. Phases are shot indices; they grow with the film. Pinned frames are
  undefined there and refused.
- `theatre`: ours. The same allocation while the shots fit the budget. Beyond it, one frame each of the
  first shot, which introduced cast and place, and of the most recent `budget - 1` shots. Pinned frames
  take slots first, and the rule applies to what is left. Phases rank the shots kept, so no phase difference
  exceeds `budget`, whatever the length of the film: training on up to `budget` earlier shots has seen all.

Another policy is a class with the members of `ContextPolicy` and a line in `POLICIES`;
`experiments/policies.py` adds three. A policy can take candidates alone. Which frames of a shot become
candidates is asked of the policies in `POLICIES`: each says in `may_choose` which it may ever take, and
`kept_frames` is all of these. So a new policy finds the frames that no other takes in shots that were made
since it was added; shards are encoded again.
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
    """A frame that may condition the next shot."""

    shot_index: int
    """The earlier shot, 0-based in the film."""
    frame_index: int | None
    """Video frame within that shot, 0-based; None for a pinned picture."""
    pin_index: int | None = None
    """Which of the pictures pinned to that shot; None for a frame of the shot."""
    shot_num_frames: int
    """Length of that shot in video frames."""
    caption: str
    """Its shot's own caption."""
    latent: Callable[[], Float[Tensor, "z h w"]] = field(repr=False, compare=False)
    """Gives its normalised latent, read or computed when it is asked for."""

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
    """The shot to be made, as far as a policy may look at it."""

    index: int
    """0-based in the film: the number of the shots before it."""
    caption: str
    """Its own caption."""


@runtime_checkable
class ContextPolicy(Protocol):
    """A rule that chooses the context of a shot among candidates."""

    @property
    def ranks_phases(self) -> bool:
        """Whether RoPE phases rank the shots chosen; False: a phase is the index of its shot in the film."""
        ...

    @property
    def own_captions(self) -> bool:
        """Whether a context frame reads the caption of its own shot; False: that of the shot to be made."""
        ...

    @property
    def allows_pins(self) -> bool:
        """Whether there may be mandatory candidates."""
        ...

    def may_choose(self, num_frames: int, max_count: int) -> Collection[int]:
        """Returns the video frames of a shot that may ever be chosen; they are kept as its candidates.

        Args:
            num_frames: Length of the shot in video frames.
            max_count: The most frames of it that an equal share of the budget ever is.
        """
        ...

    def choose(
        self,
        candidates: Sequence[ContextCandidate],
        budget: int,
        next_shot: NextShot,
        rng: np.random.Generator,
    ) -> Sequence[ContextCandidate]:
        """Exactly `budget` of the candidates, all mandatory ones among them, in any order.

        Args:
            candidates: Of all earlier shots, the oldest first; a shot's pinned pictures before its frames. At
                least one is not mandatory, and at most `budget - 1` are.
            budget: Number of context frames that the model takes; a candidate may be chosen repeatedly.
            next_shot: What the context is for.
            rng: The only source of chance.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextSlot:
    """A context frame and the phase it is given."""

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
    """Whether a context frame reads the caption of its own shot; False: that of the shot to be made."""


def choose_context(
    candidates: Sequence[ContextCandidate],
    next_shot: NextShot,
    budget: int,
    policy: str | ContextPolicy = "theatre",
    rng: np.random.Generator | None = None,
) -> ContextPlan:
    """The context plan of a shot that follows others.

    Args:
        candidates: Of all earlier shots, the oldest first; a shot's pinned pictures before its frames.
        next_shot: The shot.
        budget: Number of context frames the model takes.
        policy: The policy or its name, see the module docstring.
        rng: What the policy may draw from; None: a generator of the shot's index, so that whoever plans the
            same shot chooses alike.

    Raises:
        ValueError: No earlier shot (a first shot has no plan: its context is empty), a budget below 1, too
            many pins, pins where the policy has none, or an unknown policy.
    """
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


def _position(candidate: ContextCandidate) -> tuple[int, bool, int]:
    """Oldest shot first, in it the pinned pictures in their order, then its frames in theirs."""
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
    """Frames of an earlier shot as candidates.

    Args:
        shot_index: 0-based in the film.
        num_frames: Length of the shot in video frames.
        frame_indices: The video frames that are offered.
        latent_of: Gives the latent of one of them when it is asked for.
        caption: The shot's own.

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
    """The most pictures that may be pinned: one slot is left to the shots; 0 where pins are undefined."""
    return budget - 1 if named_policy(policy).allows_pins else 0


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


def kept_frames(num_frames: int, shot_index: int, budget: int) -> tuple[int, ...]:
    """Video frames of a shot that are kept for later shots: all that a policy may choose, sorted.

    A session encodes these once, while the shot is made and at its end, and forgets the shot: 1 to 3 frames
    in most places of a film, 11 of a first shot at a budget of 6.

    Args:
        num_frames: Length of the shot in video frames.
        shot_index: 0-based in the film. The most that shot `i` is ever asked for is its share as the last of
            `i + 1` shots; later shots and pinned pictures only shrink it.
        budget: Number of context frames the model takes.
    """
    max_count = math.ceil(budget / (shot_index + 1))
    return tuple(
        sorted({frame for policy in POLICIES.values() for frame in policy.may_choose(num_frames, max_count)})
    )


@lru_cache(maxsize=4096)
def _spread_frames(num_frames: int, max_count: int, first: int) -> frozenset[int]:
    """Frames of a shot that are spread over it, for any count up to `max_count`; see `spread` for `first`."""
    return frozenset(
        frame - first
        for count in range(1, max_count + 1)
        for frame in spread(first, first + num_frames - 1, count)
    )


class PublishedPolicy:
    """`published`; see the module docstring."""

    ranks_phases = False
    own_captions = True
    allows_pins = False

    def may_choose(self, num_frames: int, max_count: int) -> Collection[int]:
        """Returns the frames of `choose`, for both parities of a shot's first frame in the film."""
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
    """`theatre`; see the module docstring."""

    ranks_phases = True
    own_captions = True
    allows_pins = True

    def frames_of(self, num_frames: int, count: int) -> tuple[int, ...]:
        """Returns the `count` frames that are taken of a shot; here, spread over it."""
        return spread(0, num_frames - 1, count)

    def may_choose(self, num_frames: int, max_count: int) -> Collection[int]:
        """Returns the frames of `choose`."""
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
    """The candidates of one shot by the indices of their frames; ValueError for a frame that was not kept."""

    def __missing__(self, frame_index: int) -> ContextCandidate:
        one = next(iter(self.values()))
        raise ValueError(
            f"the context policy wants frame {frame_index} of shot {one.shot_index}, of which frames "
            f"{', '.join(map(str, self))} are kept: name it in the policy's may_choose, and make the shot "
            "(or the shards that hold it) again"
        )


def frames_by_shot(candidates: Sequence[ContextCandidate]) -> dict[int, KeptFrames]:
    """The frames of each shot, by their indices; without pinned pictures."""
    shots: dict[int, KeptFrames] = {}
    for candidate in candidates:
        if candidate.frame_index is not None:
            shots.setdefault(candidate.shot_index, KeptFrames())[candidate.frame_index] = candidate
    return shots


def _anchored(shots: Sequence[int], budget: int) -> Sequence[int]:
    """The first shot and the most recent ones, `budget` in all; the last shot alone when one is free."""
    if len(shots) <= budget:
        return shots
    return [shots[0], *shots[1 - budget :]] if budget > 1 else shots[-1:]


POLICIES: Final[dict[str, ContextPolicy]] = {"published": PublishedPolicy(), "theatre": TheatrePolicy()}
"""By the names that configs and bundles give."""


def named_policy(name: str) -> ContextPolicy:
    """The policy of a name; ValueError for an unknown one."""
    if name not in POLICIES:
        raise ValueError(f"unknown context policy {name!r}; known: {', '.join(sorted(POLICIES))}")
    return POLICIES[name]
