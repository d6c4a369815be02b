"""The command `shotstream`: reads arguments, calls the package, and tells a person what happened in one line.

Exit codes: 0 done, 1 a fault (full disk, frames that differ, a failed check), 2 bad input, 130 interrupted.
Tracebacks go to a log file, with --debug, and nowhere else. Only typer is imported at the start: everything
else when a command needs it, so that help comes at once.
"""

import sys
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from shotstream.film import Environment, Film, FilmPlan, FilmSettings, Replay
    from shotstream.streaming.pipeline import StreamingPipeline

FAULT, BAD_INPUT, INTERRUPTED = 1, 2, 130
DEBUG_LOG = Path("shotstream-debug.log")
DEFAULT_SEED = 7
# Small pictures are enlarged until they are about this high.
COMFORTABLE_HEIGHT_PX = 384

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Makes a film shot by shot: streaming multi-shot video generation.",
)
weights_app = typer.Typer(help="Import, download and show model weights.")
theatre_app = typer.Typer(help="The embedded world.")
app.add_typer(weights_app, name="weights")
app.add_typer(theatre_app, name="theatre")

_is_debugging = False

ModelOption = Annotated[str, typer.Option(help="theatre, an imported model's name, or a bundle's directory.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")]


class BadInput(Exception):
    """What the user gave cannot be used; the message is one line."""


