"""The commands of `shotstream bench`: each prints a table, and one JSON line at the end.

All take the same model options: a real model or one with random weights, at any size.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shotstream.cli.inference_options import takes_options
from shotstream.cli.shared import (
    DeviceOption,
    ModelOption,
    ScaleOption,
    bad_input,
    comfortable_scale,
    make_console,
)

if TYPE_CHECKING:
    from shotstream.bench.denoise import PartConfig
    from shotstream.bench.report import Report
    from shotstream.streaming.choice import Options
    from shotstream.streaming.pipeline import StreamingPipeline

bench_app = typer.Typer(help="Measure speed and memory: a table, and one line of JSON at the end.")

RandomOption = Annotated[
    bool, typer.Option("--random", help="Random weights: needs no files, also for wan-1.3b.")
]
SizeOption = Annotated[str | None, typer.Option(help="Frame size HxW; default: the model's.")]
ChunksOption = Annotated[int | None, typer.Option(min=1, help="Chunks of a shot; default: the model's.")]
StepsOption = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Denoising steps per chunk; default: the model's.")
]
RepeatsOption = Annotated[int, typer.Option(min=1, help="Measured repetitions; one more warms up.")]


@bench_app.command("generate")
@takes_options
def bench_generate(
    model: ModelOption = "theatre",
    random: RandomOption = False,
    size: SizeOption = None,
    device: DeviceOption = "auto",
    stories: Annotated[int, typer.Option(help="Measured stories; one more warms up.")] = 8,
    shots: Annotated[int, typer.Option(help="Shots of each film.")] = 5,
    chunks: ChunksOption = None,
    steps: StepsOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the stories and of their noise.")] = 0,
    scale: ScaleOption = None,
    h264_beside: Annotated[
        bool, typer.Option("--h264-beside", help="Encode H.264 in a separate thread, as the studio does.")
    ] = False,
    *,
    options: "Options",
) -> None:
    """Frames per second of a whole film, end to end."""

    def measure(pipeline: "StreamingPipeline", on_progress: Callable[[str], None]) -> "Report":
        from shotstream.bench import generate

        config = generate.BenchConfig(
            num_stories=stories,
            num_shots=shots,
            num_chunks=chunks,
            num_steps=steps,
            seed=seed,
            scale=comfortable_scale(pipeline) if scale is None else scale,
            overlap=h264_beside,
        )
        on_progress("warming up")
        return generate.bench_generate(
            pipeline, config, lambda num_done: on_progress(f"{num_done} of {stories} stories")
        )

    _run(measure, model, random, size, device, options)


@bench_app.command("denoise")
@takes_options
def bench_denoise(
    model: ModelOption = "theatre",
    random: RandomOption = False,
    size: SizeOption = None,
    device: DeviceOption = "auto",
    chunks: ChunksOption = None,
    steps: StepsOption = None,
    repeats: RepeatsOption = 20,
    *,
    options: "Options",
) -> None:
    """Time of the transformer for a chunk, and the share of the machine's peak that it reaches."""

    def measure(pipeline: "StreamingPipeline", on_progress: Callable[[str], None]) -> "Report":
        from shotstream.bench.denoise import bench_denoise

        return bench_denoise(pipeline, _part(repeats, chunks, steps), on_progress)

    _run(measure, model, random, size, device, options, with_text=False)


@bench_app.command("decode")
@takes_options
def bench_decode(
    model: ModelOption = "theatre",
    random: RandomOption = False,
    size: SizeOption = None,
    device: DeviceOption = "auto",
    chunks: ChunksOption = None,
    repeats: RepeatsOption = 20,
    *,
    options: "Options",
) -> None:
    """Time of the codec to decode latents into frames."""

    def measure(pipeline: "StreamingPipeline", on_progress: Callable[[str], None]) -> "Report":
        from shotstream.bench.codec import bench_decode

        return bench_decode(pipeline, _part(repeats, chunks, None), on_progress)

    _run(measure, model, random, size, device, options, with_text=False)


@bench_app.command("encode")
@takes_options
def bench_encode(
    model: ModelOption = "theatre",
    random: RandomOption = False,
    size: SizeOption = None,
    device: DeviceOption = "auto",
    chunks: ChunksOption = None,
    repeats: RepeatsOption = 20,
    *,
    options: "Options",
) -> None:
    """Time of the codec to encode the frames that later shots are conditioned on."""

    def measure(pipeline: "StreamingPipeline", on_progress: Callable[[str], None]) -> "Report":
        from shotstream.bench.codec import bench_encode

        return bench_encode(pipeline, _part(repeats, chunks, None), on_progress)

    _run(measure, model, random, size, device, options, with_text=False)


@bench_app.command("cut")
@takes_options
def bench_cut(
    model: ModelOption = "theatre",
    random: RandomOption = False,
    size: SizeOption = None,
    device: DeviceOption = "auto",
    chunks: ChunksOption = None,
    steps: StepsOption = None,
    repeats: RepeatsOption = 20,
    scale: ScaleOption = None,
    *,
    options: "Options",
) -> None:
    """Latency of a cut: from a prompt to its first pixels, with the engine idle and busy."""

    def measure(pipeline: "StreamingPipeline", on_progress: Callable[[str], None]) -> "Report":
        from shotstream.bench.cut import bench_cut

        chosen = comfortable_scale(pipeline) if scale is None else scale
        return bench_cut(pipeline, _part(repeats, chunks, steps), on_progress, scale=chosen)

    _run(measure, model, random, size, device, options)


