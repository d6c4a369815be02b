"""Options, console and error handling of all commands: a failure becomes one line and an exit code."""

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
    from rich.console import Console

    from shotstream.streaming.pipeline import StreamingPipeline

FAULT, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143
# What is wrong with a path that was given; other errors of files are faults.
_OF_PATHS = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EILSEQ, errno.EEXIST, errno.ENOTEMPTY, errno.ENXIO,
}  # fmt: skip
# What only a mistake of ours raises: their texts are about Python.
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
    """An error of the user's input; the message is one line."""


class Terminated(KeyboardInterrupt):
    """The system asks the program to end (SIGTERM): it ends as after Ctrl-C, with another code."""


class Fault(Exception):
    """Something went wrong that the user's input is not to blame for; the message is one line."""


class Stopped(Exception):
    """Its cause, `KeyboardInterrupt` or `Terminated`, has ended a command that said nothing of it."""


class Group(TyperGroup):
    """The commands; typer itself would end one that is interrupted with code 130 and without a word."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; returns its exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped from error


def comfortable_scale(pipeline: "StreamingPipeline") -> int:
    return max(1, COMFORTABLE_HEIGHT_PX // pipeline.pixel_size.height)


def make_console(*, stderr: bool = True) -> "Console":
    """A console that shows text as it is: names of files hold brackets and :words: that Rich would act on."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


@contextmanager
def bad_input(comfort: str | Callable[[], str] = "nothing was made") -> Generator[None]:
    """Turns errors of the user's input into a message and exit code 2; `comfort` as in `interruptible`."""
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
    """Ctrl-C and SIGTERM become one line and a code; `comfort` says what there is, if called, then."""
    try:
        yield
    except KeyboardInterrupt as error:
        said = comfort if isinstance(comfort, str) else comfort()
        raise typer.Exit(stopped(error, f"; {said}")) from error


def stopped(error: BaseException, comfort: str = "") -> int:
    """Says that a person or the system ended the program; the exit code."""
    is_terminated = isinstance(error, Terminated) or isinstance(error.__cause__, Terminated)
    word, code = ("terminated", TERMINATED) if is_terminated else ("interrupted", INTERRUPTED)
    return complain(f"{word}{comfort}", code)


@contextmanager
def ending_on_sigterm() -> Generator[None]:
    """Within it SIGTERM raises `Terminated`, once: a second one ends the process on the spot."""
    is_usable = threading.current_thread() is threading.main_thread()
    if not is_usable or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    process = os.getpid()

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() == process:
            raise Terminated
        os.kill(os.getpid(), signal.SIGTERM)  # A helper that was forked off dies of it, as it would have.

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def complain(message: str, code: int) -> int:
    from shotstream.documents import printable

    print(f"shotstream: {printable(message)}", file=sys.stderr)
    return code


def one_line(error: BaseException) -> str:
    """The message of an error, in one line."""
    if isinstance(error, OSError) and error.strerror:
        # Of two names the second is the one that could not be made.
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
    """A path in a message: as it is, or its beginning and end."""
    text = name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")
    return text if len(text) <= 200 else f"{text[:80]}…{text[-80:]}"
