"""Policies that choose by content: their choice among constructed candidates, and films made with them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shotstream.story import Reference, Steer
from shotstream.streaming.content_policies import ContentPolicy
from shotstream.streaming.context_candidates import (
    Comparison,
    ContextCandidate,
    ContextPolicy,
    Match,
    NextShot,
)
from shotstream.streaming.context_sampling import (
    POLICIES,
    POLICIES_WITHOUT_CONTEXT,
    choose_context,
    kept_frames,
    named_policy,
)
from shotstream.streaming.session import StorySession
from shotstream.video.pictures import picture_to_uri
from shotstream.weights.students import STUDENTS
from tests.streaming.tiny import tiny_memory, tiny_pipeline

CONTENT = ("prompt", "keys")


def chosen(
    matches: Mapping[int, Match],
    num_shots: int,
    budget: int = 6,
    policy: str | ContextPolicy = "prompt",
    *,
    pins: Sequence[int] = (),
) -> list[tuple[int, int | None]]:
    """Shot and frame of each context frame; None for a pinned picture."""
    memories = [tiny_memory(index, 33, budget, num_pins=pins.count(index)) for index in range(num_shots)]
    candidates = [one for index, memory in enumerate(memories) for one in memory.candidates(index)]

    def match(_: Comparison, offered: Sequence[ContextCandidate]) -> list[Match | None]:
        assert not any(one.is_mandatory for one in offered)
        return [matches.get(one.shot_index) for one in offered]

    plan = choose_context(candidates, NextShot(index=num_shots, caption="", match=match), budget, policy)
    return [(slot.candidate.shot_index, slot.candidate.frame_index) for slot in plan.slots]


def test_the_best_shots_are_chosen_however_old() -> None:
    matches = {index: Match(score=float(index in (1, 40, 77))) for index in range(100)}
    assert chosen(matches, 100) == [(1, 0), (1, 16), (40, 0), (40, 0), (77, 0), (77, 0)]


def test_what_the_next_shot_needs_comes_before_what_is_alike() -> None:
    matches = {
        2: Match(score=0.1, shared=("blue owl",)),
        7: Match(score=0.9, shared=("red fox", "meadow")),
        8: Match(score=0.8, shared=("red fox",)),
        9: Match(score=0.7, shared=("meadow",)),
    }
    assert chosen(matches, 10, policy=ContentPolicy("captions", 2)) == [
        (2, 0),
        (2, 0),
        (2, 32),
        *[(7, 0)] * 3,
    ]
    assert {shot for shot, _ in chosen(matches, 10)} == {2, 7, 8}


def test_ties_go_to_the_most_recent_shot_and_so_does_what_remains_of_the_budget() -> None:
    matches = {index: Match(score=0.5) for index in range(9)}
    assert chosen(matches, 9, 4) == [(6, 0), (7, 0), (8, 0), (8, 0)]
    matches[2] = Match(score=0.6)
    assert chosen(matches, 9, 4) == [(2, 0), (2, 32), (7, 0), (8, 0)]


def test_shots_without_anything_in_common_are_not_chosen_unless_all_are() -> None:
    assert chosen({3: Match(score=-2.0)}, 9) == [(3, 0)] * 3 + [(3, 32)] * 3
    assert chosen({}, 9) == [(8, 0)] * 6


def test_a_shot_is_as_good_as_its_best_frame() -> None:
    memory = tiny_memory(0, 33, 6)
    candidates = [*memory.candidates(0), *tiny_memory(1, 33, 6).candidates(1)]

    def match(_: Comparison, offered: Sequence[ContextCandidate]) -> list[Match]:
        return [Match(score=9.0 if (one.shot_index, one.frame_index) == (0, 32) else 1.0) for one in offered]

    plan = choose_context(
        candidates, NextShot(index=2, caption="", match=match), 1, ContentPolicy("keys", max_shots=1)
    )
    assert plan.slots[0].candidate.shot_index == 0 and plan.target_phase == 1


@pytest.mark.parametrize("policy", CONTENT)
def test_mandatory_candidates_are_in_every_context_and_the_policy_fills_the_rest(policy: str) -> None:
    rng = np.random.default_rng(0)
    for num_shots, budget in itertools.product((1, 2, 5, 9, 30), (1, 3, 6)):
        for num_pins in range(budget):
            pins = tuple(map(int, rng.integers(num_shots, size=num_pins)))
            matches = {index: Match(score=float(rng.integers(3))) for index in range(0, num_shots, 2)}
            found = chosen(matches, num_shots, budget, policy, pins=pins)
            assert len(found) == budget
            assert sorted(shot for shot, frame in found if frame is None) == sorted(pins)
            assert all(frame is None or frame in kept_frames(33, shot, budget) for shot, frame in found)
            assert found == chosen(matches, num_shots, budget, policy, pins=pins)
            best = max(matches, key=lambda shot: (matches[shot].score, shot))
            assert best in {shot for shot, frame in found if frame is not None}


def test_they_have_no_frame_kept_so_that_other_policies_find_what_they_always_did() -> None:
    for name in CONTENT:
        assert set(named_policy(name).may_choose(81, 6)) == set()


def test_the_plan_says_what_was_found_in_common() -> None:
    match = Match(score=0.5, shared=("red fox",))
    candidates = [one for index in range(3) for one in tiny_memory(index, 33, 3).candidates(index)]

    def matches(_: Comparison, offered: Sequence[ContextCandidate]) -> list[Match | None]:
        return [match if one.shot_index == 1 else None for one in offered]

    plan = choose_context(candidates, NextShot(index=3, caption="", match=matches), 3, "prompt")
    assert [slot.candidate.match for slot in plan.slots] == [match] * 3
    theatre = choose_context(candidates, NextShot(index=3, caption="", match=matches), 3, "theatre")
    assert [slot.candidate.match for slot in theatre.slots] == [None] * 3


@pytest.mark.parametrize("policy", CONTENT)
def test_what_cannot_be_compared_is_refused(policy: str) -> None:
    candidates = tiny_memory(0, 33, 3).candidates(0)
    with pytest.raises(ValueError, match=f"compares {POLICIES[policy].compares} .* such as 'theatre'"):
        choose_context(candidates, NextShot(index=1, caption=""), 3, policy)


CAPTIONS = (
    "Wide shot: the red fox walks in the meadow by day.",
    "Close-up: the blue owl sleeps in the forest at night.",
    "Medium shot: the grey bear dances on the beach at sunset.",
    "Wide shot: the grey bear waves in the city.",
    "Wide shot: the blue owl waves in the city.",
    "Wide shot: the grey bear jumps in the city.",
    "Close-up: the grey bear stands in the city.",
    "Wide shot: the red fox jumps in the forest.",
)
GLOBAL = "A red fox, a blue owl and a grey bear."


def film(session: StorySession, captions: Sequence[str]) -> list[np.ndarray]:
    return [
        np.concatenate([chunk.frames for chunk in session.shot(caption, num_chunks=1)])
        for caption in captions
    ]


@pytest.mark.parametrize("policy", CONTENT)
def test_a_session_under_a_policy_is_repeatable_and_goes_on_after_it_was_saved(
    policy: str, tmp_path: Path
) -> None:
    pipeline = tiny_pipeline(num_context_frames=6, reads=True)
    session = pipeline.session(GLOBAL, policy=policy)
    assert session.context_policy == policy
    shots = film(session, CAPTIONS)
    # Another pipeline, which has nothing in memory, and another session beside it.
    fresh = tiny_pipeline(num_context_frames=6, reads=True)
    beside, again = fresh.session(GLOBAL, policy="keys"), fresh.session(GLOBAL, policy=policy)
    for caption, expected in zip(CAPTIONS, shots, strict=True):
        film(beside, [caption])
        assert np.array_equal(film(again, [caption])[0], expected)
    half = pipeline.session(GLOBAL, policy=policy)
    film(half, CAPTIONS[:5])
    half.save(tmp_path / "session")
    loaded = fresh.load_session(tmp_path / "session")
    assert loaded.context_policy == policy == loaded.fork().context_policy
    for made, expected in zip(film(loaded, CAPTIONS[5:]), shots[5:], strict=True):
        assert np.array_equal(made, expected)
    theatre = film(pipeline.session(GLOBAL), CAPTIONS)
    assert not np.array_equal(theatre[-1], shots[-1])
    assert np.array_equal(theatre[0], shots[0])


def test_a_saved_session_of_the_default_policy_is_read_whatever_the_models_default_is(tmp_path: Path) -> None:
    session = tiny_pipeline(reads=True).session(GLOBAL)
    film(session, CAPTIONS[:2])
    session.save(tmp_path / "session")
    other = tiny_pipeline("prompt", reads=True)
    assert other.session(GLOBAL).context_policy == "prompt"
    loaded = other.load_session(tmp_path / "session")
    assert loaded.context_policy == "theatre"
    assert np.array_equal(film(loaded, CAPTIONS[2:3])[0], film(session, CAPTIONS[2:3])[0])


def test_a_policy_is_refused_where_it_cannot_be_used() -> None:
    pipeline = tiny_pipeline(reads=True)
    with pytest.raises(ValueError, match="unknown context policy 'latest'; known: keys, prompt, published, "):
        pipeline.session(GLOBAL, policy="latest")
    for policy in POLICIES_WITHOUT_CONTEXT:
        with pytest.raises(ValueError, match=f"unknown context policy '{policy}'; known: keys, "):
            pipeline.session(GLOBAL, policy=policy)
    assert pipeline.usable_policy("keys") == "keys"
    assert {pipeline.usable_policy(name) for name in (None, "none", "latest")} == {"theatre"}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_model_without_context_is_refused_every_policy_that_chooses_frames(policy: str) -> None:
    pipeline = tiny_pipeline(rules=STUDENTS["self-forcing"].rules)
    told = f"tiny has no memory across shots; its context policy is none or last_frame, not '{policy}'"
    with pytest.raises(ValueError, match=told):
        pipeline.session(GLOBAL, policy=policy)
    assert pipeline.context_policies == ("none",) and pipeline.usable_policy(policy) == "none"
    with pytest.raises(ValueError, match=r"begins with 3 latent frames.*must be 'none'"):
        pipeline.session(GLOBAL, policy="last_frame")


@pytest.mark.parametrize("policy", CONTENT)
def test_references_are_in_every_context_and_never_go_through_a_choice(policy: str) -> None:
    memories = [replace(tiny_memory(0, budget=5), pinned=(torch.zeros(4, 4, 6),)) for _ in range(2)]
    references = [replace(one, latents=one.latents[:0], candidate_frames=()) for one in memories]
    shots = [tiny_memory(index, budget=5) for index in range(9)]
    offered = [
        one
        for index, memory in enumerate([*references, *shots], start=-2)
        for one in memory.candidates(index)
    ]
    compared: list[ContextCandidate] = []

    def match(_: Comparison, candidates: Sequence[ContextCandidate]) -> list[Match]:
        compared.extend(candidates)
        return [Match(score=float(one.shot_index == 4)) for one in candidates]

    plan = choose_context(offered, NextShot(index=9, caption="", match=match), 5, policy)
    assert {one.shot_index for one in compared} == set(range(9))
    found = [slot.candidate.shot_index for slot in plan.slots]
    assert found == ([-2, -1, 4, 7, 8])
    assert [slot.candidate.match for slot in plan.slots][:2] == [None, None]
    # A first shot compares nothing: its references share the places.
    first = choose_context(offered[:2], NextShot(index=0, caption=""), 5, policy)
    assert [slot.candidate.shot_index for slot in first.slots] == [-2, -2, -1, -1, -1]


@pytest.mark.parametrize("policy", CONTENT)
def test_a_session_with_references_and_steered_shots_goes_on_after_it_was_saved(
    policy: str, tmp_path: Path
) -> None:
    pipeline = tiny_pipeline(num_context_frames=6, reads=True)
    image = picture_to_uri(np.full((32, 48, 3), 90, np.uint8))
    scout = Reference(id="scout", image=image, caption="the red fox")
    session = pipeline.session(GLOBAL, policy=policy, references=[scout], quiet=True)
    then = (Steer(caption="@scout jumps.", chunk_index=1),)
    made = [
        np.concatenate([chunk.frames for chunk in session.shot(caption, num_chunks=2, then=then)])
        for caption in ("Wide shot: @scout walks in the meadow by day.", *CAPTIONS[1:3])
    ]
    assert len(made[0]) == pipeline.geometry.shot_num_frames(2)
    session.save(tmp_path / "session")
    fresh = tiny_pipeline(num_context_frames=6, reads=True)
    loaded = fresh.load_session(tmp_path / "session", quiet=True)
    assert loaded.context_policy == policy and [one.id for one in loaded.references] == ["scout"]
    last = ["Wide shot: @scout jumps in the meadow."]
    assert np.array_equal(film(loaded, last)[0], film(session, last)[0])


@pytest.mark.parametrize("policy", [*CONTENT, "published"])
def test_pins_stay_in_the_context_beside_what_a_policy_chooses(policy: str) -> None:
    pipeline = tiny_pipeline(num_context_frames=6, reads=True)
    plain, pinned = (pipeline.session(GLOBAL, policy=policy) for _ in range(2))
    for session in (plain, pinned):
        film(session, CAPTIONS[:4])
    pinned.pin(np.full((32, 48, 3), 200, np.uint8), 1)
    assert not np.array_equal(film(plain, CAPTIONS[4:5])[0], film(pinned, CAPTIONS[4:5])[0])
    assert torch.equal(plain.shots[3].latents, pinned.shots[3].latents)
