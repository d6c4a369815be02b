"""Runs a recipe in a directory: builds its stage, writes its configuration beside it, trains or resumes."""

import dataclasses
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shotstream.codec.patch_codec import PatchCodec
from shotstream.codec.word_encoder import WordEncoder, WordEncoderConfig
from shotstream.data.latents import PoolConfig
from shotstream.data.ode_pairs import OdePairs, digest_of
from shotstream.data.source import StoredStories
from shotstream.diffusion.schedule import STUDENT_STEPS
from shotstream.files import require_directory, write_atomically
from shotstream.theatre.sets import STAGE_SIZE
from shotstream.training.checkpoint import checkpoints, load_checkpoint
from shotstream.training.films import theatre_pipeline
from shotstream.training.loop import LoopConfig, resume, train
from shotstream.training.lora import merge_adapters
from shotstream.training.parallelize import Execution
from shotstream.training.recipe import Recipe, length_of
from shotstream.training.recipes import (
    RECIPES,
    TEACHERS_OWN,
    from_document,
    idle_settings,
    input_of,
    to_document,
)
from shotstream.training.stage import Stage
from shotstream.training.stages.causal_init import CausalInitStage, CausalInitTraining
from shotstream.training.stages.codec import CodecStage, CodecTraining, codec_from_run
from shotstream.training.stages.decoder import DecoderStage, DecoderTraining, finished_from_run
from shotstream.training.stages.dmd import DmdStage, DmdTraining
from shotstream.training.stages.inter_shot import InterShotTraining, adapt, inter_shot_stage
from shotstream.training.stages.intra_shot import IntraShotTraining, intra_shot_stage
from shotstream.training.stages.ode_pairs import OdePairsStage, OdePairsTraining
from shotstream.training.stages.reader import ReaderStage, ReaderTraining, reader_from_run
from shotstream.training.stages.teacher import TeacherStage, TeacherTraining, TheatreModel, open_pool
from shotstream.training.start import codec_of
from shotstream.training.world import ALONE, World

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedRun:
    """A run whose inputs have been found good: what is left can fail, but not for what was given."""

    stage: Stage
    """As it was after `first` steps."""
    first: int
    """Steps done."""
    loop: LoopConfig
    directory: Path
    world: World

    def train(self) -> int:
        """Trains to the end; see `loop.train`."""
        return train(self.stage, self.loop, self.directory, self.first, self.world)


def run_recipe(
    recipe: Recipe,
    runs: Path,
    *,
    device: torch.device | str = "cpu",
    start_from: Path | None = None,
    world: World = ALONE,
) -> int:
    """Prepares a run and trains it; returns the number of steps done in all."""
    return prepare_run(recipe, runs, device=device, start_from=start_from, world=world).train()


