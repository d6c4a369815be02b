"""What a step of the teacher must do: levels, who is clean, weights of frames and cells, its one update."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shotstream.data.batches import DataSource, ShotBatch, dropped
from shotstream.data.rng import sample_noise
from shotstream.geometry import LatentSize
from shotstream.model.positions import FramePositions
from shotstream.streaming.conditioning import first_shot_conditioning
from shotstream.training.causal_masks import mask_form
from shotstream.training.recipes import recipe
from shotstream.training.stages.teacher import TeacherRecipe, TeacherStage, cell_weight
from tests.training.test_run import TEACHER

SIZE = LatentSize(2, 4)


def seed_of(*keys: object) -> int:
    digest = hashlib.blake2b("/".join(map(str, keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") // 2


def recipe_of(*overrides: str) -> TeacherRecipe:
    tiny = [*TEACHER, "model.dit.latent_channels=2", "train.matmul_dtype=float32"]
    return cast("TeacherRecipe", recipe("theatre_teacher", [*tiny, *overrides]))


class NoShots:
    """A source that nothing is drawn from."""

    def batch(self, step: int, samples: range) -> ShotBatch:
        raise AssertionError((step, samples))


def stage_of(*overrides: str, source: DataSource[ShotBatch] | None = None) -> TeacherStage:
    return TeacherStage(recipe_of(*overrides), source or NoShots())


def levels_of(stage: TeacherStage, step: int, f: int, *, causal: bool) -> Tensor:
    sigma, noisy = stage._levels(step, f, causal, stage.recipe.stage)  # pyright: ignore[reportPrivateUsage]
    assert torch.equal(noisy, sigma > 0)
    return sigma


def test_a_bidirectional_step_has_one_level_for_all_frames_of_a_sample() -> None:
    stage = stage_of("data.batch_size=64")
    sigma = levels_of(stage, 5, 7, causal=False)
    assert sigma.shape == (64, 7) and (sigma == sigma[:, :1]).all() and (sigma > 0).all()
    assert len(sigma[:, 0].unique()) == 64, "each sample has its own"
    assert not torch.isclose(sigma, levels_of(stage, 6, 7, causal=False)).any(), "and each step"
    even = sigma[:, 0] / (3 - 2 * sigma[:, 0])  # before the shift of 3
    assert float(even.mean()) == pytest.approx(0.5, abs=4 * 0.289 / 8)


@pytest.mark.parametrize("clean_history", [0.0, 0.5, 1.0])
def test_a_causal_step_has_a_level_for_each_chunk_and_its_last_chunk_is_never_clean(
    clean_history: float,
) -> None:
    """A clean last chunk, which nothing follows, is a sample with nothing to learn and none to learn from."""
    stage = stage_of("data.batch_size=200", f"stage.clean_history={clean_history}")
    sigma = levels_of(stage, 3, 8, causal=True)  # two chunks of three frames, and one of two
    chunks = sigma[:, [0, 3, 6]]
    assert torch.equal(sigma, chunks.repeat_interleave(3, dim=1)[:, :8])
    assert (chunks[:, 2] > 0).all()
    clean = (chunks[:, :2] == 0).float().mean(dim=0)
    slack = 4 * (clean_history * (1 - clean_history) / 200) ** 0.5
    assert clean.tolist() == pytest.approx([clean_history] * 2, abs=slack + 1e-6)
    noised = chunks[chunks > 0]
    assert len(noised.unique()) == len(noised), "no two chunks share a level"


@pytest.mark.parametrize("causal_share", [0.0, 0.3, 1.0])
def test_a_share_of_the_steps_is_causal(causal_share: float) -> None:
    stage = stage_of(f"stage.causal_share={causal_share}")
    found = np.mean([stage._causal(step) for step in range(600)])  # pyright: ignore[reportPrivateUsage]
    assert found == pytest.approx(causal_share, abs=4 * (causal_share * (1 - causal_share) / 600) ** 0.5)


@pytest.mark.parametrize(
    ("num_figures", "figure", "rest"),
    [
        # of 40 cells; a figure's share of the loss is 0.5, and one cell weighs at most 8
        (20, 1.0, 1.0),
        (10, 2.0, 0.5 / 0.75),
        (4, 5.0, 0.5 / 0.9),
        (2, 8.0, (1 - 0.05 * 8) / 0.95),
        (0, None, 1.0),
        (40, 0.5, None),
    ],
)
def test_cells_weigh_one_on_average_and_actors_have_their_share_of_the_loss(
    num_figures: int, figure: float | None, rest: float | None
) -> None:
    """Weights that do not average to one once changed the loss's scale with who was in the picture."""
    stage = stage_of("stage.figure_share=0.5", "stage.max_figure_weight=8.0")
    figures = (torch.arange(40) < num_figures).reshape(1, 1, 5, 8).repeat(2, 1, 1, 1)
    figures[1] = False
    weight = cell_weight(figures, stage.recipe.stage)
    assert (weight[1] == 1).all(), "a sample without actors weighs all cells alike"
    if figure is not None:
        assert weight[0][figures[0]].tolist() == pytest.approx([figure] * num_figures, rel=1e-5)
    if rest is not None:
        assert weight[0][~figures[0]].tolist() == pytest.approx([rest] * (40 - num_figures), rel=1e-5)
    if figure is not None and rest is not None:
        assert float(weight[0].mean()) == pytest.approx(1.0, rel=1e-5)