class Fault(Exception):
    """Something went wrong that the user's input is not to blame for; the message is one line."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with the given arguments (None: the process's) and exits with its code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = app(given or ["--help"], standalone_mode=False)
    except typer.TyperException as error:
        code = _complain(error.format_message(), BAD_INPUT)
    except BadInput as error:
        code = _complain(str(error), BAD_INPUT)
    except (typer.Abort, KeyboardInterrupt):
        code = _complain("interrupted", INTERRUPTED)
    except Fault as error:
        code = _complain(str(error), FAULT)
    except Exception as error:
        if _is_debugging:
            with DEBUG_LOG.open("a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
            where = f"traceback in {DEBUG_LOG}"
        else:
            where = "shotstream --debug ... writes the traceback to a file"
        code = _complain(f"{_one_line(error)} ({where})", FAULT)
    sys.exit(code or 0)


def _show_version(wanted: bool) -> bool:
    if wanted:
        import shotstream

        print(shotstream.__version__)
        raise typer.Exit
    return wanted


@app.callback()
def _options(  # pyright: ignore[reportUnusedFunction]
    debug: Annotated[
        bool, typer.Option("--debug", help=f"On a fault, write the traceback to {DEBUG_LOG}.")
    ] = False,
    version: Annotated[  # noqa: ARG001 (its callback acts)
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop."),
    ] = False,
) -> None:
    global _is_debugging
    _is_debugging = debug


@app.command()
def generate(
    story: Annotated[
        str, typer.Argument(help="Story file (YAML, JSON), a replay file, or a bundled story's name.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The film; its name ends in .mp4.")] = Path(
        "film.mp4"
    ),
    model: ModelOption = "theatre",
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help=f"Default: the story's own, or {DEFAULT_SEED}."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Denoising steps per chunk; default: the model's.")
    ] = None,
    scale: Annotated[
        int | None, typer.Option(min=1, max=32, help="Enlargement of the film; default: a comfortable size.")
    ] = None,
    device: DeviceOption = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing film.")] = False,
) -> None:
    """Make a film of a story.

    Given a replay file, make its film again and check every frame. The same command goes on with a film that
    was interrupted.
    """
    console = _console()
    with _bad_input():
        from shotstream.film import FilmFiles, FilmSettings, check_target, is_replay, read_replay
        from shotstream.story import find_story, read_story

        path = find_story(story)
        replay = read_replay(path) if is_replay(path) else None
        if replay and (seed is not None or steps is not None):
            raise ValueError("a replay names its own seed and steps; leave --seed and --steps out")
        written = replay.plan.story if replay else read_story(path)
        settings = FilmSettings(files=FilmFiles(film=output), overwrite=overwrite)
        check_target(settings)
    with _bad_input(), console.status(f"loading {model}"):
        from shotstream.film import caption_warnings, check_replay, plan_film, running_environment
        from shotstream.film.live import warn
        from shotstream.streaming.pipeline import load

        pipeline = load(model, device=device)
        environment = running_environment(pipeline)
        if replay:
            check_replay(replay, pipeline)
            plan = replay.plan
        else:
            chosen = seed if seed is not None else written.seed
            plan = plan_film(
                written, pipeline, seed=DEFAULT_SEED if chosen is None else chosen, num_steps=steps
            )
        warnings = caption_warnings(written, pipeline)
    if replay and (differences := replay.environment.differences(environment)):
        warnings.append(f"frames may differ from the replay's: then and now {'; '.join(differences)}")
    for warning in warnings:
        warn(console, warning)
    if scale is None:
        scale = max(1, COMFORTABLE_HEIGHT_PX // pipeline.pixel_size.height)
    film = _film_live(console, pipeline, plan, environment, replace(settings, scale=scale))
    _report(console, film, pipeline.fps)
    if replay:
        _check_frames(console, film, replay)


@app.command()
def verify(
    directory: Annotated[Path, typer.Argument(help="Directory of golden cases.")],
    device: DeviceOption = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
) -> None:
    """Check this install against golden cases."""
    with _bad_input():
        import torch
        from rich.table import Table

        from shotstream.verify import verify_directory

        if not directory.is_dir():
            raise ValueError(f"{directory}: no such directory")
        if dtype not in ("float32", "bfloat16", "float16", "float64"):
            raise ValueError(f"no dtype {dtype!r}; give float32, bfloat16, float16 or float64")
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        rows = verify_directory(directory, chosen, getattr(torch, dtype))
    table = Table("case", "tensor", "error", "tolerance", "pass", header_style="bold")
    for row in rows:
        table.add_row(
            row.case or row.file,
            row.tensor or row.message,
            "" if row.error is None else f"{row.error:.2e}",
            "" if row.bound is None else f"{row.bound:.0e}",
            "[green]yes[/]" if row.passed else "[red]NO[/]",
        )
    console = _console(stderr=False)
    console.print(table)
    num_failed = sum(not row.passed for row in rows)
    if num_failed:
        raise Fault(f"{num_failed} of {len(rows)} comparisons failed")
    console.print(f"{len(rows)} comparisons, all within tolerance")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe.")],
    runs: Annotated[Path, typer.Option(help="Directory of all runs.")] = Path("runs"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override, for example loop.num_steps=100; repeatable.")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Train a recipe; the same command resumes."""
    with _bad_input():
        import torch

        from shotstream.training import recipes
        from shotstream.training.run import run_recipe

        chosen = recipes.recipe(recipe, set_ or ())
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
    with _interruptible("the same command resumes at the last checkpoint"):
        num_steps = run_recipe(chosen, runs, device=device)
    _console().print(f"{recipe}: {num_steps} steps done; {runs / chosen.name}")


