"""ODE pairs and the causal initialisation: what is trained is what streaming computes."""

import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream.data.ode_pairs import OdePairs
from shotstream.data.rng import sample_noise
from shotstream.model.causal_mask import CausalMask
from shotstream.streaming.conditioning import drop_context, full_pass
from shotstream.training.causal_masks import token_grid
from shotstream.training.recipe import AnyRecipe
from shotstream.training.recipes import recipe
from shotstream.training.run import run_recipe
from shotstream.training.stage_builders import build_stage
from shotstream.training.stages.causal_init import CausalInitStage
from shotstream.training.stages.ode_pairs import CausalVelocity, OdePairsStage
from shotstream.training.velocity import shot_velocity
from tests.training.test_run import MODEL, TEACHER, codec, same, teacher, weights


def pairs(num_steps: int, *more: str) -> AnyRecipe:
    overrides = [*TEACHER, f"train.num_steps={num_steps}", "stage.substeps=2", *more]
    return recipe("theatre_ode_pairs", overrides)


def student(num_steps: int, *more: str) -> AnyRecipe:
    common = [
        f"train.num_steps={num_steps}",
        "train.matmul_dtype=float32",  # the recipe takes what the processor is fast at
        "train.preview_every=1000",
    ]
    return recipe("theatre_causal_init", [*MODEL, *common, *more])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made")
    for one in (codec(1), teacher(1), pairs(3)):
        run_recipe(one, directory)
    return directory


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "runs")


@pytest.mark.slow
def test_pairs_of_another_model_or_of_other_steps_are_refused(runs: Path) -> None:
    """Whatever else they were made with: how many there are, how long, guided how."""
    path = runs / "theatre_ode_pairs" / "config.json"
    saved = path.read_text()
    for old, new, message in (
        ('"num_steps": 3', '"num_steps": 20000', None),
        ('"guidance": 1.0', '"guidance": 3.0', None),
        (
            '"shift": 3.0',
            '"shift": 4.0',
            r"was trained with model\.shift=4\.0, and this recipe has model\.shift=3\.0",
        ),
        ("740", "750", "student steps"),
    ):
        assert old in saved
        path.write_text(saved.replace(old, new))
        if message is None:
            build_stage(student(1), runs)
        else:
            with pytest.raises(ValueError, match=message):
                build_stage(student(1), runs)


def test_a_run_goes_on_with_the_pairs_that_it_began_with_or_with_more_of_them(runs: Path) -> None:
    """Its recipe does not say how they were made: made again otherwise, two kinds would mix."""
    run_recipe(student(3, "train.stop_at=1"), runs)
    path = runs / "theatre_ode_pairs" / "config.json"
    saved = path.read_text()
    path.write_text(saved.replace('"num_steps": 3', '"num_steps": 30'))
    run_recipe(student(3, "train.stop_at=2"), runs)
    path.write_text(saved.replace('"flow": "causal"', '"flow": "bidirectional"'))
    with pytest.raises(
        ValueError,
        match=r'theatre_ode_pairs of stage\.flow="causal", and that has stage\.flow="bidirectional" now',
    ):
        run_recipe(student(3), runs)


@pytest.mark.slow
def test_the_teacher_that_makes_pairs_computes_what_the_masked_student_learns(runs: Path) -> None:
    """The pairs come through a cache, the regression runs masked: they must be one function."""
    stage = build_stage(pairs(1), runs)
    assert isinstance(stage, OdePairsStage)
    drawn = next(made for made in map(stage.make, range(20)) if made.history.shape[2])
    dit, noisy = stage.model.dit, drawn.states[:, 1]
    with torch.no_grad():
        torch.nn.init.normal_(dit.head.head.weight, generator=torch.Generator().manual_seed(0))
        text = stage.model.embed(drawn.captions)
        sigma = torch.full((noisy.shape[0], noisy.shape[2]), 0.7)
        cached = CausalVelocity(dit, drawn.conditioning, text, drawn.history)(noisy, sigma)
        shot = torch.cat([drawn.history, noisy], dim=2)
        levels = torch.cat([torch.zeros(noisy.shape[0], drawn.history.shape[2]), sigma], dim=1)
        inputs = full_pass(drawn.conditioning, shot, levels, dit.config)
        mask = CausalMask.for_shot(dit.config, token_grid(shot, dit.config), shot.shape[2])
        masked = dit(inputs.x, inputs.sigma, text, inputs.positions, mask=mask)[:, :, -noisy.shape[2] :]
    assert masked.std() > 0.1
    torch.testing.assert_close(cached, masked, rtol=1e-4, atol=1e-4)


