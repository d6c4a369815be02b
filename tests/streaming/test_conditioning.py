"""Conditioning: what stands in the context, at which level, with which phase and which caption."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from shotstream.model.positions import context_positions
from shotstream.streaming.conditioning import (
    Conditioning,
    condition_next_shot,
    context_levels,
    drop_context,
    first_shot_conditioning,
    full_pass,
    planned_conditioning,
    stack_conditioning,
    target_part,
)
from tests.streaming.tiny import LATENT_SIZE, tiny_conditioning, tiny_config, tiny_memory, tiny_plan


def test_a_first_shot_has_zero_context_phase_1_and_its_own_caption() -> None:
    config = tiny_config()
    conditioning = first_shot_conditioning(config, LATENT_SIZE, batch=2)
    assert conditioning.context.shape == (2, 4, 3, 4, 6)
    assert not conditioning.context.any()
    assert not conditioning.positions.shot_phase.any()
    assert conditioning.target_phase.tolist() == [1, 1]
    assert conditioning.target_caption.tolist() == [0, 0]
    assert conditioning.target(2, config).frame_index.tolist() == [[3, 4]] * 2


def test_a_later_shot_reads_its_own_caption_and_its_context_those_of_their_shots() -> None:
    memories = [tiny_memory(shot) for shot in range(10)]
    conditioning, captions = condition_next_shot(
        memories,
        "the next",
        tiny_config(),
        LATENT_SIZE,
        "theatre",
        text_of=lambda captions: f"{len(captions) - 1}: {captions[-1]}",
    )
    assert captions == ["0: shot 0", "8: shot 8", "9: shot 9", "10: the next"]
    assert conditioning.context[0, 0, :, 0, 0].tolist() == [0, 8, 9]
    assert conditioning.positions.frame_index.tolist() == [[0, 1, 2]]
    assert conditioning.positions.shot_phase.tolist() == [[0, 1, 2]]
    assert conditioning.positions.caption_index.tolist() == [[0, 1, 2]]
    assert conditioning.target_phase.tolist() == [3]
    assert conditioning.target_caption.tolist() == [3]


def test_the_first_of_all_shots_is_conditioned_on_nothing_and_pins_on_their_shots() -> None:
    config = tiny_config()
    conditioning, captions = condition_next_shot([], "the first", config, LATENT_SIZE, "theatre")
    assert captions == ["the first"] and not conditioning.context.any()
    assert conditioning.target_phase.tolist() == [1]
    memories = [tiny_memory(0), tiny_memory(1, num_pins=2), tiny_memory(2)]
    conditioning, captions = condition_next_shot(memories, "next", config, LATENT_SIZE, "theatre")
    assert captions == ["shot 1", "shot 2", "next"]
    assert conditioning.context[0, 0, :, 0, 0].tolist() == [-1, -2, 2]
    assert conditioning.positions.shot_phase.tolist() == [[0, 0, 1]]


def test_published_phases_count_all_shots_while_captions_are_those_kept() -> None:
    plan = tiny_plan([9] * 8, 6, "published")
    conditioning = planned_conditioning(plan)
    assert conditioning.positions.shot_phase.tolist() == [[2, 3, 4, 5, 6, 7]]
    assert conditioning.positions.caption_index.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert conditioning.target_phase.tolist() == [8]
    assert conditioning.target_caption.tolist() == [6]


def test_context_content_is_never_noised_and_its_level_is_the_families() -> None:
    noisy = torch.randn(1, 4, 2, 4, 6)
    sigma = torch.full((1, 2), 0.7)
    for context_sigma, level in (("clean", 0.0), ("target", 0.7)):
        config = tiny_config(context_sigma=context_sigma)
        conditioning = tiny_conditioning(config)
        inputs = full_pass(conditioning, noisy, sigma, config)
        assert torch.equal(inputs.x[:, :, :3], conditioning.context)
        torch.testing.assert_close(inputs.sigma, torch.tensor([[level] * 3 + [0.7] * 2]))
        torch.testing.assert_close(context_levels(sigma, config), torch.full((1, 3), level))
        assert torch.equal(target_part(inputs.x, config), noisy)
        assert inputs.positions.frame_index.tolist() == [[0, 1, 2, 3, 4]]
        assert inputs.positions.caption_index.tolist() == [[0, 0, 1, 2, 2]]


def test_a_dropped_context_is_that_of_a_first_shot_and_the_target_keeps_its_caption() -> None:
    """The published training gives the target another shot's caption when it drops the context."""
    config = tiny_config()
    conditioning = tiny_conditioning(config, batch=2)
    dropped = drop_context(conditioning, torch.tensor([False, True]))
    first = first_shot_conditioning(config, LATENT_SIZE)
    assert torch.equal(dropped.context[0], conditioning.context[0])
    assert torch.equal(dropped.context[1], first.context[0])
    assert dropped.positions.shot_phase.tolist() == [[0, 0, 1], [0, 0, 0]]
    assert dropped.positions.caption_index.tolist() == [[0, 0, 1], [2, 2, 2]]
    assert dropped.target_phase.tolist() == [2, first.target_phase.item()]
    assert dropped.target_caption.tolist() == [2, 2]


