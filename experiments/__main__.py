"""`python -m experiments`: the command `shotstream` with the ablations, and `ablate` and `perfect-choice`."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from experiments import register
from experiments.ablations import (
    ROWS,
    RowConfig,
    prepare_row,
    require_row,
    run_row,
    table_header,
    table_line,
)
from experiments.perfect_choice import perfect_choice_films
from shotstream import cli
from shotstream.cli.shared import bad_input, interruptible
from shotstream.evaluation.report import gap_header
from shotstream.evaluation.run import EvaluationConfig, score_films
from shotstream.streaming.loading import load
from shotstream.theatre.oracle import AXES

_ROWS = ", ".join(f"{name} ({row.published})" for name, row in ROWS.items())


def ablate(
    row: Annotated[str, typer.Argument(help=f"Name of a row: {_ROWS}.")],
    runs: Annotated[Path, typer.Option(help="Directory of all runs.")] = Path("runs"),
    seed: Annotated[int, typer.Option(help="Seed of training and of the scored stories.", min=0)] = 0,
    stories: Annotated[int, typer.Option(help="Number of held-out stories.", min=1)] = 50,
    shots: Annotated[int, typer.Option(help="Shots of each story.", min=1)] = 5,
    teacher_steps: Annotated[
        int, typer.Option(help="Training steps of the teacher with the row's change.", min=1)
    ] = 400,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting, STAGE:key=value; the same for all rows. Repeatable."),
    ] = None,
) -> None:
    """Train and score one ablation, starting from `theatre_teacher`; print a table row and a line of JSON.

    The row belongs to a Markdown table with a header. The same command resumes an interrupted row.
    """
    with bad_input():
        require_row(row)
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


def perfect_choice(
    stories: Annotated[int, typer.Option(help="Number of held-out stories.", min=1)] = 10,
    shots: Annotated[int, typer.Option(help="Shots of each story.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the stories and of their noise.", min=0)] = 0,
) -> None:
    """Score the theatre's memory by absence under perfect choice of context frames: an upper bound.

    The stories are those of `shotstream evaluate --returns`.
    """
    with bad_input():
        config = EvaluationConfig(
            num_stories=stories, num_shots=shots, seed=seed, judge_truth=False, returns=True
        )
    films = perfect_choice_films(load("theatre"), num_chunks=config.num_chunks, seed=seed)
    report = score_films(films, config, facts={"context_policy": "perfect choice"})
    print(gap_header())
    print(report.gap_line("perfect"))
    print(report.json_line())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command with the given arguments (None: those of the process) and exits with its code."""
    register()
    cli.app.command()(ablate)
    cli.app.command()(perfect_choice)
    cli.main(arguments)


if __name__ == "__main__":
    main()
