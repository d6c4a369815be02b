"""The theatre's text encoder: a row for each answer, the same whatever else is said; all forms of a text."""

import pytest
import torch

from shotstream.text.text_encoder import TextEncoder
from shotstream.theatre.caption_encoder import CaptionEncoder, CaptionEncoderConfig
from shotstream.theatre.questions import QUESTIONS


def encoder() -> CaptionEncoder:
    torch.manual_seed(0)
    return CaptionEncoder(CaptionEncoderConfig(dim=8))


def test_it_is_a_text_encoder_with_a_row_for_each_question() -> None:
    made = encoder()
    assert isinstance(made, TextEncoder)
    assert made.encode(["A red fox waves.", "A fox."]).shape == (2, len(QUESTIONS), 8)


def test_a_row_is_that_of_its_answer_alone() -> None:
    made = encoder()
    first, second = made.encode(
        ["Wide shot: the red fox waves in the city at night.", "A red owl naps downtown by day, close-up."]
    )
    same = [torch.equal(a, b) for a, b in zip(first, second, strict=True)]
    # place, time, framing, camera; species, colour, action, staging of the first actor; none of the second
    assert same == [True, False, False, True, False, True, False, True, *[True] * 4]
    assert torch.equal(first[0], made.vectors[0, 4]), "the city is the fourth place, after not said"


def test_a_shot_is_read_after_the_lines_before_it() -> None:
    made = encoder()
    plain, lines = made.encode(
        ["The red fox waves in the forest at night.", "Ada is a red fox.\nAt night in the woods.\nAda waves."]
    )
    assert torch.equal(plain, lines)


def test_an_empty_caption_says_nothing() -> None:
    made = encoder()
    assert torch.equal(made.encode([""])[0], made.vectors[:, 0])


def test_questions_of_another_world_are_refused() -> None:
    with pytest.raises(ValueError, match="questions are not the theatre"):
        CaptionEncoderConfig(questions=(("species", 3),))


def test_words_of_things_that_are_not_there_are_told_with_the_nearest() -> None:
    made = encoder()
    assert made.unknown_words("A fox by a castle.\nIt waves to a Dragon.") == ("dragon", "castle")
    assert made.suggestions("Castle") == ("city",) and made.suggestions("zyzzy") == ()
