"""Distribution matching: who learns when, from what, and that it leads to the teacher."""

import copy
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shotstream.data.rng import numpy_rng
from shotstream.data.story_captions import StoryCaptions
from shotstream.model.dit import DiT
from shotstream.streaming.conditioning import drop_context
from shotstream.streaming.noise import shot_seed
from shotstream.streaming.rollout import Rollout
from shotstream.streaming.shot_memory import ShotMemory
from shotstream.theatre.world import sample_story
from shotstream.training.films import theatre_pipeline
from shotstream.training.inputs import codec_run, input_codec, trained_model
from shotstream.training.lora import attach_adapters, merge_adapters
from shotstream.training.recipe import AnyRecipe
from shotstream.training.recipes import recipe
from shotstream.training.run import run_recipe
from shotstream.training.stage_builders import build_stage
from shotstream.training.stages import dmd as dmd_module
from shotstream.training.stages.dmd import DmdStage, RolloutBatch
from shotstream.training.stages.inter_shot import condition_batch, look_back_at
from tests.params import first
from tests.training.test_decoder import decoder
from tests.training.test_run import MODEL, STORIES, codec, same, teacher, weights
from tests.training.test_student import pairs, student

ALL = range(2)
STAGES = ("theatre_intra_shot", "theatre_inter_shot")


def matching(name: str, num_steps: int, *more: str) -> AnyRecipe:
    own_history = name == "theatre_inter_shot"
    overrides = [
        *MODEL,
        *(["data.batch_size=2", "stage.lora_rank=2"] if own_history else STORIES),
        f"train.num_steps={num_steps}",
        "train.preview_every=1000",
        "stage.fake_warmup_steps=1",
        "stage.fake_updates=2",
        "data.num_latent_frames=[3]",
        "train.matmul_dtype=float32",  # the recipe takes what the processor is fast at
        *more,
    ]
    return recipe(name, overrides)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs")
    run_recipe(codec(1), directory)
    run_recipe(teacher(3), directory)
    run_recipe(pairs(2), directory)
    run_recipe(student(1), directory)
    run_recipe(matching("theatre_intra_shot", 2), directory)
    return directory


def built(name: str, runs: Path, *more: str) -> DmdStage:
    stage = build_stage(matching(name, 4, *more), runs)
    assert isinstance(stage, DmdStage)
    return stage


def everything(stage: DmdStage) -> dict[str, Tensor]:
    parts = {"student": stage.student, "fake": stage.fake, "teacher": stage.teacher}
    return {
        f"{part}.{name}": value.clone()
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }


@pytest.mark.parametrize("name", first(1, STAGES))
def test_the_warm_up_moves_the_fake_score_alone_and_later_steps_the_student_too(
    name: str, runs: Path
) -> None:
    stage = built(name, runs)
    states = [everything(stage)]
    for step in (0, 1):
        scalars = stage.step(step)
        assert all(np.isfinite(value) for value in scalars.values())
        states.append(everything(stage))
    moved = [
        {key.split(".")[0] for key in after if not torch.equal(before[key], after[key])}
        for before, after in pairwise(states)
    ]
    assert moved == [{"fake"}, {"fake", "student"}]
    changed = {key for key in states[2] if not torch.equal(states[1][key], states[2][key])}
    assert not any(".text." in key for key in changed), "the text encoder is frozen"
    if name == "theatre_inter_shot":
        assert all("lora_" in key for key in changed), "only adapters learn"


def test_a_student_update_leaves_no_gradient_on_the_scores(runs: Path) -> None:
    stage = built("theatre_intra_shot", runs)
    batch = stage.source.batch(0, ALL)
    text = stage.student.embed(batch.captions).detach()
    loss, _ = stage.student_loss(batch, text, torch.zeros_like(text), (0, 9))
    loss.backward()
    assert any(value.grad is not None for value in stage.student.dit.parameters())
    for module in (stage.fake, stage.teacher):
        assert all(value.grad is None for value in module.parameters())


