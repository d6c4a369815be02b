"""The command `train`: runs or resumes any recipe, on one machine or, with torchrun, on many."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shotstream.cli.shared import DeviceOption, bad_input, interruptible, make_console
from shotstream.training import recipes

if TYPE_CHECKING:
    from shotstream.training.run import PreparedRun


def train(
    recipe: Annotated[str, typer.Argument(help=f"Name of a recipe: {', '.join(recipes.RECIPES)}.")],
    runs: Annotated[Path, typer.Option(help="Directory of all runs.")] = Path("runs"),
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting, for example train.num_steps=100. Repeatable."),
    ] = None,
    device: DeviceOption = "auto",
    start_from: Annotated[
        Path | None, typer.Option(help="Start of a new run: a file written by `weights pack`.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the resolved recipe and stop.")] = False,
) -> None:
    """Train a recipe; the same command resumes.

    --dry-run shows every setting of a recipe; --set changes one. Each recipe says which runs it needs first.
    """
    console = make_console()
    with bad_input():
        recipes.require_recipe(recipe)
        if start_from is not None and not start_from.is_file():
            raise ValueError(f"{start_from}: no such file")
        from shotstream.configs import config_to_document
        from shotstream.training.dist_context import init_dist_context, local_device
        from shotstream.training.run import default_device, prepare_run

        chosen = recipes.recipe(recipe, set_ or ())
        if dry_run:
            make_console(stderr=False).print_json(json.dumps(config_to_document(chosen)))
            return
        device = local_device(default_device() if device == "auto" else device)
    with init_dist_context(device) as dist_context:
        # Only one process prints; warnings are printed by all.
        level = logging.INFO if dist_context.is_main_process else logging.WARNING
        logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

        def kept() -> str:
            told = _kept(runs / recipe, chosen.train.num_steps)
            return told if dist_context.is_main_process else "the first process says what is kept"

        with bad_input(kept):
            prepared = prepare_run(
                chosen, runs, device=device, start_from=start_from, dist_context=dist_context
            )
        with interruptible(kept):
            done = prepared.train()
    if dist_context.is_main_process:
        console.print(f"{recipe}: {_end(prepared, done)}", markup=False, soft_wrap=True)


def _end(prepared: "PreparedRun", done: int) -> str:
    config, directory = prepared.config, prepared.directory
    if done >= config.num_steps:
        nothing_left = " before, so nothing was left to do" if prepared.first >= config.num_steps else ""
        return f"{done} steps done{nothing_left}; {directory}"
    if done >= config.last_step:
        return f"stopped at step {done} of {config.num_steps}, as train.stop_at says; {directory}"
    return f"stopped at step {done} of {config.num_steps}; {_kept(directory, config.num_steps)}"


def _kept(directory: Path, num_steps: int) -> str:
    """Returns a message about a stopped run: which step is on disk, and how to resume it."""
    from shotstream.training.checkpoint import checkpoints, steps_of

    found = checkpoints(directory)
    if not found:
        return "no step of it is kept; the same command begins again"
    kept = f"{steps_of(found[-1])} of {num_steps} steps"
    return f"{kept} are kept in {found[-1]}; the same command resumes there"
