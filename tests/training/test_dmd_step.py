"""What a step of distribution matching must do: who is updated how often, from what, at which levels.

Every expectation is a literal, or computed here from the definition; nothing is compared with another run.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shotstream.geometry import LatentSize
from shotstream.model.dit import DiT
from shotstream.streaming.conditioning import first_shot_conditioning
from shotstream.training.parallelize import ParallelConfig
from shotstream.training.stages.dmd import DmdRecipe, DmdStage, Microbatch, RolloutBatch, fake_of
from shotstream.training.text_conditioned_dit import TextConditionedDiT
from tests.training.test_dmd import matching

BATCH = 2
SEED = 3
SIZE = LatentSize(2, 4)


def recipe_of(*overrides: str) -> DmdRecipe:
    return cast("DmdRecipe", matching("theatre_intra_shot", 20, *overrides))


def model(made: DmdRecipe, seed: int) -> TextConditionedDiT:
    torch.manual_seed(seed)
    found = made.model.build()
    nn.init.normal_(found.dit.head.head.weight, std=0.2)
    return found


class FirstShots:
    """A source of first shots of two chunks."""

    def __init__(self, made: DmdRecipe) -> None:
        self._dit = made.model.dit

    def batch(self, step: int, samples: range) -> RolloutBatch:
        del step
        captions = [[f"A wide view of a fox {sample}."] for sample in samples]
        return RolloutBatch(
            first_shot_conditioning(self._dit, SIZE, batch=len(samples)), captions, 2, samples
        )


def stage_of(*overrides: str, parallel: ParallelConfig | None = None) -> DmdStage:
    """A tiny stage on two first shots of two chunks; nothing is loaded."""
    made = recipe_of(*overrides)
    teacher = model(made, 1)
    return DmdStage(
        made,
        student=model(made, 0),
        teacher=teacher,
        fake=fake_of(teacher),
        source=FirstShots(made),
        parallel=parallel,
    )


def seed_of(*keys: object) -> int:
    digest = hashlib.blake2b("/".join(map(str, keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") // 2


@contextmanager
def told(stage: DmdStage) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
    """(who, noisy, level) of every question to a network, in order."""
    asked: list[tuple[str, Tensor, Tensor]] = []
    names = {stage.student.dit: "student", stage.fake: "fake", stage.teacher.dit: "teacher"}

    def hook(module: nn.Module, given: tuple[Any, ...], _: object) -> None:
        asked.append((names[cast("DiT", module)], given[0].detach(), given[1].detach()))

    handles = [dit.register_forward_hook(hook) for dit in names]
    try:
        yield asked
    finally:
        for handle in handles:
            handle.remove()


def even(sigma: Tensor, shift: float) -> Tensor:
    """The level before the schedule warps it: the inverse of s -> shift s / (1 + (shift - 1) s)."""
    return sigma / (shift - (shift - 1) * sigma)


@pytest.mark.parametrize(("fake_updates", "warmup"), [(1, 0), (3, 2), (5, 1)])
def test_each_step_updates_the_fake_score_as_often_as_it_says_and_then_the_student_once(
    fake_updates: int, warmup: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One update of the fake score a step, whatever `fake_updates` said, once went unseen."""
    stage = stage_of(f"stage.fake_updates={fake_updates}", f"stage.fake_warmup_steps={warmup}")
    done: list[str] = []
    monkeypatch.setattr(stage, "update_fake", lambda *_: (done.append("fake"), (6.0, 2.0))[1])
    monkeypatch.setattr(
        stage, "update_student", lambda *_: (done.append("student"), {"student_loss": 1.0})[1]
    )
    for step in range(warmup + 2):
        done.clear()
        scalars = stage.step(step)
        learns = step >= warmup
        assert done == ["fake"] * fake_updates + ["student"] * learns, step
        assert scalars["fake_loss"] == pytest.approx(6.0) and scalars["fake_norm"] == pytest.approx(2.0)
        assert ("student_loss" in scalars) == learns