@pytest.mark.slow
def test_bfloat16_changes_little_and_every_parameter_still_learns(runs: Path) -> None:
    """A copy of a parameter in bfloat16 that a pass without gradient leaves behind would learn nothing."""
    gradients: dict[str, dict[str, Tensor]] = {}
    for name in ("float32", "bfloat16"):
        stage = built("theatre_intra_shot", runs, f"train.matmul_dtype={name}")
        for dit in (stage.student.dit, stage.fake, stage.teacher.dit):
            torch.nn.init.normal_(dit.head.head.weight, generator=torch.Generator().manual_seed(0))
        (part,) = stage.microbatches(0)
        x0 = stage.rollout(part.batch, part.text, (0, 0))
        assert x0.dtype == torch.float32
        x0.square().mean().backward()
        named = stage.student.dit.named_parameters()
        gradients[name] = {key: value.grad for key, value in named if value.grad is not None}
    exact, rounded = gradients["float32"], gradients["bfloat16"]
    assert exact.keys() == rounded.keys() and len(exact) > 20
    for key in (key for key in exact if key.endswith(("ffn.0.weight", "self_attn.q.weight", "head.weight"))):
        assert not torch.equal(exact[key], rounded[key])
        assert (exact[key] - rounded[key]).norm() < 0.1 * exact[key].norm(), key


def test_a_rollout_carries_its_gradient_through_the_exit_step_alone(runs: Path) -> None:
    stage = built("theatre_intra_shot", runs, "data.num_latent_frames=[6]")
    batch = stage.source.batch(0, ALL)
    text = stage.student.embed(batch.captions).detach()
    carrying: list[tuple[int | None, int]] = []

    def observe(chunk: int | None, step: int, velocity: Tensor) -> None:
        if velocity.requires_grad:
            carrying.append((chunk, step))

    original = Rollout.__init__

    def spying(self: Rollout, *args: object, **kwargs: object) -> None:
        original(self, *args, **{**kwargs, "observe": observe})  # pyright: ignore[reportArgumentType]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rollout, "__init__", spying)
        exits = {tuple(_carried(stage, batch, text, carrying, key)) for key in range(12)}
    assert all(len({step for _, step in one}) == 1 and [chunk for chunk, _ in one] == [0, 1] for one in exits)
    assert {one[0][1] for one in exits} == {0, 1, 2, 3}, "every step is an exit step"


def _carried(
    stage: DmdStage,
    batch: dmd_module.RolloutBatch,
    text: Tensor,
    carrying: list[tuple[int | None, int]],
    key: int,
) -> list[tuple[int | None, int]]:
    carrying.clear()
    stage.rollout(batch, text, (key, 0))
    return list(carrying)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, runs: Path) -> None:
    used = {path.name for path in runs.iterdir()}
    parts = runs / name
    kept = [path for path in parts.iterdir()] if name in used else []
    for path in kept:
        path.unlink()
    run_recipe(matching(name, 2), runs)
    run_recipe(matching(name, 4), runs)
    resumed = weights(runs, name)
    for path in parts.iterdir():
        path.unlink()
    run_recipe(matching(name, 4), runs)
    assert same(resumed, weights(runs, name))


@pytest.mark.slow
def test_a_decoder_finished_meanwhile_is_no_longer_the_codec_that_a_history_was_decoded_with(
    runs: Path, tmp_path: Path
) -> None:
    """Latents are the same, so only a student with a history of its own is refused."""
    for name in ("theatre_codec", "theatre_teacher", "theatre_causal_init", "theatre_intra_shot"):
        shutil.copytree(runs / name, tmp_path / name)
    run_recipe(matching("theatre_inter_shot", 2), tmp_path)
    other = decoder(1, "inputs.codec=other_codec")
    shutil.copytree(tmp_path / "theatre_codec", tmp_path / "other_codec")
    run_recipe(other, tmp_path)
    assert codec_run(tmp_path, "theatre_codec") == "theatre_codec", "that decoder is of another codec"
    shutil.rmtree(tmp_path / "theatre_decoder")
    run_recipe(decoder(1), tmp_path)
    assert codec_run(tmp_path, "theatre_codec") == "theatre_decoder"
    with pytest.raises(ValueError, match=r"began with the codec of .*theatre_codec.* would read .*_decoder"):
        run_recipe(matching("theatre_inter_shot", 3), tmp_path)
    assert run_recipe(teacher(4), tmp_path) == 4
    shutil.rmtree(tmp_path / "theatre_decoder")
    shutil.rmtree(tmp_path / "theatre_teacher")
    shutil.copytree(runs / "theatre_teacher", tmp_path / "theatre_teacher")
    assert run_recipe(matching("theatre_inter_shot", 3), tmp_path) == 3


