"""The theatre's text encoder: a caption is read, and each answer of the reading is a fixed vector.

The reader (`reading/`) is a grammar and a lexicon of plain English. The embedding of a caption has a row for
each of `QUESTIONS`; a row depends on the answer alone, so that an actor in a colour that was never seen in
training is described by vectors that were. The vectors are random and fixed: the transformer learns what they
mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shotstream.sizes import refuse_sizes
from shotstream.text.text_encoder import CaptionMemo
from shotstream.theatre.questions import NOT_SAID, QUESTIONS
from shotstream.theatre.reading.lexicon import nearest
from shotstream.theatre.reading.reader import ShotReading, read_shot
from shotstream.theatre.reading.settled import settle
from shotstream.theatre.reading.words import raw_words

_MAX_WORDS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionEncoderConfig:
    """Sizes of a caption encoder."""

    questions: tuple[tuple[str, int], ...] = QUESTIONS
    """Kind and number of answers of each question; the world's own."""
    dim: int = 128
    """Width of an embedding, at least 1."""

    def __post_init__(self) -> None:
        refuse_sizes(self, ("dim",))
        if self.questions != QUESTIONS:
            raise ValueError("the encoder's questions are not the theatre's; see theatre/questions.py")


class CaptionEncoder(nn.Module):
    """The text encoder of the theatre: reads plain English; a `TextEncoder`."""

    def __init__(self, config: CaptionEncoderConfig) -> None:
        """Creates an encoder with random vectors, from torch's default generator."""
        super().__init__()
        self.config = config
        most = max(count for _, count in config.questions)
        answers = {kind: torch.randn(most, config.dim) for kind, _ in config.questions}
        questions = torch.randn(len(config.questions), 1, config.dim)
        rows = [answers[kind] + own for (kind, _), own in zip(config.questions, questions, strict=True)]
        self.vectors = nn.Parameter(torch.stack(rows) / 2**0.5, requires_grad=False)
        """The vector of each answer to each question, "k a d"."""
        self.memo = CaptionMemo()

    @property
    def text_length(self) -> int:
        """Maximum number of words of a caption."""
        return _MAX_WORDS

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Float[Tensor, "s k d"]:
        """Returns the embeddings of captions, in order; see `read` for their form."""
        return self.memo.encode(captions, self._encode_one)

    def read(self, text: str) -> ShotReading:
        """Returns what a text says: its last line is a shot's caption, the first the global one."""
        *before, caption = text.split("\n")
        return read_shot(caption, before[0] if before else "", tuple(before[1:]))

    def count_tokens(self, caption: str) -> int:
        """Returns the number of words and punctuation marks of a caption."""
        return len(raw_words(caption))

    def unknown_words(self, caption: str) -> tuple[str, ...]:
        """Returns the words for things that the world does not have, in order, without repeats."""
        return tuple(unknown.word for unknown in self.read(caption).unknown)

    def suggestions(self, word: str) -> tuple[str, ...]:
        """Returns the nearest thing that the world has, or nothing."""
        return tuple(filter(None, [nearest(word.lower())]))

    def _encode_one(self, caption: str) -> Float[Tensor, "k d"]:
        answers = settle(self.read(caption), 0).answers if caption.strip() else (NOT_SAID,) * len(QUESTIONS)
        return self.vectors[torch.arange(len(answers)), torch.tensor(answers)]