def prepare_run(
    recipe: Recipe,
    runs: Path,
    *,
    device: torch.device | str = "cpu",
    start_from: Path | None = None,
    world: World = ALONE,
) -> PreparedRun:
    """Checks everything that a run of a recipe in `runs/NAME` needs; the same call resumes.

    The directory is written only when nothing was found wrong.

    Args:
        recipe: what to run.
        runs: folder of all runs; the recipe's inputs are found there.
        device: where to train.
        start_from: a portable checkpoint that a run without checkpoints of its own begins at.
        world: the processes that share the run; all of them see the same files.

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
    stage = build_stage(recipe, runs, device, world)
    beginning = found[-1] if found else start_from
    first = resume(stage, beginning, world) if beginning is not None else 0
    log.info(execution_of(recipe.loop, world).division(stage.batch_size))
    world.wait()  # nobody looks for what there was while somebody writes
    if world.leads:
        directory.mkdir(parents=True, exist_ok=True)
        document = json.dumps(to_document(recipe), indent=1) + "\n"
        write_atomically(document.encode(), directory / "config.json")
        if start_from is not None:
            write_atomically(start_from.read_bytes(), directory / "step_0000000.pt")
    world.wait()
    return PreparedRun(stage=stage, first=first, loop=recipe.loop, directory=directory, world=world)


def _require_inputs(recipe: Recipe, runs: Path) -> None:
    """ValueError when a run that this one starts from is not there: before any is loaded."""
    for name in recipe.inputs:
        if name == "theatre_text" and isinstance(recipe.stage, TeacherTraining) and not _reads(recipe.stage):
            continue
        if isinstance(RECIPES[name]().stage, OdePairsTraining):
            _pair_files(runs, name)
        else:
            newest_checkpoint(runs, name)


def build_stage(
    recipe: Recipe, runs: Path, device: torch.device | str = "cpu", world: World = ALONE
) -> Stage:
    """The recipe's stage, at its beginning.

    Raises:
        ValueError: an input has not been trained, the device is not there, or the stage cannot use it.
    """
    config = recipe.stage
    _check_device(device)
    execution = execution_of(recipe.loop, world)
    if isinstance(config, CodecTraining):
        return CodecStage(config, device, execution)
    if isinstance(config, DecoderTraining):
        return DecoderStage(config, _plain_codec(runs), device, execution)
    if isinstance(config, ReaderTraining):
        return ReaderStage(config, device, execution)
    if isinstance(config, TeacherTraining):
        pool = open_pool(config, _pool_codec(config, runs))
        return TeacherStage(config, pool, device, execution, reader=_input_reader(config, runs))
    if isinstance(config, OdePairsTraining):
        pool = open_pool(config.teacher, _pool_codec(config.teacher, runs))
        teacher = input_teacher(runs, input_of(recipe, TeacherTraining), config.teacher)
        return OdePairsStage(config, teacher.to(device), pool, runs / recipe.name, execution)
    if isinstance(config, CausalInitTraining):
        teacher = input_teacher(runs, input_of(recipe, TeacherTraining), config.pairs.teacher)
        files = input_pairs(runs, recipe, config, teacher)
        film = _student_film(runs, config.pairs.teacher, config.pairs.student_steps)
        return CausalInitStage(config, teacher.to(device), files, film=film, execution=execution)
    return _matching_stage(config, recipe, runs, torch.device(device), execution)


def execution_of(loop: LoopConfig, world: World) -> Execution:
    """How a run's steps are computed."""
    return Execution(
        world=world,
        accumulation=loop.accumulation,
        samples_at_once=loop.samples_at_once,
        activation_checkpointing=loop.activation_checkpointing,
        compile=loop.compile,
    )


def _matching_stage(
    config: IntraShotTraining | InterShotTraining,
    recipe: Recipe,
    runs: Path,
    device: torch.device,
    execution: Execution,
) -> DmdStage:
    dmd = config.dmd
    student = input_student(runs, recipe.inputs[-1], dmd).to(device)
    teacher = input_teacher(runs, input_of(recipe, TeacherTraining), dmd.teacher).to(device)
    film = _student_film(runs, dmd.teacher, dmd.student_steps)
    if isinstance(config, IntraShotTraining):
        pool = open_pool(dmd.teacher, _pool_codec(dmd.teacher, runs))
        return intra_shot_stage(
            config, student=student, teacher=teacher, pool=pool, film=film, execution=execution
        )
    stored = None
    if isinstance(dmd.teacher.pool, PoolConfig):
        codec = input_codec(runs).to(device)
        size = codec.geometry.latent_size(STAGE_SIZE)
    else:
        stored = StoredStories(dmd.teacher.pool.directory)
        codec, size = codec_of(dmd.teacher.start, device)
    return inter_shot_stage(
        config,
        student=student,
        teacher=teacher,
        codec=codec,
        latent_size=size,
        stored=stored,
        film=film,
        execution=execution,
    )


def _student_film(
    runs: Path, teacher: TeacherTraining, student_steps: Sequence[int]
) -> Callable[[TheatreModel, int, Path], Mapping[str, float]] | None:
    """What films held-out stories with a student and scores them; None: these are the theatre's alone."""
    if not isinstance(teacher.pool, PoolConfig):
        return None
    codec = input_codec(runs)

    def film(student: TheatreModel, step: int, directory: Path) -> Mapping[str, float]:
        from shotstream.training.previews import preview_student

        pipeline = theatre_pipeline(codec, student.to("cpu"), teacher, student_steps)
        return preview_student(pipeline, step, directory)

    return film