def test_every_update_of_a_step_learns_from_samples_and_noise_of_its_own() -> None:
    """The updates of the fake score once could have shared one rollout without a test that saw it."""
    stage = stage_of("stage.fake_updates=2", "stage.fake_warmup_steps=0")
    noised: list[tuple[str, Tensor, Tensor, Tensor]] = []
    originals = stage.fake_loss, stage.gradient

    def fake_loss(batch: RolloutBatch, text: Tensor, x0: Tensor, key: tuple[int, int]) -> Tensor:
        with told(stage) as asked:
            loss = originals[0](batch, text, x0, key)
        noised.append(("fake", x0.detach(), asked[0][1], asked[0][2]))
        return loss

    def gradient(
        batch: RolloutBatch, text: Tensor, uncond: Tensor, x0: Tensor, key: tuple[int, int]
    ) -> Tensor:
        with told(stage) as asked:
            found = originals[1](batch, text, uncond, x0, key)
        noised.append(("student", x0.detach(), asked[0][1], asked[0][2]))
        return found

    stage.fake_loss, stage.gradient = fake_loss, gradient  # type: ignore[method-assign]
    for step in (0, 1):
        stage.step(step)
    assert [who for who, *_ in noised] == ["fake", "fake", "student"] * 2
    context = stage.recipe.model.dit.num_context_frames
    # A sample's own number is in what is compared: two samples of a batch share nothing either.
    singles = [
        (x0[sample], noisy[sample, :, context:], sigma[sample, context:])
        for _, x0, noisy, sigma in noised
        for sample in range(BATCH)
    ]
    for (x0, noisy, sigma), (other_x0, other_noisy, other_sigma) in combinations(singles, 2):
        assert (x0 - other_x0).abs().mean() > 1e-3
        assert (noisy - other_noisy).abs().mean() > 1e-2
        assert not torch.isclose(sigma, other_sigma).any()
        assert (sigma == sigma[0]).all(), "one level for all frames of a sample"


