"""The theatre's text encoder: a word-level tokenizer and a small transformer.

With questions it is trained before the teacher, to answer them about captions
(`training/stages/text_encoder.py`), and then frozen. Without questions it is trained together with the
teacher, and then frozen.

It knows only the words of its config; `unknown_words` returns the words of a caption that it does not know.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn

from shotstream.sizes import refuse_sizes
from shotstream.text.text_encoder import CaptionMemo
from shotstream.transfer import send

_PADDING, _UNKNOWN = "[PAD]", "[UNK]"


@dataclass(frozen=True, kw_only=True, slots=True)
class WordEncoderConfig:
    """Sizes of a word encoder, each at least 1."""

    words: tuple[str, ...]
    """Every word and punctuation mark that it knows, in lower case, in the order of their ids."""
    dim: int = 128
    """Width of an embedding, a multiple of `num_heads`."""
    num_layers: int = 2
    """Number of transformer blocks."""
    num_heads: int = 4
    """Number of attention heads."""
    text_length: int = 56
    """Number of tokens that a caption may have; a longer one is truncated."""
    questions: tuple[tuple[str, int], ...] = ()
    """Kind and number of answers of each question about a caption; the first answer is "not said". An
    embedding then has a row per question, for its answer; without questions it has a row per word.
    """

    def __post_init__(self) -> None:
        if len(set(self.words)) != len(self.words) or not self.words:
            raise ValueError("the encoder's words must be at least one and all different")
        refuse_sizes(self, ("dim", "num_layers", "num_heads", "text_length"))
        if self.dim % self.num_heads:
            raise ValueError(f"dim is {self.dim}; it must be a multiple of num_heads, {self.num_heads}")


class WordEncoder(nn.Module):
    """The text encoder for a small vocabulary; a `TextEncoder`."""

    def __init__(self, config: WordEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = _tokenizer(config.words)
        self.embedding = nn.Embedding(len(config.words) + 2, config.dim)
        self.position = nn.Parameter(0.02 * torch.randn(config.text_length, config.dim))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.dim, config.num_heads, 4 * config.dim, dropout=0.0, activation="gelu",
                batch_first=True, norm_first=True,
            )
            for _ in range(config.num_layers)
        )  # fmt: skip
        self.norm = nn.LayerNorm(config.dim)
        self.near = nn.Conv1d(config.dim, config.dim, 3, padding=1) if config.questions else None
        self.reading = Reading(config) if config.questions else None
        self.memo = CaptionMemo()
        nn.init.normal_(self.embedding.weight, std=0.5)
        if self.reading is not None:
            nn.init.normal_(self.position, std=0.3)  # the order of words says who does what

    @property
    def text_length(self) -> int:
        """Maximum number of tokens of a caption."""
        return self.config.text_length

    def tokenize(self, captions: Sequence[str]) -> Int[Tensor, "s n"]:
        """Returns token ids, truncated and padded to `text_length`; 0 is padding, 1 an unknown word."""
        rows = [self.tokenizer.encode(caption).ids[: self.text_length] for caption in captions]
        ids = torch.zeros(len(rows), self.text_length, dtype=torch.long)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        return ids

    def forward(self, ids: Int[Tensor, "s n"]) -> Float[Tensor, "s k d"]:
        """Returns embeddings of token ids: a row per word, zero for padding, or a row per question."""
        words, hidden = self._words(ids)
        if self.reading is not None:
            return self.reading.embed(self.reading(words, hidden))
        return words * (ids != 0)[..., None]

    def answers(self, ids: Int[Tensor, "s n"]) -> Float[Tensor, "s k a"]:
        """Returns the logits of the answers to each question; -inf for those that it does not have."""
        assert self.reading is not None, "an encoder without questions has no answers"
        return self.reading(*self._words(ids))

    def _words(self, ids: Int[Tensor, "s n"]) -> tuple[Float[Tensor, "s n d"], Bool[Tensor, "s n"]]:
        """Returns the embedding of each word in its caption, and which positions attention ignores."""
        known: Bool[Tensor, "s n"] = ids != 0
        words = self.embedding(ids)
        x = words + self.position
        if self.near is not None:
            x = x + self.near((words * known[..., None]).mT).mT
        # A caption without words attends to its padding: a softmax over no position would be NaN.
        hidden = ~known & known.any(dim=1, keepdim=True)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=hidden)
        return self.norm(x), hidden

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Float[Tensor, "s n d"]:
        """Returns embeddings of captions, in order; cached, so for frozen weights only."""
        return self.memo.encode(captions, self._encode_one)

    def count_tokens(self, caption: str) -> int:
        """Returns the number of tokens of a caption, before truncation."""
        return len(self.tokenizer.encode(caption).ids)

    def unknown_words(self, caption: str) -> tuple[str, ...]:
        """Returns the words that the encoder does not know, in order, without repeats."""
        found = self.tokenizer.encode(caption)
        words = (
            caption[start:end].lower()
            for id_, (start, end) in zip(found.ids, found.offsets, strict=True)
            if id_ == 1
        )
        return tuple(dict.fromkeys(words))

    def suggestions(self, word: str) -> tuple[str, ...]:
        """Returns known words that are spelled like `word`, the nearest first; may be empty."""
        return tuple(difflib.get_close_matches(word.lower(), self.config.words, n=2, cutoff=0.7))

    def _encode_one(self, caption: str) -> Float[Tensor, "n d"]:
        return self(send(self.tokenize([caption]), self.position.device))[0]


class Reading(nn.Module):
    """The head that answers a fixed list of questions about a caption, and embeds the answers.

    The embedding of an answer is a fixed vector for the answer plus one for the question: it does not depend
    on the rest of the caption. An actor in a colour that was never seen in training is therefore described by
    vectors that were.
    """

    closed: Tensor

    def __init__(self, config: WordEncoderConfig) -> None:
        super().__init__()
        dim, kinds = config.dim, dict(config.questions)
        num, most = len(config.questions), max(kinds.values())
        self.query = nn.Parameter(torch.randn(num, dim))
        self.attention = nn.MultiheadAttention(dim, config.num_heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )
        self.head = nn.Parameter(0.02 * torch.randn(num, dim, most))
        self.bias = nn.Parameter(torch.zeros(num, most))
        answers = {kind: torch.randn(most, dim) for kind in kinds}
        questions = torch.randn(num, 1, dim)
        rows = [
            answers[kind] + question for (kind, _), question in zip(config.questions, questions, strict=True)
        ]
        self.vectors = nn.Parameter(torch.stack(rows) / 2**0.5, requires_grad=False)
        counts = torch.tensor([count for _, count in config.questions])
        self.register_buffer("closed", torch.arange(most) >= counts[:, None], persistent=False)

    def forward(self, words: Float[Tensor, "s n d"], hidden: Bool[Tensor, "s n"]) -> Float[Tensor, "s k a"]:
        """Returns the logits of the answers."""
        query = self.query.expand(len(words), -1, -1)
        found, _ = self.attention(query, words, words, key_padding_mask=hidden, need_weights=False)
        found = found + self.mlp(found + query)
        logits = torch.einsum("skd,kda->ska", found, self.head) + self.bias
        return logits.masked_fill(self.closed, -torch.inf)

    def embed(self, logits: Float[Tensor, "s k a"]) -> Float[Tensor, "s k d"]:
        """Returns the expected answer vectors."""
        return torch.einsum("ska,kad->skd", logits.softmax(-1), self.vectors)


def _tokenizer(words: Sequence[str]) -> Tokenizer:
    vocabulary = {word: index for index, word in enumerate((_PADDING, _UNKNOWN, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    # A hyphen stays inside its word; every other punctuation mark is a token.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[^\w\-]"), behavior="isolated")]
    )
    return tokenizer
