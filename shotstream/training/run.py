"""Runs a recipe in a directory: builds its stage, writes its configuration, and trains or resumes."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from shotstream.configs import config_to_document, differing_settings, written_settings
from shotstream.files import require_directory, write_atomically
from shotstream.training.checkpoint import checkpoints
from shotstream.training.dist_context import SINGLE_PROCESS, DistContext
from shotstream.training.inputs import (
    codec_run,
    newest_checkpoint,
    pair_files,
)
from shotstream.training.loop import resume, train
from shotstream.training.recipe import LEARNT_FROM_TRAIN, AnyRecipe, TrainConfig
from shotstream.training.saved_recipes import recipe_from_document, recipe_of_run
from shotstream.training.stage import Stage
from shotstream.training.stage_builders import build_stage, parallel_config_of
from shotstream.training.stages.inter_shot import InterShotConfig

log = logging.getLogger(__name__)

# Beside a run's checkpoints: the runs that it reads at every start, as they were when it began.
_INPUTS: Final = "inputs.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedRun:
    """A run with checked inputs, ready to train."""

    stage: Stage
    """The stage in its state after `first` steps."""
    first: int
    """Number of steps done before."""
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
    """Prepares a run and trains it; returns the total number of steps."""
    return prepare_run(recipe, runs, device=device, start_from=start_from, dist_context=dist_context).train()


def prepare_run(
    recipe: AnyRecipe,
    runs: Path,
    *,
    device: torch.device | str = "cpu",
    start_from: Path | None = None,
    dist_context: DistContext = SINGLE_PROCESS,
) -> PreparedRun:
    """Prepares a run of a recipe in `runs/NAME`, or its continuation.

    It checks everything that the run needs, and writes the directory only if all checks pass.

    Args:
        recipe: The recipe.
        runs: Directory of all runs, including those of the recipe's inputs.
        device: Device of the training.
        start_from: A portable checkpoint from which a run without checkpoints of its own starts.
        dist_context: The processes of the run; all of them must see the same files.

    Raises:
        ValueError: An input has not been trained, the directory holds a run of another configuration, the
            device cannot be used, the batch cannot be divided, or `start_from` does not belong to the recipe
            or comes too late.
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
    inputs = _inputs_now(recipe, runs)
    if found:
        _check_inputs(recipe, runs, inputs)
    stage = build_stage(recipe, runs, device, dist_context)
    beginning = found[-1] if found else start_from
    first = resume(stage, beginning, dist_context) if beginning is not None else 0
    log.info(parallel_config_of(recipe.train, dist_context).division(stage.batch_size))
    dist_context.barrier()  # no process reads the directory while another one writes
    if dist_context.is_main_process:
        directory.mkdir(parents=True, exist_ok=True)
        document = json.dumps(config_to_document(recipe), indent=1) + "\n"
        write_atomically(document.encode(), directory / "config.json")
        if not found or not (directory / _INPUTS).exists():
            write_atomically((json.dumps(inputs, indent=1) + "\n").encode(), directory / _INPUTS)
        if start_from is not None:
            write_atomically(start_from.read_bytes(), directory / "step_0000000.pt")
    dist_context.barrier()
    return PreparedRun(
        stage=stage, first=first, config=recipe.train, directory=directory, dist_context=dist_context
    )


def _require_inputs(recipe: AnyRecipe, runs: Path) -> None:
    """Raises ValueError if a run that this one starts from does not exist, before any is loaded."""
    for name in recipe.inputs.names():
        if name == recipe.inputs.pairs:
            pair_files(runs, name)
        else:
            newest_checkpoint(runs, name)


def default_device() -> str:
    """Returns the default device for training: a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_config(recipe: AnyRecipe, directory: Path) -> None:
    """Raises ValueError if a resumed run has settings that change its result.

    Its length may change, and all settings that do not change the result.
    """
    if not (directory / "config.json").exists():
        return
    old = recipe_of_run(directory.parent, directory.name)
    if type(old.stage) is not type(recipe.stage):
        raise ValueError(f"{directory} holds a run of another recipe; use another --runs folder")
    changed = _learnt_otherwise(old, recipe)
    if changed:
        raise ValueError(
            f"{directory} holds a run with {written_settings(old, changed)}, and "
            f"{written_settings(recipe, changed)} is given; use another --runs folder or the same values"
        )


def _runs_read(recipe: AnyRecipe, runs: Path) -> dict[str, str]:
    """Returns the names of the runs that are read at every start, by kind.

    A student and a text encoder are not: from its first checkpoint on a run has its own of them.
    """
    names = {kind: name for kind in ("codec", "teacher", "pairs") if (name := getattr(recipe.inputs, kind))}
    if "codec" in names and isinstance(recipe.stage, InterShotConfig):
        # Its history is decoded and encoded again, and a finished decoder decodes differently.
        names["codec"] = codec_run(runs, names["codec"])
    return names


def _inputs_now(recipe: AnyRecipe, runs: Path) -> dict[str, dict[str, Any]]:
    """Returns name, newest checkpoint and configuration of each run that is read at every start.

    Pairs have no checkpoint: more of them may come.
    """
    return {
        kind: {
            "run": name,
            "checkpoint": "" if kind == "pairs" else newest_checkpoint(runs, name).name,
            "config": config_to_document(recipe_of_run(runs, name)),
        }
        for kind, name in _runs_read(recipe, runs).items()
    }


def _check_inputs(recipe: AnyRecipe, runs: Path, now: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError if a resumed run has other input weights or pairs than at its beginning.

    An older run, which does not say what these were, goes on.
    """
    path = runs / recipe.name / _INPUTS
    if not path.exists():
        return
    advice = "bring that back, or use another --runs folder"
    try:
        began_with = {
            kind: (
                began.get("run", getattr(recipe.inputs, kind)),
                recipe_from_document(began["config"], f"{path}: {kind}"),
                began["checkpoint"],
            )
            for kind, began in json.loads(path.read_bytes()).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged; without it the run goes on, with its inputs unchecked"
        ) from error
    for kind in (kind for kind in now if kind in began_with):
        began_run, old, checkpoint = began_with[kind]
        name = now[kind]["run"]
        made, new = runs / name, recipe_of_run(runs, name)
        if began_run != name:
            raise ValueError(
                f"{path.parent} began with the {kind} of {runs / began_run}, and would read that of {made} "
                f"now; {advice}"
            )
        if changed := _learnt_otherwise(old, new):
            raise ValueError(
                f"{path.parent} began with {made} of {written_settings(old, changed)}, and that has "
                f"{written_settings(new, changed)} now; {advice}"
            )
        if checkpoint != now[kind]["checkpoint"]:
            raise ValueError(
                f"{path.parent} began with {made / checkpoint}, and that run is at "
                f"{now[kind]['checkpoint']} now; {advice}"
            )


def _learnt_otherwise(one: AnyRecipe, other: AnyRecipe) -> list[str]:
    """Returns the dotted names of the settings that differ and change the result."""
    return [name for name in differing_settings(one, other) if _is_learnt(name)]


def _is_learnt(name: str) -> bool:
    """Returns whether a setting, given by its dotted name, changes the result."""
    section, _, setting = name.partition(".")
    if section == "train":
        return setting in LEARNT_FROM_TRAIN
    return section != "name" and name not in ("optim.decay_steps", "data.max_bad_files")