class Says(nn.Module):
    """A network whose answer is known: a tenth of what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[Tensor, Tensor, object]] = []

    def forward(
        self, x: Tensor, sigma: Tensor, text: Tensor, positions: object, mask: object = None
    ) -> Tensor:
        del text, positions
        self.told.append((x, sigma, mask))
        return 0.1 * x


@pytest.mark.parametrize("causal", [False, True])
def test_the_loss_is_the_weighted_mean_square_of_the_velocity(causal: bool) -> None:
    """Written out: noise keyed by the sample, frames that carry it, cells by their weight, in float32."""
    stage = stage_of("data.batch_size=3", "stage.clean_history=0.6")
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(3, 2, 9, 2, 4, generator=generator)
    figures = torch.rand(3, 9, 2, 4, generator=generator) < 0.2
    step = next(s for s in range(50) if (levels_of(stage, s, 9, causal=True) == 0).any())

    def batch(samples: range) -> ShotBatch:
        rows = slice(samples.start, samples.stop)
        given = first_shot_conditioning(stage.recipe.model.dit, SIZE, batch=len(samples))
        return ShotBatch(x0[rows], figures[rows], given, [["A fox."]] * len(samples), samples)

    noise = torch.stack(
        [
            torch.randn(
                2, 9, 2, 4, generator=torch.Generator().manual_seed(seed_of(0, "teacher/noise", step, one))
            )
            for one in range(3)
        ]
    )
    sigma = levels_of(stage, step, 9, causal=causal)
    level = sigma[:, None, :, None, None]
    noisy = (1 - level) * x0 + level * noise
    error = (0.1 * noisy - (noise - x0)) ** 2
    carries = (sigma > 0).float()
    frames = carries / carries.mean()
    share = figures.float().mean(dim=(1, 2, 3))[:, None, None, None]
    cells = torch.where(figures, 0.5 / share, 0.5 / (1 - share))
    wanted = (error * frames[:, None, :, None, None] * cells[:, None]).mean()

    network = Says()
    stage.model.dit.forward = network.forward  # type: ignore[method-assign]
    whole = stage.loss(stage.model, batch(range(3)), step, causal=causal)
    torch.testing.assert_close(whole, wanted)
    shown, told, mask = network.told[0]
    assert torch.equal(told, torch.cat([torch.zeros(3, 6), sigma], dim=1)), "the context is clean"
    torch.testing.assert_close(shown[:, :, 6:], noisy)
    assert not shown[:, :, :6].any() and (mask is not None) == causal
    parts = [stage.loss(stage.model, batch(range(one, one + 1)), step, causal=causal) for one in range(3)]
    torch.testing.assert_close(torch.stack(parts).mean(), wanted)


def test_a_step_clips_updates_once_at_its_rate_and_averages_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the stage's own limit: gradients that are clipped by nothing once went unseen."""
    settings = ("data.batch_size=2", "optim.max_norm=1e-3", "train.num_steps=8", "optim.warmup_steps=4")
    done: list[object] = []
    x0 = torch.randn(2, 2, 3, 2, 4, generator=torch.Generator().manual_seed(1))

    class Drawn:
        def batch(self, step: int, samples: range) -> ShotBatch:
            done.append(("drawn", step, list(samples)))
            rows = slice(samples.start, samples.stop)
            given = first_shot_conditioning(recipe_of().model.dit, SIZE, batch=len(samples))
            figures = torch.zeros(len(samples), 3, 2, 4, dtype=torch.bool)
            return ShotBatch(x0[rows], figures, given, [["A fox."]] * len(samples), samples)

    stage = stage_of(*settings, "optim.decay_steps=2", "optim.ema_decay=0.9", source=Drawn())
    optimise = stage.state.optimizer.step
    monkeypatch.setattr(
        stage.state.optimizer, "step", lambda rate: (done.append(("rate", rate)), optimise(rate))[1]
    )
    average = stage.state.ema.update
    monkeypatch.setattr(
        stage.state.ema, "update", lambda module: (done.append(("average", module)), average(module))
    )
    gradients: dict[str, Tensor] = {}
    name = "dit.head.head.weight"
    for step, rate in ((0, 0.25), (1, 0.5), (6, 1.0), (7, 0.5)):
        done.clear()
        before = stage.model.get_parameter(name).detach().clone()
        scalars = stage.step(step)
        assert done == [("drawn", step, [0, 1]), ("rate", rate), ("average", stage.model)]
        causal = bool(np.random.default_rng(seed_of(0, "teacher/mask", step)).random() < 0.5)
        assert scalars.keys() == {"loss", "norm", "causal_loss" if causal else "full_loss"}
        assert scalars["norm"] > 1e-3, "told as it was before clipping"
        gradients[str(step)] = stage.model.get_parameter(name).detach() - before
    first = gradients["0"]  # AdamW's first step is its rate, whatever the gradient's size
    assert float(first.abs().max()) == pytest.approx(stage.recipe.optimizer.learning_rate * 0.25, rel=0.02)
    states = stage.state.state_dict()["optimiser"]["adamw"]["state"].values()
    clipped = sum(float(state["exp_avg_sq"].sum()) / 0.02 for state in states) ** 0.5
    assert clipped < 2.1 * 1e-3, "four steps of at most 0.001 each, remembered"
    assert stage.state.ema.num_updates == 4
    exported = stage.averaged()
    assert torch.equal(exported.get_parameter(name).detach(), stage.state.ema.average[name])
    assert not torch.equal(exported.get_parameter(name).detach(), stage.model.get_parameter(name).detach())


