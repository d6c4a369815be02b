"""The benchmarks of `shotstream bench all`, the most important first; none is run here.

Each has a time budget, with a margin, for the 1.3B model at 480x832 on one data-centre GPU. The first gives
the headline and compiles nothing, so that it is there whatever happens to the rest. Imports nothing that
takes time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Start = Literal["plain", "chosen"]
"""The base of `inference_options`: no options, or those that the engine chooses for the machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """A measurement of one variant of the engine."""

    name: str
    """Name of the function that measures it."""
    variant: str = ""
    """Distinguishes benchmarks of the same name."""
    budget_s: int = 60
    """Seconds after which it is stopped where that is safe; the values so far are the result."""
    start: Start = "chosen"
    inference_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Inference options that differ from `start`."""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    """User options for the engine's choice: `precision`, `memory`; empty: the defaults."""
    num_steps: int | None = None
    """Number of denoising steps per chunk; None: the model's own."""
    is_light: bool = False
    """Whether shown frames come from the light decoder."""
    changes_films: bool = False
    """Whether films differ from those without approximations, so that they are not in the headline."""
    needs: tuple[Literal["gpu", "wan"], ...] = ()
    """Requirements; without them it is skipped."""

    @property
    def key(self) -> tuple[str, str]:
        """Unique key: name and variant."""
        return self.name, self.variant


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteConfig:
    """The model of a suite, and the number of repetitions of its benchmarks.

    Raises:
        ValueError: A number is out of range.
    """

    model: str = "theatre"
    """Name of a model, or a bundle's directory."""
    is_random: bool = False
    """Whether only the model's sizes are read, and its weights are random."""
    size: str | None = None
    """Frame size as height x width; None: the model's."""
    device: str = "auto"
    """Device that it runs on; "auto" is a GPU if there is one, else the CPU."""
    is_tiny: bool = False
    """Whether this is a trial run: nothing is compiled, whatever the variant."""
    num_shots: int = 2
    """Number of shots of a film, at least 1."""
    num_stories: int = 1
    """Number of films of each kind, at least 1."""
    num_chunks: int | None = None
    """Number of chunks of a shot; None: the model's default length."""
    num_repeats: int = 5
    """Number of repetitions for each part of the engine, at least 1."""
    num_cuts: int = 12
    """Number of cuts of each kind, and minimum number of intervals between chunks."""
    last_shot: int = 100
    """Number of the long film's last shot."""
    scale: int | None = None
    """Factor by which frames are enlarged before H.264; None: a comfortable size."""

    def __post_init__(self) -> None:
        numbers = (self.num_shots, self.num_stories, self.num_chunks or 1, self.num_repeats, self.num_cuts)
        if min(*numbers, self.last_shot, self.scale or 1) < 1:
            raise ValueError("shots, stories, chunks, repeats, cuts and scale must be at least 1")

    def document(self) -> dict[str, Any]:
        """Returns the configuration for JSON."""
        return asdict(self)


def _film(variant: str, budget_s: int = 60, *, changes_films: bool = False, **more: Any) -> Benchmark:
    return Benchmark(name="generate", variant=variant, budget_s=budget_s, changes_films=changes_films, **more)


def _denoise(variant: str, budget_s: int, start: Start = "plain", **inference_options: Any) -> Benchmark:
    fewer_bits = "weights" in inference_options or inference_options.get("attention") == "eight-bit"
    return Benchmark(
        name="denoise",
        variant=variant,
        budget_s=budget_s,
        start=start,
        inference_options=inference_options,
        changes_films=fewer_bits,
        needs=("gpu",) if fewer_bits or "attention" in inference_options else (),
    )


def _decode(variant: str, budget_s: int = 30, **inference_options: Any) -> Benchmark:
    return Benchmark(
        name="decode",
        variant=variant,
        budget_s=budget_s,
        start="plain",
        inference_options=inference_options,
        needs=("wan",),
    )


_FLOAT8 = {"precision": "float8"}

SUITE: Sequence[Benchmark] = (
    _film("nothing compiled", 90, start="plain"),
    Benchmark(name="machine", budget_s=20, start="plain"),
    # One engine, compiled once, while only the order of its work changes.
    _film("the engine's choice", 240),
    Benchmark(name="baseline", budget_s=90),
    Benchmark(name="latency", variant="full decoder", budget_s=60),
    Benchmark(name="h264", budget_s=60),
    Benchmark(name="latency", variant="light decoder", budget_s=60, is_light=True, needs=("wan",)),
    _film("light decoder", is_light=True, needs=("wan",), changes_films=True),
    _film("2 steps", num_steps=2, changes_films=True),
    _film("1 step", num_steps=1, changes_films=True),
    Benchmark(name="denoise", variant="the engine's choice", budget_s=60),
    Benchmark(name="parts", budget_s=45),
    _film("chunks in turn", inference_options={"overlap_chunks": False}),
    Benchmark(name="encode", budget_s=30),
    _film("float8", 240, options=_FLOAT8, changes_films=True, needs=("gpu",)),
    Benchmark(
        name="denoise",
        variant="float8",
        budget_s=90,
        options=_FLOAT8,
        changes_films=True,
        needs=("gpu",),
    ),
    Benchmark(name="ceilings", budget_s=20, start="plain"),
    _denoise("nothing compiled", 45),
    _denoise("cuDNN's attention", 45, attention="cudnn"),
    _denoise("eight-bit attention", 45, attention="eight-bit"),
    _decode("one by one"),
    _decode("whole chunk", chunk_decode=True),
    _decode("whole chunk and benchmarked", 60, chunk_decode=True, cudnn_benchmark=True),
    _decode("all that and compiled", 120, chunk_decode=True, cudnn_benchmark=True, compile_decoder=True),
    Benchmark(name="shots", budget_s=120),
    Benchmark(name="attention", budget_s=45, start="plain"),
    _denoise("compiled", 120, compile=True),
    _denoise("compiled and float8 products", 120, weights="float8-products", compile=True),
    _film("memory low", 120, options={"memory": "low"}, needs=("wan",)),
    _film("memory lowest", 120, options={"memory": "lowest"}, changes_films=True, needs=("gpu", "wan")),
)


def select_benchmarks(only: str | None = None, begin: str | None = None) -> list[Benchmark]:
    """Returns the benchmarks named in `only` (comma-separated), or all from `begin` on, or all.

    A name is that of a benchmark, or of one variant: "decode" or "decode: whole chunk".

    Raises:
        ValueError: A name is unknown.
    """

    def matches(benchmark: Benchmark, name: str) -> bool:
        return name.strip() in (benchmark.name, f"{benchmark.name}: {benchmark.variant}")

    benchmarks = list(SUITE)
    for name in (*(only.split(",") if only else ()), *((begin,) if begin else ())):
        if not any(matches(benchmark, name) for benchmark in benchmarks):
            names = ", ".join(dict.fromkeys(benchmark.name for benchmark in benchmarks))
            raise ValueError(f"no benchmark {name.strip()!r}; there are {names}")
    if begin:
        first = next(place for place, benchmark in enumerate(benchmarks) if matches(benchmark, begin))
        benchmarks = benchmarks[first:]
    if only:
        benchmarks = [x for x in benchmarks if any(matches(x, name) for name in only.split(","))]
    return benchmarks
