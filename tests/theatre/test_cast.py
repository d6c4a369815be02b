"""The cast: characters and actions can be told apart, and only the scarf tells of the scarf."""

import itertools

import numpy as np
import pytest

from shotstream.theatre.cast import (
    ACTIONS,
    COLOURS,
    SCARVES,
    SPECIES,
    TRANSPARENT,
    Action,
    Actor,
    Pose,
    Species,
    pose_at,
    sprite,
)
from shotstream.theatre.palette import INDEX, NAMES


def test_sprites_are_of_palette_colours() -> None:
    for species, colour, scarf in itertools.product(SPECIES, COLOURS, SCARVES):
        drawn = sprite(Actor(species, colour, scarf), Pose())
        assert np.all((drawn < len(NAMES)) | (drawn == TRANSPARENT))


@pytest.mark.parametrize("species", SPECIES)
def test_a_scarf_changes_pixels_of_its_own_colour_only(species: Species) -> None:
    orange = sprite(Actor(species, "red", "scarf_orange"), Pose())
    cyan = sprite(Actor(species, "red", "scarf_cyan"), Pose())
    changed = orange != cyan
    assert changed.sum() >= 8
    assert set(orange[changed].tolist()) == {INDEX["scarf_orange"]}
    assert set(cyan[changed].tolist()) == {INDEX["scarf_cyan"]}


def test_no_two_species_look_alike() -> None:
    figures = [sprite(Actor(species, "blue", "white"), Pose()) for species in SPECIES]
    for one, other in itertools.combinations(figures, 2):
        assert (one != other).sum() > 20


@pytest.mark.parametrize("pair", list(itertools.combinations(ACTIONS, 2)), ids="-".join)
def test_no_two_actions_are_the_same_poses(pair: tuple[Action, Action]) -> None:
    first, second = ([pose_at(action, t, facing="right") for t in range(1, 33)] for action in pair)
    differing = sum(one != other for one, other in zip(first, second, strict=True))
    assert differing >= 16


@pytest.mark.parametrize("action", ["walks", "jumps", "waves", "dances", "sleeps", "stands"])
def test_actions_move_on_twos_in_step_with_groups_of_four(action: Action) -> None:
    """A pose holds for two frames at least, counted from frame 1: the codec's groups of four see halves."""
    poses = [pose_at(action, t, facing="left") for t in range(33)]
    assert len(set(poses)) > 1
    for frame in range(1, 33, 2):
        assert poses[frame] == poses[frame + 1]


def test_a_walk_looks_where_it_goes_and_a_wave_can_be_mirrored() -> None:
    assert pose_at("walks", 3, facing="left").look == -pose_at("walks", 3, facing="right").look != 0
    plain, mirrored = (pose_at("waves", 1, facing="right", mirrored=value) for value in (False, True))
    assert (plain.left_arm, plain.right_arm) == (mirrored.right_arm, mirrored.left_arm)