def default_device() -> str:
    """Where a recipe trains when nobody says: a GPU if there is one."""
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


def recipe_of_run(runs: Path, name: str) -> Recipe:
    """The resolved recipe that a run was made with.

    Raises:
        ValueError: there is no such run, or another version wrote it.
    """
    path = runs / name / "config.json"
    if not path.exists():
        raise ValueError(f"{runs / name} holds no run; run `shotstream train {name}` first")
    return _read_config(path)


def _read_config(path: Path) -> Recipe:
    try:
        found = from_document(json.loads(path.read_bytes()))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged: it is no JSON") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(found, Recipe):
        raise ValueError(f"{path} holds no recipe")
    return found


def input_codec(runs: Path) -> PatchCodec:
    """The averaged codec that a run of `theatre_decoder` finished; where there is none, the one to finish.

    Both have the same latents.
    """
    if not checkpoints(runs / "theatre_decoder"):
        return _plain_codec(runs)
    stage = recipe_of_run(runs, "theatre_decoder").stage
    assert isinstance(stage, DecoderTraining)
    return finished_from_run(newest_checkpoint(runs, "theatre_decoder"), stage.codec)


def _plain_codec(runs: Path) -> PatchCodec:
    """The averaged codec that a run of `theatre_codec` trained."""
    stage = recipe_of_run(runs, "theatre_codec").stage
    assert isinstance(stage, CodecTraining)
    return codec_from_run(newest_checkpoint(runs, "theatre_codec"), stage.codec)


def _input_reader(config: TeacherTraining, runs: Path) -> WordEncoder | None:
    """The averaged text encoder that a run of `theatre_text` trained; None where it is learnt by the teacher.

    Raises:
        ValueError: there is no such run, or it trained another encoder than the teacher wants.
    """
    if not _reads(config):
        return None
    trained = recipe_of_run(runs, "theatre_text").stage
    assert isinstance(trained, ReaderTraining)
    _require_alike(trained, config, ("text",), runs / "theatre_text")
    return reader_from_run(newest_checkpoint(runs, "theatre_text"), trained)


def _reads(config: TeacherTraining) -> bool:
    """Whether a teacher's captions are read for questions, by a text encoder that was trained before."""
    return isinstance(config.text, WordEncoderConfig) and bool(config.text.questions)


def _pool_codec(config: TeacherTraining, runs: Path) -> PatchCodec | None:
    """What encodes the stories that batches are drawn from; None: they are encoded already."""
    return input_codec(runs) if isinstance(config.pool, PoolConfig) else None


def input_pairs(runs: Path, recipe: Recipe, config: CausalInitTraining, teacher: TheatreModel) -> list[Path]:
    """The files of ODE pairs that a causal initialisation learns from.

    Raises:
        ValueError: there are none, they were made with other settings than the recipe says, or by other
            weights than the run of the teacher has now.
    """
    name = input_of(recipe, OdePairsTraining)
    files = _pair_files(runs, name)
    made = recipe_of_run(runs, name).stage
    settings = [field.name for field in dataclasses.fields(config.pairs)]
    idle = [f"teacher.{setting}" for setting in TEACHERS_OWN]
    _require_alike(made, config.pairs, settings, runs / name, idle)
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


def input_teacher(runs: Path, name: str, config: TeacherTraining) -> TheatreModel:
    """The averaged weights of the run of a teacher.

    Raises:
        ValueError: there is no such run, or `config` would make another network of its weights.
    """
    trained = recipe_of_run(runs, name).stage
    assert isinstance(trained, TeacherTraining)
    _require_alike(trained, config, ("dit", "text", "shift", "context_policy"), runs / name)
    return trained_model(runs, name)


def input_student(runs: Path, name: str, config: DmdTraining) -> TheatreModel:
    """The averaged student of a run.

    Raises:
        ValueError: there is no such run, or it was trained for other steps or with another teacher.
    """
    found = recipe_of_run(runs, name)
    teacher, student_steps = teacher_of(found)
    _require_alike(teacher, config.teacher, ("dit", "text", "shift", "context_policy"), runs / name)
    if student_steps != config.student_steps:
        raise ValueError(
            f"{runs / name} was trained for the steps {student_steps}; give this recipe the same"
        )
    return trained_model(runs, name)


