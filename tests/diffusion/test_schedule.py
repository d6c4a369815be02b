"""Tables agree with the published numbers; training draws follow the same law."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from shotstream.diffusion.flow import add_noise
from shotstream.diffusion.schedule import STUDENT_STEPS, FlowSchedule, step_levels

GOLDEN = Path(__file__).parent.parent / "assets" / "goldens" / "schedule.safetensors"
SCHEDULE = FlowSchedule(shift=8.0)
# Both sides are float32 tables of numbers up to 1000.
CLOSE = {"rtol": 2e-7, "atol": 1e-6}


@pytest.mark.goldens
def test_tables_equal_the_golden() -> None:
    golden = load_file(GOLDEN)
    rows = golden["train_index"]
    torch.testing.assert_close(SCHEDULE.train_sigmas()[rows], golden["train_sigmas"], **CLOSE)
    torch.testing.assert_close(1000 * SCHEDULE.train_sigmas()[rows], golden["train_timesteps"], **CLOSE)
    weights = SCHEDULE.training_weight(SCHEDULE.train_sigmas())[rows]
    torch.testing.assert_close(weights, golden["train_weights"], rtol=1e-4, atol=1e-5)
    sampling = SCHEDULE.sampling_sigmas(50)
    torch.testing.assert_close(sampling[:-1], golden["sample50_sigmas"], **CLOSE)
    assert sampling[-1] == 0
    torch.testing.assert_close(1000 * SCHEDULE.student_sigmas(), golden["denoising_steps"], **CLOSE)
    with_data = SCHEDULE.student_sigmas((*STUDENT_STEPS, 0))
    torch.testing.assert_close(1000 * with_data, golden["denoising_steps_ode"], **CLOSE)


@pytest.mark.goldens
def test_adding_noise_equals_the_golden() -> None:
    golden = load_file(GOLDEN)
    x0, noise = (golden[f"add_noise.{name}"].transpose(0, 1)[None] for name in ("x0", "noise"))
    sigma = SCHEDULE.nearest_sigma(golden["add_noise.timestep"] / 1000)[None]
    expected = golden["add_noise.out"].transpose(0, 1)[None]
    torch.testing.assert_close(add_noise(x0, noise, sigma), expected, rtol=0, atol=1e-6)


def test_lookup_rounds_to_the_nearest_row() -> None:
    sigmas = torch.tensor([0.98, 0.02, 0.0, 1.0])
    assert SCHEDULE.nearest_index(sigmas).tolist() == [140, 997, 999, 0]
    assert SCHEDULE.nearest_sigma(sigmas)[0] == SCHEDULE.train_sigmas()[140]


def test_every_fourth_of_the_ode_sampler_meets_the_student() -> None:
    """Trajectories saved before Euler steps 0, 13, 25 and 37 are exactly at the student's levels."""
    torch.testing.assert_close(SCHEDULE.sampling_sigmas(50)[[0, 13, 25, 37]], SCHEDULE.student_sigmas())


def test_weights_average_to_one_and_are_never_negative() -> None:
    weights = SCHEDULE.training_weight(SCHEDULE.train_sigmas().double())
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0, dtype=torch.float64))
    assert SCHEDULE.training_weight(torch.linspace(0, 1, 101)).min() >= 0


def test_warp_and_unwarp_invert_each_other() -> None:
    for sigma in (0.0, 0.1, 0.737, 1.0):
        even = torch.tensor(SCHEDULE.unwarp(sigma), dtype=torch.float64)
        assert SCHEDULE.warp(even).item() == pytest.approx(sigma, abs=1e-15)


def test_training_draws_stay_inside_without_piling_up_at_the_ends() -> None:
    """Clamping put 15 % of the draws exactly at the upper end."""
    generator = torch.Generator().manual_seed(0)
    sigma = SCHEDULE.sample_training_sigma(generator, (20_000,), low=0.02, high=0.98)
    assert sigma.min() >= 0.02
    assert sigma.max() <= 0.98
    assert (sigma > 0.979).float().mean() < 0.02
    everywhere = SCHEDULE.sample_training_sigma(generator, (20_000,))
    # The shifted schedule's mean level is 0.804; 20,000 draws have a standard error of 0.0015.
    assert everywhere.mean().item() == pytest.approx(0.804, abs=0.008)


def test_training_draws_repeat_under_their_generator() -> None:
    draws = [SCHEDULE.sample_training_sigma(torch.Generator().manual_seed(7), (2, 3)) for _ in range(2)]
    assert torch.equal(*draws)


def test_impossible_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="shift"):
        FlowSchedule(shift=0.0)
    with pytest.raises(ValueError, match="fall strictly"):
        SCHEDULE.student_sigmas((260, 500))
    with pytest.raises(ValueError, match=r"0\.\.1000"):
        SCHEDULE.student_sigmas((1001,))
    with pytest.raises(ValueError, match="low < high"):
        SCHEDULE.sample_training_sigma(torch.Generator(), (1,), low=0.5, high=0.5)


@pytest.mark.parametrize(("shift", "low", "high"), [(8.0, 0.5, 0.9), (3.0, 0.02, 0.98), (8.0, 0.0, 0.4)])
def test_training_draws_are_uniform_in_even_levels_between_the_ends(
    shift: float, low: float, high: float
) -> None:
    """Quantiles by the written warp: s -> shift s / (1 + (shift - 1) s) of even levels from end to end."""
    generator = torch.Generator().manual_seed(1)
    drawn = FlowSchedule(shift=shift).sample_training_sigma(generator, (8000,), low=low, high=high)
    first, last = (end / (shift - (shift - 1) * end) for end in (low, high))
    shares = (0.1, 0.25, 0.5, 0.75, 0.9)
    wanted = [first + share * (last - first) for share in shares]
    wanted = [shift * even / (1 + (shift - 1) * even) for even in wanted]
    found = drawn.quantile(torch.tensor(shares)).tolist()
    # 8000 draws: a quantile's place is known to 0.0056 of the range of even levels.
    slack = 4 * 0.0056 * (last - first) * shift
    assert found == pytest.approx(wanted, abs=slack)
    assert low <= drawn.min() and drawn.max() <= high
    assert drawn.dtype == torch.float32 and len(drawn.unique()) > 7000


