"""The context policies of the ablations: one difference each from the theatre's."""

import itertools
from dataclasses import replace

import pytest

from shotstream.streaming import context_sampling
from shotstream.streaming.context_sampling import kept_frames
from tests.streaming.test_context_sampling import chosen
from tests.streaming.tiny import tiny_plan

POLICIES = ("first_frames", "first_and_last_frames", "target_caption")


def test_each_differs_from_theatre_in_one_thing() -> None:
    lengths = [33, 21]
    ours = tiny_plan(lengths, 6, "theatre")
    assert chosen(lengths, 6, "theatre") == [(0, 0), (0, 16), (0, 32), (1, 0), (1, 10), (1, 20)]
    assert chosen(lengths, 6, "first_frames") == [(0, 0)] * 3 + [(1, 0)] * 3
    ends = [(0, 0), (0, 0), (0, 32), (1, 0), (1, 0), (1, 20)]
    assert chosen(lengths, 6, "first_and_last_frames") == ends
    assert replace(tiny_plan(lengths, 6, "target_caption"), own_captions=True) == ours
    for policy in ("first_frames", "first_and_last_frames"):
        plan = tiny_plan(lengths, 6, policy)
        assert [slot.shot_phase for slot in plan.slots] == [slot.shot_phase for slot in ours.slots]
        assert plan.own_captions


@pytest.mark.parametrize("policy", POLICIES)
def test_every_plan_fills_the_budget_and_phases_never_fall(policy: str) -> None:
    for num_shots, budget in itertools.product(range(1, 20), range(1, 9)):
        plan = tiny_plan([33] * num_shots, budget, policy)
        phases = [slot.shot_phase for slot in plan.slots]
        assert len(plan.slots) == budget and phases == sorted(phases)
        assert plan.target_phase == phases[-1] + 1


@pytest.mark.parametrize("policy", POLICIES)
def test_none_wants_a_frame_that_is_not_kept_without_it(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = context_sampling.POLICIES[policy]
    alone = {name: one for name, one in context_sampling.POLICIES.items() if name in ("published", "theatre")}
    monkeypatch.setattr(context_sampling, "POLICIES", alone)
    for budget, num_frames, first in itertools.product((1, 3, 6, 8, 9), (1, 5, 9, 21, 33, 81, 82), (9, 34)):
        lengths = [first, *[num_frames] * 11]
        for num_shots in range(1, 12):
            for shot, frame in chosen(lengths[:num_shots], budget, own):
                assert frame in kept_frames(lengths[shot], shot, budget)
