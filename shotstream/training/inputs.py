"""The inputs of a training run: recipes, weights and ODE pairs of the runs that it starts from.

An input that was trained for another model is refused, because its weights could be loaded but would be
wrong.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from shotstream.configs import differing_settings, written_settings
from shotstream.data.ode_pairs import OdePairs, digest_of
from shotstream.data.story_pool import StoryPoolConfig
from shotstream.diffusion.schedule import STUDENT_STEPS
from shotstream.training.checkpoint import checkpoints
from shotstream.training.lora import merge_adapters
from shotstream.training.recipe import AnyRecipe, ModelConfig
from shotstream.training.saved_recipes import recipe_of_run
from shotstream.training.stages.causal_init import CausalInitRecipe
from shotstream.training.stages.inter_shot import InterShotConfig, adapt
from shotstream.training.text_conditioned_dit import TextConditionedDiT
from shotstream.training.train_state import load_averaged
from shotstream.vae.patch_codec import PatchCodec, PatchCodecConfig


def newest_checkpoint(runs: Path, name: str) -> Path:
    """Returns the newest checkpoint of a run.

    Raises:
        ValueError: There is none.
    """
    found = checkpoints(runs / name)
    if not found:
        raise ValueError(f"{runs / name} holds no checkpoint; run `shotstream train {name}` first")
    return found[-1]


def input_codec(runs: Path, name: str = "theatre_codec") -> PatchCodec:
    """Returns the averaged codec of a recipe's `inputs.codec`, with its finished decoder if there is one."""
    return codec_from_run(runs, codec_run(runs, name))


def codec_run(runs: Path, name: str) -> str:
    """Returns the name of the run whose codec is read for a recipe with the input codec `name`.

    It is that of `theatre_decoder` if it started from `name`, which has the same latents; otherwise `name`.
    """
    finished = "theatre_decoder"
    is_finished = checkpoints(runs / finished) and recipe_of_run(runs, finished).inputs.codec == name
    return finished if is_finished else name


def codec_from_run(runs: Path, name: str) -> PatchCodec:
    """Returns the averaged codec of a run, frozen.

    Raises:
        ValueError: There is no such run, or it trains no codec.
    """
    config = recipe_of_run(runs, name).model
    if not isinstance(config, PatchCodecConfig):
        raise ValueError(f"{runs / name} trained no codec")
    return load_averaged(PatchCodec(config), newest_checkpoint(runs, name)).requires_grad_(False)


def pool_codec(recipe: AnyRecipe, runs: Path) -> PatchCodec | None:
    """Returns the codec that encodes a recipe's stories; None: they are encoded already."""
    return input_codec(runs, recipe.inputs.codec) if isinstance(recipe.data, StoryPoolConfig) else None


def input_pairs(runs: Path, recipe: CausalInitRecipe, teacher: TextConditionedDiT) -> list[Path]:
    """Returns the files of ODE pairs for a causal initialisation.

    Raises:
        ValueError: There are none; they were made for another model or other steps than in the recipe; or
            they were made by other weights than those of the teacher's run.
    """
    name = recipe.inputs.pairs
    files = pair_files(runs, name)
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


def pair_files(runs: Path, name: str) -> list[Path]:
    """Returns the files of ODE pairs of a run; raises ValueError if there are none."""
    files = sorted((runs / name).glob("pairs_*.safetensors"))
    if not files:
        raise ValueError(f"there are no ODE pairs in {runs / name}; run `shotstream train {name}` first")
    return files


def input_teacher(runs: Path, recipe: AnyRecipe) -> TextConditionedDiT:
    """Returns the recipe's teacher with averaged weights.

    Raises:
        ValueError: There is no such run, or it trained another model than the recipe has.
    """
    name = recipe.inputs.teacher
    _require_same_model(model_of(recipe_of_run(runs, name))[0], recipe.model, runs / name)
    return trained_model(runs, name)


def input_student(runs: Path, recipe: AnyRecipe) -> TextConditionedDiT:
    """Returns the recipe's student with averaged weights.

    Raises:
        ValueError: There is no such run, or it was trained for other steps or with another model.
    """
    name = recipe.inputs.student
    found = recipe_of_run(runs, name)
    _require_same_model(model_of(found)[0], recipe.model, runs / name)
    _require_same_steps(found, recipe, runs / name)
    return trained_model(runs, name)


def trained_model(runs: Path, name: str) -> TextConditionedDiT:
    """Returns the model of any run that trains one, with averaged weights and merged adapters.

    Raises:
        ValueError: There is no such run, or it trains no model.
    """
    found = recipe_of_run(runs, name)
    config, _ = model_of(found)
    model = config.build()
    if isinstance(found.stage, InterShotConfig):
        adapt(model.dit, found, "student")
    return merge_adapters(load_averaged(model, newest_checkpoint(runs, name)))


def model_of(found: AnyRecipe) -> tuple[ModelConfig, tuple[int, ...]]:
    """Returns the configuration of the model that a recipe trains, and the denoising steps that it takes.

    Raises:
        ValueError: The recipe trains no model.
    """
    if not isinstance(found.model, ModelConfig) or found.optim is None:
        raise ValueError(f"{found.name} makes no model; name a teacher or a student")
    return found.model, getattr(found.stage, "student_steps", STUDENT_STEPS)


def _require_same_model(trained: ModelConfig, wanted: ModelConfig, directory: Path) -> None:
    """Raises ValueError if weights of one model would be another network; `start` may differ."""
    _require_same(trained, replace(wanted, start=trained.start), directory)


def _require_same(trained: Any, wanted: Any, directory: Path, prefix: str = "model.") -> None:
    if type(trained) is not type(wanted):
        raise ValueError(
            f"{directory} was trained with a {type(trained).__name__}, and this recipe has a "
            f"{type(wanted).__name__}; use another --runs folder, or train that run again"
        )
    if differing := differing_settings(trained, wanted):
        raise ValueError(
            f"{directory} was trained with {written_settings(trained, differing, prefix)}, and this recipe "
            f"has {written_settings(wanted, differing, prefix)}; set the same, or train that run again"
        )


def _require_same_steps(made: AnyRecipe, wanted: AnyRecipe, directory: Path) -> None:
    steps = getattr(made.stage, "student_steps", STUDENT_STEPS)
    if steps != wanted.stage.student_steps:
        raise ValueError(
            f"{directory} was made for the student steps {list(steps)}, and this recipe has "
            f"{list(wanted.stage.student_steps)}; set stage.student_steps to the same, or make that run again"
        )