def test_context_and_captions_reach_the_student_and_both_scores(runs: Path) -> None:
    stage = built("theatre_inter_shot", runs, "data.shot_weights=[0.0, 1.0]")
    for dit in (stage.student.dit, stage.fake, stage.teacher.dit):
        torch.nn.init.normal_(dit.head.head.weight, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        batch = stage.source.batch(0, ALL)
        text = stage.student.embed(batch.captions)
        blind = batch._replace(
            conditioning=drop_context(batch.conditioning, torch.ones(len(text), dtype=torch.bool))
        )
        x0 = stage.rollout(batch, text, (0, 0))
        assert not torch.allclose(x0, stage.rollout(blind, text, (0, 0)), atol=1e-4)
        assert not torch.allclose(x0, stage.rollout(batch, torch.zeros_like(text), (0, 0)), atol=1e-4)
        for dit in (stage.fake, stage.teacher.dit):
            sigma = torch.full((len(text), x0.shape[2]), 0.5)
            seen = stage.velocity(dit, batch, text, x0, sigma)
            assert not torch.allclose(seen, stage.velocity(dit, blind, text, x0, sigma), atol=1e-4)
            assert not torch.allclose(
                seen, stage.velocity(dit, batch, torch.zeros_like(text), x0, sigma), atol=1e-4
            )


@pytest.mark.slow
def test_the_student_moves_towards_a_teacher_that_knows_one_answer(runs: Path) -> None:
    """The teacher's data are all one constant; the student's samples must come to it on average."""
    config = matching(
        "theatre_intra_shot",
        60,
        "optim.learning_rate=0.01",
        "stage.fake_learning_rate=0.01",
        "stage.guidance=1.0",
    )
    stage = build_stage(config, runs)
    assert isinstance(stage, DmdStage)
    wanted = 0.5

    def real(noisy: Tensor, sigma: Tensor) -> Tensor:
        return (noisy - wanted) / sigma[:, None, :, None, None]

    networks = stage.velocity
    stage.velocity = lambda dit, batch, text, noisy, sigma: (  # pyright: ignore[reportAttributeAccessIssue]
        real(noisy, sigma) if dit is stage.teacher.dit else networks(dit, batch, text, noisy, sigma)
    )
    distances: list[float] = []
    for step in range(60):
        stage.step(step)
        with torch.no_grad():
            batch = stage.source.batch(0, ALL)
            x0 = stage.rollout(batch, stage.student.embed(batch.captions), (0, 0))
        distances.append(abs(x0.mean().item() - wanted))
    assert np.mean(distances[-5:]) < 0.4 * np.mean(distances[:5])


def test_the_teacher_alone_is_guided_by_context(runs: Path) -> None:
    """The gradient follows the written formula, with the fake score as it is."""
    more = ("data.shot_weights=[0.0, 1.0]", "stage.context_guidance=3.0")
    stage = built("theatre_intra_shot", runs, *more)
    for dit in (stage.student.dit, stage.fake, stage.teacher.dit):
        torch.nn.init.normal_(dit.head.head.weight, std=0.2, generator=torch.Generator().manual_seed(0))
    batch = stage.source.batch(0, ALL)
    text = stage.student.embed(batch.captions).detach()
    uncond = stage.teacher.embed([[""] * len(rows) for rows in batch.captions])
    blind = batch._replace(
        conditioning=drop_context(batch.conditioning, torch.ones(len(text), dtype=torch.bool))
    )
    asked: list[tuple[Tensor, Tensor]] = []
    networks = stage.velocity

    def velocity(dit: DiT, batch: RolloutBatch, told: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        asked.append((noisy, sigma))
        return networks(dit, batch, told, noisy, sigma)

    stage.velocity = velocity  # pyright: ignore[reportAttributeAccessIssue]
    with torch.no_grad():
        x0 = stage.rollout(batch, text, (0, 0))
        found = stage.gradient(batch, text, uncond, x0, (0, 0))
        noisy, sigma = asked[0]
        seen, unread, unseen = (
            networks(stage.teacher.dit, one, told, noisy, sigma)
            for one, told in ((batch, text), (batch, uncond), (blind, text))
        )
        fake = networks(stage.fake, batch, text, noisy, sigma)
    assert len(asked) == 4
    real = seen + 0.5 * (seen - unread) + 2.0 * (seen - unseen)
    level = sigma[:, None, :, None, None]
    distance = (x0 - (noisy - level * real)).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    wanted = level * (real - fake) / distance
    for other in (unread, unseen):
        assert not torch.allclose(seen, other, atol=1e-3)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_places_in_a_story_are_drawn_by_the_recipe_and_the_first_is_among_them() -> None:
    made = matching("theatre_inter_shot", 4)
    source = StoryCaptions(made.data, made.model.dit, seed=made.train.seed)
    counts = np.bincount([len(source.batch(step, ALL).num_chunks) - 1 for step in range(600)], minlength=7)
    expected = 600 * np.array(made.data.shot_weights) / sum(made.data.shot_weights)
    assert counts[0] > 0
    assert (np.abs(counts - expected) <= 4 * np.sqrt(expected)).all()


@pytest.mark.slow
def test_history_is_what_a_session_would_look_back_at(runs: Path) -> None:
    """Filmed with all its steps, decoded and encoded: the conditioning equals that of streaming."""
    third = "data.shot_weights=[0.0, 0.0, 1.0]"
    stage = built("theatre_inter_shot", runs, third)
    made = matching("theatre_inter_shot", 4, third)
    patch_codec = input_codec(runs)
    model = trained_model(runs, "theatre_intra_shot")
    torch.nn.init.normal_(model.dit.head.head.weight, std=0.2, generator=torch.Generator().manual_seed(0))
    pipeline = theatre_pipeline(patch_codec, model, made.model, made.stage.student_steps)
    seed = made.train.seed
    story = sample_story(numpy_rng(seed, "story", 0, 0), 3)
    drawn = StoryCaptions(made.data, made.model.dit, seed=seed).batch(0, range(1))
    session = pipeline.session(story.global_caption, seed=5)
    memories: list[list[ShotMemory]] = [[]]
    size = pipeline.latent_size
    for index, num_chunks in enumerate(drawn.num_chunks[:-1]):
        list(session.shot(story.captions[index], num_chunks=num_chunks))
        conditioning, captions = condition_batch(memories, drawn.captions, made.model, size)
        with torch.no_grad():
            rollout = dmd_module.student_rollout(
                model.dit,
                conditioning,
                model.embed(captions),
                pipeline.sigmas(len(made.stage.student_steps)),
                seeds=[shot_seed(5, index)],
            )
            latents = torch.cat(list(rollout.chunks(num_chunks)), dim=2)
            budget = model.dit.config.num_context_frames
            memories[0] += look_back_at(patch_codec, latents, [drawn.captions[0][index]], index, budget)
    for ours, take in zip(memories[0], session.shots, strict=True):
        assert (ours.num_frames, ours.candidate_frames) == (take.num_frames, take.candidate_frames)
        assert torch.equal(ours.latents, take.latents)
    assert len(stage.source.batch(0, ALL).captions[0]) == 3


def test_merged_adapters_compute_what_attached_ones_did(runs: Path) -> None:
    dit = trained_model(runs, "theatre_intra_shot").dit
    plain = copy.deepcopy(dit)
    names = set(dit.state_dict())
    stage = built("theatre_intra_shot", runs)
    attach_adapters(dit, rank=2, alpha=4, seed=0)
    learning = [name for name, value in dit.named_parameters() if value.requires_grad]
    assert len(learning) == 2 * 10 * dit.config.num_layers
    batch = stage.source.batch(0, ALL)
    text = stage.student.embed(batch.captions).detach()
    x = torch.randn(2, dit.config.latent_channels, 3, *batch.conditioning.context.shape[-2:])
    sigma = torch.full((2, 3), 0.4)
    with torch.no_grad():
        torch.nn.init.normal_(dit.head.head.weight, generator=torch.Generator().manual_seed(0))
        plain.head.head.weight.copy_(dit.head.head.weight)
        untouched = stage.velocity(dit, batch, text, x, sigma)
        torch.testing.assert_close(untouched, stage.velocity(plain, batch, text, x, sigma))
        for name, value in dit.named_parameters():
            if "lora_B" in name:
                value.normal_(generator=torch.Generator().manual_seed(1))
        attached = stage.velocity(dit, batch, text, x, sigma)
        assert not torch.allclose(attached, untouched, atol=1e-2)
        merged = stage.velocity(merge_adapters(dit), batch, text, x, sigma)
    torch.testing.assert_close(merged, attached, rtol=1e-4, atol=1e-4)
    assert set(dit.state_dict()) == names


@pytest.mark.slow
def test_a_run_with_adapters_becomes_a_plain_model(runs: Path) -> None:
    run_recipe(matching("theatre_inter_shot", 2), runs)
    merged, before = (trained_model(runs, name) for name in ("theatre_inter_shot", "theatre_intra_shot"))
    assert merged.state_dict().keys() == before.state_dict().keys()
    assert any(
        not torch.equal(value, before.state_dict()[name]) for name, value in merged.state_dict().items()
    )


def test_a_recipe_that_would_never_train_its_student_is_refused() -> None:
    with pytest.raises(ValueError, match="never learn"):
        recipe("theatre_intra_shot", ["stage.fake_warmup_steps=500"])