def trained_model(runs: Path, name: str) -> TheatreModel:
    """The averaged weights of any run that trains a model, its adapters merged.

    Raises:
        ValueError: there is no such run, or it trains no model.
    """
    found = recipe_of_run(runs, name)
    teacher, _ = teacher_of(found)
    model = TheatreModel(teacher.dit, teacher.text)
    if isinstance(found.stage, InterShotTraining):
        adapt(model.dit, found.stage, "student")
    return merge_adapters(averaged_model(newest_checkpoint(runs, name), model))


def teacher_of(found: Recipe) -> tuple[TeacherTraining, tuple[int, ...]]:
    """How the teacher of a model was trained, and the steps that the model takes.

    Raises:
        ValueError: the recipe trains no model.
    """
    stage = found.stage
    if isinstance(stage, TeacherTraining):
        return stage, STUDENT_STEPS
    if isinstance(stage, CausalInitTraining):
        return stage.pairs.teacher, stage.pairs.student_steps
    if isinstance(stage, IntraShotTraining | InterShotTraining):
        return stage.dmd.teacher, stage.dmd.student_steps
    raise ValueError(f"{found.name} makes no model; name a teacher or a student")


def _require_alike(
    trained: Any, config: Any, names: Iterable[str], directory: Path, idle: Iterable[str] = ()
) -> None:
    """ValueError when settings differ, other than the `idle` ones, which nothing reads."""
    differences = [name for name in _differences(trained, config, names) if name not in set(idle)]
    if differences:
        raise ValueError(
            f"{directory} was trained with another value of {', '.join(differences)}; "
            "give this recipe the same"
        )


def _differences(left: Any, right: Any, names: Iterable[str]) -> list[str]:
    """Dotted names of the settings that differ."""
    found: list[str] = []
    for name in names:
        one, other = getattr(left, name), getattr(right, name)
        if dataclasses.is_dataclass(one) and type(one) is type(other):
            parts = [field.name for field in dataclasses.fields(one)]
            found += [f"{name}.{part}" for part in _differences(one, other, parts)]
        elif one != other:
            found.append(name)
    return found


def averaged_model(checkpoint: Path, model: TheatreModel) -> TheatreModel:
    """Fills `model` with the averaged weights of a checkpoint; those not averaged (frozen ones) as they are.

    Raises:
        ValueError: the checkpoint belongs to a model of other sizes.
    """
    _, state = load_checkpoint(checkpoint)
    averages = {name: value for name, value in state["ema"].items() if name != "num_updates"}
    if not averages.keys() <= dict(model.named_parameters()).keys():
        averages = {f"dit.{name}": value for name, value in averages.items()}
    try:
        model.load_state_dict({**state["weights"], **averages})
    except RuntimeError as error:
        raise ValueError(
            f"{checkpoint} holds a model of other sizes than the run's config.json says; one of them is of "
            "another run"
        ) from error
    return model.eval()


def _check_config(recipe: Recipe, directory: Path) -> None:
    """ValueError when a run that is resumed would learn otherwise than it began.

    Lengths of the run may change, and what changes nothing that is learnt.
    """
    path = directory / "config.json"
    if not path.exists():
        return
    # Through the configuration, so that a setting which is newer than the run has its default there.
    old = _read_config(path)
    if type(old.stage) is not type(recipe.stage):
        raise ValueError(f"{directory} holds a run of another recipe; use another --runs folder")
    names = [field.name for field in dataclasses.fields(recipe.stage)]
    free = {length_of(recipe.stage), "decay_steps", "max_bad_files", *idle_settings(recipe.stage)}
    changed = [name for name in _differences(old.stage, recipe.stage, names) if name not in free]
    if changed:
        raise ValueError(
            f"{directory} holds a run with other values of {', '.join(changed)}; "
            "use another --runs folder or the same values"
        )
