"""The text encoder stage: the theatre's text encoder learns to answer questions about captions.

If it is trained by the teacher's flow-matching loss alone instead, it does not know which actor has which
colour after three hundred thousand shots; trained on questions, it does after some minutes (`docs/LOG.md`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from shotstream.data.batches import DataSource
from shotstream.data.caption_answers import AnsweredCaptions, CaptionAnswersConfig, held_out_captions
from shotstream.text.word_encoder import WordEncoder, WordEncoderConfig
from shotstream.theatre.questions import QUESTIONS
from shotstream.training.parallelize import ParallelConfig
from shotstream.training.recipe import Recipe
from shotstream.training.train_state import TrainState

_NUM_HELD_OUT = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoderConfig:
    """Configuration of the text encoder stage, without settings."""

    def check(self, recipe: Recipe[Any, Any, Any]) -> None:
        """Raises ValueError for questions that are not the theatre's."""
        if recipe.model.questions != QUESTIONS:
            raise ValueError("the text encoder's questions are not the theatre's; see theatre/questions.py")
        recipe.refuse_matmul_dtype("the text encoder is small")


TextEncoderRecipe = Recipe[WordEncoderConfig, CaptionAnswersConfig, TextEncoderConfig]


class TextEncoderStage:
    """A `Stage` that trains a `WordEncoder` with questions."""

    def __init__(
        self,
        recipe: TextEncoderRecipe,
        source: DataSource[AnsweredCaptions],
        device: torch.device | str = "cpu",
        parallel: ParallelConfig | None = None,
    ) -> None:
        """Creates the stage; raises ValueError for parallel settings that it does not support."""
        torch.manual_seed(recipe.train.seed)  # the initial weights
        self.recipe, self.source, self.parallel = recipe, source, parallel or ParallelConfig()
        self.parallel.refuse(("activation_checkpointing", "compile"), "the text encoder is small")
        self.parallel.shares(self.batch_size)
        self.text_encoder = WordEncoder(recipe.model).to(device)
        self.parallel.shard(self.text_encoder, methods=("answers",))
        self.state = TrainState(
            self.text_encoder,
            recipe.optimizer,
            recipe.train.num_steps,
            adamw_names=("embedding", "position", "query"),
        )

    @property
    def batch_size(self) -> int:
        """Number of samples of a step."""
        return self.recipe.data.batch_size

    def step(self, step: int) -> Mapping[str, float]:
        """Runs one step; see `Stage.step`."""

        def loss_of(samples: range) -> Tensor:
            return answer_loss(self.text_encoder, *self.source.batch(step, samples))

        loss = self.parallel.backward(self.batch_size, loss_of, "text encoder's", step)
        return {"loss": loss, "norm": self.state.step(step).item()}

    def training_data(self, step: int) -> dict[str, Any]:
        """Returns this process's captions of a step."""
        shares = self.parallel.shares(self.batch_size)
        return {"captions": [self.source.batch(step, samples).captions for samples in shares]}

    def averaged(self) -> WordEncoder:
        """Returns the encoder with averaged weights, in eval mode."""
        return self.state.averaged(WordEncoder(self.recipe.model))

    @torch.no_grad()
    def preview(self, step: int, directory: Path) -> Mapping[str, float]:
        """Returns the shares of correct answers to held-out captions: single ones, and all of a caption."""
        del step, directory
        encoder = self.averaged()
        if not self.parallel.dist_context.is_main_process:
            return {}
        texts, right = held_out_captions(_NUM_HELD_OUT)
        correct = encoder.answers(encoder.tokenize(texts)).argmax(-1) == right
        return {"right": correct.float().mean().item(), "all_right": correct.all(1).float().mean().item()}


def answer_loss(encoder: WordEncoder, texts: list[str], right: Int[Tensor, "s k"]) -> Float[Tensor, ""]:
    """Returns the cross-entropy of the answers, in float32."""
    device = encoder.embedding.weight.device
    logits = encoder.answers(encoder.tokenize(texts).to(device))
    return F.cross_entropy(logits.float().flatten(0, 1), right.flatten().to(device))
