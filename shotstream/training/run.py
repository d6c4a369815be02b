"""Runs a recipe in a directory: builds its stage, writes its configuration beside it, trains or resumes."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from shotstream.configs import config_to_document, differing_settings
from shotstream.data.caption_answers import CaptionAnswers
from shotstream.data.ode_pairs import OdePairs, PairFiles, digest_of
from shotstream.data.rendered_clips import ActorClips, RenderedClips
from shotstream.data.shard_source import ShardsConfig, ShardSource
from shotstream.data.story_captions import ShardCaptions, StoryCaptions, StoryCaptionsConfig
from shotstream.data.story_pool import StoryPool, StoryPoolConfig
from shotstream.diffusion.schedule import STUDENT_STEPS
from shotstream.files import require_directory, write_atomically
from shotstream.text.word_encoder import WordEncoder, WordEncoderConfig
from shotstream.theatre.sets import STAGE_SIZE
from shotstream.training.checkpoint import checkpoints
from shotstream.training.dist_context import SINGLE_PROCESS, DistContext
from shotstream.training.films import theatre_pipeline
from shotstream.training.loop import resume, train
from shotstream.training.lora import merge_adapters
from shotstream.training.parallelize import ParallelConfig
from shotstream.training.recipe import LEARNT_FROM_TRAIN, ModelConfig, Recipe, TrainConfig
from shotstream.training.recipes import AnyRecipe, recipe_from_document
from shotstream.training.stage import Film, Stage
from shotstream.training.stages.causal_init import CausalInitConfig, CausalInitRecipe, CausalInitStage
from shotstream.training.stages.codec import CodecConfig, CodecRecipe, CodecStage
from shotstream.training.stages.decoder import DecoderConfig, DecoderRecipe, DecoderStage
from shotstream.training.stages.inter_shot import (
    InterShotConfig,
    InterShotRecipe,
    adapt,
    inter_shot_stage,
)
from shotstream.training.stages.intra_shot import IntraShotConfig, IntraShotRecipe, intra_shot_stage
from shotstream.training.stages.ode_pairs import OdePairsConfig, OdePairsRecipe, OdePairsStage
from shotstream.training.stages.teacher import TeacherConfig, TeacherRecipe, TeacherStage
from shotstream.training.stages.text_encoder import (
    TextEncoderConfig,
    TextEncoderRecipe,
    TextEncoderStage,
)
from shotstream.training.start import codec_of
from shotstream.training.text_conditioned_dit import TextConditionedDiT
from shotstream.training.train_state import load_averaged
from shotstream.vae.codec import Codec
from shotstream.vae.patch_codec import PatchCodec, PatchCodecConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedRun:
    """A run whose inputs have been found good: what is left can fail, but not for what was given."""

    stage: Stage
    """As it was after `first` steps."""
    first: int
    """Steps done."""
    config: TrainConfig
    directory: Path
    dist_context: DistContext

    def train(self) -> int:
        """Trains to the end; see `loop.train`."""
        return train(self.stage, self.config, self.directory, self.first, self.dist_context)


def run_recipe(
    recipe: AnyRecipe,
    runs: Path,
    *,
    device: torch.device | str = "cpu",
    start_from: Path | None = None,
    dist_context: DistContext = SINGLE_PROCESS,
) -> int:
    """Prepares a run and trains it; returns the number of steps done in all."""
    return prepare_run(recipe, runs, device=device, start_from=start_from, dist_context=dist_context).train()


def prepare_run(
    recipe: AnyRecipe,
    runs: Path,
    *,
    device: torch.device | str = "cpu",
    start_from: Path | None = None,
    dist_context: DistContext = SINGLE_PROCESS,
) -> PreparedRun:
    """Checks everything that a run of a recipe in `runs/NAME` needs; the same call resumes.

    The directory is written only when nothing was found wrong.

    Args:
        recipe: what to run.
        runs: folder of all runs; the recipe's inputs are found there.
        device: where to train.
        start_from: a portable checkpoint that a run without checkpoints of its own begins at.
        dist_context: the processes that share the run; all of them see the same files.

    Raises:
        ValueError: an input has not been trained, the directory holds a run of another configuration, the
            device cannot be used, the batch cannot be shared out, or `start_from` does not belong to the
            recipe or comes too late.
    """
    directory = runs / recipe.name
    require_directory(directory)
    found = checkpoints(directory)
    if found and start_from is not None:
        raise ValueError(
            f"{directory} holds a run already, at {found[-1].name}; leave --start-from out to resume it, "
            "or use another --runs folder"
        )
    if found:
        _check_config(recipe, directory)
    _require_inputs(recipe, runs)
    stage = build_stage(recipe, runs, device, dist_context)
    beginning = found[-1] if found else start_from
    first = resume(stage, beginning, dist_context) if beginning is not None else 0
    log.info(parallel_config_of(recipe.train, dist_context).division(stage.batch_size))
    dist_context.barrier()  # nobody looks for what there was while somebody writes
    if dist_context.is_main_process:
        directory.mkdir(parents=True, exist_ok=True)
        document = json.dumps(config_to_document(recipe), indent=1) + "\n"
        write_atomically(document.encode(), directory / "config.json")
        if start_from is not None:
            write_atomically(start_from.read_bytes(), directory / "step_0000000.pt")
    dist_context.barrier()
    return PreparedRun(
        stage=stage, first=first, config=recipe.train, directory=directory, dist_context=dist_context
    )


def _require_inputs(recipe: AnyRecipe, runs: Path) -> None:
    """ValueError when a run that this one starts from is not there: before any is loaded."""
    for name in recipe.inputs.names():
        if name == recipe.inputs.text_encoder and not _reads(recipe.model):
            continue
        if name == recipe.inputs.pairs:
            _pair_files(runs, name)
        else:
            newest_checkpoint(runs, name)


def build_stage(
    recipe: AnyRecipe,
    runs: Path,
    device: torch.device | str = "cpu",
    dist_context: DistContext = SINGLE_PROCESS,
) -> Stage:
    """The recipe's stage, at its beginning.

    Raises:
        ValueError: an input has not been trained, the device is not there, or the stage cannot use it.
    """
    _check_device(device)
    return _BUILDERS[type(recipe.stage)](
        recipe, runs, torch.device(device), parallel_config_of(recipe.train, dist_context)
    )


def parallel_config_of(config: TrainConfig, dist_context: DistContext) -> ParallelConfig:
    """The parallel configuration of a run."""
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


def _text_encoder_stage(
    recipe: TextEncoderRecipe, runs: Path, device: torch.device, parallel: ParallelConfig
) -> Stage:
    del runs
    source = CaptionAnswers(recipe.data, seed=recipe.train.seed)
    return TextEncoderStage(recipe, source, device, parallel)


def _teacher_stage(
    recipe: TeacherRecipe, runs: Path, device: torch.device, parallel: ParallelConfig
) -> Stage:
    source = open_shots(recipe, _pool_codec(recipe, runs))
    return TeacherStage(recipe, source, device, parallel, text_encoder=_input_text_encoder(recipe, runs))


def _ode_pairs_stage(
    recipe: OdePairsRecipe, runs: Path, device: torch.device, parallel: ParallelConfig
) -> Stage:
    source = open_shots(recipe, _pool_codec(recipe, runs))
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
        source=open_shots(recipe, _pool_codec(recipe, runs)),
        film=_student_film(recipe, runs),
        parallel=parallel,
    )


def _inter_shot_stage(
    recipe: InterShotRecipe, runs: Path, device: torch.device, parallel: ParallelConfig
) -> Stage:
    student, teacher = input_student(runs, recipe).to(device), input_teacher(runs, recipe).to(device)
    if isinstance(recipe.data, StoryCaptionsConfig):
        captions = StoryCaptions(recipe.data, recipe.model.dit, seed=recipe.train.seed)
        codec = input_codec(runs).to(device)
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
    TextEncoderConfig: _text_encoder_stage,
    TeacherConfig: _teacher_stage,
    OdePairsConfig: _ode_pairs_stage,
    CausalInitConfig: _causal_init_stage,
    IntraShotConfig: _intra_shot_stage,
    InterShotConfig: _inter_shot_stage,
}
"""What builds a stage, by the class of its configuration."""


def open_shots(
    recipe: Recipe[ModelConfig, StoryPoolConfig | ShardsConfig, Any], codec: Codec | None
) -> StoryPool | ShardSource:
    """The source of the shots that a recipe learns from.

    Raises:
        ValueError: the shards are not there, damaged beyond what is allowed, or of another model.
    """
    data, dit, policy = recipe.data, recipe.model.dit, recipe.model.context_policy
    if isinstance(data, ShardsConfig):
        return ShardSource(data, dit, policy, seed=recipe.train.seed)
    assert codec is not None, "stories are rendered, and a codec must encode them"
    return StoryPool(data, codec, dit, policy, seed=recipe.train.seed)


def _student_film(recipe: AnyRecipe, runs: Path) -> Film | None:
    """A function that films held-out stories of the theatre with a student and scores them, or None."""
    if not recipe.inputs.codec:
        return None
    codec = input_codec(runs)

    def film(student: TextConditionedDiT, step: int, directory: Path) -> Mapping[str, float]:
        from shotstream.training.previews import preview_student

        pipeline = theatre_pipeline(codec, student.to("cpu"), recipe.model, recipe.stage.student_steps)
        return preview_student(pipeline, step, directory)

    return film


def default_device() -> str:
    """The device that a recipe trains on by default: a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_device(device: torch.device | str) -> None:
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # a build of torch without CUDA asserts
        raise ValueError(f"device {str(device)!r} cannot be used here; try cpu") from error
    if chosen.type == "meta":
        raise ValueError("on the device meta nothing is computed; give cpu or cuda")


