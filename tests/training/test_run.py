"""Runs: resumed equals uninterrupted, damage and changed settings are refused, bad steps are not applied."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shotstream.configs import config_to_document
from shotstream.data.rendered_clips import ClipsConfig, RenderedClips
from shotstream.data.story_latents import encode_story
from shotstream.data.story_pool import StoryPool, draw_shots
from shotstream.files import replacing, write_atomically
from shotstream.theatre.world import TheatreStory, sample_story
from shotstream.training.checkpoint import checkpoints, load_checkpoint, save_atomically, write_portable
from shotstream.training.inputs import input_codec, trained_model
from shotstream.training.previews import held_out_losses
from shotstream.training.recipe import AnyRecipe
from shotstream.training.recipes import recipe
from shotstream.training.run import run_recipe
from shotstream.training.stage_builders import build_stage
from shotstream.training.stages.teacher import TeacherStage
from shotstream.vae.patch_codec import PatchCodec

CODEC = [
    "train.tensorboard=false",
    "data.batch_size=1",
    "stage.pixels_per_cell=4",
    "model.dim=16",
    "model.num_decoder_layers=1",
]
MODEL = [
    "train.tensorboard=false",
    "model.dit.dim=24",
    "model.dit.ffn_dim=24",
    "model.dit.num_heads=2",
    "model.dit.num_layers=1",
    "model.dit.freq_dim=8",
    "model.dit.text_dim=8",
    "model.text.dim=8",
]
STORIES = [
    "data.block_stories=2",
    "data.num_blocks=1",
    "data.num_shots=[3]",
    "data.num_latent_frames=[3, 6]",
    "data.steps_per_block=2",
    "data.batch_size=2",
]
TEACHER = [*MODEL, *STORIES]


def codec(num_steps: int, *more: str) -> AnyRecipe:
    return recipe(
        "theatre_codec", [*CODEC, f"train.num_steps={num_steps}", "train.preview_every=1000", *more]
    )


def teacher(num_steps: int, *more: str) -> AnyRecipe:
    loop = [f"train.num_steps={num_steps}", "train.preview_every=1000"]
    return recipe("theatre_teacher", [*TEACHER, *loop, *more])


def weights(runs: Path, name: str) -> dict[str, Tensor]:
    """What a run has learnt: its weights, their average and how far that is, and the fake score."""
    _, state = load_checkpoint(checkpoints(runs / name)[-1])
    return {
        f"{part}.{name}": torch.as_tensor(value)
        for part in ("weights", "ema", "fake")
        for name, value in state.get(part, {}).items()
    }


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.slow
def test_a_resumed_codec_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    run_recipe(codec(4, "train.stop_at=2"), tmp_path / "parts")
    half = weights(tmp_path / "parts", "theatre_codec")
    run_recipe(codec(4), tmp_path / "parts")
    run_recipe(codec(4), tmp_path / "whole")
    assert same(weights(tmp_path / "parts", "theatre_codec"), weights(tmp_path / "whole", "theatre_codec"))
    assert not same(half, weights(tmp_path / "whole", "theatre_codec"))


@pytest.mark.slow
def test_a_resumed_teacher_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    for part in ("parts", "whole"):
        run_recipe(codec(1), tmp_path / part)
    run_recipe(teacher(5, "train.stop_at=2"), tmp_path / "parts")
    half = weights(tmp_path / "parts", "theatre_teacher")
    run_recipe(teacher(5), tmp_path / "parts")
    run_recipe(teacher(5), tmp_path / "whole")
    assert same(
        weights(tmp_path / "parts", "theatre_teacher"), weights(tmp_path / "whole", "theatre_teacher")
    )
    assert not same(half, weights(tmp_path / "whole", "theatre_teacher"))


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run_recipe(codec(4, "train.save_every=1"), tmp_path)
    assert [path.name for path in checkpoints(tmp_path / "theatre_codec")] == [
        "step_0000003.pt",
        "step_0000004.pt",
    ]


def test_a_portable_checkpoint_starts_a_run_elsewhere(tmp_path: Path) -> None:
    run_recipe(codec(2), tmp_path / "here")
    write_portable(checkpoints(tmp_path / "here" / "theatre_codec")[-1], tmp_path / "portable.pt")
    assert run_recipe(codec(3), tmp_path / "there", start_from=tmp_path / "portable.pt") == 3


@pytest.mark.slow
def test_a_teachers_preview_is_drawn_and_judged(tmp_path: Path) -> None:
    run_recipe(codec(1), tmp_path)
    run_recipe(recipe("theatre_teacher", [*TEACHER, "train.num_steps=1", "train.preview_every=1"]), tmp_path)
    directory = tmp_path / "theatre_teacher"
    assert (directory / "preview_0000001.png").stat().st_size > 0
    told = (directory / "log.jsonl").read_text()
    assert "held_out_causal" in told and '"characters"' in told, "the oracle judges it"


def test_held_out_losses_of_runs_with_other_loss_weights_can_be_compared() -> None:
    """They were weighted as the run's own loss, so that another weight looked like another model."""
    torch.manual_seed(0)
    made = teacher(1, "data.num_latent_frames=[6]", "data.reference_share=0")
    codec = PatchCodec(replace(recipe("theatre_codec", CODEC).model, num_finish_layers=0)).eval()
    rng = np.random.default_rng(1)
    stories = [encode_story(codec, sample_story(rng, 3, held_out=True), [21] * 3, 6) for _ in range(2)]
    losses: list[dict[str, float]] = []
    own: list[float] = []
    for changes in ({}, {"figure_share": 0.9, "max_figure_weight": 3.0, "clean_history": 0.1}):
        changed = replace(made, stage=replace(made.stage, **changes))
        pool = StoryPool(made.data, codec, made.model.dit, made.model.context_policy, seed=0)
        stage = TeacherStage(changed, pool)
        losses.append(dict(held_out_losses(stage, stage.model, stories)))
        batches = {
            step: draw_shots(stories, pool, step, range(stage.batch_size)) for step in range(10**9, 10**9 + 4)
        }
        with torch.no_grad():
            found = [stage.loss(stage.model, batch, step, causal=True) for step, batch in batches.items()]
        own.append(sum(loss.item() / 4 for loss in found))
    assert losses[0] == losses[1]
    assert losses[0]["held_out_causal"] == own[0] != own[1]