@bench_app.command("shots")
@takes_options
def bench_shots(
    model: ModelOption = "theatre",
    random: RandomOption = False,
    size: SizeOption = None,
    device: DeviceOption = "auto",
    chunks: ChunksOption = None,
    steps: StepsOption = None,
    *,
    options: "Options",
) -> None:
    """Time of a chunk at shots 1, 10, 50 and 100."""

    def measure(pipeline: "StreamingPipeline", on_progress: Callable[[str], None]) -> "Report":
        from shotstream.bench.shots import bench_shots

        return bench_shots(
            pipeline, _part(1, chunks, steps), on_shot=lambda number: on_progress(f"shot {number}")
        )

    _run(measure, model, random, size, device, options)


@bench_app.command("baseline")
@takes_options
def bench_baseline(
    model: ModelOption = "theatre",
    random: RandomOption = False,
    size: SizeOption = None,
    device: DeviceOption = "auto",
    stories: Annotated[
        int, typer.Option(help="Stories that both generate, alternating; one more warms up.")
    ] = 6,
    shots: Annotated[int, typer.Option(help="Shots of each film.")] = 5,
    chunks: ChunksOption = None,
    steps: StepsOption = None,
    *,
    options: "Options",
) -> None:
    """Speed compared with the published loop, with the same weights and the same results."""

    def measure(pipeline: "StreamingPipeline", on_progress: Callable[[str], None]) -> "Report":
        from shotstream.bench.baseline import bench_baseline
        from shotstream.bench.generate import BenchConfig

        config = BenchConfig(num_stories=stories, num_shots=shots, num_chunks=chunks, num_steps=steps)
        on_progress("warming up")
        return bench_baseline(
            pipeline, config, lambda num_done: on_progress(f"{num_done} of {stories} stories")
        )

    _run(measure, model, random, size, device, options)


@bench_app.command("overlap")
@takes_options
def bench_overlap(
    model: ModelOption = "theatre",
    random: RandomOption = False,
    size: SizeOption = None,
    device: DeviceOption = "auto",
    stories: Annotated[int, typer.Option(help="Stories per setting; one more warms up.")] = 10,
    shots: Annotated[int, typer.Option(help="Shots of each film.")] = 5,
    chunks: ChunksOption = None,
    scale: ScaleOption = None,
    *,
    options: "Options",
) -> None:
    """Gain of encoding H.264 in a thread, and of prefetching chunks."""

    def measure(pipeline: "StreamingPipeline", on_progress: Callable[[str], None]) -> "Report":
        from shotstream.bench.generate import BenchConfig
        from shotstream.bench.overlap import bench_overlap

        config = BenchConfig(
            num_stories=stories,
            num_shots=shots,
            num_chunks=chunks,
            scale=comfortable_scale(pipeline) if scale is None else scale,
        )
        on_progress("warming up")
        return bench_overlap(
            pipeline, config, lambda num_done: on_progress(f"{num_done} of {stories} stories")
        )

    _run(measure, model, random, size, device, options)


@bench_app.command("threads")
@takes_options
def bench_threads(
    model: ModelOption = "theatre",
    random: RandomOption = False,
    size: SizeOption = None,
    stories: Annotated[int, typer.Option(help="Stories per setting; one more warms up.")] = 4,
    shots: Annotated[int, typer.Option(help="Shots of each film.")] = 3,
    chunks: ChunksOption = None,
    scale: ScaleOption = None,
    *,
    options: "Options",
) -> None:
    """Speed with different numbers of CPU threads, on an idle and on a busy machine."""

    def measure(pipeline: "StreamingPipeline", on_progress: Callable[[str], None]) -> "Report":
        from shotstream.bench.generate import BenchConfig
        from shotstream.bench.threads import bench_threads

        config = BenchConfig(
            num_stories=stories,
            num_shots=shots,
            num_chunks=chunks,
            scale=comfortable_scale(pipeline) if scale is None else scale,
        )
        on_progress("warming up")
        return bench_threads(pipeline, config, on_progress)

    _run(measure, model, random, size, "cpu", options)


@bench_app.command("students")
def bench_students(
    size: Annotated[str, typer.Option(help="Frame size HxW.")] = "64x96",
    device: DeviceOption = "auto",
    repeats: RepeatsOption = 20,
) -> None:
    """The schedules of all students, with tiny random weights: time for a latent frame."""
    console = make_console()
    with bad_input(), console.status("measuring") as status:
        from shotstream.bench.models import parse_size
        from shotstream.bench.students import bench_students
        from shotstream.streaming.parts import choose_device

        on_progress = status.update if console.is_terminal else _lines()
        report = bench_students(
            parse_size(size),
            choose_device(device),
            repeats,
            lambda num_done: on_progress(f"{num_done} of {repeats} repetitions"),
        )
    _show(report)