def newest_checkpoint(runs: Path, name: str) -> Path:
    """The newest checkpoint of a run.

    Raises:
        ValueError: there is none.
    """
    found = checkpoints(runs / name)
    if not found:
        raise ValueError(f"{runs / name} holds no checkpoint; run `shotstream train {name}` first")
    return found[-1]


def recipe_of_run(runs: Path, name: str) -> AnyRecipe:
    """The resolved recipe that a run was made with.

    Raises:
        ValueError: there is no such run, or another version wrote it.
    """
    path = runs / name / "config.json"
    if not path.exists():
        raise ValueError(f"{runs / name} holds no run; run `shotstream train {name}` first")
    return _read_config(path)


def _read_config(path: Path) -> AnyRecipe:
    try:
        document = json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged: it is no JSON") from error
    try:
        return recipe_from_document(document, str(path))
    except (KeyError, TypeError, AttributeError) as error:  # of an earlier, nested form
        raise ValueError(f"{path} is no configuration of this version or an earlier one") from error


def input_codec(runs: Path) -> PatchCodec:
    """The averaged codec that a run of `theatre_decoder` finished; where there is none, the one to finish.

    Both have the same latents.
    """
    return codec_from_run(
        runs, "theatre_decoder" if checkpoints(runs / "theatre_decoder") else "theatre_codec"
    )


