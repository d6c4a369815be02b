"""Captions of the theatre's shots with the right answers to its questions, to train a text encoder.

Captions are drawn anew at each step and are made poorer at random: without the story's caption, without
words that say nothing, or empty, so that "not said" is an answer. No caption of training names a pair of
species and colour that is held out.
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
# Words and marks that may be missing without a change of meaning.
_EMPTY_WORDS: Final = frozenset(
    {*_ARTICLES, "of", "with", "story", "about", "adventure", "little", ",", ".", ":"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionAnswersConfig:
    """Configuration of the captions: how many, and how they are made poorer."""

    batch_size: int = 96
    """Captions per step, over all processes."""
    max_shots: int = 5
    """Captions are of stories of one to this many shots."""
    empty_share: float = 0.03
    """Share of the captions that are empty."""
    global_drop: float = 0.1
    """Chance that a shot's caption comes without the story's."""
    word_drop: float = 0.15
    """In half of the captions, the chance of each word that says nothing to be left out."""

    def __post_init__(self) -> None:
        require_within(self, 1, inf, ("batch_size", "max_shots"))
        require_within(self, 0, 1, ("empty_share", "global_drop", "word_drop"))


class AnsweredCaptions(NamedTuple):
    """Captions and the right answer to each question about each."""

    captions: list[str]
    answers: Int[Tensor, "s k"]


class CaptionAnswers:
    """A `DataSource` of captions with answers."""

    def __init__(self, config: CaptionAnswersConfig, *, seed: int) -> None:
        """`seed` is that of all that is drawn."""
        self.config, self.seed = config, seed

    def batch(self, step: int, samples: range) -> AnsweredCaptions:
        """Captions of a step."""
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
    """Captions of stories that star pairs never seen in training, and the right answers."""
    texts: list[str] = []
    right: list[tuple[int, ...]] = []
    for number in range(count):
        rng = np.random.default_rng((20_001, number))
        story = sample_story(rng, 3, held_out=True)
        index = int(rng.integers(len(story.shots)))
        texts.append(family_caption("theatre", story.global_caption, story.captions[index], index))
        right.append(answers(story.shots[index], texts[-1]))
    return AnsweredCaptions(texts, torch.tensor(right))
