"""The command `ablate`: one row of the paper's ablations in miniature."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from shotstream.cli.shared import bad_input, interruptible
from shotstream.training.names import ROW_NAMES, require_row

_ROWS = ", ".join(f"{name} ({published})" for name, published in ROW_NAMES.items())


def ablate(
    row: Annotated[str, typer.Argument(help=f"Name of a row: {_ROWS}.")],
    runs: Annotated[Path, typer.Option(help="Directory of all runs.")] = Path("runs"),
    seed: Annotated[int, typer.Option(help="Of training and of the stories that are filmed.", min=0)] = 0,
    stories: Annotated[int, typer.Option(help="Held-out stories that are filmed.", min=1)] = 50,
    shots: Annotated[int, typer.Option(help="Shots of each.", min=1)] = 5,
    teacher_steps: Annotated[
        int, typer.Option(help="Steps that the theatre's teacher goes on for under the row's change.", min=1)
    ] = 400,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override, STAGE:key=value, for all rows alike; repeatable."),
    ] = None,
) -> None:
    """Train and score one ablation, forked from `theatre_teacher`; prints its line and one line of JSON.

    The line stands in a table with a header, in Markdown. The same command goes on with a row that was
    stopped.
    """
    with bad_input():
        require_row(row)
        from shotstream.theatre.oracle import AXES
        from shotstream.training.ablations import RowConfig, prepare_row, run_row, table_header, table_line

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        config = RowConfig(
            seed=seed,
            teacher_steps=teacher_steps,
            overrides=tuple(set_ or ()),
            num_stories=stories,
            num_shots=shots,
        )
        prepared = prepare_row(row, runs, config)
    kept = f"what was saved of the row is kept in {prepared.directory}; the same command goes on"
    with interruptible(kept):
        report = run_row(prepared)
    print(table_header(AXES))
    print(table_line(row, report, AXES))
    print()
    print(report.json_line())