def test_context_and_captions_are_dropped_by_their_own_chances() -> None:
    """Two numbers that differ, for samples of a first shot and of a later one."""

    given = first_shot_conditioning(recipe_of().model.dit, SIZE)
    full = replace(given, context=torch.ones_like(given.context))
    for later in (True, False):
        drawn = [
            dropped(
                full,
                ["A fox.", "An owl."],
                np.random.default_rng(one),
                has_context=later,
                context_drop=0.3,
                caption_drop=0.1,
            )
            for one in range(1500)
        ]
        no_context = np.mean([not one.context.any() for one, _ in drawn])
        no_captions = np.mean([rows == ["", ""] for _, rows in drawn])
        assert no_context == pytest.approx(0.3 if later else 0.0, abs=0.05 if later else 0)
        assert no_captions == pytest.approx(0.1, abs=0.032)
        assert {tuple(rows) for _, rows in drawn} == {("", ""), ("A fox.", "An owl.")}


def test_flex_attentions_blocks_are_asked_for_where_its_kernel_takes_the_heads() -> None:
    """It takes heads of 16 and more, on a GPU."""
    config = recipe_of().model.dit
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    for head_dim, form in ((8, "slices"), (16, "block"), (32, "block")):
        sized = replace(config, dim=config.num_heads * head_dim)
        assert mask_form(cuda, sized) == form
        assert mask_form(cpu, sized) == "slices"


def test_held_out_stories_are_the_theatres_alone(tmp_path: Path) -> None:
    """Shards have none: nothing is previewed, and nothing asked of the network."""
    stage = stage_of()
    stage.averaged = lambda: pytest.fail("asked")  # type: ignore[method-assign]
    assert stage.preview(3, tmp_path) == {}
    assert not list(tmp_path.iterdir())


def test_a_causal_step_shows_what_came_before_a_turn_clean_and_under_the_new_caption() -> None:
    """As a steered session commits it again; a bidirectional step has each frame's own caption."""
    stage = stage_of("data.batch_size=2", "stage.clean_history=0.0")
    x0 = torch.randn(2, 2, 9, 2, 4, generator=torch.Generator().manual_seed(0))
    plain = first_shot_conditioning(stage.recipe.model.dit, SIZE, batch=2)
    turning = replace(plain, target_caption=torch.tensor([1, 0]), turn_frame=torch.tensor([6, 0]))
    captions = [["A fox walks.", "A fox naps."], ["A fox walks.", ""]]
    batch = ShotBatch(x0, torch.zeros(2, 9, 2, 4, dtype=torch.bool), turning, captions, range(2))
    told: list[tuple[Tensor, Tensor, list[list[int]]]] = []

    def heard(
        x: Tensor, sigma: Tensor, text: Tensor, positions: FramePositions, mask: object = None
    ) -> Tensor:
        del text, mask
        told.append((x, sigma, positions.caption_index.expand(2, -1).tolist()))
        return torch.zeros_like(x)

    stage.model.dit.forward = heard  # type: ignore[method-assign]
    losses = [stage.loss(stage.model, batch, 3, causal=causal) for causal in (True, False)]
    x, sigma, rows = told[0]
    own = sigma[:, 6:]
    assert (own[0, :6] == 0).all() and (own[0, 6:] > 0).all() and (own[1] > 0).all()
    assert torch.equal(x[0, :, 6:12], x0[0, :, :6]), "the frames before the turn are as they are"
    assert [row[6:] for row in rows] == [[1] * 9, [0] * 9]
    _, sigma, rows = told[1]
    assert (sigma[:, 6:] > 0).all()
    assert [row[6:] for row in rows] == [[0] * 6 + [1] * 3, [0] * 9]
    # A velocity of zero is wrong by the noise less the data, in the frames that carry noise.
    noise = sample_noise(x0.shape[1:], 0, "teacher/noise", (3,), range(2))
    wrong = (noise - x0).square().mean(dim=(1, 3, 4))
    assert losses[0].item() == pytest.approx((wrong[0, 6:].sum() + wrong[1].sum()).item() / 18, rel=1e-5)
    assert losses[1].item() == pytest.approx(wrong.mean().item(), rel=1e-5)
