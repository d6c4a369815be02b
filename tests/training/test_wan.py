"""The 1.3B recipes: the paper's values, and every stage a step on stored shots at tiny size."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shotstream.data.captions import StoredTextConfig, caption_store, open_shards
from shotstream.model.config import wan_1_3b
from shotstream.streaming.parts import theatre_bundle_config
from shotstream.streaming.pipeline import load
from shotstream.training.export import export_run
from shotstream.training.recipe import Recipe
from shotstream.training.recipes import RECIPES, recipe, to_document
from shotstream.training.run import build_stage, run_recipe, trained_model
from shotstream.training.stages.ode_pairs import OdePairsStage
from shotstream.training.stages.teacher import TeacherStage, TeacherTraining, TheatreModel
from shotstream.training.start import begin_at
from shotstream.weights.bundle import write_bundle
from tests.data.tiny import tiny_encoders, tiny_shards
from tests.streaming.tiny import tiny_engine
from tests.training.test_run import same

PLACES = {
    "wan_teacher": "",
    "wan_ode_pairs": "teacher.",
    "wan_causal_init": "pairs.teacher.",
    "wan_intra_shot": "dmd.teacher.",
    "wan_inter_shot": "dmd.teacher.",
}
MORE = {
    "wan_ode_pairs": ["stage.substeps=1"],
    "wan_causal_init": ["stage.pairs.substeps=1"],
    "wan_intra_shot": ["stage.dmd.fake_updates=1", "stage.dmd.fake_warmup_steps=0"],
    "wan_inter_shot": ["stage.dmd.fake_updates=1", "stage.dmd.fake_warmup_steps=0", "stage.lora_rank=2"],
}
RATES = {"wan_teacher": ["stage.learning_rate=0.01"], "wan_causal_init": ["stage.learning_rate=0.01"]}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that make a recipe tiny, with shards and a bundle to begin at."""
    directory = tmp_path_factory.mktemp("tiny")
    shards = tiny_shards(directory / "world")
    engine, encoders = tiny_engine(), tiny_encoders()
    parts = {"dit": engine.dit, "codec": engine.codec, "text_encoder": engine.text_encoder}
    config = theatre_bundle_config(
        engine.config, engine.dit.config, engine.codec.config, engine.text_encoder.config
    )
    write_bundle(directory / "bundle", config, {name: part.state_dict() for name, part in parts.items()})
    dit = {
        name: value
        for name, value in asdict(encoders.dit).items()
        if value != asdict(wan_1_3b())[name] and name != "context_sigma"
    }
    settings = {f"dit.{name}": dit[name] for name in sorted(dit, key="num_heads".__ne__)}  # they divide dim
    settings |= {"pool.directory": shards, "pool.num_workers": 0, "pool.max_latent_frames": 6}
    settings |= {"start": directory / "bundle", "batch_size": 2}
    return [f"{name}={value}" for name, value in settings.items()]


def small(name: str, tiny: list[str], num_steps: int = 1, *more: str) -> Recipe:
    settings = [f"stage.{PLACES[name]}{setting}" for setting in tiny]
    if name == "wan_inter_shot":
        settings.append("stage.dmd.teacher.shot_weights=[0.0, 1.0]")
    loop = [f"loop.num_steps={num_steps}", "loop.tensorboard=false"]
    return recipe(name, [*settings, *MORE.get(name, []), *RATES.get(name, []), *loop, *more])


