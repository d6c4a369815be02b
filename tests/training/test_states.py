"""What a checkpoint holds of a stage: all that learns, its averages and its moments, and nothing mixed up."""

import copy
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training import test_causal_init_step, test_dmd_step, test_stage_steps, test_teacher_step


def teacher(_: Path) -> tuple[Any, dict[str, nn.Module]]:
    stage = test_teacher_step.stage_of()
    return stage, {"optimizer": stage.model}


def causal_init(tmp_path: Path) -> tuple[Any, dict[str, nn.Module]]:
    stage = test_causal_init_step.stage_of(tmp_path, 10)
    return stage, {"optimizer": stage.model.dit}


def dmd(_: Path) -> tuple[Any, dict[str, nn.Module]]:
    stage = test_dmd_step.stage_of()
    return stage, {"student.optimizer": stage.student.dit, "fake_optimizer": stage.fake}


def codec(_: Path) -> tuple[Any, dict[str, nn.Module]]:
    stage, module = test_stage_steps.codec_stage()
    return stage, {"optimizer": module}


def decoder(_: Path) -> tuple[Any, dict[str, nn.Module]]:
    stage, module = test_stage_steps.decoder_stage()
    return stage, {"optimizer": module}


STAGES = [teacher, causal_init, dmd, codec, decoder]


def learnt(stage: Any, modules: dict[str, nn.Module], seed: int) -> None:
    """Two updates of everything that learns, by gradients that are drawn, and of the averages."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(2):
        for name, module in modules.items():
            for value in module.parameters():
                if value.requires_grad:
                    value.grad = torch.randn(value.shape, generator=generator)
            attrgetter(name)(stage.state).step(1.0)
        own = getattr(stage.state, "student", stage.state)
        own.ema.update(next(iter(modules.values())))


def flat(state: Any, name: str = "") -> dict[str, Tensor]:
    """Every number of a state by its place."""
    if isinstance(state, Tensor):
        return {name: state.detach().clone()}
    if isinstance(state, dict):
        return {key: value for part in state for key, value in flat(state[part], f"{name}/{part}").items()}
    if isinstance(state, list | tuple):
        return {
            key: value for at, part in enumerate(state) for key, value in flat(part, f"{name}/{at}").items()
        }
    return {name: torch.tensor(float(state))} if isinstance(state, int | float) else {}


@pytest.mark.parametrize("made", STAGES)
def test_what_was_saved_is_what_goes_on(
    made: Callable[[Path], tuple[Any, dict[str, nn.Module]]], tmp_path: Path
) -> None:
    """A fresh stage is in every number the saved one, and their next updates are the same."""
    (first, modules), (second, others) = made(tmp_path), made(tmp_path)
    learnt(first, modules, 1)
    learnt(second, others, 2)
    saved = flat(first.state.state_dict())
    assert {name.split("/")[1] for name in saved} >= {"weights", "ema", "optimiser"}
    fresh = flat(second.state.state_dict())
    assert fresh.keys() == saved.keys()
    different = {name for name in saved if not torch.equal(saved[name], fresh[name])}
    assert {name.split("/")[1] for name in different} >= {"weights", "ema", "optimiser"}
    second.state.load_state_dict(copy.deepcopy(first.state.state_dict()))  # as a disk copies it
    learnt(first, modules, 3)
    learnt(second, others, 3)
    one, other = flat(first.state.state_dict()), flat(second.state.state_dict())
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("made", STAGES)
def test_without_the_optimisers_state_a_run_begins_with_fresh_ones(
    made: Callable[[Path], tuple[Any, dict[str, nn.Module]]], tmp_path: Path
) -> None:
    (first, modules), (second, _) = made(tmp_path), made(tmp_path)
    learnt(first, modules, 1)
    untouched = flat(second.state.state_dict()["optimiser"])
    saved = first.state.state_dict()
    second.state.load_state_dict({name: part for name, part in saved.items() if name != "optimiser"})
    found = second.state.state_dict()
    assert flat(found["optimiser"]).keys() == untouched.keys()
    for part in ("weights", "ema"):
        wanted, got = flat(saved[part]), flat(found[part])
        assert wanted.keys() == got.keys()
        assert all(torch.equal(wanted[name], got[name]) for name in wanted)


@pytest.mark.parametrize("made", STAGES)
def test_priming_makes_every_place_that_a_checkpoint_fills_and_changes_nothing_that_learns(
    made: Callable[[Path], tuple[Any, dict[str, nn.Module]]], tmp_path: Path
) -> None:
    (first, modules), (second, _) = made(tmp_path), made(tmp_path)
    learnt(first, modules, 1)
    before = {part: flat(second.state.state_dict()[part]) for part in ("weights", "ema")}
    second.state.init_optimizer_state()
    assert flat(second.state.state_dict()).keys() == flat(first.state.state_dict()).keys()
    for part, values in before.items():
        after = flat(second.state.state_dict()[part])
        assert all(torch.equal(values[name], after[name]) for name in values)
