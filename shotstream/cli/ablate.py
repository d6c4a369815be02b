"""The command `ablate`: one row of the paper's ablations in miniature."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from shotstream.cli.shared import bad_input, interruptible


def ablate(
    row: Annotated[str, typer.Argument(help="Name of a row; `full` is the whole method.")],
    runs: Annotated[Path, typer.Option(help="Directory of all runs.")] = Path("runs"),
    seed: Annotated[int, typer.Option(help="Of training and of the stories that are filmed.", min=0)] = 0,
    stories: Annotated[int, typer.Option(help="Held-out stories that are filmed.")] = 50,
    shots: Annotated[int, typer.Option(help="Shots of each.")] = 5,
    teacher_steps: Annotated[
        int, typer.Option(help="Steps that the theatre's teacher goes on for under the row's change.", min=1)
    ] = 400,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override, STAGE:key=value, for all rows alike; repeatable."),
    ] = None,
) -> None:
    """Train and score one ablation, forked from `theatre_teacher`; prints its line and one line of JSON.

    The same command goes on with a row that was stopped.
    """
    with bad_input():
        from shotstream.theatre.oracle import AXES
        from shotstream.training.ablations import RowConfig, prepare_row, run_row, table_line

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        config = RowConfig(
            seed=seed,
            teacher_steps=teacher_steps,
            overrides=tuple(set_ or ()),
            num_stories=stories,
            num_shots=shots,
        )
        prepared = prepare_row(row, runs, config)
    with interruptible("the same command goes on"):
        report = run_row(prepared)
    print(table_line(row, report, AXES))
    print(report.json_line())