def test_other_settings_do_not_resume_a_run(tmp_path: Path) -> None:
    run_recipe(codec(1), tmp_path)
    changed = recipe("theatre_codec", [*CODEC, "train.num_steps=2", "train.seed=5"])
    with pytest.raises(ValueError, match=r"holds a run with train\.seed=0, and train\.seed=5 is given"):
        run_recipe(changed, tmp_path)


def test_a_run_goes_on_with_the_runs_that_it_began_with(tmp_path: Path) -> None:
    """Trained on meanwhile, a teacher or a codec was taken as it was then, and nothing said so."""
    run_recipe(codec(1), tmp_path)
    run_recipe(teacher(5, "train.stop_at=1"), tmp_path)
    run_recipe(teacher(5, "train.stop_at=2"), tmp_path)
    shutil.copytree(tmp_path, tmp_path / "copy")
    run_recipe(codec(2), tmp_path)
    began, now = "theatre_codec/step_0000001.pt", "step_0000002.pt"
    with pytest.raises(
        ValueError, match=f"began with .*{began}, and that run is at {now} now; bring that back"
    ):
        run_recipe(teacher(5), tmp_path)
    (tmp_path / "theatre_teacher" / "inputs.json").unlink()  # as earlier versions left a run
    assert run_recipe(teacher(5, "train.stop_at=3"), tmp_path) == 3
    path = tmp_path / "copy" / "theatre_codec" / "config.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 4'))
    with pytest.raises(ValueError, match=r"of train\.seed=0, and that has train\.seed=4 now"):
        run_recipe(teacher(5), tmp_path / "copy")
    (tmp_path / "copy" / "theatre_teacher" / "inputs.json").write_text("{")
    with pytest.raises(ValueError, match=r"inputs\.json is damaged"):
        run_recipe(teacher(5), tmp_path / "copy")


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    run_recipe(codec(1), tmp_path)
    path = checkpoints(tmp_path / "theatre_codec")[-1]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        run_recipe(codec(2), tmp_path)


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shotstream train theatre_codec"):
        run_recipe(teacher(1), tmp_path)


