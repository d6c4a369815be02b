"""UMT5 agrees with the published encoder; captions are cleaned, cut, padded and remembered."""

import html
import re
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis.strategies import text
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from shotstream.text.text_encoder import (
    CaptionMemo,
    TextEncoder,
    UMT5Config,
    UMT5TextEncoder,
    build_umt5,
    clean_caption,
    embed_tokens,
    read_tokenizer,
)
from shotstream.weights.key_names import umt5_names

_GOLDEN = Path(__file__).parents[1] / "assets" / "goldens" / "text_encoder.safetensors"
_CONFIG = UMT5Config(vocab_size=300, dim=32, dim_ffn=64, num_heads=4, num_layers=2, text_length=12)
# The tolerance recorded in the golden; the measured error is below 1e-6.
_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(_GOLDEN)


@pytest.fixture(scope="module")
def weights(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: golden[f"weights.{theirs}"] for theirs, name in umt5_names(_CONFIG.num_layers).items()}


def _tokenizer() -> Tokenizer:
    words = ["<pad>", "</s>", "<unk>", *(f"w{index}" for index in range(200))]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    # A tokenizer file may carry settings of its own.
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=7)
    return tokenizer


@pytest.fixture
def encoder(weights: dict[str, Tensor], tmp_path: Path) -> UMT5TextEncoder:
    _tokenizer().save(str(tmp_path / "tokenizer.json"))
    return UMT5TextEncoder.from_tensors(_CONFIG, weights, tmp_path / "tokenizer.json")


def test_embeddings_equal_the_published_ones(golden: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    assert len(weights) == sum(name.startswith("weights.") for name in golden)
    ours = embed_tokens(build_umt5(_CONFIG, weights), golden["input_ids"], golden["attention_mask"])
    expected = golden["prompt_embeds"]
    assert float((ours - expected).abs().max()) / max(1.0, float(expected.abs().max())) < _TOLERANCE


def test_rows_past_the_caption_are_zero_and_the_rest_is_not(encoder: UMT5TextEncoder) -> None:
    (embedding,) = encoder.encode(["w1 w2 w3"])
    assert embedding.shape == (12, 32)
    assert embedding[4:].eq(0).all() and embedding[:4].ne(0).any(dim=-1).all()


def test_an_embedding_does_not_depend_on_the_captions_beside_it(encoder: UMT5TextEncoder) -> None:
    together = encoder.encode(["w1 w2", "w3 w4 w5 w6 w7", "w1 w2"])
    assert torch.equal(together[0], together[2])
    encoder._memo.reset()
    assert torch.equal(encoder.encode(["w3 w4 w5 w6 w7"])[0], together[1])


def test_a_long_caption_is_cut_on_the_right_and_keeps_its_end_mark(encoder: UMT5TextEncoder) -> None:
    words = [f"w{index}" for index in range(20)]
    assert encoder.count_tokens(" ".join(words)) == 21
    cut = encoder.encode([" ".join(words)])
    assert torch.equal(cut, encoder.encode([" ".join(words[:11])]))
    assert not torch.equal(cut, encoder.encode([" ".join(words[:10])]))


def test_captions_are_cleaned_before_they_are_encoded(encoder: UMT5TextEncoder) -> None:
    assert torch.equal(encoder.encode(["  w1 \n\t w2  "]), encoder.encode(["w1 w2"]))


@pytest.mark.parametrize(
    ("caption", "clean"),
    [
        ("a  fox\n in\tthe   snow ", "a fox in the snow"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("&lt;b&gt;", "<b>"),
        ("l&#39;été", "l'été"),
        ("schÃ¶n", "schön"),
        ("“quoted”", '"quoted"'),
        ("   ", ""),
    ],
)
def test_cleaning_repairs_unescapes_and_collapses(caption: str, clean: str) -> None:
    assert clean_caption(caption) == clean


@given(text(alphabet=[*map(chr, range(32, 127)), "\t", "\n"]))
def test_a_plain_caption_is_cleaned_without_ftfy_as_it_is_with_it(caption: str) -> None:
    import ftfy

    repaired = html.unescape(html.unescape(ftfy.fix_text(caption)))
    assert clean_caption(caption) == re.sub(r"\s+", " ", repaired).strip()


def test_only_a_caption_that_may_need_repair_needs_ftfy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)
    assert clean_caption(" a fox\n <walks>; 100 % ~") == "a fox <walks>; 100 % ~"
    for caption in ("\u00e9t\u00e9", "you &amp; me", "a\rb"):
        with pytest.raises(ValueError, match="ftfy"):
            clean_caption(caption)


def test_it_is_a_text_encoder_that_knows_every_word(encoder: UMT5TextEncoder) -> None:
    assert isinstance(encoder, TextEncoder)
    assert encoder.unknown_words("zyzzyva") == ()
    with pytest.raises(ValueError, match="at least one"):
        encoder.encode([])


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ValueError, match="no such tokenizer"):
        read_tokenizer(path)
    for content in (b"{}", b"\xff\xfe", b'{"version": "1.0", "model": 3}'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
            read_tokenizer(path)


class _Counter:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, caption: str) -> Tensor:
        self.calls.append(caption)
        return torch.full((2, 3), float(len(self.calls)))


def test_each_caption_is_encoded_once() -> None:
    memo, encode = CaptionMemo(), _Counter()
    first = memo.encode(["a", "b", "a"], encode)
    again = memo.encode(["b", "a"], encode)
    assert encode.calls == ["a", "b"]
    assert torch.equal(first[:, 0, 0], torch.tensor([1.0, 2.0, 1.0]))
    assert torch.equal(again[:, 0, 0], torch.tensor([2.0, 1.0]))


def test_the_memo_is_bounded_and_forgets_what_was_used_longest_ago() -> None:
    memo, encode = CaptionMemo(max_captions=2), _Counter()
    memo.encode(["a", "b"], encode)
    memo.encode(["a"], encode)
    memo.encode(["c"], encode)
    assert len(memo) == 2
    memo.encode(["a", "c"], encode)
    assert encode.calls == ["a", "b", "c"]
    memo.encode(["b"], encode)
    assert encode.calls == ["a", "b", "c", "b"]


def test_one_call_may_ask_for_more_than_the_memo_keeps() -> None:
    memo, encode = CaptionMemo(max_captions=2), _Counter()
    embeddings = memo.encode(list("abcd"), encode)
    assert torch.equal(embeddings[:, 0, 0], torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert len(memo) == 2
    with pytest.raises(ValueError, match="at least 1"):
        CaptionMemo(max_captions=0)
