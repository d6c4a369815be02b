"""The commands `theatre ...`: the vocabulary of the theatre, its data, and the oracle's calibration."""

import json
from pathlib import Path
from typing import Annotated

import typer

from shotstream.cli.shared import bad_input, make_console, refuse_unknown

theatre_app = typer.Typer(help="The drawn world: vocabulary, data, calibration of its scores.")

SeedOption = Annotated[int, typer.Option(help="Seed of the stories.")]


@theatre_app.command("vocabulary")
def theatre_vocabulary() -> None:
    """Show the words that the theatre understands."""
    with bad_input():
        from shotstream.theatre.vocabulary import describe

    print(describe())


@theatre_app.command("read")
def theatre_read(
    shot: Annotated[str, typer.Argument(help="Caption of a shot, in plain English.")],
    global_caption: Annotated[str, typer.Option("--global", help="Caption of the whole film.")] = "",
    earlier: Annotated[
        list[str] | None, typer.Option(help="Caption of a shot before it; give it once for each, in order.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON line alone.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse words for things that the world does not have.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed that chooses what is left open.")] = 7,
) -> None:
    """Show what is understood of a caption: what will be seen, and the reading as JSON."""
    with bad_input():
        from shotstream.theatre.reading.reader import read_shot
        from shotstream.theatre.reading.settled import settle

        reading = read_shot(shot, global_caption, tuple(earlier or ()))
        if strict:
            refuse_unknown(reading.unknown)
    if not as_json:
        settled = settle(reading, seed)
        console = make_console(stderr=False)
        console.print(settled.caption, highlight=False, markup=False, soft_wrap=True)
        for warning in settled.warnings:
            console.print(warning, highlight=False, markup=False, soft_wrap=True)
    print(json.dumps(reading.to_document()))


@theatre_app.command("write")
def theatre_write(
    directory: Annotated[Path, typer.Argument(help="Output directory; created if missing, must be empty.")],
    stories: Annotated[int, typer.Option(help="Number of stories.")] = 100,
    shots: Annotated[int, typer.Option(help="Shots of each story.")] = 5,
    seed: SeedOption = 0,
    held_out: Annotated[
        bool,
        typer.Option(
            "--held-out", help="Use combinations of species and colour that are not in the training data."
        ),
    ] = False,
    scale: Annotated[int, typer.Option(min=1, max=32, help="Enlargement.")] = 1,
) -> None:
    """Write stories as training data: videos, captions and manifests in the published format."""
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
    """Calibrate the scores: ground truth, and ground truth with increasing degradations."""
    console = make_console()
    with bad_input(), console.status("judging") as status:
        from shotstream.evaluation.calibration import calibrate, calibration_table
        from shotstream.evaluation.run import EvaluationConfig

        config = EvaluationConfig(num_stories=stories, seed=seed, judge_truth=False)
        reports = calibrate(config, lambda name: status.update(f"judging: {name}"))
    print(calibration_table(reports))
