"""Context sampling: the published allocation, our own for any number of shots and pins, candidate frames."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from shotstream.streaming.conditioning import context_captions, planned_conditioning
from shotstream.streaming.context_candidates import ContextCandidate, ContextPolicy, NextShot
from shotstream.streaming.context_sampling import (
    POLICIES,
    TheatrePolicy,
    allocate,
    choose_context,
    kept_frames,
    named_policy,
)
from shotstream.streaming.shot_memory import ShotMemory
from tests.streaming.tiny import tiny_memory, tiny_plan

GOLDEN = Path(__file__).parents[1] / "assets" / "goldens" / "context_sampling.json"


def chosen(frames_per_shot: list[int], budget: int, policy: str | ContextPolicy) -> list[tuple[int, int]]:
    found = [slot.candidate for slot in tiny_plan(frames_per_shot, budget, policy).slots]
    return [(one.shot_index, one.frame_index) for one in found if one.frame_index is not None]


def places(
    frames_per_shot: list[int], budget: int, *pins: int
) -> list[tuple[int, int | None, int | None, int]]:
    """Shot, frame, pin and phase of every context frame under our policy."""
    slots = tiny_plan(frames_per_shot, budget, pins=pins).slots
    return [
        (one.candidate.shot_index, one.candidate.frame_index, one.candidate.pin_index, one.shot_phase)
        for one in slots
    ]


@pytest.mark.goldens
def test_published_policy_equals_the_golden_rows() -> None:
    for row in json.loads(GOLDEN.read_text())["rows"]:
        lengths = row["frames_per_shot"]
        starts = [0, *itertools.accumulate(lengths)]
        frames = chosen(lengths, row["budget"], "published")
        assert [starts[shot] + frame for shot, frame in frames] == row["frame_index"]
        assert [shot for shot, _ in frames] == row["shot_index"]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_plan_fills_the_budget_and_phases_never_fall(policy: str) -> None:
    for num_shots in range(1, 20):
        for budget in range(1, 9):
            plan = tiny_plan([33] * num_shots, budget, policy)
            phases = [slot.shot_phase for slot in plan.slots]
            assert len(plan.slots) == budget
            assert phases == sorted(phases)
            assert plan.target_phase == phases[-1] + 1


def test_theatre_policy_equals_the_published_one_while_the_shots_fit_the_budget() -> None:
    for num_shots in range(1, 7):
        assert tiny_plan([33] * num_shots, 6, "theatre") == tiny_plan([33] * num_shots, 6, "published")


def test_theatre_policy_keeps_the_first_shot_and_the_most_recent_ones() -> None:
    plan = tiny_plan([33] * 20, 6, "theatre")
    assert [slot.candidate.shot_index for slot in plan.slots] == [0, 15, 16, 17, 18, 19]
    assert [slot.candidate.frame_index for slot in plan.slots] == [0] * 6
    assert [slot.shot_phase for slot in plan.slots] == [0, 1, 2, 3, 4, 5]
    assert plan.target_phase == 6


def test_pins_take_slots_first_and_stand_before_the_frames_of_their_shot() -> None:
    assert places([9] * 10, 4, 5, 9) == [
        (0, 0, None, 0),
        (5, None, 0, 1),
        (9, None, 0, 2),
        (9, 0, None, 2),
    ]
    assert tiny_plan([9] * 10, 4, pins=(5, 9)).target_phase == 3


def test_one_free_slot_goes_to_the_most_recent_shot() -> None:
    plan = tiny_plan([9] * 5, 3, "theatre", pins=(0, 0))
    assert [slot.candidate.shot_index for slot in plan.slots] == [0, 0, 4]


def test_phase_differences_stay_within_the_budget_whatever_is_pinned() -> None:
    for num_shots in range(1, 12):
        for pins in itertools.chain.from_iterable(
            itertools.combinations_with_replacement(range(num_shots), count) for count in range(4)
        ):
            plan = tiny_plan([9] * num_shots, 4, "theatre", pins=pins)
            assert len(plan.slots) == 4
            assert plan.target_phase - plan.slots[0].shot_phase <= 4
            pinned = [slot.candidate for slot in plan.slots if slot.candidate.is_mandatory]
            assert [one.shot_index for one in pinned] == sorted(pins)
            assert {(one.shot_index, one.pin_index) for one in pinned} == {
                (shot, pin) for shot in pins for pin in range(pins.count(shot))
            }


def test_counts_sum_to_the_budget() -> None:
    assert allocate(4, 6) == (1, 1, 2, 2)
    assert allocate(8, 6) == (0, 0, 1, 1, 1, 1, 1, 1)
    assert all(sum(allocate(shots, budget)) == budget for shots in range(1, 20) for budget in range(1, 10))


def test_pins_leave_the_published_policy_its_rule_for_the_places_that_are_left() -> None:
    plan = tiny_plan([33] * 3, 6, "published", pins=(1, 1))
    found = [slot.candidate for slot in plan.slots]
    assert [(one.shot_index, one.pin_index) for one in found if one.is_mandatory] == [(1, 0), (1, 1)]
    others = [(one.shot_index, one.frame_index) for one in found if not one.is_mandatory]
    assert others == chosen([33] * 3, 4, "published")


@pytest.mark.parametrize("policy", POLICIES)
def test_every_frame_a_policy_chooses_is_a_candidate(policy: str) -> None:
    for budget, num_frames, first in itertools.product((1, 3, 6, 8, 9), (1, 5, 9, 21, 33, 81, 82), (9, 34)):
        lengths = [first, *[num_frames] * 11]
        for num_shots in range(1, 12):
            for shot, frame in chosen(lengths[:num_shots], budget, policy):
                assert frame in kept_frames(lengths[shot], shot, budget)


def test_pins_never_ask_for_a_frame_that_is_no_candidate() -> None:
    """A frame that is none would be missing among what a memory offers."""
    for num_shots, num_pins in itertools.product(range(1, 9), range(6)):
        for shot, frame, pin, _ in places([21] * num_shots, 6, *(0,) * num_pins):
            assert (frame is None) == (pin is not None)
            assert frame is None or frame in kept_frames(21, shot, 6)


def test_candidates_are_few() -> None:
    assert kept_frames(81, 0, 6) == (0, 16, 20, 27, 32, 40, 48, 53, 60, 64, 80)
    assert kept_frames(81, 1, 6) == (0, 40, 80)
    assert kept_frames(81, 4, 6) == (0, 80)
    assert kept_frames(81, 5, 6) == (0,)


class _OfOneShot:
    """A policy as anybody may write one: by chance, of shots whose caption is the next one's."""

    ranks_phases, own_captions, compares = True, True, None

    def may_choose(self, num_frames: int, max_count: int) -> range:
        del max_count
        return range(num_frames)

    def choose(
        self,
        candidates: Sequence[ContextCandidate],
        budget: int,
        next_shot: NextShot,
        rng: np.random.Generator,
    ) -> list[ContextCandidate]:
        assert not any(one.is_mandatory for one in candidates)
        alike = [one for one in candidates if one.caption == next_shot.caption]
        return [alike[i] for i in rng.integers(len(alike), size=budget)]


