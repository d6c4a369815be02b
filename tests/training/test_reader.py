"""The text encoder that answers questions: what it says depends on nothing else, and it learns to read."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shotstream.codec.word_encoder import WordEncoder, WordEncoderConfig
from shotstream.theatre.captions import vocabulary
from shotstream.theatre.questions import QUESTIONS
from shotstream.theatre.world import HELD_OUT
from shotstream.training.checkpoint import checkpoints
from shotstream.training.loop import LoopConfig
from shotstream.training.recipe import Recipe
from shotstream.training.recipes import recipe
from shotstream.training.run import recipe_of_run, run_recipe
from shotstream.training.stages.causal_init import CausalInitStage, CausalInitTraining
from shotstream.training.stages.dmd import DmdStage, Scene, fake_of
from shotstream.training.stages.intra_shot import IntraShotTraining
from shotstream.training.stages.reader import ReaderStage, ReaderTraining, reader_from_run, reading_loss
from shotstream.training.stages.teacher import TheatreModel

TEXT = WordEncoderConfig(words=vocabulary(), dim=32, num_layers=1, num_heads=2, questions=QUESTIONS)
TRAINING = ReaderTraining(text=TEXT, num_steps=60, batch_size=16, learning_rate=3e-3, ema_decay=0.9)


def test_an_embedding_is_made_of_the_answers_alone() -> None:
    torch.manual_seed(0)
    reader = WordEncoder(TEXT).eval()
    assert reader.reading is not None
    ids = reader.tokenize(["a red fox waves in the forest.", ""])
    logits = reader.answers(ids)
    assert logits.shape == (2, len(QUESTIONS), max(count for _, count in QUESTIONS))
    embedded = reader(ids)
    assert embedded.shape == (2, len(QUESTIONS), TEXT.dim) and bool(embedded.isfinite().all())
    torch.testing.assert_close(embedded, reader.reading.embed(logits))
    for row, (_, count) in enumerate(QUESTIONS):
        assert bool((logits[:, row, count:] == -torch.inf).all()), "a question has no answers beyond its own"
        assert bool(logits[:, row, :count].isfinite().all())


def test_an_answer_looks_alike_to_every_question_of_its_kind() -> None:
    """The difference of two answers is the same for the first actor and for the second."""
    vectors = WordEncoder(TEXT).reading.vectors  # pyright: ignore[reportOptionalMemberAccess]
    kinds = [kind for kind, _ in QUESTIONS]
    first, second = (row for row, kind in enumerate(kinds) if kind == "species")
    torch.testing.assert_close(vectors[first, 1] - vectors[first, 2], vectors[second, 1] - vectors[second, 2])
    assert not torch.allclose(vectors[first, 1], vectors[second, 1])


def test_no_caption_names_a_pair_that_is_held_out() -> None:
    stage = ReaderStage(replace(TRAINING, batch_size=400))
    texts, right = stage.batch(0, range(400))
    pairs = [f"{colour} {species}" for species, colour in HELD_OUT]
    assert not any(pair in text.lower() for text in texts for pair in pairs)
    assert any(text == "" for text in texts)
    # With the story's caption left out some colours are not said.
    assert bool(((right[:, 4] > 0) & (right[:, 5] == 0)).any())


@pytest.mark.slow
def test_it_learns_to_read_and_a_run_gives_its_average(tmp_path: Path) -> None:
    loop = LoopConfig(num_steps=60, save_every=60, log_every=20, preview_every=60, tensorboard=False)
    recipe = Recipe(name="theatre_text", stage=TRAINING, loop=loop)
    assert run_recipe(recipe, tmp_path) == 60
    found = recipe_of_run(tmp_path, "theatre_text")
    assert found == recipe
    reader = reader_from_run(checkpoints(tmp_path / "theatre_text")[-1], TRAINING)
    fresh = ReaderStage(TRAINING)
    texts, right = fresh.batch(1000, range(16))
    assert reading_loss(reader, texts, right) < 0.85 * reading_loss(fresh.reader, texts, right)
    assert not any(parameter.requires_grad for parameter in reader.parameters())


@pytest.mark.parametrize("name", ["causal_init", "dmd"])
def test_an_averaged_student_reads_as_the_student_does(name: str) -> None:
    """Also what no checkpoint holds: which answers a question does not have."""
    recipe_name = {"causal_init": "theatre_causal_init", "dmd": "theatre_intra_shot"}[name]
    training = recipe(recipe_name, ["loop.tensorboard=false"]).stage
    dit = replace(
        recipe("theatre_teacher").stage.dit,  # pyright: ignore[reportAttributeAccessIssue]
        dim=24, ffn_dim=24, num_heads=2, num_layers=1, freq_dim=8, text_dim=TEXT.dim,
    )  # fmt: skip
    torch.manual_seed(0)
    student, teacher = TheatreModel(dit, TEXT), TheatreModel(dit, TEXT)
    if isinstance(training, CausalInitTraining):
        stage = CausalInitStage(training, student, [Path("pairs")])
    else:
        assert isinstance(training, IntraShotTraining)

        def draw(step: int, samples: range) -> Scene:
            raise AssertionError(f"nothing is drawn for {samples} of step {step}")

        stage = DmdStage(training.dmd, student=student, teacher=teacher, fake=fake_of(teacher), draw=draw)
    captions = [["a red fox waves in the forest."], [""]]
    assert torch.equal(stage.averaged().embed(captions), student.embed(captions))
    buffers = dict(student.named_buffers())
    assert buffers and all(
        torch.equal(buffers[key], value) for key, value in stage.averaged().named_buffers()
    )


def test_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="questions"):
        replace(TRAINING, text=replace(TEXT, questions=(("place", 6),)))
