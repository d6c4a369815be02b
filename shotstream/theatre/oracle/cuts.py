"""Detection of cuts in a film, from its pixels.

Each frame around the planned cut is compared with frames safely before and safely after it, so that motion,
which recurs or is slow, does not pass for a cut.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

REACH: Final = 6
"""Frames before and after the planned cut in which it is looked for."""
_NUM_REFERENCES: Final = 10
WINDOW: Final = REACH + _NUM_REFERENCES
"""Frames of each shot that are needed."""
TOLERANCE: Final = 4
"""Frames off at which a cut counts nothing."""
_LEAST_CHANGE: Final = 0.02
"""Share of the picture that must change at a cut for it to be seen."""
_VISIBLE_CHANGE: Final = 0.06
"""Share of the picture by which the frames at a planned cut must differ from all of the other shot."""


def cut_offset(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> int | None:
    """The offset of a film's cut from the plan, -6 to 6 frames; negative is early. None: no cut is seen.

    Args:
        before: palette indices `[f, h, w]` of the film up to the planned cut.
        after: palette indices of the film from it on. Of each shot the `WINDOW` frames at the cut are
            needed; with fewer the reach is shorter.

    Raises:
        ValueError: fewer than 3 frames on a side.
    """
    shorter = min(len(before), len(after))
    if shorter < 3:
        raise ValueError(f"{shorter} frames at a cut; at least 3 are needed on each side")
    reach = min(REACH, shorter // 2)
    old = before[-reach - _NUM_REFERENCES : -reach]
    new = after[reach : reach + _NUM_REFERENCES]
    doubtful = np.concatenate([before[-reach:], after[:reach]])
    leaning = np.array([_alike(frame, old) - _alike(frame, new) for frame in doubtful])
    total = np.concatenate([[0.0], np.cumsum(leaning)])
    best = int((2 * total - total[-1]).argmax())
    whole = np.concatenate([old[-1:], doubtful, new[:1]])
    if (whole[best] != whole[best + 1]).mean() < _LEAST_CHANGE:
        return None
    return best - reach


def is_visible(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> bool:
    """Whether a planned cut, frames as for `cut_offset`, can be told from motion.

    Two shots of one actor in one place can be planned so alike that nobody could tell where the cut is: the
    first frame after it looks like one of those before it.
    """
    old, new = before[-WINDOW:], after[:WINDOW]
    return 1 - max(_alike(after[0], old), _alike(before[-1], new)) >= _VISIBLE_CHANGE


def cut_score(offset: int | None) -> float:
    """1 for a cut on the exact frame, a quarter less for each frame that it is off, 0 when none is seen."""
    return 0.0 if offset is None else max(0.0, 1 - abs(offset) / TOLERANCE)


def _alike(frame: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    return float((others == frame).mean(axis=(1, 2)).max())
