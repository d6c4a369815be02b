"""Sharpness: 1 for the drawing itself, and less for every way in which frames lose their edges."""

import numpy as np
import pytest

from shotstream.theatre.oracle.edges import edge_agreement


def test_a_drawing_agrees_with_itself_and_not_with_a_blank() -> None:
    drawn = np.random.default_rng(0).integers(5, size=(2, 12, 20)).astype(np.uint8)
    assert edge_agreement(drawn, drawn) == 1.0
    assert edge_agreement(np.zeros_like(drawn), drawn) == 0.0


def test_colours_do_not_matter_where_edges_are_right() -> None:
    drawn = np.zeros((1, 4, 4), dtype=np.uint8)
    drawn[:, :2] = 3
    assert edge_agreement(drawn + 7, drawn) == 1.0


def test_the_score_is_the_harmonic_mean_of_precision_and_recall() -> None:
    drawn = np.zeros((1, 2, 4), dtype=np.uint8)
    drawn[:, :, 2:] = 1  # two edges
    seen = drawn.copy()
    seen[:, 0, 0] = 5  # two more: right of it, and below it
    assert edge_agreement(seen, drawn) == pytest.approx(2 * 2 / (2 + 4))
