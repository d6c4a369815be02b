"""Context sampling: the published allocation, our own for any number of shots and pins, candidate frames."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from shotstream.streaming.context_sampling import (
    ContextSlot,
    PolicyName,
    allocate,
    candidate_frames,
    max_frame_count,
    sample_context,
)

GOLDEN = Path(__file__).parents[1] / "assets" / "goldens" / "context_sampling.json"
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)


def chosen(frames_per_shot: list[int], budget: int, policy: PolicyName) -> list[tuple[int, int]]:
    slots = sample_context(frames_per_shot, budget, policy).slots
    return [(slot.shot_index, slot.frame_index) for slot in slots if slot.frame_index is not None]


@pytest.mark.goldens
def test_published_policy_equals_the_golden_rows() -> None:
    for row in json.loads(GOLDEN.read_text())["rows"]:
        lengths = row["frames_per_shot"]
        starts = [0, *itertools.accumulate(lengths)]
        frames = chosen(lengths, row["budget"], "published")
        assert [starts[shot] + frame for shot, frame in frames] == row["frame_index"]
        assert [shot for shot, _ in frames] == row["shot_index"]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_plan_fills_the_budget_and_phases_never_fall(policy: PolicyName) -> None:
    for num_shots in range(1, 20):
        for budget in range(1, 9):
            plan = sample_context([33] * num_shots, budget, policy)
            phases = [slot.shot_phase for slot in plan.slots]
            assert len(plan.slots) == budget
            assert phases == sorted(phases)
            assert plan.target_phase == phases[-1] + 1


def test_theatre_policy_equals_the_published_one_while_the_shots_fit_the_budget() -> None:
    for num_shots in range(1, 7):
        assert sample_context([33] * num_shots, 6, "theatre") == sample_context(
            [33] * num_shots, 6, "published"
        )


def test_theatre_policy_keeps_the_first_shot_and_the_most_recent_ones() -> None:
    plan = sample_context([33] * 20, 6, "theatre")
    assert [slot.shot_index for slot in plan.slots] == [0, 15, 16, 17, 18, 19]
    assert [slot.frame_index for slot in plan.slots] == [0] * 6
    assert [slot.shot_phase for slot in plan.slots] == [0, 1, 2, 3, 4, 5]
    assert plan.target_phase == 6


def test_ablations_differ_from_theatre_in_one_thing_each() -> None:
    lengths = [33, 21]
    ours = sample_context(lengths, 6, "theatre")
    assert chosen(lengths, 6, "theatre") == [(0, 0), (0, 16), (0, 32), (1, 0), (1, 10), (1, 20)]
    assert chosen(lengths, 6, "first_frames") == [(0, 0)] * 3 + [(1, 0)] * 3
    ends = [(0, 0), (0, 0), (0, 32), (1, 0), (1, 0), (1, 20)]
    assert chosen(lengths, 6, "first_and_last_frames") == ends
    assert replace(sample_context(lengths, 6, "target_caption"), own_captions=True) == ours
    for policy in ("first_frames", "first_and_last_frames"):
        plan = sample_context(lengths, 6, policy)
        assert [slot.shot_phase for slot in plan.slots] == [slot.shot_phase for slot in ours.slots]
        assert plan.own_captions


def test_pins_take_slots_first_and_stand_before_the_frames_of_their_shot() -> None:
    plan = sample_context([9] * 10, 4, "theatre", pins=(5, 9))
    assert plan.slots == (
        ContextSlot(shot_index=0, frame_index=0, pin_index=None, shot_phase=0),
        ContextSlot(shot_index=5, frame_index=None, pin_index=0, shot_phase=1),
        ContextSlot(shot_index=9, frame_index=None, pin_index=1, shot_phase=2),
        ContextSlot(shot_index=9, frame_index=0, pin_index=None, shot_phase=2),
    )
    assert plan.target_phase == 3


def test_one_free_slot_goes_to_the_most_recent_shot() -> None:
    plan = sample_context([9] * 5, 3, "theatre", pins=(0, 0))
    assert [slot.shot_index for slot in plan.slots] == [0, 0, 4]


def test_phase_differences_stay_within_the_budget_whatever_is_pinned() -> None:
    for num_shots in range(1, 12):
        for pins in itertools.chain.from_iterable(
            itertools.combinations_with_replacement(range(num_shots), count) for count in range(4)
        ):
            plan = sample_context([9] * num_shots, 4, "theatre", pins=pins)
            assert len(plan.slots) == 4
            assert plan.target_phase - plan.slots[0].shot_phase <= 4
            assert [slot.pin_index for slot in plan.slots if slot.pin_index is not None] == sorted(
                range(len(pins)), key=lambda index: pins[index]
            )


def test_counts_sum_to_the_budget() -> None:
    assert allocate(4, 6) == (1, 1, 2, 2)
    assert allocate(8, 6) == (0, 0, 1, 1, 1, 1, 1, 1)
    assert all(sum(allocate(shots, budget)) == budget for shots in range(1, 20) for budget in range(1, 10))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_frame_a_policy_chooses_is_a_candidate(policy: PolicyName) -> None:
    for budget, num_frames, first in itertools.product((1, 3, 6, 8, 9), (1, 5, 9, 21, 33, 81, 82), (9, 34)):
        lengths = [first, *[num_frames] * 11]
        for num_shots in range(1, 12):
            for shot, frame in chosen(lengths[:num_shots], budget, policy):
                assert frame in candidate_frames(lengths[shot], max_frame_count(shot, budget))


def test_pins_never_ask_for_a_frame_that_is_no_candidate() -> None:
    for num_shots, num_pins in itertools.product(range(1, 9), range(6)):
        for slot in sample_context([21] * num_shots, 6, "theatre", pins=(0,) * num_pins).slots:
            assert slot.frame_index is None or slot.frame_index in candidate_frames(
                21, max_frame_count(slot.shot_index, 6)
            )


def test_candidates_are_few() -> None:
    assert candidate_frames(81, 6) == (0, 16, 20, 27, 32, 40, 48, 53, 60, 64, 80)
    assert candidate_frames(81, max_frame_count(1, 6)) == (0, 40, 80)
    assert candidate_frames(81, max_frame_count(4, 6)) == (0, 80)
    assert candidate_frames(81, max_frame_count(5, 6)) == (0,)


def test_what_has_no_meaning_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="no earlier shot"):
        sample_context([], 6)
    with pytest.raises(ValueError, match="at least 1 frame"):
        sample_context([9, 0], 6)
    with pytest.raises(ValueError, match="at most 5 of 6"):
        sample_context([9], 6, pins=(0,) * 6)
    with pytest.raises(ValueError, match="pinned to shot 1"):
        sample_context([9], 6, pins=(1,))
    with pytest.raises(ValueError, match="published context policy has no pinned frames"):
        sample_context([9], 6, "published", pins=(0,))
    with pytest.raises(ValueError, match="frame of a shot or a pinned picture"):
        ContextSlot(shot_index=0, frame_index=None, pin_index=None, shot_phase=0)
