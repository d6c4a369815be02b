"""Sharpness: whether the edges of frames are where the edges of their best drawing are."""

import numpy as np
from numpy.typing import NDArray


def edge_agreement(seen: NDArray[np.uint8], drawn: NDArray[np.uint8]) -> float:
    """Returns the F1 score of the edges of frames against those of their drawing, in [0, 1].

    An edge is a border between two pixels of different colours. Blur and noise add edges, mosaic removes
    some. Whether the colours are correct does not matter.

    Args:
        seen: Palette indices `[n, h, w]` of the frames.
        drawn: Palette indices of the drawing, of the same shape.
    """
    common = in_seen = in_drawn = 0
    for axis in (1, 2):
        seen_edges, drawn_edges = _edges(seen, axis), _edges(drawn, axis)
        common += int((seen_edges & drawn_edges).sum())
        in_seen += int(seen_edges.sum())
        in_drawn += int(drawn_edges.sum())
    return 2 * common / max(in_seen + in_drawn, 1)


def _edges(frames: NDArray[np.uint8], axis: int) -> NDArray[np.bool_]:
    ahead = np.moveaxis(frames, axis, 0)
    return ahead[1:] != ahead[:-1]