def test_pairs_survive_the_disk(runs: Path, tmp_path: Path) -> None:
    stage = build_stage(pairs(1), runs)
    assert isinstance(stage, OdePairsStage)
    made = stage.make(0)
    made.write(tmp_path / "pairs.safetensors")
    read = OdePairs.read(tmp_path / "pairs.safetensors")
    assert read.captions == made.captions
    torch.testing.assert_close(read.states, made.states, rtol=1e-3, atol=1e-3)  # half precision
    assert torch.equal(read.conditioning.target_phase, made.conditioning.target_phase)
    assert torch.equal(read.conditioning.positions.caption_index, made.conditioning.positions.caption_index)


def test_a_trajectory_keeps_the_students_levels_from_noise_to_data(runs: Path) -> None:
    stage = build_stage(pairs(1), runs)
    assert isinstance(stage, OdePairsStage)
    made = stage.make(0)
    assert made.states.shape[1] == len(stage.recipe.stage.student_steps) + 1
    noise = sample_noise(made.states.shape[2:], stage.recipe.train.seed, "pairs/noise", (0,), range(2))
    assert torch.equal(made.states[:, 0], noise)


@pytest.mark.slow
def test_resumed_pairs_are_the_same_files(runs: Path) -> None:
    directory = runs / "theatre_ode_pairs"
    before = {path.name: path.read_bytes() for path in directory.glob("pairs_*")}
    for path in [*directory.glob("pairs_*2.safetensors"), *directory.glob("step_*")]:
        path.unlink()
    run_recipe(pairs(3), runs)
    assert {path.name: path.read_bytes() for path in directory.glob("pairs_*")} == before


@pytest.mark.slow
def test_a_resumed_student_run_equals_an_uninterrupted_one(runs: Path) -> None:
    run_recipe(student(5, "train.stop_at=2"), runs)
    run_recipe(student(5), runs)
    resumed = weights(runs, "theatre_causal_init")
    for path in (runs / "theatre_causal_init").iterdir():
        path.unlink()
    run_recipe(student(5), runs)
    assert same(resumed, weights(runs, "theatre_causal_init"))


