"""What a training step costs, counted on a device that computes nothing, against counts by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream.bench.roofline import pass_cost
from shotstream.bench.training_step import (
    Shot,
    _Sample,  # pyright: ignore[reportPrivateUsage]
    matching_flops,
    matching_step,
    teacher_step,
)
from shotstream.diffusion.schedule import FlowSchedule
from shotstream.geometry import LatentSize, TokenGrid
from shotstream.model.config import DiTConfig
from shotstream.training import wan
from shotstream.training.stages.dmd import student_rollout
from shotstream.training.stages.intra_shot import IntraShotRecipe
from shotstream.training.stages.teacher import TeacherRecipe

DIT = DiTConfig(
    latent_channels=16,
    dim=48,
    ffn_dim=96,
    num_heads=2,
    num_layers=3,
    text_dim=16,
    text_length=8,
    freq_dim=8,
    num_context_frames=2,
)
SHOT = Shot(latent_size=LatentSize(8, 8), num_chunks=2, num_captions=1)
WAN_SHOT = Shot(latent_size=LatentSize(60, 104), num_chunks=7)


def teacher(learns: str) -> TeacherRecipe:
    made = wan.wan_teacher()
    stage = replace(made.stage, learns=learns)  # pyright: ignore[reportArgumentType]
    return replace(made, model=replace(made.model, dit=DIT), stage=stage)


def matching(**changes: object) -> IntraShotRecipe:
    made = wan.wan_intra_shot()
    stage = replace(made.stage, **{"fake_updates": 1, **changes})  # pyright: ignore[reportArgumentType]
    return replace(made, model=replace(made.model, dit=DIT), stage=stage)


@pytest.mark.slow
def test_a_step_in_which_all_learns_is_three_passes() -> None:
    """Backward costs a pass for what came in and one for the weights; the first layers' input needs none."""
    num_frames = 2 + 2 * DIT.chunk_latent_frames
    once = pass_cost(DIT, TokenGrid(4, 4), num_frames, num_frames, 4).flops
    step = teacher_step(teacher(learns="all"), SHOT)
    assert step.flops == pytest.approx(3 * once, rel=0.03)
    # Blocks alone, and of the last product of each nothing is needed again.
    assert 0.9 * once < step.recomputed_flops < once


@pytest.mark.slow
def test_weights_that_do_not_learn_cost_no_gradient() -> None:
    everything, attention = (teacher_step(teacher(learns=what), SHOT) for what in ("all", "self_attention"))
    assert attention.flops < everything.flops


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_more_updates_of_the_fake_score_and_filmed_shots_cost_what_they_are() -> None:
    one = matching_step(matching(), SHOT)
    steps = [matching_step(matching(fake_updates=count), SHOT).flops for count in (2, 3)]
    assert steps[1] - steps[0] == pytest.approx(steps[0] - one.flops)
    asked = [
        matching_step(matching(**{name: scale}), SHOT).flops - one.flops
        for name, scale in (("guidance", 1.0), ("context_guidance", 2.0))
    ]
    assert 0 < asked[1] == pytest.approx(-asked[0]), "a benchmark to the teacher less, or one more"
    filmed = matching_step(matching(), SHOT, num_filmed=2).flops - one.flops
    assert 0 < filmed < 2 * one.flops


@pytest.mark.slow
def test_a_shot_ended_at_the_last_step_costs_what_is_worked_out_from_the_first_two() -> None:
    steps, dit_config = (1000, 750, 500, 250), replace(DIT, num_layers=1)
    made = matching(student_steps=steps)
    found = matching_flops(replace(made, model=replace(made.model, dit=dit_config)), SHOT)
    sample = _Sample(dit_config, SHOT)
    dit = sample.network(lambda _: True)
    sigmas = FlowSchedule(shift=1.0).student_sigmas(steps).to("meta")

    def shot() -> Tensor:
        rollout = student_rollout(
            dit, sample.conditioning, sample.text, sigmas, seeds=[0], dtype=sample.dtype
        )
        return torch.cat(list(rollout.chunks(SHOT.num_chunks, [3] * SHOT.num_chunks)), dim=2)

    assert found.learnt[1] == sample.count(dit, shot, recompute=False).flops > 0
    with torch.no_grad():
        assert found.rolled[1] == sample.count(dit, shot, recompute=False).flops > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_table_in_the_documentation_is_what_is_counted() -> None:
    told = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    rows = {
        "teacher": teacher_step(wan.wan_teacher(), WAN_SHOT),
        "intra_shot": matching_step(wan.wan_intra_shot(), WAN_SHOT),
        "inter_shot": matching_step(wan.wan_inter_shot(), WAN_SHOT, num_filmed=2),
    }
    for name, cost in rows.items():
        numbers = (cost.flops / 1e15, cost.recomputed_flops / 1e15)
        line = " | ".join([name, *(f"{number:.2f}" for number in numbers)])
        assert f"| {line} |" in told