@weights_app.command("import")
def weights_import(
    source: Annotated[Path, typer.Argument(help="Directory of published files.")],
    as_: Annotated[str, typer.Option("--as", help="Name of the model from now on.")] = "wan-1.3b",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Bundle directory to make.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File whose transformer replaces the base one.")
    ] = None,
    lora: Annotated[Path | None, typer.Option(help="File of LoRA tensors to merge.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
) -> None:
    """Convert published weights into a bundle, once."""
    console = _console()
    with _bad_input(), console.status(f"importing {source}"):
        from shotstream.weights.hub import import_weights
        from shotstream.weights.official import PublishedSource

        if not source.is_dir():
            raise ValueError(f"{source}: no such directory")
        published = PublishedSource(directory=source, checkpoint=checkpoint, lora=lora)
        directory = import_weights(published, as_=as_, out=output, overwrite=overwrite)
    console.print(f"{as_} is imported: {directory}", soft_wrap=True)


@weights_app.command("download")
def weights_download(
    repository: Annotated[str, typer.Argument(help="For example KlingTeam/ShotStream.")],
    revision: Annotated[
        str | None, typer.Option(help="Default: the locked one, the newest at first.")
    ] = None,
) -> None:
    """Fetch published weights; revision and hashes are locked by the first download."""
    with _bad_input():
        from shotstream.weights.hub import download

        directory = download(repository, revision)
    _console().print(f"{repository}: {directory}", soft_wrap=True)


@weights_app.command("show")
def weights_show(
    model: Annotated[str | None, typer.Argument(help="A name or a bundle's directory; default: all.")] = None,
) -> None:
    """Show which models there are, or what one holds; its hashes are checked."""
    console = _console(stderr=False)
    with _bad_input():
        from shotstream.weights.bundle import read_bundle
        from shotstream.weights.hub import available, resolve

        if model is None:
            console.print("\n".join(available()))
            return
        bundle = read_bundle(resolve(model))
    console.print(f"{bundle.directory}\nsha256 {bundle.sha256}", soft_wrap=True, highlight=False)
    for part, tensors in bundle.tensors.items():
        num_bytes = sum(tensor.nbytes for tensor in tensors.values())
        num_parameters = sum(tensor.numel() for tensor in tensors.values())
        console.print(
            f"{part}: {len(tensors)} tensors, {num_parameters:,} parameters, {num_bytes / 1e6:.1f} MB",
            highlight=False,
        )


@theatre_app.command("vocabulary")
def theatre_vocabulary() -> None:
    """Show the words that the theatre understands."""
    with _bad_input():
        from shotstream.theatre.captions import vocabulary

    words = [word for word in vocabulary() if word.isalpha() or "-" in word]
    print(" ".join(words))


def _film_live(
    console: "Console",
    pipeline: "StreamingPipeline",
    plan: "FilmPlan",
    environment: "Environment",
    settings: "FilmSettings",
) -> "Film":
    from shotstream.film import FilmExistsError, WorkDirError, make_film
    from shotstream.film.live import LiveView
    from shotstream.streaming.saved_session import SessionError

    try:
        with _interruptible("the same command goes on"), LiveView(console, plan) as view:
            return make_film(pipeline, plan, environment, settings, view)
    except (FilmExistsError, WorkDirError, SessionError) as error:
        raise BadInput(_one_line(error)) from error
    except OSError as error:
        kept = f"finished shots are kept in {settings.files.partial}"
        raise Fault(f"{error.strerror or error}; {kept}; the same command goes on") from error


def _report(console: "Console", film: "Film", fps: int) -> None:
    files = film.files
    num_frames = sum(map(len, film.replay.frame_sha256))
    size_mb = files.film.stat().st_size / 1e6
    resumed = f", {film.num_resumed_shots} of them from before" if film.num_resumed_shots else ""
    console.print(
        f"[bold]{files.film}[/]: {len(film.replay.frame_sha256)} shots{resumed}, "
        f"{num_frames / fps:.1f} s, {size_mb:.1f} MB",
        highlight=False,
        soft_wrap=True,
    )
    if film.first_frame_s is not None:
        console.print(
            f"generated {film.num_new_frames} frames at {film.num_new_frames / film.generate_s:.0f} fps, "
            f"the first after {film.first_frame_s:.2f} s",
            highlight=False,
        )
    for path in (files.storyboard, files.subtitles, files.replay):
        console.print(f"  {path}", highlight=False, soft_wrap=True)


def _check_frames(console: "Console", film: "Film", replay: "Replay") -> None:
    from shotstream.film import count_differences

    num_different, first = count_differences(film, replay)
    if num_different:
        raise Fault(f"{num_different} frames differ from the replay's, the first one: {first}")
    console.print("every frame equals the replay's")


def _console(*, stderr: bool = True) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr)


@contextmanager
def _bad_input() -> Generator[None]:
    """What is wrong with what a person gave becomes a message and exit code 2."""
    with _interruptible("nothing was made"):
        try:
            yield
        except (ValueError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise BadInput(_one_line(error)) from error


@contextmanager
def _interruptible(comfort: str) -> Generator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        _complain(f"interrupted; {comfort}", INTERRUPTED)
        raise typer.Exit(INTERRUPTED) from error


def _complain(message: str, code: int) -> int:
    print(f"shotstream: {message}", file=sys.stderr)
    return code


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
