"""The 1.3B recipes: the paper's values, and every stage a step on stored shots at tiny size."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream.configs import config_to_document
from shotstream.data.captions import StoredTextConfig, caption_store, open_shards
from shotstream.model.config import wan_1_3b
from shotstream.model.dit import DiT
from shotstream.streaming.loading import load
from shotstream.streaming.parts import theatre_bundle_config
from shotstream.training.export import export_run
from shotstream.training.inputs import trained_model
from shotstream.training.recipe import AnyRecipe
from shotstream.training.recipes import recipe
from shotstream.training.run import run_recipe
from shotstream.training.stage_builders import build_stage
from shotstream.training.stages.ode_pairs import OdePairsStage
from shotstream.training.stages.teacher import TeacherStage
from shotstream.training.start import begin_at
from shotstream.training.text_conditioned_dit import TextConditionedDiT
from shotstream.weights.bundle import write_bundle
from tests.data.tiny import tiny_encoders, tiny_shards
from tests.streaming.tiny import tiny_pipeline
from tests.training.test_run import same

STAGES = ("wan_teacher", "wan_ode_pairs", "wan_causal_init", "wan_intra_shot", "wan_inter_shot")
MORE = {
    "wan_ode_pairs": ["stage.substeps=1"],
    "wan_intra_shot": ["stage.fake_updates=1", "stage.fake_warmup_steps=0"],
    "wan_inter_shot": ["stage.fake_updates=1", "stage.fake_warmup_steps=0", "stage.lora_rank=2"],
}
RATES = {"wan_teacher": ["optim.learning_rate=0.01"], "wan_causal_init": ["optim.learning_rate=0.01"]}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Settings that make a recipe tiny, with shards and a bundle to begin at."""
    directory = tmp_path_factory.mktemp("tiny")
    shards = tiny_shards(directory / "world")
    pipeline, encoders = tiny_pipeline(), tiny_encoders()
    parts = {"dit": pipeline.dit, "codec": pipeline.codec, "text_encoder": pipeline.text_encoder}
    config = theatre_bundle_config(
        pipeline.config, pipeline.dit.config, pipeline.codec.config, pipeline.text_encoder.config
    )
    write_bundle(directory / "bundle", config, {name: part.state_dict() for name, part in parts.items()})
    dit = {
        name: value
        for name, value in asdict(encoders.dit).items()
        if value != asdict(wan_1_3b())[name] and name != "context_sigma"
    }
    settings = {f"model.dit.{name}": value for name, value in dit.items()}
    settings |= {"data.directory": shards, "data.num_workers": 0, "data.max_latent_frames": 6}
    return settings | {"model.start": directory / "bundle", "data.batch_size": 2}


def small(name: str, tiny: dict[str, object], num_steps: int = 1, *more: str) -> AnyRecipe:
    settings = dict(tiny)
    if name == "wan_causal_init":  # learns from pairs, and reads the captions of the shards
        settings = {key: value for key, value in tiny.items() if not key.startswith("data.")}
        settings["model.text.directory"] = tiny["data.directory"]
    if name == "wan_inter_shot":
        del settings["data.num_workers"]
        settings["data.shot_weights"] = [0.0, 1.0]
    settings |= {"train.num_steps": num_steps, "train.tensorboard": "false"}
    overrides = [f"{key}={value}" for key, value in settings.items()]
    return recipe(name, [*overrides, *MORE.get(name, []), *RATES.get(name, []), *more])


