"""The palette: colours and indices are one thing, and the nearest colour is found for any other."""

import numpy as np

from shotstream.theatre.palette import NAMES, RGB, to_indices, to_rgb


def test_no_two_names_share_a_colour() -> None:
    assert len({tuple(colour) for colour in RGB.tolist()}) == len(NAMES)


def test_indices_survive_the_way_through_rgb() -> None:
    indices = np.random.default_rng(0).integers(len(NAMES), size=(2, 48, 80)).astype(np.uint8)
    np.testing.assert_array_equal(to_indices(to_rgb(indices)), indices)


def test_any_colour_becomes_the_nearest_of_the_palette() -> None:
    colours = np.random.default_rng(1).integers(256, size=(5000, 3)).astype(np.uint8)
    distances = ((colours[:, None].astype(int) - RGB[None].astype(int)) ** 2).sum(-1)
    found = to_indices(colours)
    np.testing.assert_array_equal(distances[np.arange(5000), found], distances.min(axis=1))
