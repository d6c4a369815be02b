"""Context candidates: the frames of earlier shots among which a policy chooses, and what a policy is.

A `ContextCandidate` is a frame of an earlier shot that was kept, a picture pinned to one, or a reference.
Pinned pictures and references are in every context, whatever the policy. A `ContextPolicy` chooses among the
frames. A policy that compares is told how each frame matches the next shot (`Match`); `matching.py` finds
that out.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

Comparison = Literal["captions", "keys"]
"""What a policy compares with the next shot: what captions say, or the model's own queries and keys."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """How an earlier shot, or a frame of it, matches the next shot."""

    score: float
    """Likeness; the higher the better. Only scores of the same next shot can be compared."""
    shared: tuple[str, ...] = ()
    """What it shows that the next shot shows as well, in words; empty if that is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextCandidate:
    """A frame that may condition the next shot: of an earlier shot, a pinned picture, or a reference."""

    shot_index: int
    """Index of the earlier shot in the film, from 0. References are virtual earlier shots, of indices below
    0: the last one is -1.
    """
    frame_index: int | None
    """Index of the video frame in that shot, from 0; None for a pinned picture or a reference."""
    pin_index: int | None = None
    """Index among the pictures of that shot that are pinned; None for a frame of the shot."""
    shot_num_frames: int
    """Length of that shot in video frames."""
    caption: str
    """The frame's caption: its shot's own, or one that the shot was steered to."""
    caption_index: int = 0
    """Index of the caption among those of its shot."""
    latent: Callable[[], Float[Tensor, "z h w"]] = field(repr=False, compare=False)
    """Returns the frame's normalised latent, which is read or computed when it is called."""
    match: Match | None = field(default=None, compare=False)
    """How it matches the next shot; None: they have nothing in common, or the policy does not compare."""

    def __post_init__(self) -> None:
        if (self.frame_index is None) == (self.pin_index is None):
            raise ValueError(
                "a context candidate is either a frame of a shot or a pinned picture; give exactly one index"
            )

    @property
    def is_mandatory(self) -> bool:
        """Whether every context has it: a pinned picture or a reference."""
        return self.pin_index is not None


MatchCandidates = Callable[[Comparison, Sequence[ContextCandidate]], Sequence[Match | None]]
"""A function that returns how each candidate matches one next shot; None: they have nothing in common."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NextShot:
    """The next shot, as far as a policy may use it."""

    index: int
    """Index in the film, from 0: the number of the shots before it."""
    caption: str
    """The shot's own caption."""
    match: MatchCandidates | None = field(default=None, repr=False, compare=False)
    """Returns how candidates match this shot; None: nothing can be compared here, and policies that compare
    are refused.
    """


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
    def compares(self) -> Comparison | None:
        """What it compares with the next shot; None: nothing, and candidates have no `match`."""
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
        """Returns exactly `budget` of the candidates, in any order; one may be chosen repeatedly.

        Args:
            candidates: Frames of all earlier shots, the oldest first; at least one. Mandatory candidates are
                in the context already.
            budget: Number of context frames that mandatory candidates leave free, at least 1.
            next_shot: The shot to be generated.
            rng: The only source of randomness.
        """
        ...


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