@bench_app.command("memory")
def bench_memory(
    model: ModelOption = "wan-1.3b",
    size: SizeOption = None,
) -> None:
    """GPU memory that each setting needs. Computed from sizes, not measured."""
    with bad_input(), make_console().status("computing"):
        from shotstream.bench.memory import bench_memory
        from shotstream.bench.models import parse_size

        report = bench_memory(model, None if size is None else parse_size(size))
    _show(report)


@bench_app.command("all")
def bench_all(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A directory for results.jsonl, results.md and log.txt.")
    ],
    model: ModelOption = "theatre",
    random: RandomOption = False,
    size: SizeOption = None,
    device: DeviceOption = "auto",
    tiny: Annotated[
        bool, typer.Option("--tiny", help="A quick trial: few repetitions, nothing is compiled.")
    ] = False,
    limit: Annotated[float, typer.Option(help="No benchmark is started after this many seconds.")] = 540.0,
    only: Annotated[
        str | None,
        typer.Option(help="Run only these benchmarks, separated by commas: decode, denoise: compiled ..."),
    ] = None,
    begin: Annotated[str | None, typer.Option(help="Skip the benchmarks before this one.")] = None,
    stories: Annotated[int, typer.Option(min=1, help="Films per benchmark.")] = 1,
    shots: Annotated[int, typer.Option(min=1, help="Shots of each film.")] = 2,
    chunks: ChunksOption = None,
    repeats: RepeatsOption = 5,
    cuts: Annotated[int, typer.Option(min=1, help="Cuts of each kind, for latencies.")] = 12,
    last_shot: Annotated[int, typer.Option(min=1, help="Number of shots of the long film.")] = 100,
    scale: ScaleOption = None,
) -> None:
    """All benchmarks of one model, the most important first; each result is written at once."""
    from shotstream.bench.suite import SuiteConfig, select_benchmarks
    from shotstream.bench.supervise import supervise

    with bad_input():
        suite = SuiteConfig(
            model=model,
            is_random=random,
            size=size,
            device=device,
            is_tiny=tiny,
            num_stories=stories,
            num_shots=shots,
            num_chunks=2 if tiny and chunks is None else chunks,
            num_repeats=min(repeats, 2) if tiny else repeats,
            num_cuts=min(cuts, 2) if tiny else cuts,
            last_shot=min(last_shot, 10) if tiny else last_shot,
            scale=1 if tiny and scale is None else scale,
        )
        code = supervise(
            suite,
            select_benchmarks(only, begin),
            output,
            limit_s=limit,
            command=f"shotstream {' '.join(sys.argv[1:])}",
            say=lambda text: print(text, end="", flush=True),
        )
    if code:
        raise typer.Exit(code)


def _part(repeats: int, chunks: int | None, steps: int | None) -> "PartConfig":
    from shotstream.bench.denoise import PartConfig

    return PartConfig(num_shots=repeats, num_chunks=chunks, num_steps=steps)


def _run(
    measure: "Callable[[StreamingPipeline, Callable[[str], None]], Report]",
    model: str,
    is_random: bool,
    size: str | None,
    device: str,
    options: "Options",
    *,
    with_text: bool = True,
) -> None:
    """Loads the model, runs a benchmark and prints its report."""
    console = make_console()
    with bad_input(), console.status("loading") as status:
        on_progress = status.update if console.is_terminal else _lines()
        on_progress(f"loading {model}")
        pipeline, facts = _load(model, is_random, size, device, options, with_text=with_text)
        report = measure(pipeline, on_progress)
    _show(replace(report, facts={**report.facts, **facts}))


def _lines() -> Callable[[str], None]:
    """Returns a progress callback that prints plain lines, with the seconds since the command began."""
    begun = time.monotonic()
    return lambda text: print(f"{time.monotonic() - begun:6.1f} s  {text}", file=sys.stderr, flush=True)


def _load(
    model: str,
    is_random: bool,
    size: str | None,
    device: str,
    options: "Options",
    *,
    with_text: bool = True,
) -> "tuple[StreamingPipeline, dict[str, object]]":
    """Returns the warmed-up pipeline, and the facts about it for a report."""
    from shotstream.bench.models import BenchModel, load_bench_model, parse_size
    from shotstream.streaming.warm_up import warm_up

    chosen = BenchModel(
        name=model,
        is_random=is_random,
        size=None if size is None else parse_size(size),
        device=device,
        options=options,
    )
    pipeline = load_bench_model(chosen, with_text=with_text)
    choice = pipeline.choice
    facts: dict[str, object] = {"inference_options": asdict(choice.inference_options), "chosen": choice.told}
    if choice.inference_options.needs_warm_up:
        facts["compile_s"] = round(warm_up(pipeline), 1)
    return pipeline, facts


def _show(report: "Report", title: str | None = None) -> None:
    from rich.table import Table

    table = Table("measured", "value, or p50 / p95", header_style="bold", title=title)
    for row in report.table():
        table.add_row(*row)
    make_console(stderr=False).print(table)
    print(report.json_line())
