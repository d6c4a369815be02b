"""The text encoder that answers questions: what it says depends on nothing else, and it learns to read."""

from pathlib import Path

import pytest
import torch

from shotstream.data.caption_answers import CaptionAnswers, CaptionAnswersConfig
from shotstream.data.ode_pairs import PairFiles
from shotstream.model.dit import DiT
from shotstream.text.word_encoder import WordEncoder, WordEncoderConfig
from shotstream.theatre.captions import vocabulary
from shotstream.theatre.questions import QUESTIONS
from shotstream.theatre.world import HELD_OUT
from shotstream.training.checkpoint import checkpoints
from shotstream.training.recipe import AnyRecipe
from shotstream.training.recipes import recipe
from shotstream.training.run import run_recipe
from shotstream.training.saved_recipes import recipe_of_run
from shotstream.training.stages.causal_init import CausalInitStage
from shotstream.training.stages.dmd import DmdStage, RolloutBatch, fake_of
from shotstream.training.stages.text_encoder import TextEncoderStage, answer_loss
from shotstream.training.text_conditioned_dit import TextConditionedDiT
from shotstream.training.train_state import load_averaged

TEXT = WordEncoderConfig(words=vocabulary(), dim=32, num_layers=1, num_heads=2, questions=QUESTIONS)
TINY = (
    "model.dim=32",
    "model.num_layers=1",
    "model.num_heads=2",
    "data.batch_size=16",
    "optim.learning_rate=3e-3",
    "optim.ema_decay=0.9",
    "train.num_steps=60",
    "train.tensorboard=false",
)


def made(*more: str) -> AnyRecipe:
    return recipe("theatre_text", [*TINY, *more])


def stage_of(one: AnyRecipe) -> TextEncoderStage:
    return TextEncoderStage(one, CaptionAnswers(one.data, seed=one.train.seed))


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
    texts, right = CaptionAnswers(CaptionAnswersConfig(), seed=5).batch(0, range(400))
    pairs = [f"{colour} {species}" for species, colour in HELD_OUT]
    assert not any(pair in text.lower() for text in texts for pair in pairs)
    assert any(text == "" for text in texts)
    # With the story's caption left out some colours are not said.
    assert bool(((right[:, 4] > 0) & (right[:, 5] == 0)).any())


@pytest.mark.slow
def test_it_learns_to_read_and_a_run_gives_its_average(tmp_path: Path) -> None:
    one = made("train.save_every=60", "train.log_every=20", "train.preview_every=60")
    assert run_recipe(one, tmp_path) == 60
    assert recipe_of_run(tmp_path, "theatre_text") == one
    encoder = load_averaged(WordEncoder(TEXT), checkpoints(tmp_path / "theatre_text")[-1])
    fresh = stage_of(one)
    texts, right = fresh.source.batch(1000, range(16))
    assert answer_loss(encoder, texts, right) < 0.85 * answer_loss(fresh.text_encoder, texts, right)


@pytest.mark.parametrize("name", ["causal_init", "dmd"])
def test_an_averaged_student_reads_as_the_student_does(name: str) -> None:
    """Also what no checkpoint holds: which answers a question does not have."""
    recipe_name = {"causal_init": "theatre_causal_init", "dmd": "theatre_intra_shot"}[name]
    sizes = ("dim=24", "ffn_dim=24", "num_heads=2", "num_layers=1", "freq_dim=8", "text_dim=32")
    text = ("dim=32", "num_layers=1", "num_heads=2")
    tiny = [*(f"model.dit.{one}" for one in sizes), *(f"model.text.{one}" for one in text)]
    training = recipe(recipe_name, tiny)
    torch.manual_seed(0)
    student, teacher = (TextConditionedDiT(DiT(training.model.dit), TEXT) for _ in range(2))
    if name == "causal_init":
        source = PairFiles(training.data, [Path("pairs")], seed=0)
        stage = CausalInitStage(training, source, student, batch_size=2)
    else:
        fake = fake_of(teacher)
        stage = DmdStage(training, student=student, teacher=teacher, fake=fake, source=NoShots())
    captions = [["a red fox waves in the forest."], [""]]
    assert torch.equal(stage.averaged().embed(captions), student.embed(captions))
    buffers = dict(student.named_buffers())
    assert buffers and all(
        torch.equal(buffers[key], value) for key, value in stage.averaged().named_buffers()
    )


class NoShots:
    """A source that nothing is drawn from."""

    def batch(self, step: int, samples: range) -> RolloutBatch:
        raise AssertionError(f"nothing is drawn for {samples} of step {step}")


def test_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="questions"):
        made("model.questions=[[place, 6]]")
