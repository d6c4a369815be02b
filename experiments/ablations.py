"""The ablations of the paper in miniature: each row changes one thing, and the oracle scores the result.

All rows start from the theatre's teacher and its codec, which are packed in `resume/` or trained once by
`shotstream train`. A row continues the teacher's training for some steps under its own
change. Then it makes ODE pairs, the causal student and the two distillation stages, each a run in
`RUNS/rows/ROW-SEED`, so that an interrupted row can be resumed. Runs that a row has in common with the full
method of its seed are taken from there, if they are complete. A row takes about ten minutes on a core.

Source: the ablation tables of arXiv 2603.25746, without those of architectures that are not built here.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from experiments.shot_embedding import ShotEmbeddingModelConfig
from shotstream.evaluation.report import Report
from shotstream.evaluation.run import EvaluationConfig
from shotstream.files import remove, require_directory, write_atomically
from shotstream.training.checkpoint import checkpoints, load_checkpoint, save_atomically
from shotstream.training.inputs import newest_checkpoint
from shotstream.training.recipe import AnyRecipe, ModelConfig
from shotstream.training.recipes import recipe
from shotstream.training.run import run_recipe
from shotstream.training.saved_recipes import recipe_of_run

log = logging.getLogger(__name__)

STAGES: Final[tuple[str, ...]] = (
    "mini_teacher",
    "mini_ode_pairs",
    "mini_causal_init",
    "mini_intra_shot",
    "mini_inter_shot",
)
"""Recipes of a row, in order."""
BASE: Final = "theatre_teacher"
"""Recipe of the run that all rows start from."""
_FORK: Final = "fork.pt"
_ADOPTED: Final = "adopted"
_NEW_PARAMETER: Final = "dit.shot_embedding.weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of the ablation table: its differences from the full method."""

    published: str
    """Name in the paper's table."""
    changes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Settings of all stages that differ from the full method's."""
    pairs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Settings of the ODE pairs that differ from the full method's."""
    num_shot_embeddings: int = 0
    """Number of learned vectors that mark the shots; 0: none, as in the full method."""
    left_out: tuple[str, ...] = ()
    """Stages that it leaves out."""


ROWS: Final[Mapping[str, Row]] = {
    "full": Row(published="full method"),
    "no_phase": Row(published="no RoPE indicator", changes={"model.dit.phase_angle": 0.0}),
    "shot_embedding": Row(
        published="learnable embedding instead",
        changes={"model.dit.phase_angle": 0.0},
        num_shot_embeddings=8,
    ),
    "first_frames": Row(
        published="context: first frame only", changes={"model.context_policy": "first_frames"}
    ),
    "first_and_last": Row(
        published="context: first & last", changes={"model.context_policy": "first_and_last_frames"}
    ),
    "target_caption": Row(
        published="target caption for all frames", changes={"model.context_policy": "target_caption"}
    ),
    "intra_only": Row(published="stage 1 only", left_out=("mini_inter_shot",)),
    "inter_only": Row(published="stage 2 only", left_out=("mini_intra_shot",)),
    "published_init": Row(published="its causal initialisation", pairs={"stage.flow": "bidirectional"}),
}


def require_row(name: str) -> None:
    """Raises ValueError, with all names, unless there is a row of this name."""
    if name not in ROWS:
        raise ValueError(f"there is no row {name!r}; there are {', '.join(ROWS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowConfig:
    """Configuration of a row: how it is trained and scored."""

    seed: int = 0
    """Seed of the row's runs and of the stories that are scored."""
    teacher_steps: int = 400
    """Number of steps by which the teacher's training is continued."""
    overrides: tuple[str, ...] = ()
    """Additional settings, `STAGE:key=value`, which must be the same in all rows of a comparison."""
    num_stories: int = 50
    num_shots: int = 5

    def __post_init__(self) -> None:
        if self.teacher_steps < 1:
            raise ValueError(f"teacher_steps is {self.teacher_steps}; it must be at least 1")
        self.judged()  # found wrong before anything is trained

    def judged(self) -> EvaluationConfig:
        """Configuration of the evaluation that scores the row."""
        return EvaluationConfig(
            num_stories=self.num_stories, num_shots=self.num_shots, seed=self.seed, judge_truth=False
        )


def row_recipes(name: str, config: RowConfig, base_steps: int) -> list[AnyRecipe]:
    """Returns the recipes of a row, in order.

    Args:
        name: Name of the row.
        config: Configuration of the row.
        base_steps: Number of steps of the teacher that it starts from.

    Raises:
        ValueError: There is no such row, or an override is wrong.
    """
    require_row(name)
    row = ROWS[name]
    found: list[AnyRecipe] = []
    for stage in (stage for stage in STAGES if stage not in row.left_out):
        settings = [f"{key}={value}" for key, value in row.changes.items()]
        if stage == "mini_ode_pairs":
            settings += [f"{key}={value}" for key, value in row.pairs.items()]
        if stage == "mini_teacher":
            settings += [
                f"train.num_steps={base_steps + config.teacher_steps}",
                f"optim.decay_steps={config.teacher_steps}",
                f"train.seed={config.seed}",
            ]
        elif config.seed:
            settings.append(f"train.seed={100 * config.seed}")
        settings += [text.partition(":")[2] for text in config.overrides if text.startswith(f"{stage}:")]
        made = recipe(stage, settings)
        if stage == "mini_inter_shot" and row.left_out:
            made = replace(made, inputs=replace(made.inputs, student="mini_causal_init"))
        if row.num_shot_embeddings:
            made = replace(made, model=_with_shot_embeddings(made.model, row.num_shot_embeddings))
        found.append(made)
    unknown = [text for text in config.overrides if text.partition(":")[0] not in STAGES]
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} names no stage; write one of {', '.join(STAGES)}, a colon, key=value"
        )
    return found


