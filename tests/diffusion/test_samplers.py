"""Samplers walk from noise to data."""

import pytest
import torch
from torch import Tensor

from shotstream.diffusion.flow import add_noise
from shotstream.diffusion.samplers import euler, euler_states, few_step, guide, rolling
from shotstream.diffusion.schedule import FlowSchedule, step_levels

SCHEDULE = FlowSchedule(shift=8.0)
SHAPE = (2, 3, 4, 5, 6)


def _randn(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _identity(noisy: torch.Tensor, _sigma: torch.Tensor) -> torch.Tensor:
    return noisy


def test_euler_is_exact_on_a_straight_path() -> None:
    x0, noise = _randn(0), _randn(1)
    out = euler(lambda _noisy, _sigma: noise - x0, noise, SCHEDULE.sampling_sigmas(7))
    # Levels are float32: the ends 1 and 0 are exact, and so is the sum of the steps up to rounding.
    torch.testing.assert_close(out, x0, rtol=0, atol=1e-6)


def test_euler_states_lie_on_the_path() -> None:
    x0, noise = _randn(0), _randn(1)
    sigmas = SCHEDULE.sampling_sigmas(5)
    states = list(euler_states(lambda _noisy, _sigma: noise - x0, noise, sigmas))
    assert len(states) == 6
    for sigma, state in zip(sigmas, states, strict=True):
        level = sigma.expand(2, 4)
        torch.testing.assert_close(state, add_noise(x0, noise, level), rtol=0, atol=1e-6)


def test_a_network_that_knows_the_answer_gives_it_at_every_exit_step() -> None:
    x0, noise = _randn(0), _randn(1)
    sigmas = SCHEDULE.student_sigmas().double()

    def velocity(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return (noisy - x0) / sigma[:, None, :, None, None]

    for exit_step in (None, 0, 1, 2, 3):
        out = few_step(velocity, noise, sigmas, lambda step: _randn(10 + step), exit_step=exit_step)
        torch.testing.assert_close(out, x0, rtol=0, atol=1e-12)


def test_only_the_exit_step_carries_a_gradient() -> None:
    """Gradients through earlier steps would cost a whole rollout of memory."""
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    graded: list[bool] = []

    def velocity(noisy: torch.Tensor, _sigma: torch.Tensor) -> torch.Tensor:
        out = noisy * weight
        graded.append(out.requires_grad)
        return out

    few_step(velocity, _randn(0), SCHEDULE.student_sigmas(), _randn, exit_step=2).sum()
    assert graded == [False, False, True]


def test_the_student_sees_each_level_and_the_noise_of_each_step() -> None:
    sigmas = SCHEDULE.student_sigmas()
    seen: list[tuple[float, float]] = []

    def velocity(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append((sigma[0, 0].item(), noisy.mean().item()))
        # x0 is then exactly 0, so that the next input is sigma times the noise given for that step.
        return noisy / sigma.double()[:, None, :, None, None]

    start = torch.full(SHAPE, 5.0, dtype=torch.float64)
    few_step(velocity, start, sigmas, lambda step: torch.full_like(start, step))
    expected = [(s, s * n) for s, n in zip(sigmas.tolist(), (5, 0, 1, 2), strict=True)]
    for got, wanted in zip(seen, expected, strict=True):
        assert got == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("exit_step", [-1, 4])
def test_an_exit_step_that_is_none_of_the_walk_is_refused(exit_step: int) -> None:
    with pytest.raises(ValueError, match=r"0\.\.3"):
        few_step(_identity, _randn(0), SCHEDULE.student_sigmas(), _randn, exit_step=exit_step)


def test_guidance_is_the_line_through_both_predictions() -> None:
    uncond, cond = _randn(0), _randn(1)
    assert torch.equal(guide(uncond, cond, 0.0), uncond)
    torch.testing.assert_close(guide(uncond, cond, 1.0), cond)
    torch.testing.assert_close(guide(uncond, cond, 4.0), cond + 3.0 * (cond - uncond))


@pytest.mark.parametrize("exit_step", [None, 0, 1, 2, 3])
def test_a_walk_tells_the_network_the_level_of_each_step_it_takes_and_ends_there(
    exit_step: int | None,
) -> None:
    """The exit step was once told the last level: right for a network that knows the answer, wrong for one
    that learns it. This one answers with the level it is told, so the x0 tells which that was.
    """
    sigmas = torch.tensor([1.0, 0.9, 0.6, 0.2], dtype=torch.float64)
    told: list[float] = []

    def velocity(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        assert sigma.shape == (2, 4) and (sigma == sigma[0, 0]).all()
        told.append(sigma[0, 0].item())
        return sigma[:, None, :, None, None].expand_as(noisy)

    noises = [_randn(20 + step) for step in range(4)]
    out = few_step(velocity, noises[0], sigmas, lambda step: noises[step + 1], exit_step=exit_step)
    last = 3 if exit_step is None else exit_step
    assert told == sigmas[: last + 1].tolist()
    state = noises[0]
    for step in range(last + 1):  # x0 = noisy - sigma v, with v = sigma; then noise again to the next level
        x0 = state - sigmas[step] ** 2
        if step < last:
            state = (1 - sigmas[step + 1]) * x0 + sigmas[step + 1] * noises[step + 1]
    torch.testing.assert_close(out, x0, rtol=0, atol=1e-12)


def test_euler_steps_by_the_velocity_at_the_level_where_it_stands() -> None:
    """dx = v d sigma with v = sigma x: each step multiplies by 1 + s (s' - s)."""
    start = _randn(3)
    sigmas = torch.tensor([1.0, 0.5, 0.2, 0.0], dtype=torch.float64)
    out = euler(lambda noisy, sigma: sigma[:, None, :, None, None] * noisy, start, sigmas)
    torch.testing.assert_close(out, start * (1 - 0.5) * (1 - 0.5 * 0.3) * (1 - 0.2 * 0.2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_chunks", [1, 2, 5])
def test_chunks_that_roll_together_are_each_denoised_in_all_steps(num_chunks: int) -> None:
    """A network that knows the answer gives it; passes grow and shrink by a chunk of noise or of data."""
    levels = step_levels((1000, 750, 500), 5.0)
    answers = [torch.full((1, 2, 3, 2, 2), float(index)) for index in range(num_chunks)]
    told: list[list[float]] = []
    first: list[int] = [0]

    def velocity(noisy: Tensor, sigma: Tensor) -> Tensor:
        told.append(sigma[0, ::3].tolist())
        oldest = max(0, len(told) - 3)
        answer = torch.cat(answers[oldest : oldest + noisy.shape[2] // 3], dim=2)
        return (noisy - answer) / sigma[:, None, :, None, None].float()

    def noise(chunk: int, step: int) -> Tensor:
        first[0] = max(first[0], chunk)
        return torch.randn(1, 2, 3, 2, 2, generator=torch.Generator().manual_seed(10 * chunk + step))

    finished = list(rolling(velocity, noise, levels, num_chunks))
    assert len(finished) == num_chunks and first[0] == num_chunks - 1
    for ours, answer in zip(finished, answers, strict=True):
        torch.testing.assert_close(ours, answer, atol=1e-5, rtol=0)
    down = levels.told.tolist()
    assert told[0] == down[:1] and told[-1] == down[-1:]
    assert len(told) == num_chunks + 2
    if num_chunks == 5:
        assert told[2] == told[3] == down[::-1]
