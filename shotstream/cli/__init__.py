"""The command `shotstream`: reads arguments, calls the package, and reports the result in one line.

Exit codes: 0 success, 1 a failure (full disk, frames that differ, a failed check), 2 invalid input, 130
interrupted (Ctrl-C), 143 terminated (SIGTERM). Tracebacks are written only to a log file, with --debug. Only
typer is imported at the start, everything else when a command needs it, so that help is shown at once.
"""

import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from shotstream.cli.bench import bench_app
from shotstream.cli.data import data_app
from shotstream.cli.evaluate import evaluate
from shotstream.cli.generate import generate
from shotstream.cli.inference_options import REPLACED
from shotstream.cli.models import models
from shotstream.cli.serve import serve
from shotstream.cli.shared import (
    BAD_INPUT,
    FAULT,
    BadInput,
    Fault,
    Group,
    Stopped,
    complain,
    ending_on_sigterm,
    one_line,
    stopped,
)
from shotstream.cli.theatre import theatre_app
from shotstream.cli.train import train
from shotstream.cli.verify import verify
from shotstream.cli.weights import weights_app
from shotstream.process import tune_cpu

DEBUG_LOG = Path("shotstream-debug.log")

app = typer.Typer(
    cls=Group,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Makes a film shot by shot: streaming multi-shot video generation.",
)
for command in (generate, serve, models, verify, evaluate, train):
    app.command()(command)
app.add_typer(bench_app, name="bench")
app.add_typer(weights_app, name="weights")
app.add_typer(theatre_app, name="theatre")
app.add_typer(data_app, name="data")

_is_debugging = False


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with the given arguments (None: those of the process) and exits with its code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Characters that the terminal's encoding does not have are shown as escapes.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with ending_on_sigterm():
            code = app(given or ["--help"], standalone_mode=False)
            if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison] (it is closed: `>&-`)
                sys.stdout.flush()
    except typer.TyperException as error:
        code = complain(_with_successor(error), BAD_INPUT)
    except BadInput as error:
        code = complain(str(error), BAD_INPUT)
    except (typer.Abort, KeyboardInterrupt, Stopped) as error:
        code = stopped(error)
    except BrokenPipeError:
        # The reader has ended (`| head`); without this, Python would print an error at exit.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAULT
    except Fault as error:
        code = complain(str(error), FAULT)
    except Exception as error:
        if _is_debugging:
            with DEBUG_LOG.open("a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
            where = f"traceback in {DEBUG_LOG}"
        else:
            where = "shotstream --debug ... writes the traceback to a file"
        code = complain(f"{one_line(error)} ({where})", FAULT)
    sys.exit(code or 0)


def _with_successor(error: typer.TyperException) -> str:
    """Returns the message of a usage error; for a removed option, with what replaces it."""
    successor = REPLACED.get(getattr(error, "option_name", ""))
    return f"{error.format_message()}" + (f" Give {successor}." if successor else "")


def _show_version(wanted: bool) -> bool:
    if wanted:
        import shotstream

        print(shotstream.__version__)
        raise typer.Exit
    return wanted


@app.callback()
def _options(  # pyright: ignore[reportUnusedFunction]
    debug: Annotated[
        bool, typer.Option("--debug", help=f"After an internal error, write the traceback to {DEBUG_LOG}.")
    ] = False,
    version: Annotated[  # noqa: ARG001 (its callback acts)
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop."),
    ] = False,
) -> None:
    global _is_debugging
    _is_debugging = debug
    tune_cpu()