def test_any_object_that_chooses_is_a_policy_and_whoever_plans_a_shot_finds_the_same() -> None:
    memories = [tiny_memory(index, 33, 6, num_pins=index == 2) for index in range(4)]
    offered = [one for index, memory in enumerate(memories) for one in memory.candidates(index)]
    following = NextShot(index=4, caption="shot 1")
    plan = choose_context(offered, following, 6, _OfOneShot())
    found = [slot.candidate for slot in plan.slots]
    assert [one.shot_index for one in found] == [1] * 5 + [2] and found[-1].is_mandatory
    assert [slot.shot_phase for slot in plan.slots] == [0] * 5 + [1] and plan.target_phase == 2
    frames = [one.frame_index for one in found[:-1]]
    assert frames == sorted(frames, key=lambda frame: -1 if frame is None else frame)
    assert plan == choose_context(offered, following, 6, _OfOneShot())
    others = [choose_context(offered, following, 6, _OfOneShot(), np.random.default_rng(n)) for n in range(9)]
    assert any(other != plan for other in others)
    assert [one.latent().mean().item() for one in found] == [1.0] * 5 + [-1.0]


class _Middle(TheatrePolicy):
    """A policy that takes frames which no other does."""

    def frames_of(self, num_frames: int, count: int) -> tuple[int, ...]:
        return (num_frames // 2 + 1,) * count


class _DeclaredMiddle(_Middle):
    def may_choose(self, num_frames: int, max_count: int) -> tuple[int, ...]:
        del max_count
        return (num_frames // 2 + 1,)


def test_a_policy_finds_the_frames_that_it_says_it_may_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"wants frame 17 of shot 0, of which frames 0, 6, .* may_choose"):
        tiny_plan([33], 6, _Middle())
    before = kept_frames(33, 0, 6)
    monkeypatch.setitem(POLICIES, "middle", _DeclaredMiddle())
    assert set(kept_frames(33, 0, 6)) == {*before, 17}
    assert chosen([33, 33], 4, "middle") == [(0, 17), (0, 17), (1, 17), (1, 17)]


class _TargetCaption(TheatrePolicy):
    own_captions = False


def test_a_policy_may_have_the_context_read_the_caption_of_the_shot_to_be_made() -> None:
    plan = tiny_plan([9] * 3, 3, _TargetCaption())
    conditioning = planned_conditioning(plan)
    assert context_captions(plan) == ()
    assert conditioning.positions.caption_index.tolist() == [[0, 0, 0]]
    assert conditioning.target_caption.tolist() == [0]


def test_what_has_no_meaning_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="no earlier shot"):
        tiny_plan([], 6)
    with pytest.raises(ValueError, match="at least 1 frame"):
        tiny_plan([9, 0], 6)
    with pytest.raises(ValueError, match="at most 5 of 6"):
        tiny_plan([9], 6, pins=(0,) * 6)
    with pytest.raises(ValueError, match="unknown context policy"):
        named_policy("latest")
    with pytest.raises(ValueError, match="frame of a shot or a pinned picture"):
        ContextCandidate(
            shot_index=0, frame_index=None, shot_num_frames=9, caption="", latent=lambda: torch.zeros(1, 1, 1)
        )
    with pytest.raises(ValueError, match="2 candidate frames with 1 latents"):
        ShotMemory(caption="", num_frames=9, candidate_frames=(0, 8), latents=torch.zeros(1, 4, 2, 2))
