"""The contact sheet: truth and film, pixel for pixel enlarged, and room for captions."""

import numpy as np
import pytest

from shotstream.evaluation.sheet import Panel, SheetStory, draw_sheet


def test_a_sheet_shows_truth_above_film() -> None:
    truth, film = np.full((48, 80, 3), 200, dtype=np.uint8), np.full((48, 80, 3), 90, dtype=np.uint8)
    panels = tuple(Panel(truth=truth, film=film, caption="The owl waits. " * n) for n in (1, 20))
    page = np.asarray(draw_sheet([SheetStory(global_caption="An owl.", panels=panels)] * 2))
    for shade in (200, 90):
        assert (page == shade).all(axis=-1).sum() >= 2 * 2 * 48 * 80 * 9
    column = (page == 200).all(axis=-1).any(axis=1), (page == 90).all(axis=-1).any(axis=1)
    assert np.flatnonzero(column[0])[0] < np.flatnonzero(column[1])[0]


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one story"):
        draw_sheet([])