def test_a_step_with_a_loss_that_is_no_number_is_not_applied(tmp_path: Path) -> None:
    run_recipe(codec(1), tmp_path)
    stage = build_stage(teacher(1), tmp_path)
    assert isinstance(stage, TeacherStage)
    with torch.no_grad():
        stage.model.dit.head.head.bias.fill_(float("nan"))
    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    with pytest.raises(FloatingPointError, match="step 0"):
        stage.step(0)
    after = stage.model.state_dict()
    assert all(torch.equal(before[name].nan_to_num(7), after[name].nan_to_num(7)) for name in before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_teacher_steps_and_previews_on_a_gpu(tmp_path: Path) -> None:
    """The conditioning once stayed on the CPU, where the codec's latents are."""
    run_recipe(codec(1), tmp_path)
    run_recipe(
        recipe("theatre_teacher", [*TEACHER, "train.num_steps=1", "train.preview_every=1"]),
        tmp_path,
        device="cuda",
    )
    assert "held_out_causal" in (tmp_path / "theatre_teacher" / "log.jsonl").read_text()


def test_the_codec_never_learns_from_what_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of its clips once starred held-out pairs, so that its scores on them said nothing."""
    asked: list[bool] = []

    def watched(rng: np.random.Generator, num_shots: int, *, held_out: bool = False) -> TheatreStory:
        asked.append(held_out)
        return sample_story(rng, num_shots, held_out=held_out)

    monkeypatch.setattr("shotstream.data.rendered_clips.sample_story", watched)
    source = RenderedClips(ClipsConfig(), seed=0)
    for step in range(4):
        source.batch(step, range(16))
    assert not any(asked)
    assert len(asked) == 4 * 16


@pytest.mark.parametrize("content", [b"Once upon a time", b"", b"PK\x03\x04"])
def test_a_file_that_is_no_checkpoint_is_named_in_our_words(tmp_path: Path, content: bytes) -> None:
    """A text file once ended in torch's advice about weights_only."""
    (tmp_path / "notes.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"notes\.txt is not a checkpoint of a run") as caught:
        load_checkpoint(tmp_path / "notes.txt")
    assert "weights_only" not in str(caught.value)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_atomically(b"old", path)
    with pytest.raises(OSError, match="full"), replacing(path) as file:
        file.write(b"ne")
        raise OSError("the disk is full")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_run_gives_to_others_is_its_average(tmp_path: Path) -> None:
    """Export once could have taken the raw weights; a frozen part, which has no average, is as it is."""
    made = teacher(1)
    run = tmp_path / made.name
    run.mkdir()
    (run / "config.json").write_text(json.dumps(config_to_document(made)))
    model = made.model.build()
    raw = {name: torch.full_like(value, 1.0) for name, value in model.state_dict().items()}
    learnt = {name for name, _ in model.named_parameters() if name.startswith("dit.")}
    for strip in (False, True):  # a teacher's average names the model's parts, a student's the transformer's
        average = {name.removeprefix("dit.") if strip else name: 2 * raw[name] for name in learnt}
        save_atomically(
            {"step": 1, "stage": {"weights": raw, "ema": {**average, "num_updates": 3}}},
            run / "step_0000001.pt",
        )
        found = trained_model(tmp_path, made.name)
        assert not found.training
        for name, value in found.state_dict().items():
            assert (value == (2 if name in learnt else 1)).all(), name


def test_the_codec_that_later_stages_use_is_the_average(tmp_path: Path) -> None:
    run_recipe(codec(1), tmp_path)
    path = checkpoints(tmp_path / "theatre_codec")[-1]
    step, state = load_checkpoint(path)
    name = "embed.weight"
    state["ema"][name] = torch.full_like(state["ema"][name], 0.25)
    save_atomically({"step": step, "stage": state}, path)
    assert (input_codec(tmp_path).get_parameter(name) == 0.25).all()
