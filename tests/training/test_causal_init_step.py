"""What a step of the causal initialisation must do: where each chunk starts, and what is learnt of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shotstream.data.ode_pairs import OdePairs, PairFiles
from shotstream.geometry import LatentSize
from shotstream.streaming.conditioning import first_shot_conditioning, stack_conditioning
from shotstream.training.parallelize import ParallelConfig
from shotstream.training.stages.causal_init import CausalInitStage
from tests.training.test_student import student

NUM_FRAMES = 9  # three chunks
SHIFT = 3.0
LEVELS = [SHIFT * s / (1 + (SHIFT - 1) * s) for s in (1.0, 0.74, 0.5, 0.26)] + [0.0]


def stage_of(tmp_path: Path, num_steps: int, *more: str, files: int = 2) -> CausalInitStage:
    """A tiny stage on files of two trajectories of three chunks, drawn at random."""
    made = student(num_steps, *more)
    torch.manual_seed(0)
    model = made.model.build()
    nn.init.normal_(model.dit.head.head.weight, std=0.2)
    paths: list[Path] = []
    for number in range(files):
        generator = torch.Generator().manual_seed(number)
        states = torch.randn(2, 5, 16, NUM_FRAMES, 2, 4, generator=generator).half().float()
        pairs = OdePairs(
            states=states,
            history=states[:, 0, :, :0],
            conditioning=stack_conditioning(
                [first_shot_conditioning(model.dit.config, LatentSize(2, 4))] * 2
            ),
            captions=[["A wide view of a fox."], ["A wide view of an owl."]],
        )
        paths.append(tmp_path / f"pairs_{number:06d}.safetensors")
        pairs.write(paths[-1])
    source = PairFiles(made.data, paths, seed=made.train.seed)
    return CausalInitStage(made, source, model, batch_size=2)


def test_the_loss_is_the_squared_error_of_the_data_that_a_chunk_jumps_to(tmp_path: Path) -> None:
    """Over the frames that start from noise, each told its own level; a clean chunk teaches nothing."""
    stage = stage_of(tmp_path, 10)
    pairs = OdePairs.read(stage.source.files[0])
    chosen = torch.tensor([[4, 2, 0], [1, 4, 3]])
    told: list[tuple[Tensor, Tensor]] = []

    def forward(x: Tensor, sigma: Tensor, *_: object, **__: object) -> Tensor:
        told.append((x, sigma))
        return 0.1 * x

    stage.model.dit.forward = forward  # type: ignore[method-assign]
    loss = stage.loss(pairs, chosen)
    ((shown, sigma),) = told
    errors: list[Tensor] = []
    for sample in range(2):
        for chunk in range(3):
            frames, place = slice(3 * chunk, 3 * chunk + 3), int(chosen[sample, chunk])
            state = pairs.states[sample, place, :, frames]
            torch.testing.assert_close(shown[sample, :, 6:][:, frames], state)
            assert sigma[sample, 6:][frames].tolist() == pytest.approx([LEVELS[place]] * 3)
            if place != 4:
                errors.append((state - LEVELS[place] * 0.1 * state - pairs.states[sample, 4, :, frames]) ** 2)
    assert not sigma[:, :6].any() and len(errors) == 4
    torch.testing.assert_close(loss, torch.stack(errors).mean())


def test_every_file_is_learnt_from_once_in_an_epoch_in_a_new_order(tmp_path: Path) -> None:
    stage = stage_of(tmp_path, 10, files=5)
    firsts = {float(OdePairs.read(path).states[0, 0, 0, 0, 0, 0]): path for path in stage.source.files}
    assert len(firsts) == 5
    orders: list[list[Path]] = []
    for epoch in range(4):
        read = [stage.source.read(5 * epoch + one) for one in range(5)]
        orders.append([firsts[float(pairs.states[0, 0, 0, 0, 0, 0])] for pairs in read])
    assert all(sorted(order) == sorted(stage.source.files) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_a_chunk_starts_from_any_state_and_only_one_that_is_followed_from_the_clean_one(
    tmp_path: Path,
) -> None:
    stage = stage_of(tmp_path, 10)
    drawn = torch.stack([stage._draw(step)[1] for step in range(120)])  # pyright: ignore[reportPrivateUsage]
    counts = [np.bincount(drawn[:, :, chunk].flatten(), minlength=5) for chunk in range(3)]
    for chunk, levels in enumerate((5, 5, 4)):
        expected = 240 / levels
        assert counts[chunk][levels:].sum() == 0
        assert (np.abs(counts[chunk][:levels] - expected) < 4 * expected**0.5).all()
    assert (drawn[:, 0] != drawn[:, 1]).any(dim=1).float().mean() > 0.9, "samples are drawn apart"


@pytest.mark.parametrize("at_once", [0, 1])
def test_a_steps_loss_is_the_mean_over_its_noised_frames_however_it_is_parted(
    at_once: int, tmp_path: Path
) -> None:
    stage = stage_of(tmp_path, 10)
    stage.parallel = ParallelConfig(samples_at_once=at_once)
    some_are_clean = False
    for step in range(6):
        pairs, chosen = stage._draw(step)  # pyright: ignore[reportPrivateUsage]
        some_are_clean |= bool((chosen == 4).any())
        with torch.no_grad():
            wanted = stage.loss(pairs, chosen).item()
        assert stage.step(step)["loss"] == pytest.approx(wanted, rel=1e-5)
    assert some_are_clean


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
def test_a_step_updates_once_at_the_rate_of_the_run_and_averages_once(optimiser: str, tmp_path: Path) -> None:
    more = ("optim.warmup_steps=4", "optim.learning_rate=0.001", f"optim.optimizer={optimiser}")
    stage = stage_of(tmp_path, 8, *more, "optim.ema_decay=0.5", "optim.max_norm=0.001")
    name, rates = "head.head.weight", []
    step_of: Any = stage.state.optimizer.step
    stage.state.optimizer.step = lambda rate: (rates.append(rate), step_of(rate))[1]  # type: ignore[method-assign]
    values = [stage.model.dit.get_parameter(name).detach().clone()]
    expected = values[0].double()
    for step, kept in ((0, 1 / 10), (1, 2 / 11), (7, 3 / 12)):
        assert stage.step(step)["norm"] > 0.001
        values.append(stage.model.dit.get_parameter(name).detach().clone())
        expected = kept * expected + (1 - kept) * values[-1].double()
    assert rates == pytest.approx([1 / 4, 2 / 4 * 7 / 8, 1 / 8])
    decay = 0.01 if optimiser == "adamw" else 0.0
    moved = values[1] - values[0] * (1 - 0.00025 * decay)
    assert float(moved.abs().max()) == pytest.approx(0.00025, rel=0.02), "AdamW's first step is its rate"
    torch.testing.assert_close(stage.state.ema.average[name].double(), expected, rtol=1e-5, atol=1e-7)
    exported = stage.averaged()
    assert torch.equal(exported.dit.get_parameter(name).detach(), stage.state.ema.average[name])
    assert not exported.training