def test_the_two_scores_are_compared_at_levels_from_least_to_most_alone() -> None:
    """Restricted by drawing there, not clamped: even levels are uniform between the ends' own."""
    stage = stage_of(
        "stage.least_sigma=0.3", "stage.most_sigma=0.6", "stage.guidance=1.0", "stage.context_guidance=1.0"
    )
    (part,) = stage.microbatches(0)
    x0 = torch.randn(BATCH, 16, 3, *SIZE_OF, generator=torch.Generator().manual_seed(0))
    scored: list[float] = []
    learnt: list[float] = []
    asked: list[tuple[DiT, Tensor, Tensor]] = []

    def velocity(dit: DiT, _batch: RolloutBatch, _text: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        asked.append((dit, noisy, sigma))
        return torch.zeros_like(noisy)

    stage.velocity = velocity  # type: ignore[method-assign]
    for step in range(60):
        asked.clear()
        stage.gradient(part.batch, part.text, part.uncond, x0, (step, 9))
        stage.fake_loss(part.batch, part.text, x0, (step, 9))
        (one, noisy, sigma), (other, again, same), (third, _, own) = asked
        assert (one, other, third) == (stage.teacher.dit, stage.fake, stage.fake)
        assert torch.equal(noisy, again) and torch.equal(sigma, same), "both scores are asked the same"
        scored += sigma[:, 0].tolist()
        learnt += own[:, 0].tolist()
    assert min(scored) >= 0.3 and max(scored) <= 0.6
    assert min(learnt) < 0.3 and max(learnt) > 0.9, "the fake score learns at every level"
    shift = stage.recipe.model.shift
    for levels, low, high in ((scored, 0.3, 0.6), (learnt, 0.0, 1.0)):
        first, last = (float(even(torch.tensor(end), shift)) for end in (low, high))
        placed = (even(torch.tensor(levels), shift).numpy() - first) / (last - first)
        assert np.mean(placed) == pytest.approx(0.5, abs=4 * 0.289 / len(levels) ** 0.5)
        assert np.std(placed) == pytest.approx(0.289, abs=0.06)


SIZE_OF = (SIZE.height, SIZE.width)


def test_a_rollout_is_told_the_students_levels_up_to_where_it_ends() -> None:
    """The exit step was once told the last level, wherever it was: a network asked at wrong levels."""
    stage = stage_of()
    shift, steps = stage.recipe.model.shift, stage.recipe.stage.student_steps
    assert steps == (1000, 740, 500, 260)
    levels = [shift * s / (1 + (shift - 1) * s) for s in (1.0, 0.74, 0.5, 0.26)]
    (part,) = stage.microbatches(0)
    drawn: dict[int, tuple[int, int]] = {}
    for number in range(40):
        generator = np.random.default_rng(seed_of(SEED, "exit", number, 0))
        drawn[int(generator.integers(4))] = (number, 0)
    assert drawn.keys() == {0, 1, 2, 3}, "every step is an exit step"
    for last, key in drawn.items():
        with torch.no_grad(), told(stage) as asked:
            stage.rollout(part.batch, part.text, key)
        walk = levels[: last + 1]
        # the context, then a chunk with all its levels, its commit at level 0, and the last chunk
        assert [float(sigma[0, 0]) for _, _, sigma in asked] == pytest.approx([0, *walk, 0, *walk])
        assert {who for who, *_ in asked} == {"student"}
        assert all((sigma == sigma[0, 0]).all() for _, _, sigma in asked)


def test_the_noise_of_a_rollout_is_the_samples_own() -> None:
    stage = stage_of()
    (part,) = stage.microbatches(0)
    key = (4, 1)
    with torch.no_grad(), told(stage) as asked:
        stage.rollout(part.batch, part.text, key)
    first = asked[1][1]  # the first question after the context: pure noise of the first chunk
    for sample in range(BATCH):
        seed = seed_of(SEED, "rollout", *key, sample)
        generator = torch.Generator().manual_seed(seed_of(seed, 0, 0))
        assert torch.equal(first[sample], torch.randn(16, 3, *SIZE_OF, generator=generator))


def test_the_fake_score_learns_the_velocity_from_a_sample_to_its_noise() -> None:
    stage = stage_of()
    (part,) = stage.microbatches(0)
    key = (2, 1)
    x0 = torch.randn(BATCH, 16, 6, *SIZE_OF, generator=torch.Generator().manual_seed(3))
    with torch.no_grad(), told(stage) as asked:
        loss = stage.fake_loss(part.batch, part.text, x0, key)
        ((_, noisy, sigma),) = asked
        said = stage.velocity(stage.fake, part.batch, part.text, noisy[:, :, 6:], sigma[:, 6:])
    noise = torch.stack(
        [
            torch.randn(
                16, 6, *SIZE_OF,
                generator=torch.Generator().manual_seed(seed_of(SEED, "fake", *key, sample)),
            )
            for sample in range(BATCH)
        ]
    )  # fmt: skip
    level = sigma[:, None, 6:, None, None]
    torch.testing.assert_close(noisy[:, :, 6:], (1 - level) * x0 + level * noise)
    torch.testing.assert_close(loss, (said - (noise - x0)).square().mean())


def learnt(part: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in part.named_parameters()}


def moved(before: dict[str, Tensor], part: nn.Module) -> float:
    """How far the value that moved most moved; AdamW's first step moves each by the rate."""
    return max(float((value.detach() - before[name]).abs().max()) for name, value in part.named_parameters())


def test_student_and_fake_score_learn_at_their_own_rates() -> None:
    """Without momentum the first step of AdamW moves a value by its rate, up or down, less 1 % of it."""
    stage = stage_of(
        "stage.fake_updates=1",
        "stage.fake_warmup_steps=0",
        "optim.learning_rate=1e-3",
        "stage.fake_learning_rate=4e-3",
    )
    student, fake = learnt(stage.student.dit), learnt(stage.fake)
    stage.step(0)
    assert moved(student, stage.student.dit) == pytest.approx(1e-3, rel=0.05)
    assert moved(fake, stage.fake) == pytest.approx(4e-3, rel=0.05)


def test_each_gradient_is_clipped_to_its_own_norm() -> None:
    """Seen in AdamW's second moments, which after one step are 0.001 of the clipped gradient's square."""
    limits = {"student": 2e-5, "fake": 3e-4}
    stage = stage_of(
        "stage.fake_updates=1",
        "stage.fake_warmup_steps=0",
        f"optim.max_norm={limits['student']}",
        f"stage.fake_max_norm={limits['fake']}",
    )
    scalars = stage.step(0)
    told_norms = {"student": scalars["norm"], "fake": scalars["fake_norm"]}
    optimisers = {"student": stage.state.student.optimizer, "fake": stage.state.fake_optimizer}
    for name, limit in limits.items():
        states = optimisers[name].state_dict()["state"].values()
        norm = sum(float(state["exp_avg_sq"].double().sum()) / 0.001 for state in states) ** 0.5
        assert norm == pytest.approx(limit, rel=1e-3)
        assert told_norms[name] > 1.5 * limit, "the log tells the norm before clipping"


def test_the_average_begins_with_the_students_first_step_and_is_what_is_exported() -> None:
    """Counting the warm-up, the average was once as slow as late in a run while the student took off."""
    stage = stage_of(
        "stage.fake_updates=1", "stage.fake_warmup_steps=3", "optim.learning_rate=1e-2", "optim.ema_decay=0.9"
    )
    stage.update_fake = lambda *_: (0.0, 0.0)  # type: ignore[method-assign]
    name = "blocks.0.ffn.0.weight"
    values = [stage.student.dit.get_parameter(name).detach().clone()]
    for step in range(3):
        stage.step(step)
        assert stage.state.student.ema.num_updates == 0
        assert torch.equal(stage.state.student.ema.average[name], values[0])
    expected = values[0].double()
    for step, kept in ((3, 1 / 10), (4, 2 / 11), (5, 3 / 12)):
        stage.step(step)
        values.append(stage.student.dit.get_parameter(name).detach().clone())
        assert not torch.equal(values[-1], values[-2])
        expected = kept * expected + (1 - kept) * values[-1].double()
        torch.testing.assert_close(
            stage.state.student.ema.average[name].double(), expected, rtol=1e-5, atol=1e-7
        )
    exported = stage.averaged()
    assert torch.equal(exported.dit.get_parameter(name).detach(), stage.state.student.ema.average[name])
    assert not torch.equal(exported.dit.get_parameter(name).detach(), values[-1])
    assert not exported.training
    assert torch.equal(exported.text.vectors, stage.student.text.vectors)


def test_the_students_gradient_is_where_the_scores_disagree() -> None:
    """Half the squared distance to (x0 - gradient): its gradient at a sample is that over its elements.

    A fake score that is still the teacher's copy says the same, and then every sign is right.
    """
    stage = stage_of("stage.guidance=1.0", "stage.context_guidance=1.0")
    nn.init.normal_(stage.fake.head.head.weight, std=0.3, generator=torch.Generator().manual_seed(4))
    (part,) = stage.microbatches(0)
    key = (3, 5)
    loss, gradient = stage.student_loss(part.batch, part.text, part.uncond, key)
    with torch.no_grad():
        x0 = stage.rollout(part.batch, part.text, key)
        with told(stage) as asked:
            again = stage.gradient(part.batch, part.text, part.uncond, x0, key)
        (_, noisy, sigma), _ = asked
        noisy, sigma = noisy[:, :, 6:], sigma[:, 6:]
        level = sigma[:, None, :, None, None]
        real, fake = (
            noisy - level * stage.velocity(dit, part.batch, part.text, noisy, sigma)
            for dit in (stage.teacher.dit, stage.fake)
        )
    distance = (x0 - real).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    assert ((fake - real) / distance).abs().mean() > 0.1
    torch.testing.assert_close(gradient, (fake - real) / distance, rtol=1e-4, atol=1e-5)
    assert torch.equal(gradient, again)
    torch.testing.assert_close(loss.detach(), 0.5 * gradient.square().mean())


def test_parts_of_a_batch_draw_what_the_whole_batch_would_and_average_to_it() -> None:
    """Whatever computes a sample, it is the sample of its place: the second part is not the first again."""
    shares = [ParallelConfig().shares(BATCH), ParallelConfig(samples_at_once=1).shares(BATCH)]
    assert [[list(one) for one in share] for share in shares] == [[[0, 1]], [[0], [1]]]
    whole, parts = stage_of(), stage_of(parallel=ParallelConfig(samples_at_once=1))
    found: list[dict[str, Tensor]] = []
    for stage in (whole, parts):
        given: list[Microbatch] = stage.microbatches(0)
        losses = [
            lambda part=part, stage=stage: stage.student_loss(part.batch, part.text, part.uncond, (0, 1))[0]
            for part in given
        ]
        stage.parallel.backward_parts(losses, "student's", 0)
        named = stage.student.dit.named_parameters()
        found.append({name: value.grad.clone() for name, value in named if value.grad is not None})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 20
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("broken", "named"), [("fake", "fake score's"), ("teacher", "student's")])
def test_a_loss_that_is_no_number_is_told_with_its_step_and_moves_nobody(broken: str, named: str) -> None:
    stage = stage_of("stage.fake_updates=2", "stage.fake_warmup_steps=0")
    dit = stage.fake if broken == "fake" else stage.teacher.dit
    with torch.no_grad():
        dit.head.head.bias.fill_(float("nan"))
    before = learnt(stage.student.dit)
    with pytest.raises(FloatingPointError, match=f"the {named} loss is nan at step 3$"):
        stage.step(3)
    assert all(torch.equal(before[name], value) for name, value in stage.student.dit.named_parameters())
    assert stage.state.student.ema.num_updates == 0


