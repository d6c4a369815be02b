"""The commands `theatre ...`: the vocabulary of the theatre, its data, and the oracle's calibration."""

from pathlib import Path
from typing import Annotated

import typer

from shotstream.cli.shared import bad_input, make_console

theatre_app = typer.Typer(help="The embedded world.")

SeedOption = Annotated[int, typer.Option(help="Of the stories.")]


@theatre_app.command("vocabulary")
def theatre_vocabulary() -> None:
    """Show what the theatre understands."""
    with bad_input():
        from shotstream.theatre.vocabulary import describe

    print(describe())


@theatre_app.command("write")
def theatre_write(
    directory: Annotated[Path, typer.Argument(help="Where to; made if absent, and must be empty.")],
    stories: Annotated[int, typer.Option(help="Number of stories.")] = 100,
    shots: Annotated[int, typer.Option(help="Shots of each.")] = 5,
    seed: SeedOption = 0,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Star pairs of species and colour kept from training.")
    ] = False,
    scale: Annotated[int, typer.Option(min=1, max=32, help="Enlargement.")] = 1,
) -> None:
    """Write stories as ordinary training data: videos, captions and manifests in the published format."""
    console = make_console()
    with bad_input(), console.status("writing") as status:
        from shotstream.theatre.dataset import DatasetConfig, write_dataset

        config = DatasetConfig(
            num_stories=stories, num_shots=shots, seed=seed, held_out=held_out, scale=scale
        )
        write_dataset(directory, config, lambda done, all_: status.update(f"{done} of {all_} stories"))
    console.print(f"{directory}: {stories} stories", soft_wrap=True, highlight=False)


@theatre_app.command("calibrate")
def theatre_calibrate(
    stories: Annotated[int, typer.Option(help="Number of held-out stories.")] = 50,
    seed: SeedOption = 0,
) -> None:
    """Score films whose scores are known: the truth, and the truth made worse step by step."""
    console = make_console()
    with bad_input(), console.status("judging") as status:
        from shotstream.evaluation.calibration import calibrate, calibration_table
        from shotstream.evaluation.run import EvaluationConfig

        config = EvaluationConfig(num_stories=stories, seed=seed, judge_truth=False)
        reports = calibrate(config, lambda name: status.update(f"judging: {name}"))
    print(calibration_table(reports))
