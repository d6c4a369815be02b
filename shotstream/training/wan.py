"""The recipes of the 1.3B family, with the values of arXiv 2603.25746 and of its published configurations.

They train on shards from `shotstream data encode CLIPS -o data/shards --model wan-1.3b`. Differences from the
publication: half of the teacher's steps are causal, so that its trajectories suit a causal student (Causal
Forcing, arXiv 2602.02214); weights are averaged; the fake score is warmed up. The effective batch is the
recipe's on any number of GPUs that divides it: each computes microbatches of `train.samples_at_once` samples.
"""

from typing import Final

from shotstream.data.captions import StoredTextConfig
from shotstream.data.ode_pairs import PairFilesConfig
from shotstream.data.shard_source import ShardsConfig
from shotstream.data.story_captions import ShardCaptionsConfig
from shotstream.model.config import wan_1_3b
from shotstream.training.recipe import Inputs, ModelConfig, OptimConfig, Recipe, TrainConfig
from shotstream.training.stages.causal_init import CausalInitConfig, CausalInitRecipe
from shotstream.training.stages.inter_shot import InterShotConfig, InterShotRecipe
from shotstream.training.stages.intra_shot import IntraShotConfig, IntraShotRecipe
from shotstream.training.stages.ode_pairs import OdePairsConfig, OdePairsRecipe
from shotstream.training.stages.teacher import TeacherConfig, TeacherRecipe

SHARDS: Final = "data/shards"
"""Default directory of the shards."""

_BATCH, _MATCHING_BATCH = 64, 32
_NUM_PAIRS = 5000


def model() -> ModelConfig:
    """Returns the configuration of the 1.3B model, which starts from the base model."""
    return ModelConfig(
        dit=wan_1_3b(),
        text=StoredTextConfig(directory=SHARDS),
        shift=8.0,
        context_policy="published",
        start="wan-1.3b",
    )


def wan_teacher() -> TeacherRecipe:
    """Returns the recipe of the 1.3B teacher, whose self-attention learns to use context frames."""
    return Recipe(
        name="wan_teacher",
        model=model(),
        data=ShardsConfig(directory=SHARDS, batch_size=_BATCH, caption_drop=0.1),
        optim=OptimConfig(optimizer="adamw", learning_rate=1e-5, max_norm=10.0, ema_decay=0.999),
        train=_train(10_000, seed=0),
        stage=TeacherConfig(learns="self_attention"),
    )


def wan_ode_pairs() -> OdePairsRecipe:
    """Returns the recipe of five thousand trajectories of the 1.3B teacher.

    They have 48 Euler steps, and the guidance of the published sampler. `--set stage.flow=bidirectional`
    makes the published kind, of whole shots. Each step writes a file.
    """
    return Recipe(
        name="wan_ode_pairs",
        model=model(),
        data=ShardsConfig(directory=SHARDS, seed=1, batch_size=_BATCH),
        optim=None,
        train=_train(-(-_NUM_PAIRS // _BATCH), seed=1, learns=False),
        stage=OdePairsConfig(substeps=12, guidance=6.0),
        inputs=Inputs(teacher="wan_teacher"),
    )


def wan_causal_init() -> CausalInitRecipe:
    """Returns the recipe of the 1.3B four-step student, from its teacher's trajectories."""
    return Recipe(
        name="wan_causal_init",
        model=model(),
        data=PairFilesConfig(),
        optim=OptimConfig(optimizer="adamw", learning_rate=1e-6, ema_decay=0.99),
        train=_train(2000, seed=2),
        stage=CausalInitConfig(),
        inputs=Inputs(teacher="wan_teacher", pairs="wan_ode_pairs"),
    )


def wan_intra_shot() -> IntraShotRecipe:
    """Returns the recipe of the 1.3B student matched to its teacher, with true earlier shots."""
    return Recipe(
        name="wan_intra_shot",
        model=model(),
        data=ShardsConfig(directory=SHARDS, seed=2, batch_size=_MATCHING_BATCH),
        optim=OptimConfig(optimizer="adamw", learning_rate=2e-6, ema_decay=0.99),
        train=_train(500, seed=3),
        stage=IntraShotConfig(guidance=_GUIDANCE, fake_learning_rate=4e-7),
        inputs=Inputs(teacher="wan_teacher", student="wan_causal_init"),
    )


def wan_inter_shot() -> InterShotRecipe:
    """Returns the recipe of the 1.3B student matched to its teacher, with its own earlier shots."""
    return Recipe(
        name="wan_inter_shot",
        model=model(),
        data=ShardCaptionsConfig(directory=SHARDS, batch_size=_MATCHING_BATCH, shot_weights=(0.2,) * 5),
        optim=OptimConfig(optimizer="adamw", learning_rate=2e-6, ema_decay=0.99),
        train=_train(1000, seed=4),
        stage=InterShotConfig(guidance=_GUIDANCE, fake_learning_rate=4e-7, lora_rank=256, lora_alpha=256),
        inputs=Inputs(teacher="wan_teacher", student="wan_intra_shot"),
    )


_GUIDANCE: Final = 4.0
"""Guidance scale; published as 3.0, counted from the conditional prediction."""


def _train(num_steps: int, seed: int, *, learns: bool = True) -> TrainConfig:
    return TrainConfig(
        num_steps=num_steps,
        seed=seed,
        matmul_dtype="bfloat16",
        save_every=100,
        log_every=10,
        preview_every=1000,
        samples_at_once=1,
        activation_checkpointing=learns,
    )
