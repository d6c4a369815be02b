"""The command `train`: any recipe, on any machine or, started by torchrun, on many; it resumes itself."""

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from shotstream.cli.shared import DeviceOption, bad_input, interruptible, make_console


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe.")],
    runs: Annotated[Path, typer.Option(help="Directory of all runs.")] = Path("runs"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override, for example loop.num_steps=100; repeatable.")
    ] = None,
    device: DeviceOption = "auto",
    start_from: Annotated[
        Path | None, typer.Option(help="Where a new run begins: a file that `weights pack` made.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the resolved recipe and stop.")] = False,
) -> None:
    """Train a recipe; the same command resumes."""
    console = make_console()
    with bad_input():
        from shotstream.training import recipes
        from shotstream.training.run import default_device, prepare_run
        from shotstream.training.world import joined_world, local_device

        chosen = recipes.recipe(recipe, set_ or ())
        if dry_run:
            make_console(stderr=False).print_json(json.dumps(recipes.to_document(chosen)))
            return
        if start_from is not None and not start_from.is_file():
            raise ValueError(f"{start_from}: no such file")
        device = local_device(default_device() if device == "auto" else device)
    with joined_world(device) as world:
        # One process speaks for all; warnings come from each.
        level = logging.INFO if world.leads else logging.WARNING
        logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        with bad_input():
            prepared = prepare_run(chosen, runs, device=device, start_from=start_from, world=world)
        with interruptible("the same command resumes at the last checkpoint"):
            done = prepared.train()
    if not world.leads:
        return
    if done < chosen.loop.num_steps:
        console.print(
            f"{recipe}: stopped at step {done} of {chosen.loop.num_steps}; "
            f"the same command resumes; {prepared.directory}"
        )
    else:
        console.print(f"{recipe}: {done} steps done; {prepared.directory}")