def codec_from_run(runs: Path, name: str) -> PatchCodec:
    """The averaged codec of a run, frozen.

    Raises:
        ValueError: there is no such run, or it trained no codec.
    """
    config = recipe_of_run(runs, name).model
    if not isinstance(config, PatchCodecConfig):
        raise ValueError(f"{runs / name} trained no codec")
    return load_averaged(PatchCodec(config), newest_checkpoint(runs, name)).requires_grad_(False)


def _input_text_encoder(recipe: TeacherRecipe, runs: Path) -> WordEncoder | None:
    """The averaged text encoder of the recipe's input; None where it is learnt by the teacher.

    Raises:
        ValueError: there is no such run, or it trained another encoder than the teacher wants.
    """
    if not _reads(recipe.model):
        return None
    name = recipe.inputs.text_encoder
    trained = recipe_of_run(runs, name).model
    _require_same(trained, recipe.model.text, runs / name, prefix="text.")
    return load_averaged(WordEncoder(trained), newest_checkpoint(runs, name)).requires_grad_(False)


def _reads(model: ModelConfig) -> bool:
    """Whether a model's captions are read for questions, by a text encoder that was trained before."""
    return isinstance(model.text, WordEncoderConfig) and bool(model.text.questions)


def _pool_codec(recipe: AnyRecipe, runs: Path) -> PatchCodec | None:
    """The codec that encodes a recipe's stories; None: they are encoded already."""
    return input_codec(runs) if isinstance(recipe.data, StoryPoolConfig) else None


