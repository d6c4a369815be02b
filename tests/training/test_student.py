"""ODE pairs and the causal initialisation: what is trained is what streaming computes."""

from pathlib import Path

import pytest
import torch

from shotstream.data.ode_pairs import OdePairs
from shotstream.model.causal_mask import CausalMask
from shotstream.streaming.conditioning import full_pass
from shotstream.training.keys import sample_noise
from shotstream.training.recipes import Recipe, recipe
from shotstream.training.run import build_stage, run_recipe
from shotstream.training.stages.causal_init import CausalInitStage
from shotstream.training.stages.ode_pairs import CausalVelocity, OdePairsStage
from shotstream.training.stages.teacher import token_grid
from tests.training.test_run import TEACHER, codec, same, teacher, weights


def nested(prefix: str, *more: str) -> list[str]:
    return [override.replace("stage.", f"stage.{prefix}", 1) for override in TEACHER] + list(more)


def pairs(num_steps: int) -> Recipe:
    overrides = nested("teacher.", f"loop.num_steps={num_steps}", "stage.substeps=2")
    return recipe("theatre_ode_pairs", overrides)


def student(num_steps: int) -> Recipe:
    more = [
        f"loop.num_steps={num_steps}",
        "stage.num_steps=10",
        "stage.pairs.substeps=2",
        "loop.preview_every=1000",
    ]
    return recipe("theatre_causal_init", nested("pairs.teacher.", *more))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    run_recipe(codec(1), tmp_path)
    run_recipe(teacher(1), tmp_path)
    run_recipe(pairs(3), tmp_path)
    return tmp_path


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
    assert made.states.shape[1] == len(stage.config.student_steps) + 1
    noise = sample_noise(made.states.shape[2:], stage.config.seed, "pairs/noise", (0,), range(2))
    assert torch.equal(made.states[:, 0], noise)


def test_resumed_pairs_are_the_same_files(runs: Path) -> None:
    directory = runs / "theatre_ode_pairs"
    before = {path.name: path.read_bytes() for path in directory.glob("pairs_*")}
    for path in [*directory.glob("pairs_*2.safetensors"), *directory.glob("step_*")]:
        path.unlink()
    run_recipe(pairs(3), runs)
    assert {path.name: path.read_bytes() for path in directory.glob("pairs_*")} == before


def test_a_resumed_student_run_equals_an_uninterrupted_one(runs: Path) -> None:
    run_recipe(student(2), runs)
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
    read = OdePairs.read(stage.files[0])
    chosen = torch.zeros(read.states.shape[0], dtype=torch.long)
    loss = stage.loss(read, chosen)
    read.conditioning.context.add_(1)
    assert stage.loss(read, chosen) != loss
    read.conditioning.context.sub_(1)
    read.captions[0][-1] = "A wide view of nothing."
    assert stage.loss(read, chosen) != loss


def test_a_student_without_pairs_is_refused(tmp_path: Path) -> None:
    run_recipe(codec(1), tmp_path)
    run_recipe(teacher(1), tmp_path)
    with pytest.raises(ValueError, match="no ODE pairs"):
        build_stage(student(1), tmp_path)


def test_a_teacher_that_was_trained_otherwise_is_refused(runs: Path) -> None:
    """The phase has no weights: another one loads without complaint and makes pairs of another network."""
    phase = nested("teacher.", "stage.teacher.dit.phase_angle=0.5", "stage.teacher.shift=4.5")
    with pytest.raises(ValueError, match=r"another value of dit\.phase_angle, shift"):
        build_stage(recipe("theatre_ode_pairs", phase), runs)
    layers = nested("pairs.teacher.", "stage.pairs.teacher.dit.num_layers=2")
    with pytest.raises(ValueError, match=r"another value of dit\.num_layers"):
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
