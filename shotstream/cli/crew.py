"""Options of a model that several commands share, and commands that several processes run together."""

import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from shotstream.cli.shared import bad_input

if TYPE_CHECKING:
    from shotstream.streaming.crew import Crew
    from shotstream.streaming.switches import Switches

_OPTIONS: Mapping[str, tuple[Any, str | bool | None]] = {
    "weights": (
        Annotated[
            str | None,
            typer.Option(
                help="float8: keep the transformer's weights in a byte each, to save memory; "
                "float8-products (GPU; slowly, a CPU): also multiply in them."
            ),
        ],
        None,
    ),
    "float8_cache": (
        Annotated[
            bool, typer.Option("--float8-cache", help="Keep keys and values in a byte each, to save memory.")
        ],
        False,
    ),
    "offload_text": (
        Annotated[
            bool,
            typer.Option("--offload-text", help="Keep Wan's text encoder in main memory, to save a GPU's."),
        ],
        False,
    ),
    "attention": (
        Annotated[
            str,
            typer.Option(help="sdpa (torch's own), cudnn, or eight-bit (slow on a CPU)."),
        ],
        "sdpa",
    ),
    "compile": (
        Annotated[
            bool,
            typer.Option("--compile", help="Compile the transformer's blocks; done before a film begins."),
        ],
        False,
    ),
    "cuda_graphs": (
        Annotated[bool, typer.Option("--cuda-graphs", help="Replay compiled blocks as CUDA graphs.")],
        False,
    ),
    "compile_decoder": (
        Annotated[bool, typer.Option("--compile-decoder", help="Compile Wan's decoder.")],
        False,
    ),
    "channels_last": (
        Annotated[
            bool, typer.Option("--channels-last", help="Lay Wan's decoder out with channels together.")
        ],
        False,
    ),
    "chunk_decode": (
        Annotated[
            bool, typer.Option("--chunk-decode", help="Decode a chunk's latent frames together (Wan).")
        ],
        False,
    ),
    "overlap_chunks": (
        Annotated[
            bool,
            typer.Option("--overlap-chunks", help="Make a chunk while the one before is decoded and used."),
        ],
        False,
    ),
    "codec_device": (
        Annotated[
            str | None,
            typer.Option(help="Another device for the codec and the text encoder, for example cuda:1."),
        ],
        None,
    ),
}


def takes_switches(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, whose argument `switches` is given by options: how a model is run."""
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "switches"]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]

    @wraps(command)
    def with_options(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in _OPTIONS}
        with bad_input():
            switches = _read_switches(**chosen)
        command(**given, switches=switches)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + options
    with_options.__dict__["__signature__"] = inspect.Signature(parameters)
    with_options.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_options


def _read_switches(weights: str | None, attention: str, **others: Any) -> "Switches":
    """ValueError for an unknown format or kind of attention."""
    from shotstream.model.attention import AttentionName
    from shotstream.model.quantized import WeightFormat
    from shotstream.streaming.switches import Switches

    formats: dict[str | None, WeightFormat | None] = {None: None, **{x: x for x in get_args(WeightFormat)}}
    kernels: dict[str, AttentionName] = {x: x for x in get_args(AttentionName)}
    if weights not in formats:
        raise ValueError(f"no weights of {weights!r}; give {', '.join(get_args(WeightFormat))}")
    if attention not in kernels:
        raise ValueError(f"no attention {attention!r}; give {', '.join(kernels)}")
    return Switches(weights=formats[weights], attention=kernels[attention], **others)


@contextmanager
def crew_of(device: str) -> "Generator[Crew | None]":
    """The processes that torchrun has started this one with; None where it is alone.

    Leaving it dismisses the processes that follow.
    """
    from shotstream.streaming.crew import joined_crew, started_as_crew

    if not started_as_crew():
        yield None
        return
    with bad_input():
        from shotstream.streaming.pipeline import choose_device

        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"no device {device!r} for several processes; give auto, cpu or cuda")
        chosen = choose_device(device)
    with joined_crew(chosen) as crew:
        yield crew