def test_the_teacher_is_held_in_what_it_is_multiplied_in_and_what_learns_is_not() -> None:
    """Half of its memory: at 1.3 billion parameters what learns would else not fit beside it."""
    stage = stage_of("train.matmul_dtype=bfloat16")
    kinds = {
        name: {layer.weight.dtype for layer in dit.modules() if isinstance(layer, nn.Linear)}
        for name, dit in (
            ("student", stage.student.dit),
            ("fake", stage.fake),
            ("teacher", stage.teacher.dit),
        )
    }
    assert kinds == {"student": {torch.float32}, "fake": {torch.float32}, "teacher": {torch.bfloat16}}


def test_the_teacher_is_guided_by_captions_and_context_each_by_its_own_scale_and_the_fake_score_is_not() -> (
    None
):
    """v + (captions - 1)(v - v without captions) + (context - 1)(v - v without context), in numbers."""
    stage = stage_of("stage.guidance=3.0", "stage.context_guidance=2.0")
    (part,) = stage.microbatches(0)
    torch.testing.assert_close(part.text, stage.student.embed(part.batch.captions).detach())
    torch.testing.assert_close(part.uncond, stage.teacher.embed([[""]] * BATCH).detach())

    def velocity(dit: DiT, batch: RolloutBatch, text: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        del sigma
        is_whole = batch.conditioning is part.batch.conditioning
        said = {
            (stage.fake, part.text, True): 0.25,
            (stage.teacher.dit, part.text, True): 1.0,
            (stage.teacher.dit, part.uncond, True): 3.0,
            (stage.teacher.dit, part.text, False): 7.0,
        }[dit, text, is_whole]
        return torch.full_like(noisy, said)

    stage.velocity = velocity  # type: ignore[method-assign]
    x0 = torch.randn(BATCH, 16, 6, *SIZE_OF, generator=torch.Generator().manual_seed(0))
    key = (1, 5)
    noise, sigma = stage._noise(x0, "score", key, part.batch.samples, low=0.02, high=0.98)  # pyright: ignore[reportPrivateUsage]
    level = sigma[:, None, :, None, None]
    noisy = (1 - level) * x0 + level * noise
    real = noisy - level * (1 + 2 * (1 - 3) + (1 - 7))
    fake = noisy - level * 0.25
    distance = (x0 - real).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    found = stage.gradient(part.batch, part.text, part.uncond, x0, key)
    torch.testing.assert_close(found, (fake - real) / distance, rtol=1e-4, atol=1e-5)


def test_a_fake_score_begins_as_a_copy_of_a_frozen_teacher_and_learns() -> None:
    teacher = model(recipe_of(), 1).requires_grad_(False)
    fake = fake_of(teacher)
    assert all(value.requires_grad for value in fake.parameters())
    assert not any(value.requires_grad for value in teacher.parameters())
    own = dict(teacher.dit.named_parameters())
    assert all(
        value is not own[name] and torch.equal(value, own[name]) for name, value in fake.named_parameters()
    )