def input_pairs(runs: Path, recipe: CausalInitRecipe, teacher: TextConditionedDiT) -> list[Path]:
    """The files of ODE pairs that a causal initialisation learns from.

    Raises:
        ValueError: there are none, they were made for another model or other steps than the recipe says,
            or by other weights than the run of the teacher has now.
    """
    name = recipe.inputs.pairs
    files = _pair_files(runs, name)
    made = recipe_of_run(runs, name)
    _require_same_model(made.model, recipe.model, runs / name)
    _require_same_steps(made, recipe, runs / name)
    by = OdePairs.made_by(files[0])
    if by and by != digest_of(teacher.dit.state_dict()):
        raise ValueError(
            f"{runs / name} holds pairs of another teacher than its run has now; make them again, or bring "
            "back the checkpoint of the teacher that made them"
        )
    return files


def _pair_files(runs: Path, name: str) -> list[Path]:
    files = sorted((runs / name).glob("pairs_*.safetensors"))
    if not files:
        raise ValueError(f"there are no ODE pairs in {runs / name}; run `shotstream train {name}` first")
    return files


def input_teacher(runs: Path, recipe: AnyRecipe) -> TextConditionedDiT:
    """The averaged weights of the recipe's teacher.

    Raises:
        ValueError: there is no such run, or the recipe would make another network of its weights.
    """
    name = recipe.inputs.teacher
    _require_same_model(model_of(recipe_of_run(runs, name))[0], recipe.model, runs / name)
    return trained_model(runs, name)


def input_student(runs: Path, recipe: AnyRecipe) -> TextConditionedDiT:
    """The averaged weights of the recipe's student.

    Raises:
        ValueError: there is no such run, or it was trained for other steps or with another model.
    """
    name = recipe.inputs.student
    found = recipe_of_run(runs, name)
    _require_same_model(model_of(found)[0], recipe.model, runs / name)
    _require_same_steps(found, recipe, runs / name)
    return trained_model(runs, name)


def trained_model(runs: Path, name: str) -> TextConditionedDiT:
    """The averaged weights of any run that trains a model, its adapters merged.

    Raises:
        ValueError: there is no such run, or it trains no model.
    """
    found = recipe_of_run(runs, name)
    config, _ = model_of(found)
    model = TextConditionedDiT(config.dit, config.text)
    if isinstance(found.stage, InterShotConfig):
        adapt(model.dit, found, "student")
    return merge_adapters(load_averaged(model, newest_checkpoint(runs, name)))


def model_of(found: AnyRecipe) -> tuple[ModelConfig, tuple[int, ...]]:
    """The configuration of the model that a recipe trains, and the denoising steps that it takes.

    Raises:
        ValueError: the recipe trains no model.
    """
    if not isinstance(found.model, ModelConfig) or found.optim is None:
        raise ValueError(f"{found.name} makes no model; name a teacher or a student")
    return found.model, getattr(found.stage, "student_steps", STUDENT_STEPS)


def _require_same_model(trained: ModelConfig, wanted: ModelConfig, directory: Path) -> None:
    """ValueError when weights of one model would be another network in the other; where it began is free."""
    _require_same(trained, replace(wanted, start=trained.start), directory)


def _require_same(trained: Any, wanted: Any, directory: Path, prefix: str = "") -> None:
    differing = differing_settings(trained, wanted, prefix)
    if differing:
        raise ValueError(
            f"{directory} was trained with another value of {', '.join(differing)}; give this recipe the same"
        )


def _require_same_steps(made: AnyRecipe, wanted: AnyRecipe, directory: Path) -> None:
    steps = getattr(made.stage, "student_steps", STUDENT_STEPS)
    if steps != wanted.stage.student_steps:
        raise ValueError(f"{directory} was made for the student steps {steps}; give this recipe the same")


def _check_config(recipe: AnyRecipe, directory: Path) -> None:
    """ValueError when a run that is resumed would learn otherwise than it began.

    Its length may change, and what changes nothing that is learnt.
    """
    path = directory / "config.json"
    if not path.exists():
        return
    old = _read_config(path)
    if type(old.stage) is not type(recipe.stage):
        raise ValueError(f"{directory} holds a run of another recipe; use another --runs folder")
    changed = [name for name in differing_settings(old, recipe) if _is_learnt(name)]
    if changed:
        raise ValueError(
            f"{directory} holds a run with other values of {', '.join(changed)}; "
            "use another --runs folder or the same values"
        )


def _is_learnt(name: str) -> bool:
    """Whether what is learnt depends on a setting, by its dotted name."""
    section, _, setting = name.partition(".")
    if section == "train":
        return setting in LEARNT_FROM_TRAIN
    return section not in ("name", "inputs") and name not in ("optim.decay_steps", "data.max_bad_files")
