"""Trains the theatre's text encoder to read: what a caption says of its shot, question by question.

Learnt by the teacher instead, from the flow-matching loss alone, whose colour is whose was not known after
three hundred thousand shots; asked directly, it takes some minutes (`docs/LOG.md`). Captions are drawn anew
at each step and are made poorer at random: without the story's caption, without words that say nothing, or
empty, so that "not said" is an answer. No caption names a pair of species and colour that is held out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from shotstream.codec.word_encoder import WordEncoder, WordEncoderConfig
from shotstream.data.checks import require_decay, require_positive, require_within
from shotstream.story import compose_caption
from shotstream.theatre.captions import split_words
from shotstream.theatre.questions import NOT_SAID, QUESTIONS, answers
from shotstream.theatre.world import sample_story
from shotstream.training.checkpoint import load_checkpoint
from shotstream.training.ema import Ema
from shotstream.training.keys import draws
from shotstream.training.optimisers import MuonAdamW
from shotstream.training.parallelize import Execution, whole_state
from shotstream.training.rates import rate_factor

_ARTICLES = ("a", "an", "the")
_EMPTY_WORDS = frozenset({*_ARTICLES, "of", "with", "story", "about", "adventure", "little", ",", ".", ":"})
"""Words and marks that may be missing without a change of meaning."""
_NUM_HELD_OUT = 500
_WARMUP_STEPS = 50
"""Steps over which the learning rate rises from zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderTraining:
    """The recipe of a text encoder that answers questions."""

    text: WordEncoderConfig
    """Sizes and words; its questions must be the theatre's."""
    num_steps: int
    """Steps of the run, over which the learning rate falls to zero; a recipe gives it from its loop."""
    seed: int = 5
    """Of everything that is drawn."""
    batch_size: int = 96
    """Captions per step."""
    learning_rate: float = 1e-3
    """AdamW's; hidden matrices go to Muon, at three times it."""
    max_shots: int = 5
    """Captions are of stories of one to this many shots."""
    empty_share: float = 0.03
    """Share of the captions that are empty."""
    global_drop: float = 0.1
    """Chance that a shot's caption comes without the story's."""
    word_drop: float = 0.15
    """In half of the captions, the chance of each word that says nothing to be left out."""
    ema_decay: float = 0.99
    """Decay per step of the averaged weights, which are what is used afterwards."""

    def __post_init__(self) -> None:
        require_within(self, 0, inf, ("seed",))
        require_within(self, 1, inf, ("num_steps", "batch_size", "max_shots"))
        require_within(self, 0, 1, ("empty_share", "global_drop", "word_drop"))
        require_positive(self, ("learning_rate",))
        require_decay(self, ("ema_decay",))
        if self.text.questions != QUESTIONS:
            raise ValueError("the text encoder's questions are not the theatre's; see theatre/questions.py")

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at a step; see `rates.py`."""
        return rate_factor(
            step, num_steps=self.num_steps, warmup_steps=_WARMUP_STEPS, decay_steps=self.num_steps
        )


class ReaderStage:
    """A `Stage` that trains a `WordEncoder` with questions."""

    def __init__(
        self,
        config: ReaderTraining,
        device: torch.device | str = "cpu",
        execution: Execution | None = None,
    ) -> None:
        """ValueError for a way of computing that it does not have."""
        torch.manual_seed(config.seed)  # the initial weights
        self.config, self.execution = config, execution or Execution()
        self.execution.refuse(("activation_checkpointing", "compile"), "the text encoder is small")
        self.execution.shares(config.batch_size)
        self.reader = WordEncoder(config.text).to(device)
        self.execution.shard(self.reader, methods=("answers",))
        self.ema = Ema(self.reader, config.ema_decay)
        self.optimiser = MuonAdamW(
            self.reader.named_parameters(),
            learning_rate=config.learning_rate,
            adamw_names=("embedding", "position", "query"),
        )

    @property
    def batch_size(self) -> int:
        """Samples of a step."""
        return self.config.batch_size

    def batch(self, step: int, samples: range) -> tuple[list[str], Int[Tensor, "s k"]]:
        """Captions of a step and the right answers."""
        drawn = [self._draw(draws(self.config.seed, "reader", step, sample)) for sample in samples]
        return [text for text, _ in drawn], torch.tensor([right for _, right in drawn])

    def _draw(self, rng: np.random.Generator) -> tuple[str, tuple[int, ...]]:
        config = self.config
        story = sample_story(rng, 1 + int(rng.integers(config.max_shots)))
        index = int(rng.integers(len(story.shots)))
        if rng.random() < config.empty_share:
            return "", (NOT_SAID,) * len(QUESTIONS)
        told = "" if rng.random() < config.global_drop else story.global_caption
        text = compose_caption(told, story.captions[index], index)
        right = answers(story.shots[index], text)
        if rng.random() < 0.5:
            words = split_words(text)
            kept = [w for w in words if w not in _EMPTY_WORDS or rng.random() >= config.word_drop]
            text = " ".join(kept)
        return text, right

    def step(self, step: int) -> Mapping[str, float]:
        """One step; see `Stage.step`."""

        def loss_of(samples: range) -> Tensor:
            texts, right = self.batch(step, samples)
            return reading_loss(self.reader, texts, right)

        loss = self.execution.backward(self.batch_size, loss_of, "reader's", step)
        norm = self.optimiser.step(self.config.rate(step))
        self.ema.update(self.reader)
        return {"loss": loss, "norm": norm.item()}

    def inputs(self, step: int) -> dict[str, Any]:
        """This process's captions of a step."""
        return {
            "captions": [self.batch(step, samples)[0] for samples in self.execution.shares(self.batch_size)]
        }

    def averaged(self) -> WordEncoder:
        """The encoder with averaged weights, in eval mode."""
        reader = WordEncoder(self.config.text)
        reader.load_state_dict(whole_state(self.reader.state_dict()))
        self.ema.copy_to(reader)
        return reader.eval()

    @torch.no_grad()
    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        """Shares of right answers to held-out captions: each of them, and all of a caption's."""
        del step, directory
        reader = self.averaged()
        if not self.execution.world.leads:
            return {}
        texts, right = held_out_captions(_NUM_HELD_OUT)
        correct = reader.answers(reader.tokenize(texts)).argmax(-1) == right
        return {"right": correct.float().mean().item(), "all_right": correct.all(1).float().mean().item()}

    def prime(self) -> None:
        """See `Stage.prime`."""
        self.optimiser.prime()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {
            "weights": self.reader.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self.reader.load_state_dict(state["weights"])
        self.ema.load_state_dict(state["ema"])
        if "optimiser" in state:
            self.optimiser.load_state_dict(state["optimiser"])


def reading_loss(reader: WordEncoder, texts: list[str], right: Int[Tensor, "s k"]) -> Float[Tensor, ""]:
    """The cross-entropy of the answers, in float32."""
    device = reader.embedding.weight.device
    logits = reader.answers(reader.tokenize(texts).to(device))
    return F.cross_entropy(logits.float().flatten(0, 1), right.flatten().to(device))


def held_out_captions(count: int) -> tuple[list[str], Int[Tensor, "s k"]]:
    """Captions of stories that star pairs never seen in training, and the right answers."""
    texts: list[str] = []
    right: list[tuple[int, ...]] = []
    for number in range(count):
        rng = np.random.default_rng((20_001, number))
        story = sample_story(rng, 3, held_out=True)
        index = int(rng.integers(len(story.shots)))
        texts.append(compose_caption(story.global_caption, story.captions[index], index))
        right.append(answers(story.shots[index], texts[-1]))
    return texts, torch.tensor(right)


def reader_from_run(checkpoint: Path, config: ReaderTraining) -> WordEncoder:
    """The averaged text encoder of a run, frozen."""
    stage = ReaderStage(config)
    _, state = load_checkpoint(checkpoint)
    stage.load_state_dict({name: value for name, value in state.items() if name != "optimiser"})
    return stage.averaged().requires_grad_(False)