def test_the_students_text_encoder_is_frozen_and_its_transformer_learns(runs: Path) -> None:
    stage = build_stage(student(1), runs)
    assert isinstance(stage, CausalInitStage)
    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    stage.step(0)
    changed = {
        name for name, value in stage.model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed
    assert all(name.startswith("dit.") for name in changed)


def test_context_and_captions_reach_the_loss(runs: Path) -> None:
    """Taking either away changes what the student computes."""
    stage = build_stage(student(1), runs)
    assert isinstance(stage, CausalInitStage)
    with torch.no_grad():
        for parameter in stage.model.dit.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    read = OdePairs.read(stage.source.files[0])
    chosen = torch.zeros(read.states.shape[0], 1, dtype=torch.long)
    loss = stage.loss(read, chosen)
    read.conditioning.context.add_(1)
    assert stage.loss(read, chosen) != loss
    read.conditioning.context.sub_(1)
    read.captions[0][-1] = "A wide view of nothing."
    assert stage.loss(read, chosen) != loss


WHOLE = ("stage.flow=bidirectional", "data.num_latent_frames=[6]")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trajectories of whole shots, as the published initialisation has them."""
    runs = tmp_path_factory.mktemp("published")
    for one in (codec(1), teacher(1), pairs(3, *WHOLE)):
        run_recipe(one, runs)
    return runs


def speaking(stage: CausalInitStage) -> OdePairs:
    """Pairs of a stage whose network says something."""
    torch.nn.init.normal_(stage.model.dit.head.head.weight, generator=torch.Generator().manual_seed(0))
    return OdePairs.read(stage.source.files[0])


@pytest.mark.slow
def test_trajectories_of_whole_shots_are_the_bidirectional_teacher_s(published: Path) -> None:
    """All chunks at once and without a mask, where the causal teacher's are of one chunk after a history."""
    shots = "data.shot_weights=[0.0, 1.0]"
    guidance = ("stage.guidance=1.5", "stage.context_guidance=3.0")
    for flow in ("causal", "bidirectional"):
        stage = build_stage(pairs(1, f"stage.flow={flow}", WHOLE[1], shots, *guidance), published)
        assert isinstance(stage, OdePairsStage)
        dit = stage.model.dit
        torch.nn.init.normal_(dit.head.head.weight, generator=torch.Generator().manual_seed(0))
        made = stage.make(0)
        size = made.states.shape[3]
        assert size == 3 if flow == "causal" else made.history.shape[2] == 0 and size % 3 == 0
        blind = drop_context(made.conditioning, torch.ones(len(made.captions), dtype=torch.bool))
        assert not torch.equal(blind.context, made.conditioning.context)
        with torch.no_grad():
            text, uncond = (
                stage.model.embed(rows)
                for rows in (made.captions, [[""] * len(rows) for rows in made.captions])
            )
            asked = [(made.conditioning, text), (made.conditioning, uncond), (blind, text)]
            said = [
                CausalVelocity(dit, seen, told, made.history)
                if flow == "causal"
                else partial(shot_velocity, dit, seen, told)
                for seen, told in asked
            ]
            levels = stage._levels()  # pyright: ignore[reportPrivateUsage]
            state = made.states[:, 0]
            for here, there in pairwise(levels[:3]):  # two substeps to the second level
                sigma = here.expand(len(state), state.shape[2])
                v, untold, unseen = (velocity(state, sigma) for velocity in said)
                for other in (untold, unseen):
                    assert not torch.allclose(v, other, atol=1e-3)
                guided = v + 0.5 * (v - untold) + 2.0 * (v - unseen)
                state = state + guided * (there - here)
        torch.testing.assert_close(state, made.states[:, 1], rtol=1e-4, atol=1e-4)


def test_each_chunk_of_a_whole_shot_has_a_level_of_its_own_and_sees_no_later_one(published: Path) -> None:
    stage = build_stage(student(1), published)
    assert isinstance(stage, CausalInitStage)
    levels = len(stage.sigmas) - 1
    two = torch.cat([stage._draw(step)[1] for step in range(60)])  # pyright: ignore[reportPrivateUsage]
    assert {int(level) for level in two[:, 0]} == set(range(levels + 1)), "a history may be clean"
    assert {int(level) for level in two[:, 1]} == set(range(levels)), "something is always to be learnt"
    assert (two[:, 0] != two[:, 1]).any()
    read = speaking(stage)
    asked: list[Tensor] = []
    stage.model.dit.register_forward_hook(lambda _, given, out: asked.extend((given[1], out)))
    for level in (0, 2):
        stage.loss(read, torch.tensor([[1, level]] * len(read.states)))
    context = stage.model.dit.config.num_context_frames
    told, first, _, other = asked
    assert (told[:, :context] == 0).all()
    assert torch.equal(told[0, context:], stage.sigmas[[1, 1, 1, 0, 0, 0]])
    torch.testing.assert_close(first[:, :, context : context + 3], other[:, :, context : context + 3])
    assert not torch.allclose(first[:, :, context + 3 :], other[:, :, context + 3 :])


def test_parts_of_a_batch_with_clean_chunks_average_to_the_whole(published: Path) -> None:
    """A mean over each part's own noised frames once weighed samples by their neighbours."""
    stage = build_stage(student(1), published)
    assert isinstance(stage, CausalInitStage)
    read, clean = speaking(stage), len(stage.sigmas) - 1
    chosen = torch.tensor([[clean, 0], [1, 2]])
    whole = stage.loss(read, chosen)
    parts = [stage.loss(read.part(range(one, one + 1)), chosen[[one]], num_noised=1.5) for one in range(2)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)
    alone = stage.loss(read.part(range(1)), chosen[[0]])
    assert not torch.isclose(alone, parts[0])


@pytest.mark.slow
def test_a_resumed_run_on_whole_shots_equals_an_uninterrupted_one(published: Path) -> None:
    directory = published / "theatre_causal_init"
    for more in (["train.stop_at=2"], []):
        run_recipe(student(5, *more), published)
    resumed = weights(published, "theatre_causal_init")
    for path in directory.iterdir():
        path.unlink()
    run_recipe(student(5), published)
    assert same(resumed, weights(published, "theatre_causal_init"))


def test_bfloat16_changes_little_and_loses_no_gradient(runs: Path) -> None:
    stages = {
        name: build_stage(student(1, f"train.matmul_dtype={name}"), runs) for name in ("float32", "bfloat16")
    }
    gradients: dict[str, dict[str, Tensor]] = {}
    for name, stage in stages.items():
        assert isinstance(stage, CausalInitStage)
        read = speaking(stage)
        stage.loss(read, torch.zeros(len(read.states), 1, dtype=torch.long)).backward()
        named = stage.model.dit.named_parameters()
        gradients[name] = {key: value.grad for key, value in named if value.grad is not None}
    exact, rounded = gradients["float32"], gradients["bfloat16"]
    assert exact.keys() == rounded.keys()
    for key in ("blocks.0.ffn.0.weight", "head.head.weight"):
        assert not torch.equal(exact[key], rounded[key])
        assert (exact[key] - rounded[key]).norm() < 0.05 * exact[key].norm()


@pytest.mark.slow
def test_a_preview_is_films_their_scores_and_the_loss_at_every_level(runs: Path, tmp_path: Path) -> None:
    """It was once the losses alone, in which a collapse cannot be seen."""
    stage = build_stage(student(1), runs)
    assert isinstance(stage, CausalInitStage)
    scores = stage.preview(7, tmp_path)
    assert {"loss_0", "loss_3", "characters", "cut"} <= scores.keys()
    assert (tmp_path / "preview_0000007.png").stat().st_size > 0


def test_a_student_without_pairs_is_refused(tmp_path: Path) -> None:
    run_recipe(codec(1), tmp_path)
    run_recipe(teacher(1), tmp_path)
    with pytest.raises(ValueError, match="no ODE pairs"):
        build_stage(student(1), tmp_path)


def test_a_teacher_that_was_trained_otherwise_is_refused(runs: Path) -> None:
    """The phase has no weights: another one loads without complaint and makes pairs of another network."""
    phase = [*TEACHER, "model.dit.phase_angle=0.5", "model.shift=4.5"]
    with pytest.raises(
        ValueError,
        match=r"with model\.dit\.phase_angle=0\.1\d+, model\.shift=3\.0, and this .* model\.shift=4\.5",
    ):
        build_stage(recipe("theatre_ode_pairs", phase), runs)
    layers = [*MODEL, "model.dit.num_layers=2"]
    with pytest.raises(
        ValueError, match=r"model\.dit\.num_layers=1, and this recipe has model\.dit\.num_layers=2; set"
    ):
        build_stage(recipe("theatre_causal_init", layers), runs)


def test_pairs_that_are_cut_off_while_written_are_not_there(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were once renamed before the disk had them."""
    stage = build_stage(pairs(1), runs)
    assert isinstance(stage, OdePairsStage)
    made = stage.make(0)

    def fail(_: int) -> None:
        raise OSError("the power is gone")

    monkeypatch.setattr("shotstream.files.os.fsync", fail)
    with pytest.raises(OSError, match="the power is gone"):
        made.write(tmp_path / "pairs.safetensors")
    assert not list(tmp_path.glob("pairs.*"))
