"""Builders of the stages: each opens the data of a recipe and loads its inputs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from shotstream.data.ode_pairs import PairFiles
from shotstream.data.rendered_clips import ActorClips, RenderedClips
from shotstream.data.shard_source import ShardsConfig, ShardSource
from shotstream.data.story_captions import ShardCaptions, StoryCaptions, StoryCaptionsConfig
from shotstream.data.story_pool import StoryPool, StoryPoolConfig
from shotstream.theatre.sets import STAGE_SIZE
from shotstream.training.dist_context import SINGLE_PROCESS, DistContext
from shotstream.training.films import theatre_pipeline
from shotstream.training.inputs import (
    codec_from_run,
    input_codec,
    input_pairs,
    input_student,
    input_teacher,
    pool_codec,
)
from shotstream.training.parallelize import ParallelConfig
from shotstream.training.recipe import AnyRecipe, ModelConfig, Recipe, TrainConfig
from shotstream.training.saved_recipes import recipe_of_run
from shotstream.training.stage import Film, Stage
from shotstream.training.stages.causal_init import CausalInitConfig, CausalInitRecipe, CausalInitStage
from shotstream.training.stages.codec import CodecConfig, CodecRecipe, CodecStage
from shotstream.training.stages.decoder import DecoderConfig, DecoderRecipe, DecoderStage
from shotstream.training.stages.inter_shot import InterShotConfig, InterShotRecipe, inter_shot_stage
from shotstream.training.stages.intra_shot import IntraShotConfig, IntraShotRecipe, intra_shot_stage
from shotstream.training.stages.ode_pairs import OdePairsConfig, OdePairsRecipe, OdePairsStage
from shotstream.training.stages.teacher import TeacherConfig, TeacherRecipe, TeacherStage
from shotstream.training.start import codec_of
from shotstream.training.text_conditioned_dit import TextConditionedDiT
from shotstream.vae.codec import Codec


def build_stage(
    recipe: AnyRecipe,
    runs: Path,
    device: torch.device | str = "cpu",
    dist_context: DistContext = SINGLE_PROCESS,
) -> Stage:
    """Returns the recipe's stage in its initial state.

    Raises:
        ValueError: An input has not been trained, the device does not exist, or the stage does not support
            it.
    """
    _check_device(device)
    return _BUILDERS[type(recipe.stage)](
        recipe, runs, torch.device(device), parallel_config_of(recipe.train, dist_context)
    )


def parallel_config_of(config: TrainConfig, dist_context: DistContext) -> ParallelConfig:
    """Returns the parallel configuration of a run."""
    return ParallelConfig(
        dist_context=dist_context,
        accumulation=config.accumulation,
        samples_at_once=config.samples_at_once,
        activation_checkpointing=config.activation_checkpointing,
        compile=config.compile,
    )


def _codec_stage(recipe: CodecRecipe, runs: Path, device: torch.device, parallel: ParallelConfig) -> Stage:
    del runs
    source = RenderedClips(recipe.data, seed=recipe.train.seed)
    return CodecStage(recipe, source, device, parallel)


def _decoder_stage(
    recipe: DecoderRecipe, runs: Path, device: torch.device, parallel: ParallelConfig
) -> Stage:
    source = ActorClips(recipe.data, recipe.model.num_pictures, seed=recipe.train.seed)
    return DecoderStage(recipe, source, codec_from_run(runs, recipe.inputs.codec), device, parallel)


def _teacher_stage(
    recipe: TeacherRecipe, runs: Path, device: torch.device, parallel: ParallelConfig
) -> Stage:
    source = open_shots(recipe, pool_codec(recipe, runs))
    return TeacherStage(recipe, source, device, parallel)


def _ode_pairs_stage(
    recipe: OdePairsRecipe, runs: Path, device: torch.device, parallel: ParallelConfig
) -> Stage:
    source = open_shots(recipe, pool_codec(recipe, runs))
    teacher = input_teacher(runs, recipe).to(device)
    return OdePairsStage(recipe, source, teacher, runs / recipe.name, parallel)


def _causal_init_stage(
    recipe: CausalInitRecipe, runs: Path, device: torch.device, parallel: ParallelConfig
) -> Stage:
    teacher = input_teacher(runs, recipe)
    source = PairFiles(recipe.data, input_pairs(runs, recipe, teacher), seed=recipe.train.seed)
    return CausalInitStage(
        recipe,
        source,
        teacher.to(device),
        batch_size=recipe_of_run(runs, recipe.inputs.pairs).data.batch_size,
        film=_student_film(recipe, runs),
        parallel=parallel,
    )


def _intra_shot_stage(
    recipe: IntraShotRecipe, runs: Path, device: torch.device, parallel: ParallelConfig
) -> Stage:
    return intra_shot_stage(
        recipe,
        student=input_student(runs, recipe).to(device),
        teacher=input_teacher(runs, recipe).to(device),
        source=open_shots(recipe, pool_codec(recipe, runs)),
        film=_student_film(recipe, runs),
        parallel=parallel,
    )


def _inter_shot_stage(
    recipe: InterShotRecipe, runs: Path, device: torch.device, parallel: ParallelConfig
) -> Stage:
    student, teacher = input_student(runs, recipe).to(device), input_teacher(runs, recipe).to(device)
    if isinstance(recipe.data, StoryCaptionsConfig):
        captions = StoryCaptions(recipe.data, recipe.model.dit, seed=recipe.train.seed)
        codec = input_codec(runs, recipe.inputs.codec).to(device)
        size = codec.geometry.latent_size(STAGE_SIZE)
    else:
        captions = ShardCaptions(recipe.data, recipe.model.dit, seed=recipe.train.seed)
        codec, size = codec_of(recipe.model.start, device)
    return inter_shot_stage(
        recipe,
        student=student,
        teacher=teacher,
        codec=codec,
        latent_size=size,
        captions=captions,
        film=_student_film(recipe, runs),
        parallel=parallel,
    )


_BUILDERS: Final[Mapping[type, Callable[[Any, Path, torch.device, ParallelConfig], Stage]]] = {
    CodecConfig: _codec_stage,
    DecoderConfig: _decoder_stage,
    TeacherConfig: _teacher_stage,
    OdePairsConfig: _ode_pairs_stage,
    CausalInitConfig: _causal_init_stage,
    IntraShotConfig: _intra_shot_stage,
    InterShotConfig: _inter_shot_stage,
}
"""The function that builds a stage, by the class of its configuration."""


def open_shots(
    recipe: Recipe[ModelConfig, StoryPoolConfig | ShardsConfig, Any], codec: Codec | None
) -> StoryPool | ShardSource:
    """Returns the source of a recipe's training shots.

    Raises:
        ValueError: The shards are missing, too many are damaged, or they are of another model.
    """
    data, dit, policy = recipe.data, recipe.model.dit, recipe.model.context_policy
    if isinstance(data, ShardsConfig):
        return ShardSource(data, dit, policy, seed=recipe.train.seed)
    assert codec is not None, "stories are rendered, and a codec must encode them"
    return StoryPool(data, codec, dit, policy, seed=recipe.train.seed)


def _student_film(recipe: AnyRecipe, runs: Path) -> Film | None:
    """Returns a function that films and scores held-out stories with a student; None without a codec."""
    if not recipe.inputs.codec:
        return None
    codec = input_codec(runs, recipe.inputs.codec)

    def film(student: TextConditionedDiT, step: int, directory: Path) -> Mapping[str, float]:
        from shotstream.training.previews import preview_student

        pipeline = theatre_pipeline(codec, student.to("cpu"), recipe.model, recipe.stage.student_steps)
        return preview_student(pipeline, step, directory)

    return film


def _check_device(device: torch.device | str) -> None:
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # raised by a build of torch without CUDA
        raise ValueError(f"device {str(device)!r} cannot be used here; try cpu") from error
    if chosen.type == "meta":
        raise ValueError("on the device meta nothing is computed; give cpu or cuda")
