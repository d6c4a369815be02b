"""The transformer with a learnt vector per shot, and what saved runs and bundles say of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.ablations import RowConfig, row_recipes
from experiments.shot_embedding import ShotEmbeddingDiT, ShotEmbeddingModelConfig
from shotstream.configs import config_from_document, config_to_document
from shotstream.model.config import DiTConfig
from shotstream.model.dit import DiT
from shotstream.model.positions import join_positions
from shotstream.training import saved_recipes
from shotstream.training.saved_recipes import recipe_from_document
from tests.model.tiny import CONFIG, captions, context, latents, level, target


@torch.no_grad()
def test_it_follows_the_phase_where_no_angle_does() -> None:
    generator = torch.Generator().manual_seed(0)
    config = replace(CONFIG, phase_angle=0.0)
    dit, plain = ShotEmbeddingDiT(config, 4, generator=generator), DiT(config, generator=generator)
    for parameter in (*dit.parameters(), *plain.parameters()):
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    positions = join_positions(context(), target(8))
    moved = replace(positions, shot_phase=(positions.shot_phase + 1) % 4)
    x, sigma, text = latents(10), level(0.5, 10), captions()
    assert not dit(x, sigma, text, moved).allclose(dit(x, sigma, text, positions))
    assert plain(x, sigma, text, moved).allclose(plain(x, sigma, text, positions))


def test_its_parameters_stand_in_the_order_in_which_they_always_stood() -> None:
    """Norms of gradients are summed in this order, and a resumed run computes them as it began."""
    names = list(
        dict.fromkeys(name.partition(".")[0] for name, _ in ShotEmbeddingDiT(CONFIG, 4).named_parameters())
    )
    assert names[-3:] == ["shot_embedding", "blocks", "head"]
    assert names[:-3] == ["patch_embedding", "text_embedding", "time_embedding", "time_projection"]


def _document(number: int) -> dict[str, object]:
    """As a run of the row was written when the vectors were a setting of every transformer."""
    (teacher, *_) = row_recipes("no_phase", RowConfig(), 100)
    document = config_to_document(teacher)
    document["model"]["dit"]["num_shot_embeddings"] = number
    return document


def test_a_run_of_an_earlier_version_is_what_the_row_is_today(monkeypatch: pytest.MonkeyPatch) -> None:
    (teacher, *_) = row_recipes("shot_embedding", RowConfig(), 100)
    assert isinstance(teacher.model, ShotEmbeddingModelConfig) and teacher.model.num_shot_embeddings == 8
    assert recipe_from_document(_document(8), "here") == teacher
    assert recipe_from_document(config_to_document(teacher), "here") == teacher
    (plain, *_) = row_recipes("no_phase", RowConfig(), 100)
    assert recipe_from_document(_document(0), "here") == plain
    monkeypatch.setattr(saved_recipes, "KINDS", saved_recipes.KINDS - {ShotEmbeddingModelConfig})
    with pytest.raises(
        ValueError, match=r'here.model is of the kind "ShotEmbeddingModelConfig", which is unknown'
    ):
        recipe_from_document(_document(8), "here")


def test_a_number_of_vectors_that_no_network_has_is_refused() -> None:
    (teacher, *_) = row_recipes("shot_embedding", RowConfig(), 100)
    with pytest.raises(ValueError, match="num_shot_embeddings"):
        replace(teacher.model, num_shot_embeddings=10**9)


def test_bundles_keep_a_setting_that_was_given_up_and_only_zero_is_read() -> None:
    document = CONFIG.to_document()
    assert config_from_document(DiTConfig, document, "dit") == CONFIG
    assert list(document)[list(document).index("phase_angle") + 1] == "num_shot_embeddings"
    with pytest.raises(
        ValueError, match=r"^dit.num_shot_embeddings is 8, a setting that was given up: only 0 can"
    ):
        config_from_document(DiTConfig, {**document, "num_shot_embeddings": 8}, "dit")


def test_such_a_model_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle would hold its tensors and not the class that uses them."""
    from shotstream.training import export

    teacher, *_ = row_recipes("shot_embedding", RowConfig(), 100)
    tiny = replace(teacher.model, dit=replace(teacher.model.dit, num_layers=1))
    monkeypatch.setattr(export, "recipe_of_run", lambda *_: replace(teacher, model=tiny))
    monkeypatch.setattr(export, "trained_model", lambda *_: tiny.build())
    with pytest.raises(ValueError, match="mini_teacher trained a ShotEmbeddingDiT, and a bundle holds a DiT"):
        export.export_run("mini_teacher", tmp_path, tmp_path / "out")


def test_a_run_of_another_transformer_is_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended in an AttributeError, or was taken, with its shot vectors left out."""
    from shotstream.training import inputs

    with_vectors, *_ = row_recipes("shot_embedding", RowConfig(), 100)
    plain, pairs, *_ = row_recipes("no_phase", RowConfig(), 100)
    monkeypatch.setattr(inputs, "recipe_of_run", lambda *_: with_vectors)
    with pytest.raises(
        ValueError, match=r"mini_teacher was trained with a ShotEmbeddingModelConfig, and .* a ModelConfig"
    ):
        inputs.input_teacher(tmp_path, pairs)
    pairs = replace(pairs, model=with_vectors.model)
    monkeypatch.setattr(inputs, "recipe_of_run", lambda *_: plain)
    with pytest.raises(ValueError, match="mini_teacher was trained with a ModelConfig"):
        inputs.input_teacher(tmp_path, pairs)