@pytest.fixture(scope="module")
def runs(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs")
    for name in PLACES:
        assert run_recipe(small(name, tiny), directory) == 1
    return directory


def weights(runs: Path, name: str) -> dict[str, Tensor]:
    return trained_model(runs, name).dit.state_dict()


@pytest.mark.slow
def test_every_stage_learns_from_stored_shots(runs: Path) -> None:
    begun = tiny_engine().dit.state_dict()
    found = {name: weights(runs, name) for name in PLACES if name != "wan_ode_pairs"}
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
    assert pipeline.context_policy == "published" and pipeline.engine.config.shift == 8.0
    chunks = list(pipeline.session("a fox").shot("walks", num_chunks=1))
    assert chunks[0].frames.shape == (9, 32, 48, 3)


@pytest.mark.slow
def test_batches_have_first_shots_and_captions_of_their_own_and_are_sometimes_dropped(
    runs: Path, tiny: list[str]
) -> None:
    more = ["stage.caption_drop=0.3", "stage.batch_size=18"]
    stage = build_stage(small("wan_teacher", tiny, 1, *more), runs)
    assert isinstance(stage, TeacherStage)
    batches = [batch for step in range(3) for batch in stage.inputs(step)["batches"]]
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
def test_guidance_turns_away_from_what_dropped_captions_are(runs: Path, tiny: list[str]) -> None:
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
def test_pairs_of_another_teacher_and_of_other_settings_are_refused(runs: Path, tiny: list[str]) -> None:
    build_stage(small("wan_causal_init", tiny), runs)
    with pytest.raises(ValueError, match=r"another value of guidance"):
        build_stage(small("wan_causal_init", tiny, 1, "stage.pairs.guidance=2.0"), runs)
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
def test_shards_and_bundles_of_other_sizes_are_refused(runs: Path, tiny: list[str]) -> None:
    with pytest.raises(ValueError, match=r"the recipe wants .*dim=48"):
        build_stage(small("wan_teacher", tiny, 1, "stage.dit.dim=48"), runs)
    with pytest.raises(ValueError, match=r"another model: text_shape \(\d+, \d+\) instead of \(7, "):
        build_stage(small("wan_teacher", tiny, 1, "stage.dit.text_length=7"), runs)


def test_the_transformer_that_is_trained_is_the_published_one_and_its_attention_learns() -> None:
    with torch.device("meta"):
        model = TheatreModel(wan_1_3b(), StoredTextConfig(directory="nowhere"))
    counts = {name: value.numel() for name, value in model.named_parameters()}
    assert sum(counts.values()) == 1_418_996_800
    learning = [count for name, count in counts.items() if ".self_attn." in name]
    assert (len(learning), sum(learning)) == (300, 283_392_000)


def test_a_start_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model"):
        begin_at(tiny_engine().dit, tmp_path / "nothing")


PAPER: dict[str, dict[str, Any]] = {
    "wan_teacher": {"num_steps": 10_000, "learning_rate": 1e-5, "batch_size": 64, "max_norm": 10.0},
    "wan_ode_pairs": {"guidance": 6.0, "student_steps": [1000, 740, 500, 260]},
    "wan_causal_init": {"num_steps": 2000, "learning_rate": 1e-6, "max_norm": 1.0, "decays": False},
    "wan_intra_shot": {"num_steps": 500, "student_rate": 2e-6, "fake_rate": 4e-7, "fake_updates": 5},
    "wan_inter_shot": {"num_steps": 1000, "student_rate": 2e-6, "fake_rate": 4e-7, "guidance": 4.0},
}


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_values_are_what_a_dry_run_shows(name: str) -> None:
    document = to_document(recipe(name))
    stage = document["stage"]
    shown = {**stage, **stage.get("dmd", {})}
    assert {key: shown[key] for key in PAPER[name]} == PAPER[name]
    teacher = stage
    for part in PLACES[name].split(".")[:-1]:
        teacher = teacher[part]
    assert teacher["dit"]["dim"] == 1536 and teacher["shift"] == 8.0
    assert teacher["context_policy"] == "published" and teacher["context_drop"] == 0.1
    assert teacher["batch_size"] == (32 if "dmd" in stage else 64)
    if name == "wan_inter_shot":
        assert (stage["lora_rank"], stage["lora_alpha"]) == (256, 256)
    if name == "wan_ode_pairs":
        assert document["loop"]["num_steps"] * 64 >= 5000
    assert set(document["inputs"]) <= set(RECIPES)


def test_stored_text_follows_the_shards() -> None:
    stage = recipe("wan_teacher", ["stage.pool.directory=elsewhere", "stage.pool.max_bad=3"]).stage
    assert isinstance(stage, TeacherTraining)
    assert to_document(stage.text) == {"kind": "StoredTextConfig", "directory": "elsewhere"}


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("wan_teacher", "stage.text.directory=elsewhere"),
        ("wan_teacher", "stage.pair_share=0.5"),
        ("wan_teacher", "stage.shot_weights=[1.0]"),
        ("theatre_ode_pairs", "stage.teacher.learning_rate=0.1"),
        ("theatre_ode_pairs", "stage.batch_size=8"),
        ("theatre_causal_init", "stage.pairs.teacher.caption_drop=0.5"),
        ("theatre_intra_shot", "stage.dmd.teacher.ema_decay=0.5"),
        ("theatre_inter_shot", "stage.dmd.teacher.context_drop=0.5"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(name: str, override: str) -> None:
    with pytest.raises(ValueError, match=r"no effect|there is no setting"):
        recipe(name, [override])


def teardown_module() -> None:
    """The shards are gone with their directory."""
    open_shards.cache_clear()
    caption_store.cache_clear()
