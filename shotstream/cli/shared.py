"""Options, console and error handling of all commands: an error becomes one line and an exit code."""

import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from shotstream.streaming.pipeline import StreamingPipeline
    from shotstream.theatre.reading.reader import UnknownWord
    from shotstream.theatre.reading.settled import SettledShot

FAULT, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143
# Errors in a path that the user gave; other file errors are faults.
_OF_PATHS = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EILSEQ, errno.EEXIST, errno.ENOTEMPTY, errno.ENXIO,
}  # fmt: skip
# Errors that only a bug raises: their messages are about Python.
_OUR_OWN = (
    AssertionError, AttributeError, LookupError, NameError, NotImplementedError, OverflowError,
    RecursionError, StopIteration, TypeError, ZeroDivisionError,
)  # fmt: skip
# Small pictures are enlarged until they are about this high.
COMFORTABLE_HEIGHT_PX = 384

ModelOption = Annotated[str, typer.Option(help="theatre, an imported model's name, or a bundle's directory.")]
ScaleOption = Annotated[
    int | None, typer.Option(min=1, max=32, help="Enlargement of the film; default: a comfortable size.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]


class BadInput(Exception):
    """An error in the user's input; the message is one line."""


class Terminated(KeyboardInterrupt):
    """A SIGTERM: the program ends as after Ctrl-C, with another exit code."""


class Fault(Exception):
    """An error that is not in the user's input; the message is one line."""


class Stopped(Exception):
    """A command that its cause has ended, `KeyboardInterrupt` or `Terminated`, without a message."""


class Group(TyperGroup):
    """The group of commands. Unlike typer's, it prints a line when a command is interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command and returns its exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped from error


def comfortable_scale(pipeline: "StreamingPipeline") -> int:
    """Returns the factor by which a pipeline's frames are enlarged to a height of about 384 pixels."""
    return max(1, COMFORTABLE_HEIGHT_PX // pipeline.pixel_size.height)


def make_console(*, stderr: bool = True) -> "Console":
    """Returns a console that prints text as it is.

    File names may contain brackets and :words:, which Rich would interpret.
    """
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


@contextmanager
def bad_input(comfort: str | Callable[[], str] = "nothing was made") -> Generator[None]:
    """Turns errors in the user's input into a message and exit code 2; `comfort` as in `interruptible`."""
    with interruptible(comfort):
        try:
            yield
        except ValueError as error:
            raise BadInput(one_line(error)) from error
        except OSError as error:
            if error.errno not in _OF_PATHS:
                raise
            raise BadInput(one_line(error)) from error


@contextmanager
def interruptible(comfort: str | Callable[[], str]) -> Generator[None]:
    """Turns Ctrl-C and SIGTERM into one line and an exit code.

    `comfort` is the end of the line, which says what was kept; a function is called when it is needed.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        said = comfort if isinstance(comfort, str) else comfort()
        raise typer.Exit(stopped(error, f"; {said}")) from error


def stopped(error: BaseException, comfort: str = "") -> int:
    """Prints that the program was interrupted or terminated; returns the exit code."""
    is_terminated = isinstance(error, Terminated) or isinstance(error.__cause__, Terminated)
    word, code = ("terminated", TERMINATED) if is_terminated else ("interrupted", INTERRUPTED)
    return complain(f"{word}{comfort}", code)


@contextmanager
def ending_on_sigterm() -> Generator[None]:
    """Makes the first SIGTERM raise `Terminated`; a second one ends the process at once."""
    is_usable = threading.current_thread() is threading.main_thread()
    if not is_usable or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    process = os.getpid()

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() == process:
            raise Terminated
        os.kill(
            os.getpid(), signal.SIGTERM
        )  # A forked child process is terminated, as it would be by default.

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def complain(message: str, code: int) -> int:
    """Prints an error message, and returns the exit code."""
    from shotstream.documents import printable

    print(f"shotstream: {printable(message)}", file=sys.stderr)
    return code


def one_line(error: BaseException) -> str:
    """Returns the message of an error in one line."""
    if isinstance(error, OSError) and error.strerror:
        # If there are two names, the second is the one that could not be created.
        name = error.filename2 or error.filename
        return f"{shown_path(name)}: {error.strerror}" if isinstance(name, str | bytes) else error.strerror
    if isinstance(error, UnicodeError):
        return "a text that is not UTF-8; save it as UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"a damaged JSON document (line {error.lineno})"
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, ImportError):
        return f"the package {error.name} is missing or damaged; install shotstream again"
    if isinstance(error, _OUR_OWN):
        return "a mistake of the program itself; please report it"
    return " ".join(str(error).split()) or "a fault without a name"


def shown_path(name: str | bytes) -> str:
    """Returns a path for a message: complete, or its beginning and end."""
    text = name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")
    return text if len(text) <= 200 else f"{text[:80]}…{text[-80:]}"


def print_reading(console: "Console", shot: "SettledShot", prefix: str = "") -> None:
    """Prints what is understood of a shot: a sentence of what will be seen, and the reading as JSON."""
    console.print(f"{prefix}{shot.caption}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{prefix}{json.dumps(shot.said.to_document())}",
        style="dim", highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


def refuse_unknown(unknown: "Sequence[UnknownWord]") -> None:
    """Raises BadInput if there are words for things that the world does not have."""
    from shotstream.theatre.reading.settled import NOT_HERE

    words = list(dict.fromkeys(map(str, unknown)))
    if words:
        raise BadInput(f"{NOT_HERE}: {', '.join(words)}; change the captions")