def _with_shot_embeddings(model: ModelConfig, number: int) -> ShotEmbeddingModelConfig:
    same = {field.name: getattr(model, field.name) for field in fields(model)}
    return ShotEmbeddingModelConfig(**same, num_shot_embeddings=number)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedRow:
    """A row with checked inputs, ready to train."""

    recipes: tuple[AnyRecipe, ...]
    directory: Path
    """Directory of its runs."""
    config: RowConfig


def prepare_row(name: str, runs: Path, config: RowConfig) -> PreparedRow:
    """Prepares a row, whose training starts from the shared teacher, unless that was done before.

    Args:
        name: Name of the row.
        runs: Directory of all runs, including the shared ones.
        config: Configuration of the row.

    Raises:
        ValueError: There is no such row, a setting is wrong, or the shared runs do not exist.
    """
    row_recipes(name, config, 1)  # what is wrong with them is told before anything is read
    directory = runs / "rows" / f"{name}-{config.seed}"
    require_directory(directory)
    base = newest_checkpoint(runs, BASE)
    base_steps, _ = load_checkpoint(base)
    fork = directory / _FORK
    if fork.exists():
        base_steps, _ = load_checkpoint(fork)  # it goes on from where it was forked
    recipes = row_recipes(name, config, base_steps)
    shared = [newest_checkpoint(runs, "theatre_codec")]
    directory.mkdir(parents=True, exist_ok=True)
    for checkpoint in shared:
        _share(checkpoint, directory / checkpoint.parent.name)
    if not fork.exists():
        write_fork(base, recipes[0], fork)
    return PreparedRow(recipes=tuple(recipes), directory=directory, config=config)


def run_row(row: PreparedRow) -> Report:
    """Trains a row, or the rest of it, and returns its scores.

    Raises:
        KeyboardInterrupt: A run was interrupted, and is saved.
    """
    from shotstream.training.scores import evaluate_run

    for made in row.recipes:
        log.info("%s", made.name)
        _adopt(made, row.directory.with_name(f"full-{row.config.seed}"), row.directory)
        begun = bool(checkpoints(row.directory / made.name))
        start_from = None if begun or made.name != "mini_teacher" else row.directory / _FORK
        if run_recipe(made, row.directory, start_from=start_from) < made.train.num_steps:
            raise KeyboardInterrupt
    return evaluate_run(row.recipes[-1].name, row.directory, row.config.judged())


def _adopt(made: AnyRecipe, full: Path, directory: Path) -> None:
    """Copies a complete run from the full method if all settings that change the result are equal.

    A stage is copied only if all earlier ones were, because its own configuration does not contain theirs.
    """
    before = [name for name in STAGES[: STAGES.index(made.name)] if (directory / name).exists()]
    found = checkpoints(full / made.name)
    if full == directory or (directory / made.name).exists() or not found:
        return
    if any(not (directory / name / _ADOPTED).exists() for name in before):
        return
    step, _ = load_checkpoint(found[-1])
    if step != made.train.num_steps or recipe_of_run(full, made.name) != made:
        return
    part = directory / f".part.{made.name}"
    remove(part)
    shutil.copytree(full / made.name, part)
    (part / _ADOPTED).touch()
    part.rename(directory / made.name)
    log.info("%s is that of %s", made.name, full)


def write_fork(base: Path, changed: AnyRecipe, path: Path) -> None:
    """Writes the shared teacher as the start of a row's run; parameters that the row adds start at zero.

    It holds the averaged weights, and the average starts again: over a row's few steps it would otherwise
    remain that of the teacher before the row's change.
    """
    step, state = load_checkpoint(base)
    average = {name: value for name, value in state["ema"].items() if name != "num_updates"}
    forked = {"weights": {**state["weights"], **average}, "ema": {**average, "num_updates": 0}}
    model = changed.model
    if isinstance(model, ShotEmbeddingModelConfig):
        for values in forked.values():
            values[_NEW_PARAMETER] = torch.zeros(model.num_shot_embeddings, model.dit.dim)
    save_atomically({"step": step, "stage": forked}, path)


def table_header(axes: Sequence[str]) -> str:
    """Returns the header of the table, in Markdown."""
    return f"| row | of the paper | {' | '.join(axes)} |\n|{'---|' * (len(axes) + 2)}"


def table_line(name: str, report: Report, axes: Sequence[str]) -> str:
    """Returns a row of the table, in Markdown."""
    means = {row.axis: row.mean for row in report.rows}
    cells = ["-" if means.get(axis) is None else f"{means[axis]:.3f}" for axis in axes]
    return f"| {name} | {ROWS[name].published} | {' | '.join(cells)} |"


def _share(checkpoint: Path, directory: Path) -> None:
    """Copies the files from which a run is read: its newest checkpoint and its configuration."""
    directory.mkdir(exist_ok=True)
    step, state = load_checkpoint(checkpoint)
    if not checkpoints(directory):
        save_atomically({"step": step, "stage": state}, directory / f"step_{step:07d}.pt")
        write_atomically((checkpoint.parent / "config.json").read_bytes(), directory / "config.json")
