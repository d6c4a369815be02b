"""Captions of the theatre's shots with the correct answers to its questions, to train a text encoder.

Captions are generated for each step, and information is removed at random: the global caption, words without
meaning for the questions, or everything, so that "not said" is an answer. No caption of training names a
held-out pair of species and colour.
"""

from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from shotstream.data.checks import require_within
from shotstream.data.rng import numpy_rng
from shotstream.streaming.pipeline_config import family_caption
from shotstream.theatre.captions import split_words
from shotstream.theatre.questions import NOT_SAID, QUESTIONS, answers
from shotstream.theatre.world import sample_story

_ARTICLES: Final = ("a", "an", "the")
# Words and punctuation marks that can be left out without a change of meaning.
_EMPTY_WORDS: Final = frozenset(
    {*_ARTICLES, "of", "with", "story", "about", "adventure", "little", ",", ".", ":"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionAnswersConfig:
    """Configuration of the captions: their number, and how information is removed."""

    batch_size: int = 96
    """Number of captions per step, over all processes, at least 1."""
    max_shots: int = 5
    """Maximum number of shots of the stories that captions are taken from, at least 1."""
    empty_share: float = 0.03
    """Share of the captions that are empty, in [0, 1]."""
    global_drop: float = 0.1
    """Probability, in [0, 1], that the global caption is left out."""
    word_drop: float = 0.15
    """Probability, in [0, 1], that a word without meaning for the questions is left out, in half of the
    captions.
    """

    def __post_init__(self) -> None:
        require_within(self, 1, inf, ("batch_size", "max_shots"))
        require_within(self, 0, 1, ("empty_share", "global_drop", "word_drop"))


class AnsweredCaptions(NamedTuple):
    """A batch of captions, with the index of the correct answer to each question."""

    captions: list[str]
    answers: Int[Tensor, "s k"]


class CaptionAnswers:
    """A `DataSource` of captions with answers."""

    def __init__(self, config: CaptionAnswersConfig, *, seed: int) -> None:
        """Creates a source; `seed` is that of all its random choices."""
        self.config, self.seed = config, seed

    def batch(self, step: int, samples: range) -> AnsweredCaptions:
        """Returns captions of a step."""
        drawn = [self._draw(numpy_rng(self.seed, "reader", step, sample)) for sample in samples]
        return AnsweredCaptions([text for text, _ in drawn], torch.tensor([right for _, right in drawn]))

    def _draw(self, rng: np.random.Generator) -> tuple[str, tuple[int, ...]]:
        config = self.config
        story = sample_story(rng, 1 + int(rng.integers(config.max_shots)))
        index = int(rng.integers(len(story.shots)))
        if rng.random() < config.empty_share:
            return "", (NOT_SAID,) * len(QUESTIONS)
        told = "" if rng.random() < config.global_drop else story.global_caption
        text = family_caption("theatre", told, story.captions[index], index)
        right = answers(story.shots[index], text)
        if rng.random() < 0.5:
            words = split_words(text)
            kept = [w for w in words if w not in _EMPTY_WORDS or rng.random() >= config.word_drop]
            text = " ".join(kept)
        return text, right


def held_out_captions(count: int) -> AnsweredCaptions:
    """Returns captions of stories with held-out pairs of species and colour, and the correct answers."""
    texts: list[str] = []
    right: list[tuple[int, ...]] = []
    for number in range(count):
        rng = np.random.default_rng((20_001, number))
        story = sample_story(rng, 3, held_out=True)
        index = int(rng.integers(len(story.shots)))
        texts.append(family_caption("theatre", story.global_caption, story.captions[index], index))
        right.append(answers(story.shots[index], texts[-1]))
    return AnsweredCaptions(texts, torch.tensor(right))
