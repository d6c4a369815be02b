"""The word encoder: padding is zero, captions stand alone, unknown words are told."""

import torch

from shotstream.text.text_encoder import TextEncoder
from shotstream.text.word_encoder import WordEncoder, WordEncoderConfig

WORDS = (",", ".", ":", "a", "and", "blue", "close-up", "fox", "night", "owl", "red", "the", "waves")


def encoder() -> WordEncoder:
    torch.manual_seed(0)
    return WordEncoder(
        WordEncoderConfig(words=WORDS, dim=16, num_layers=1, num_heads=2, text_length=12)
    ).eval()


def test_it_is_a_text_encoder() -> None:
    assert isinstance(encoder(), TextEncoder)


def test_rows_past_the_caption_are_zero_and_the_empty_caption_is_all_zero() -> None:
    embeddings = encoder().encode(["the red fox waves .", ""])
    assert embeddings.shape == (2, 12, 16)
    assert (embeddings[0, :5].abs().sum(-1) > 0).all()
    assert not embeddings[0, 5:].any()
    assert not embeddings[1].any()


def test_a_caption_is_encoded_alike_in_any_company() -> None:
    alone = encoder().encode(["a blue owl"])
    together = encoder()(encoder().tokenize(["the night", "a blue owl", ""]))
    torch.testing.assert_close(together[1:2], alone)


def test_unknown_words_are_told_once_with_suggestions() -> None:
    words = encoder()
    assert words.unknown_words("The Red dragon, a dragon and a foxx, close-up.") == ("dragon", "foxx")
    assert "fox" in words.suggestions("foxx")


def test_a_hyphen_stays_inside_its_word_and_marks_stand_alone() -> None:
    ids = encoder().tokenize(["Close-up: the owl."])[0]
    assert ids.count_nonzero() == 5
    assert 1 not in ids.tolist()
    assert encoder().count_tokens("Close-up: the owl.") == 5
