"""What all commands share: options, the console, and how each kind of failure becomes one line and a code."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from shotstream.streaming.pipeline import StreamingPipeline

FAULT, BAD_INPUT, INTERRUPTED = 1, 2, 130
# Small pictures are enlarged until they are about this high.
COMFORTABLE_HEIGHT_PX = 384

ModelOption = Annotated[str, typer.Option(help="theatre, an imported model's name, or a bundle's directory.")]
ScaleOption = Annotated[
    int | None, typer.Option(min=1, max=32, help="Enlargement of the film; default: a comfortable size.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]


class BadInput(Exception):
    """What the user gave cannot be used; the message is one line."""


class Fault(Exception):
    """Something went wrong that the user's input is not to blame for; the message is one line."""


def comfortable_scale(pipeline: "StreamingPipeline") -> int:
    return max(1, COMFORTABLE_HEIGHT_PX // pipeline.pixel_size.height)


def make_console(*, stderr: bool = True) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr)


@contextmanager
def bad_input() -> Generator[None]:
    """What is wrong with what a person gave becomes a message and exit code 2."""
    with interruptible("nothing was made"):
        try:
            yield
        except (ValueError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise BadInput(one_line(error)) from error


@contextmanager
def interruptible(comfort: str) -> Generator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        complain(f"interrupted; {comfort}", INTERRUPTED)
        raise typer.Exit(INTERRUPTED) from error


def complain(message: str, code: int) -> int:
    print(f"shotstream: {message}", file=sys.stderr)
    return code


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
