"""The stages of the 1.3B family, with the values of arXiv 2603.25746 and of its published configurations.

They train on shards that `shotstream data encode CLIPS -o data/shards --model wan-1.3b` made. Ours are:
half of the teacher's steps are causal, which is what makes its trajectories a causal student's (Causal
Forcing, arXiv 2602.02214); weights are averaged; the fake score is warmed up. The effective batch is the
recipe's on any number of GPUs that divides it: each computes `loop.samples_at_once` samples after the other.
"""

import dataclasses

from shotstream.data.captions import StoredTextConfig
from shotstream.data.source import ShardsConfig
from shotstream.diffusion.schedule import STUDENT_STEPS
from shotstream.model.config import wan_1_3b
from shotstream.training.stages.causal_init import CausalInitTraining
from shotstream.training.stages.dmd import DmdTraining
from shotstream.training.stages.inter_shot import InterShotTraining
from shotstream.training.stages.intra_shot import IntraShotTraining
from shotstream.training.stages.ode_pairs import OdePairsTraining
from shotstream.training.stages.teacher import TeacherTraining

SHARDS = "data/shards"
"""Where the recipes look for their shards."""

TEACHER_STEPS, CAUSAL_INIT_STEPS, INTRA_SHOT_STEPS, INTER_SHOT_STEPS = 10_000, 2000, 500, 1000
_BATCH, _MATCHING_BATCH = 64, 32
_NUM_PAIRS = 5000
PAIR_FILES = -(-_NUM_PAIRS // _BATCH)
"""Files of a batch of trajectories each."""


def wan_teacher() -> TeacherTraining:
    """The base model's self-attention learns to read context frames."""
    return TeacherTraining(
        dit=wan_1_3b(),
        text=StoredTextConfig(directory=SHARDS),
        pool=ShardsConfig(directory=SHARDS),
        num_steps=TEACHER_STEPS,
        decay_steps=1,  # constant
        warmup_steps=1,
        batch_size=_BATCH,
        learning_rate=1e-5,
        optimiser="adamw",
        max_norm=10.0,
        start="wan-1.3b",
        learns="self_attention",
        shift=8.0,
        context_policy="published",
        context_drop=0.1,
        caption_drop=0.1,
        ema_decay=0.999,
        matmul_dtype="bfloat16",
    )


def wan_ode_pairs() -> OdePairsTraining:
    """Five thousand trajectories of 48 Euler steps, guided as the published sampler is.

    `--set stage.flow=bidirectional` makes them the published ones, of whole shots.
    """
    return OdePairsTraining(
        teacher=_drawing(1),
        student_steps=STUDENT_STEPS,
        substeps=12,
        guidance=6.0,
        matmul_dtype="bfloat16",
    )


def wan_causal_init() -> CausalInitTraining:
    """The student, on these."""
    return CausalInitTraining(
        pairs=wan_ode_pairs(),
        num_steps=CAUSAL_INIT_STEPS,
        learning_rate=1e-6,
        optimiser="adamw",
        decays=False,
        warmup_steps=1,
        ema_decay=0.99,
        matmul_dtype="bfloat16",
    )


def wan_intra_shot() -> IntraShotTraining:
    """The student matched to the bidirectional teacher, given true earlier shots."""
    return IntraShotTraining(dmd=_matching(INTRA_SHOT_STEPS))


def wan_inter_shot() -> InterShotTraining:
    """The student matched on its own history, over stories of five shots."""
    return InterShotTraining(
        dmd=dataclasses.replace(_matching(INTER_SHOT_STEPS), seed=4), lora_rank=256, lora_alpha=256
    )


def _drawing(seed: int) -> TeacherTraining:
    """The teacher as later stages draw their batches: in another order."""
    teacher = wan_teacher()
    return dataclasses.replace(teacher, pool=ShardsConfig(directory=SHARDS, seed=seed))


def _matching(num_steps: int) -> DmdTraining:
    teacher = dataclasses.replace(_drawing(2), batch_size=_MATCHING_BATCH, shot_weights=(0.2,) * 5)
    return DmdTraining(
        teacher=teacher,
        num_steps=num_steps,
        guidance=4.0,  # published as 3.0, counted from the conditional prediction
        fake_updates=5,
        student_rate=2e-6,
        fake_rate=4e-7,
        student_max_norm=1.0,
        fake_max_norm=10.0,
        ema_decay=0.99,
        matmul_dtype="bfloat16",
    )