def test_samples_stack_to_a_batch() -> None:
    config = tiny_config()
    both = stack_conditioning([first_shot_conditioning(config, LATENT_SIZE), tiny_conditioning(config)])
    assert both.context.shape[0] == 2
    assert both.target_phase.tolist() == [1, 2]
    assert both.positions.caption_index.tolist() == [[0, 0, 0], [0, 0, 1]]


def test_phases_stay_phases_and_captions_captions_however_samples_are_joined_sent_or_dropped() -> None:
    """Under the published policy the two differ once there are more shots than context frames."""
    config = tiny_config(num_context_frames=6)
    plan = tiny_plan([9] * 8, 6, "published")
    one = planned_conditioning(plan)
    phases, captions = [2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5]
    both = stack_conditioning([one, one])
    for made in (both, both.to("cpu"), drop_context(both, torch.tensor([False, False]))):
        assert made.positions.shot_phase.tolist() == [phases] * 2
        assert made.positions.caption_index.tolist() == [captions] * 2
        assert (made.target_phase.tolist(), made.target_caption.tolist()) == ([8, 8], [6, 6])
    positions = full_pass(both, torch.zeros(2, 4, 3, 4, 6), torch.ones(2, 3), config).positions
    assert positions.shot_phase.tolist() == [[*phases, 8, 8, 8]] * 2
    assert positions.caption_index.tolist() == [[*captions, 6, 6, 6]] * 2


def test_context_and_positions_must_agree() -> None:
    zeros = torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="3 context frames with 2 positions"):
        Conditioning(
            context=torch.zeros(1, 4, 3, 4, 6),
            positions=context_positions(zeros, zeros),
            target_phase=torch.ones(1, dtype=torch.long),
            target_caption=torch.zeros(1, dtype=torch.long),
        )


def test_what_a_shot_is_given_is_on_its_device_in_the_dtype_asked_for_and_numbers_are_whole() -> None:
    config, half = tiny_config(), torch.bfloat16
    plan = tiny_plan([9] * 3, 3, "theatre")
    for made in (
        first_shot_conditioning(config, LATENT_SIZE, device="meta", dtype=half),
        planned_conditioning(plan, device="meta", dtype=half),
        first_shot_conditioning(config, LATENT_SIZE, dtype=half).to("meta"),
    ):
        numbers = [made.target_phase, made.target_caption]
        for field in fields(made.positions):
            value = getattr(made.positions, field.name)
            numbers += [value] if isinstance(value, Tensor) else []
        assert made.context.shape == (1, 4, 3, 4, 6) and made.context.dtype == half
        assert len(numbers) == 5 and {tensor.dtype for tensor in numbers} == {torch.long}
        assert {tensor.device.type for tensor in (made.context, *numbers)} == {"meta"}