def test_levels_in_numbers() -> None:
    """Computed by hand: 8 s / (1 + 7 s)."""
    assert SCHEDULE.warp(torch.tensor([0.0, 0.25, 0.5, 1.0])).tolist() == pytest.approx([0, 8 / 11, 8 / 9, 1])
    table = SCHEDULE.train_sigmas()
    assert (len(table), table[0].item()) == (1000, 1.0)
    assert table[-1].item() == pytest.approx(0.008 / 1.007)
    assert SCHEDULE.sampling_sigmas(4).tolist() == pytest.approx([1, 6 / 6.25, 4 / 4.5, 2 / 2.75, 0])
    assert SCHEDULE.student_sigmas((1000, 500)).tolist() == pytest.approx([1, 8 / 9])
    assert FlowSchedule(shift=1.0).sampling_sigmas(2).tolist() == [1, 0.5, 0]
    assert FlowSchedule(shift=8.0, num_train_steps=4).train_sigmas().tolist() == pytest.approx(
        [1, 6 / 6.25, 4 / 4.5, 2 / 2.75]
    )


def test_levels_are_the_float32_nearest_to_the_exact_ones() -> None:
    """In float32 all the way, some rows of the table are a last bit off."""
    exact = [Fraction(8 * s, 1000 + 7 * s) for s in range(1000, 0, -1)]
    assert SCHEDULE.train_sigmas().tolist() == [np.float32(float(level)) for level in exact]
    assert SCHEDULE.student_sigmas(range(1000, 0, -1)).tolist() == SCHEDULE.train_sigmas().tolist()
    assert SCHEDULE.sampling_sigmas(1000).tolist() == [*SCHEDULE.train_sigmas().tolist(), 0]


@pytest.mark.goldens
def test_the_published_schedule_is_the_usual_one() -> None:
    golden = load_file(GOLDEN)["denoising_steps"]
    torch.testing.assert_close(1000 * FlowSchedule().student_sigmas(), golden, **CLOSE)
    assert len(FlowSchedule().train_sigmas()) == 1000


def test_what_lies_on_a_bound_is_a_schedule_and_what_lies_beyond_is_none() -> None:
    assert FlowSchedule(shift=0.25, num_train_steps=1).train_sigmas().tolist() == [1]
    assert SCHEDULE.sampling_sigmas(1).tolist() == [1, 0]
    assert SCHEDULE.student_sigmas((1000, 0)).tolist() == [1, 0]
    generator = torch.Generator().manual_seed(0)
    assert SCHEDULE.sample_training_sigma(generator, (2,), low=0.0, high=1.0).shape == (2,)
    for refused in (
        lambda: FlowSchedule(shift=-1.0),
        lambda: FlowSchedule(num_train_steps=0),
        lambda: SCHEDULE.sampling_sigmas(0),
        lambda: SCHEDULE.student_sigmas(()),
        lambda: SCHEDULE.student_sigmas((500, -1)),
        lambda: SCHEDULE.student_sigmas((500, 500)),
        lambda: SCHEDULE.sample_training_sigma(generator, (1,), low=-0.1),
        lambda: SCHEDULE.sample_training_sigma(generator, (1,), high=1.1),
    ):
        with pytest.raises(ValueError):
            refused()


@pytest.mark.parametrize(
    ("steps", "shift", "told"),
    [
        ((1000, 750, 500, 250), 5.0, (1000, 937.5, 833.3333, 625)),
        ((1000, 750, 500, 250), 8.0, (1000, 960, 888.8889, 727.2728)),
        ((1000, 800, 600, 400, 200), 5.0, (1000, 952.3810, 882.3529, 769.2308, 555.5556)),
    ],
)
def test_students_are_told_and_use_the_same_warped_level(
    steps: tuple[int, ...], shift: float, told: tuple[float, ...]
) -> None:
    levels = step_levels(steps, shift)
    expected = torch.tensor(told, dtype=torch.float64)
    torch.testing.assert_close(1000 * levels.told, expected, atol=6e-5, rtol=0)
    torch.testing.assert_close(levels.used, levels.told, atol=0, rtol=2**-23)


def test_plain_timesteps_are_told_as_they_are_and_used_at_the_nearest_level() -> None:
    levels = step_levels((1000, 757, 522), 8.0, "timestep")
    assert (1000 * levels.told).tolist() == [1000, 757, 522]
    used = torch.tensor([1, 0.75675672, 0.52173913]).double()
    torch.testing.assert_close(levels.used, used, atol=1e-8, rtol=0)
    given = step_levels((999, 937, 833, 625), 5.0, "sigma")
    assert given.told.tolist() == given.used.tolist() == [0.999, 0.937, 0.833, 0.625]


def test_the_table_of_other_students_is_computed_in_float32_and_not_rounded_to_it() -> None:
    """A float64 table, rounded at its end, differs by an ulp in many entries, and the network notices."""
    for shift, count in ((5.0, 414), (8.0, 317)):
        told = (1000 * step_levels(range(1000, 0, -1), shift).told).float()
        assert (told != 1000 * FlowSchedule(shift=shift).train_sigmas()).sum() == count