@pytest.fixture(scope="module")
def runs(tiny: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs")
    for name in STAGES:
        assert run_recipe(small(name, tiny), directory) == 1
    return directory


def weights(runs: Path, name: str) -> dict[str, Tensor]:
    return trained_model(runs, name).dit.state_dict()


@pytest.mark.slow
def test_every_stage_learns_from_stored_shots(runs: Path) -> None:
    begun = tiny_pipeline().dit.state_dict()
    found = {name: weights(runs, name) for name in STAGES if name != "wan_ode_pairs"}
    changed = {name for name, value in found["wan_teacher"].items() if not torch.equal(value, begun[name])}
    assert changed and all(".self_attn." in name for name in changed)
    assert {name.split(".")[3] for name in changed} >= {"q", "k", "v", "o"}
    for before, after in (
        ("wan_teacher", "wan_causal_init"),
        ("wan_causal_init", "wan_intra_shot"),
        ("wan_intra_shot", "wan_inter_shot"),
    ):
        assert not same(found[before], found[after]), after
        assert all(value.isfinite().all() for value in found[after].values())


@pytest.mark.slow
def test_what_came_out_streams_with_the_codec_it_began_with(runs: Path, tmp_path: Path) -> None:
    export_run("wan_inter_shot", runs, tmp_path / "bundle")
    pipeline = load(tmp_path / "bundle", "cpu")
    assert pipeline.context_policy == "published" and pipeline.config.shift == 8.0
    chunks = list(pipeline.session("a fox").shot("walks", num_chunks=1))
    assert chunks[0].frames.shape == (9, 32, 48, 3)


@pytest.mark.slow
def test_batches_have_first_shots_and_captions_of_their_own_and_are_sometimes_dropped(
    runs: Path, tiny: dict[str, object]
) -> None:
    more = ["data.caption_drop=0.3", "data.batch_size=18"]
    stage = build_stage(small("wan_teacher", tiny, 1, *more), runs)
    assert isinstance(stage, TeacherStage)
    batches = [batch for step in range(3) for batch in stage.training_data(step)["batches"]]
    assert len(batches) == 3 * 18, "a sample at once, whatever the batch"
    captions = [rows for batch in batches for rows in batch["captions"]]
    assert any(not any(rows) for rows in captions), "what guidance turns away from"
    kept = [rows for rows in captions if any(rows)]
    assert any(len(rows) > 1 for rows in kept) and any(len(rows) == 1 for rows in kept)
    assert all(len({row.partition(".")[0] for row in rows}) == 1 for rows in kept)
    context = torch.cat([batch["context"] for batch in batches])
    first = (context == 0).flatten(1).all(dim=1)
    assert first.any() and not first.all()


@pytest.mark.slow
def test_guidance_turns_away_from_what_dropped_captions_are(runs: Path, tiny: dict[str, object]) -> None:
    """Zeros in training and a negative prompt in sampling are two different things."""
    stage = build_stage(small("wan_ode_pairs", tiny), runs)
    assert isinstance(stage, OdePairsStage)
    asked: list[list[list[str]]] = []
    embed = stage.model.embed
    stage.model.embed = lambda captions: asked.append(captions) or embed(captions)  # pyright: ignore
    stage.make(0)
    assert [any(any(rows) for rows in captions) for captions in asked] == [True, False]
    free = embed([[""]])
    assert free.any(), "the negative prompt, not zeros"


@pytest.mark.slow
def test_pairs_of_another_teacher_and_of_other_settings_are_refused(
    runs: Path, tiny: dict[str, object]
) -> None:
    build_stage(small("wan_causal_init", tiny), runs)
    with pytest.raises(ValueError, match="was made for the student steps"):
        build_stage(small("wan_causal_init", tiny, 1, "stage.student_steps=[1000, 500]"), runs)
    kept = {path: path.read_bytes() for path in (runs / "wan_teacher").iterdir() if path.is_file()}
    try:
        run_recipe(small("wan_teacher", tiny, 2), runs)
        with pytest.raises(ValueError, match="pairs of another teacher"):
            build_stage(small("wan_causal_init", tiny), runs)
    finally:
        for path in (runs / "wan_teacher").iterdir():
            path.unlink()
        for path, content in kept.items():
            path.write_bytes(content)


@pytest.mark.slow
def test_shards_and_bundles_of_other_sizes_are_refused(runs: Path, tiny: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"the recipe wants .*dim=48"):
        build_stage(small("wan_teacher", tiny, 1, "model.dit.dim=48"), runs)
    with pytest.raises(ValueError, match=r"another model: text_shape \(\d+, \d+\) instead of \(7, "):
        build_stage(small("wan_teacher", tiny, 1, "model.dit.text_length=7"), runs)


def test_the_transformer_that_is_trained_is_the_published_one_and_its_attention_learns() -> None:
    with torch.device("meta"):
        model = TextConditionedDiT(DiT(wan_1_3b()), StoredTextConfig(directory="nowhere"))
    counts = {name: value.numel() for name, value in model.named_parameters()}
    assert sum(counts.values()) == 1_418_996_800
    learning = [count for name, count in counts.items() if ".self_attn." in name]
    assert (len(learning), sum(learning)) == (300, 283_392_000)


def test_a_start_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model"):
        begin_at(tiny_pipeline().dit, tmp_path / "nothing")


@pytest.mark.parametrize("name", [name for name in STAGES if name != "wan_causal_init"])
def test_stored_text_follows_the_shards(name: str) -> None:
    made = recipe(name, ["data.directory=elsewhere"])
    assert config_to_document(made.model.text) == {"kind": "StoredTextConfig", "directory": "elsewhere"}


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("wan_teacher", "data.pair_share=0.5"),
        ("wan_teacher", "data.shot_weights=[1.0]"),
        ("theatre_ode_pairs", "optim.learning_rate=0.1"),
        ("theatre_ode_pairs", "stage.causal_share=0.1"),
        ("theatre_causal_init", "data.batch_size=8"),
        ("theatre_causal_init", "data.caption_drop=0.5"),
        ("theatre_intra_shot", "stage.lora_rank=2"),
        ("theatre_inter_shot", "data.context_drop=0.5"),
        ("theatre_inter_shot", "data.pair_share=0.5"),
        ("theatre_codec", "train.matmul_dtype=bfloat16"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(name: str, override: str) -> None:
    with pytest.raises(ValueError, match=r"cannot take effect|there is no setting"):
        recipe(name, [override])


def teardown_module() -> None:
    """The shards are gone with their directory."""
    open_shards.cache_clear()
    caption_store.cache_clear()
