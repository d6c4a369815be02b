"""The recipes of the ablations: the theatre's stages in miniature, starting from the theatre's teacher."""

from dataclasses import replace
from typing import Final, TypeVar

from shotstream.data.shard_source import ShardsConfig
from shotstream.data.story_pool import StoryPoolConfig
from shotstream.training.stages.causal_init import CausalInitRecipe
from shotstream.training.stages.inter_shot import InterShotRecipe
from shotstream.training.stages.intra_shot import IntraShotRecipe
from shotstream.training.stages.ode_pairs import OdePairsRecipe
from shotstream.training.stages.teacher import TeacherRecipe
from shotstream.training.theatre import (
    theatre_causal_init,
    theatre_inter_shot,
    theatre_intra_shot,
    theatre_ode_pairs,
    theatre_teacher,
)

_Data = TypeVar("_Data", StoryPoolConfig, StoryPoolConfig | ShardsConfig)

_BASE_STEPS: Final = 18_900
"""Number of steps of the teacher that the rows of docs/ablations.md started from."""


def _as_published(data: _Data, **changes: int) -> _Data:
    """Returns the theatre's stories as the rows had them: without turns, references and longer shots."""
    assert isinstance(data, StoryPoolConfig)
    plain = StoryPoolConfig()
    return replace(
        data,
        num_latent_frames=plain.num_latent_frames,
        shot_weights=plain.shot_weights,
        turn_share=0.0,
        reference_share=0.0,
        **changes,
    )


def mini_teacher() -> TeacherRecipe:
    """Returns the recipe of a row's teacher, which `ablate` starts from the theatre's teacher.

    Alone, the recipe would train all of it again.
    """
    full, fork = theatre_teacher(), 400
    return replace(
        full,
        name="mini_teacher",
        data=_as_published(full.data, block_stories=32, batch_size=12),
        optim=replace(full.optimizer, learning_rate=1e-3, decay_steps=fork, ema_decay=0.98),
        train=replace(full.train, num_steps=_BASE_STEPS + fork),
    )


def mini_ode_pairs() -> OdePairsRecipe:
    """Returns the recipe of the ODE pairs of a row's teacher."""
    full = theatre_ode_pairs()
    return replace(
        full,
        name="mini_ode_pairs",
        data=_as_published(full.data, block_stories=32, batch_size=12, steps_per_block=4),
        train=replace(full.train, num_steps=24, save_every=4, log_every=4),
        stage=replace(full.stage, context_guidance=1.0),
        inputs=replace(full.inputs, teacher="mini_teacher"),
    )


def mini_causal_init() -> CausalInitRecipe:
    """Returns the recipe of a row's causal student."""
    full = theatre_causal_init()
    return replace(
        full,
        name="mini_causal_init",
        optim=replace(full.optimizer, warmup_steps=10, ema_decay=0.98),
        train=replace(full.train, num_steps=150, save_every=50, log_every=10, preview_every=1000),
        inputs=replace(full.inputs, teacher="mini_teacher", pairs="mini_ode_pairs"),
    )


def mini_intra_shot() -> IntraShotRecipe:
    """Returns the recipe of a row's student matched to its teacher, with true earlier shots."""
    full = theatre_intra_shot()
    return replace(
        full,
        name="mini_intra_shot",
        data=_as_published(full.data, block_stories=32, num_blocks=4),
        optim=replace(full.optimizer, ema_decay=0.9),
        train=replace(full.train, num_steps=40, save_every=10, preview_every=1000),
        stage=replace(full.stage, context_guidance=1.0, fake_updates=3, fake_warmup_steps=4),
        inputs=replace(full.inputs, teacher="mini_teacher", student="mini_causal_init"),
    )


def mini_inter_shot() -> InterShotRecipe:
    """Returns the recipe of a row's student matched to its teacher, with its own earlier shots.

    It has few steps, with a large learning rate.
    """
    full = theatre_inter_shot()
    return replace(
        full,
        name="mini_inter_shot",
        optim=replace(full.optimizer, learning_rate=5e-4, ema_decay=0.9),
        train=replace(full.train, num_steps=30, save_every=5, preview_every=1000),
        stage=replace(
            full.stage,
            context_guidance=1.0,
            fake_updates=3,
            fake_warmup_steps=4,
            fake_learning_rate=1e-3,
        ),
        inputs=replace(full.inputs, teacher="mini_teacher", student="mini_intra_shot"),
    )
