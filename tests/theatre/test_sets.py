"""The sets: every place, time and layout can be told from every other."""

import itertools

import numpy as np
import pytest

from shotstream.theatre.palette import NAMES
from shotstream.theatre.sets import NUM_LAYOUTS, PLACES, STAGE_SIZE, TIMES, stage


def test_stages_are_of_palette_colours_and_of_the_stage_size() -> None:
    for place, time, layout in itertools.product(PLACES, TIMES, range(NUM_LAYOUTS)):
        picture = stage(place, time, layout)
        assert picture.shape == (STAGE_SIZE.height, STAGE_SIZE.width)
        assert picture.max() < len(NAMES)


def test_every_set_differs_from_every_other_in_much_of_the_picture() -> None:
    choices = list(itertools.product(PLACES, TIMES, range(NUM_LAYOUTS)))
    stages = [stage(*choice) for choice in choices]
    for one, other in itertools.combinations(range(len(stages)), 2):
        assert np.mean(stages[one] != stages[other]) > 0.1, (choices[one], choices[other])


def test_a_layout_moves_the_same_landmarks() -> None:
    """Each third of one layout stands elsewhere in the next, so that only memory tells where."""
    pictures = [stage("city", "day", layout) for layout in range(NUM_LAYOUTS)]
    for one, other in itertools.combinations(pictures, 2):
        thirds = [(one != other)[:32, 2 + 26 * third : 26 + 26 * third].mean() for third in range(3)]
        assert min(thirds) > 0.1


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="layout 3 does not exist"):
        stage("city", "day", 3)
