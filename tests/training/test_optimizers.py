"""What an optimizer's step does to a parameter, against the formulas written out in plain torch."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shotstream.data.ode_pairs import PairFiles
from shotstream.training.muon import orthogonalised
from shotstream.training.optimizers import ClippedOptimizer, adamw, make_optimizer, muon_adamw
from shotstream.training.recipes import RECIPES, recipe
from shotstream.training.stages.causal_init import CausalInitStage
from shotstream.training.stages.teacher import TeacherStage
from tests.training.test_decoder import built, decoder
from tests.training.test_run import TEACHER
from tests.training.test_stage_steps import codec_stage
from tests.training.test_student import student
from tests.training.test_teacher_step import NoShots

SHAPES = {"blocks.0.weight": (6, 4), "head.weight": (5, 4), "norm.weight": (4,), "kernel": (2, 2, 3)}


def made() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}


def filled(named: dict[str, nn.Parameter], seed: int, scale: float) -> dict[str, Tensor]:
    """Gives every parameter a gradient; returns copies."""
    generator = torch.Generator().manual_seed(seed)
    for value in named.values():
        value.grad = torch.randn(value.shape, generator=generator) * scale
    return {name: value.grad.clone() for name, value in named.items() if value.grad is not None}


def norm_of(gradients: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in gradients.values()))


class Adam:
    """AdamW of one parameter, as arXiv 1711.05101 writes it."""

    def __init__(self, value: Tensor, rate: float, betas: tuple[float, float], decay: float) -> None:
        self.value, self.rate, self.betas, self.decay = value.double().clone(), rate, betas, decay
        self.first, self.second, self.steps = torch.zeros_like(self.value), torch.zeros_like(self.value), 0

    def step(self, gradient: Tensor, factor: float) -> None:
        gradient, (one, two), rate = gradient.double(), self.betas, self.rate * factor
        self.steps += 1
        self.first = one * self.first + (1 - one) * gradient
        self.second = two * self.second + (1 - two) * gradient**2
        mean, square = self.first / (1 - one**self.steps), self.second / (1 - two**self.steps)
        self.value = self.value * (1 - rate * self.decay) - rate * mean / (square.sqrt() + 1e-8)


# (scale of the gradients, factor of the rate): far above the limit, below it, and between
STEPS = [(3.0, 1.0), (0.001, 0.5), (1.0, 0.25), (40.0, 1.0)]


def test_clipped_adamw_steps_by_the_written_formula() -> None:
    """The norm is of all gradients together; it is told as it was before clipping."""
    named = made()
    optimizer = adamw(named.values(), 1e-2, max_norm=2.0)
    reference = {name: Adam(value.detach(), 1e-2, (0.0, 0.999), 0.01) for name, value in named.items()}
    for seed, (scale, factor) in enumerate(STEPS):
        gradients = filled(named, seed, scale)
        norm = norm_of(gradients)
        assert optimizer.step(factor).item() == pytest.approx(norm, rel=1e-5)
        share = min(1.0, 2.0 / norm)
        for name, value in named.items():
            reference[name].step(gradients[name] * share, factor)
            torch.testing.assert_close(value.double(), reference[name].value, rtol=1e-4, atol=1e-6)
            assert value.grad is None, "a gradient is used once"


@pytest.mark.parametrize("max_norm", [1.0, 2.5, 1e9])
def test_muon_takes_hidden_matrices_and_adamw_the_rest_each_at_its_rate(max_norm: float) -> None:
    """Matrices at three times the rate, times 0.2 of the root of their longer side; heads, norms and kernels
    by AdamW. Once clipped together, so that no group is clipped by another's measure.
    """
    named = made()
    limit: dict[str, Any] = {} if max_norm == 1.0 else {"max_norm": max_norm}  # 1 is what stages rely on
    optimizer = muon_adamw(named.items(), learning_rate=1e-2, adamw_names=("head",), **limit)
    adam = {
        name: Adam(value.detach(), 1e-2, (0.9, 0.98), 0.0)
        for name, value in named.items()
        if name != "blocks.0.weight"
    }
    matrix, momentum = named["blocks.0.weight"].detach().clone(), torch.zeros(6, 4)
    for seed, (scale, factor) in enumerate(STEPS):
        gradients = filled(named, seed, scale)
        norm = norm_of(gradients)
        assert optimizer.step(factor).item() == pytest.approx(norm, rel=1e-5)
        share = min(1.0, max_norm / norm)
        for name, one in adam.items():
            one.step(gradients[name] * share, factor)
            torch.testing.assert_close(named[name].double(), one.value, rtol=1e-4, atol=1e-6)
        clipped = gradients["blocks.0.weight"] * share
        momentum = 0.95 * momentum + 0.05 * clipped
        update = orthogonalised((0.05 * clipped + 0.95 * momentum)[None])[0]
        rate = 3e-2 * factor
        matrix = matrix - rate * 0.2 * math.sqrt(6) * update
        torch.testing.assert_close(named["blocks.0.weight"].detach(), matrix, rtol=1e-3, atol=1e-4)
        assert all(value.grad is None for value in named.values())


def test_a_gradient_that_is_no_number_moves_nothing() -> None:
    for optimise in (
        lambda named: adamw(named.values(), 1e-2, max_norm=2.0),
        lambda named: muon_adamw(named.items(), learning_rate=1e-2, adamw_names=("head",)),
    ):
        named = made()
        before = {name: value.detach().clone() for name, value in named.items()}
        optimizer: Any = optimise(named)
        for bad in (math.nan, math.inf):
            filled(named, 0, 1.0)
            named["norm.weight"].grad = torch.tensor([0.0, bad, 0.0, 0.0])
            with pytest.raises(FloatingPointError, match=str(bad)):
                optimizer.step()
        assert all(torch.equal(before[name], value) for name, value in named.items())


def test_what_needs_no_gradient_is_left_alone() -> None:
    named = made()
    named["norm.weight"].requires_grad_(False)
    alone: Any = adamw(named.values(), 1e-2, max_norm=1.0)
    both: Any = muon_adamw(named.items(), learning_rate=1e-2, adamw_names=("head",))
    for optimizer in (alone, both):
        assert len(optimizer.parameters) == 3
        assert not any(value is named["norm.weight"] for value in optimizer.parameters)


def test_priming_moves_nothing_and_gives_every_parameter_a_state() -> None:
    named = made()
    before = {name: value.detach().clone() for name, value in named.items()}
    alone: Any = adamw(named.values(), 1e-2, max_norm=1.0)
    both: Any = muon_adamw(named.items(), learning_rate=1e-2, adamw_names=("head",))
    for optimizer in (alone, both):
        optimizer.init_state()
    assert all(torch.equal(before[name], value) for name, value in named.items())
    assert len(alone.state_dict()["state"]) == 4
    assert {name: len(part["state"]) for name, part in both.state_dict().items()} == {"muon": 1, "adamw": 3}
    rates = [group["lr"] for part in both.state_dict().values() for group in part["param_groups"]]
    assert rates == pytest.approx([3e-2, 1e-2])


def muons(module: nn.Module, optimizer: Any) -> set[str]:
    """Names of what Muon trains; every parameter that learns is trained by one of the two, once."""
    names = {value: name for name, value in module.named_parameters() if value.requires_grad}
    by_muon, by_adamw = (
        [names[value] for group in one.param_groups for value in group["params"]]
        for one in optimizer._optimizers.values()
    )
    assert sorted([*by_muon, *by_adamw]) == sorted(names.values())
    return set(by_muon)


ATTENTION = {f"{kind}_attn.{part}.weight" for kind in ("self", "cross") for part in "qkvo"}
BLOCK = {f"dit.blocks.0.{name}" for name in (*ATTENTION, "ffn.0.weight", "ffn.2.weight")}
HIDDEN = {*BLOCK, "dit.time_projection.1.weight"}


def test_embeddings_heads_and_vectors_of_every_stage_go_to_adamw() -> None:
    """A list, not a rule: among Muon's matrices an embedding learns all words as if they were frequent."""
    teacher = recipe("theatre_teacher", TEACHER)
    stage = TeacherStage(teacher, NoShots())
    assert muons(stage.model, stage.state.optimizer) == HIDDEN
    made = student(1)
    model = made.model.build()
    source = PairFiles(made.data, [Path("pairs")], seed=0)
    initial = CausalInitStage(made, source, model, batch_size=2)
    assert muons(initial.model, initial.state.optimizer) == HIDDEN
    finish = built(decoder(1))
    assert muons(finish.codec, finish.state.optimizer) == {"finish.0.up.weight", "finish.0.down.weight"}
    coding, _ = codec_stage()
    hidden = {f"{place}.{way}.weight" for place in ("decoder.0.cell",) for way in ("up", "down")}
    hidden |= {f"encoder.{layer}.{way}.weight" for layer in range(3) for way in ("up", "down")}
    assert muons(coding.codec, coding.state.optimizer) == {*hidden, "embed.weight", "head.weight"}


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("wan_")])
def test_published_stages_use_adamw_without_momentum_and_their_own_limits(name: str) -> None:
    """Two numbers that were once the same in every test: the norm's limit and the rate."""
    config = recipe(name).optim
    if name == "wan_ode_pairs":
        assert config is None
        return
    assert config is not None and config.optimizer == "adamw"
    assert config.max_norm == (10.0 if name == "wan_teacher" else 1.0)
    one: Any = make_optimizer(nn.Linear(2, 2), replace(config, learning_rate=3e-4, max_norm=7.0))
    assert isinstance(one, ClippedOptimizer)
    (group,) = one.state_dict()["param_groups"]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (3e-4, (0.0, 0.999), 0.01)
    assert one._max_norm == 7.0
