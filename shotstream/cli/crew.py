"""Options of a model that several commands share, and commands that several processes run together."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from shotstream.cli.shared import bad_input

if TYPE_CHECKING:
    from shotstream.streaming.crew import Crew
    from shotstream.streaming.savings import Savings

WeightsOption = Annotated[
    str | None,
    typer.Option(help="int8 or float8: keep the transformer's weights in a byte each, to save memory."),
]
CacheOption = Annotated[
    bool, typer.Option("--float8-cache", help="Keep keys and values in a byte each, to save memory.")
]
OffloadOption = Annotated[
    bool, typer.Option("--offload-text", help="Keep Wan's text encoder in main memory, to save a GPU's.")
]


def read_savings(weights: str | None, float8_cache: bool, offload_text: bool) -> "Savings":
    """The options as one; ValueError for an unknown format."""
    from shotstream.model.quantized import WeightFormat
    from shotstream.streaming.savings import Savings

    if weights is not None and weights not in get_args(WeightFormat):
        raise ValueError(f"no weights of {weights!r}; give int8 or float8")
    chosen = cast("WeightFormat | None", weights)
    return Savings(weights=chosen, float8_cache=float8_cache, offload_text=offload_text)


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
