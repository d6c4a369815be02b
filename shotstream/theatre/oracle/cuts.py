"""Detection of cuts in a film, from its pixels.

Each frame around the planned cut is compared with frames clearly before and clearly after it, so that motion,
which is slow or repeats, is not taken for a cut.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

REACH: Final = 6
"""Number of frames before and after the planned cut in which a cut is searched."""
_NUM_REFERENCES: Final = 10
WINDOW: Final = REACH + _NUM_REFERENCES
"""Number of frames of each shot that the detection needs."""
TOLERANCE: Final = 4
"""Distance from the planned cut, in frames, from which a cut scores 0."""
_LEAST_CHANGE: Final = 0.02
"""Share of the picture that must change for a cut to be detected."""
_VISIBLE_CHANGE: Final = 0.06
"""Share of the picture by which the frames at a planned cut must differ from the other shot."""


def cut_offset(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> int | None:
    """Returns the offset of a film's cut from the plan in frames, -6 to 6; negative is early. None: no cut.

    Args:
        before: Palette indices `[f, h, w]` of the film up to the planned cut.
        after: Palette indices of the film from the planned cut on. Of each shot the `WINDOW` frames at the
            cut are needed; with fewer frames the search is shorter.

    Raises:
        ValueError: There are fewer than 3 frames on a side.
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
    """Returns whether a planned cut can be distinguished from motion; arguments as in `cut_offset`.

    Two shots of one actor in one place can be so similar that nobody could see where the cut is: the first
    frame after it looks like one of the frames before it.
    """
    old, new = before[-WINDOW:], after[:WINDOW]
    return 1 - max(_alike(after[0], old), _alike(before[-1], new)) >= _VISIBLE_CHANGE


def cut_score(offset: int | None) -> float:
    """Returns 1 for a cut on the exact frame, 1/4 less for each frame of distance, and 0 for no cut."""
    return 0.0 if offset is None else max(0.0, 1 - abs(offset) / TOLERANCE)


def _alike(frame: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    return float((others == frame).mean(axis=(1, 2)).max())
