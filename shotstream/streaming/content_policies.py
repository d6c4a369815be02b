"""Policies that choose by content: the earlier shots that match the next one best, however old they are.

A shot is as good as its best frame (`Match`, from `matching.py`). First, for everything that the next shot
shows, the best shot that shows it is chosen; then the best of the others, up to a number of shots. Ties go
to the most recent shot. The chosen shots share the budget; what remains goes to the best. A shot's frames
are those that are kept of it, from its first on, repeated if they are too few: these policies have nothing
kept for them, so the memory of an old shot is as small as under any other policy.

Source of choosing by queries and keys: CausalCine (arXiv 2605.12496).
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from shotstream.streaming.context_candidates import (
    Comparison,
    ContextCandidate,
    KeptFrames,
    NextShot,
    frames_by_shot,
)


class ContentPolicy:
    """A policy that chooses the shots that match the next one best; see the module docstring."""

    ranks_phases = True
    own_captions = True

    def __init__(self, compares: Comparison, max_shots: int | None = None) -> None:
        """Creates a policy.

        Args:
            compares: What is compared with the next shot.
            max_shots: Maximum number of shots in a context; None: one for each free slot.
        """
        self.compares: Comparison = compares
        self._max_shots = max_shots

    def may_choose(self, num_frames: int, max_count: int) -> Collection[int]:
        """Returns no frames: it chooses among those that other policies have kept."""
        del num_frames, max_count
        return ()

    def choose(
        self,
        candidates: Sequence[ContextCandidate],
        budget: int,
        next_shot: NextShot,
        rng: np.random.Generator,
    ) -> list[ContextCandidate]:
        """Returns frames of the shots that match best; of the last shot if none has anything in common."""
        del next_shot, rng
        shots = frames_by_shot(candidates)
        most = budget if self._max_shots is None else min(budget, self._max_shots)
        kept = _best_shots(shots, most)
        base, remainder = divmod(budget, len(kept))
        chosen: list[ContextCandidate] = []
        for rank, shot_index in enumerate(kept):
            frames = [shots[shot_index][index] for index in sorted(shots[shot_index])]
            count = base + (rank < remainder)
            chosen += [frames[place * len(frames) // count] for place in range(count)]
        return chosen


def _best_shots(shots: Mapping[int, KeptFrames], most: int) -> list[int]:
    """Returns at most `most` shots, the best first: those that are needed, then those that are alike."""
    scores: dict[int, float] = {}
    shared: dict[int, set[str]] = {}
    for shot_index, frames in shots.items():
        matches = [frame.match for frame in frames.values() if frame.match is not None]
        if matches:
            scores[shot_index] = max(match.score for match in matches)
            shared[shot_index] = {thing for match in matches for thing in match.shared}
    ranked = sorted(scores, key=lambda shot: (scores[shot], shot), reverse=True)
    needed: list[int] = []
    covered: set[str] = set()
    for shot_index in ranked:
        if not shared[shot_index] <= covered:
            needed.append(shot_index)
            covered |= shared[shot_index]
    others = [shot_index for shot_index in ranked if shot_index not in needed]
    kept = [*needed, *others][:most] or [max(shots)]
    return sorted(kept, key=lambda shot: (scores.get(shot, 0.0), shot), reverse=True)
