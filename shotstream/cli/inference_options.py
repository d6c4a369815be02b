"""Model options that several commands share, and commands that several processes run together."""

import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shotstream.cli.shared import bad_input

if TYPE_CHECKING:
    from rich.console import Console

    from shotstream.streaming.choice import Options
    from shotstream.streaming.inference_group import InferenceGroup
    from shotstream.streaming.pipeline import StreamingPipeline

_EXPERT = "Expert: overrides of the automatic choice"

_OPTIONS: Mapping[str, tuple[Any, str | bool | None]] = {
    "precision": (
        Annotated[
            str,
            typer.Option(
                metavar="auto|float32|bfloat16|float8",
                help="auto: float32, and bfloat16 for Wan on a GPU; float8: matrix products "
                "and attention in 8 bits, which changes the pictures (slow on a CPU, to judge quality).",
            ),
        ],
        "auto",
    ),
    "memory": (
        Annotated[
            str,
            typer.Option(
                metavar="auto|low|lowest",
                help="auto: everything on the device if it fits; low: less memory, slower; lowest: also "
                "8-bit weights, keys and values, which changes the pictures a little.",
            ),
        ],
        "auto",
    ),
    "attention": (
        Annotated[
            str | None,
            typer.Option(
                help="Attention kernel: sdpa (torch's choice), cudnn or eight-bit.",
                rich_help_panel=_EXPERT,
            ),
        ],
        None,
    ),
    "compile_": (
        Annotated[
            bool | None,
            typer.Option(
                "--compile/--no-compile",
                help="Compile the transformer's blocks.",
                rich_help_panel=_EXPERT,
            ),
        ],
        None,
    ),
    "overlap": (
        Annotated[
            bool | None,
            typer.Option(
                "--overlap/--no-overlap",
                help="Denoise a chunk while the one before is decoded.",
                rich_help_panel=_EXPERT,
            ),
        ],
        None,
    ),
    "codec_device": (
        Annotated[
            str | None,
            typer.Option(
                help="Another device for the codec and the text encoder, for example cuda:1.",
                rich_help_panel=_EXPERT,
            ),
        ],
        None,
    ),
}

REPLACED = {
    "--weights": "--precision float8 or --memory lowest",
    "--float8-cache": "--memory lowest",
    "--offload-text": "--memory low",
    "--compile-decoder": "nothing: that is chosen",
    "--channels-last": "nothing: it is always so",
    "--chunk-decode": "nothing: that is chosen",
    "--overlap-chunks": "--overlap",
    "--dtype": "--precision",
}
"""Removed options of the commands that load a model, and what replaces them."""


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Returns the command with command-line options in place of its argument `options`."""
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "options"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]

    @wraps(command)
    def with_options(**given: Any) -> None:
        chosen = {name.rstrip("_"): given.pop(name) for name in _OPTIONS}
        with bad_input():
            options = _read_options(**chosen)
        command(**given, options=options)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + added
    with_options.__dict__["__signature__"] = inspect.Signature(parameters)
    with_options.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_options


def _read_options(precision: Any, memory: Any, **expert: Any) -> "Options":
    """Returns the options; raises ValueError for an unknown precision, memory level or attention."""
    from shotstream.configs import require_words
    from shotstream.streaming.choice import Expert, Options

    require_words(Options, {"precision": precision, "memory": memory})
    require_words(Expert, expert)
    return Options(precision=precision, memory=memory, expert=Expert(**expert))


def load_warm(
    console: "Console", model: str, device: str, options: "Options", group: "InferenceGroup | None" = None
) -> "StreamingPipeline":
    """Returns the model, warmed up; prints what is done and chosen."""
    from shotstream.streaming.loading import load
    from shotstream.streaming.warm_up import warm_up

    def tell(line: str) -> None:
        console.print(line, style="dim", highlight=False, soft_wrap=True)

    pipeline = load(
        model,
        device,
        precision=options.precision,
        memory=options.memory,
        expert=options.expert,
        group=group,
    )
    for line in pipeline.choice.told:
        tell(line)
    if pipeline.choice.inference_options.needs_warm_up:
        warm_up(pipeline, tell=tell)
    return pipeline


@contextmanager
def inference_group_of(device: str) -> "Generator[InferenceGroup | None]":
    """Yields the group of processes that torchrun has started; None for a single process.

    Leaving the context ends the other processes' work.
    """
    from shotstream.streaming.inference_group import init_inference_group, started_by_torchrun

    if not started_by_torchrun():
        yield None
        return
    with bad_input():
        from shotstream.streaming.parts import choose_device

        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"no device {device!r} for several processes; give auto, cpu or cuda")
        chosen = choose_device(device)
    with init_inference_group(chosen) as group:
        yield group
