"""The commands `data ...`: encode clips into shards for training, and check shards."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from shotstream.cli.shared import FAULT, DeviceOption, Fault, ModelOption, bad_input, complain, make_console
from shotstream.process import number_from_torchrun

data_app = typer.Typer(help="Data sets for training.")


@data_app.command("encode")
def data_encode(
    manifest: Annotated[Path, typer.Argument(help="A CSV in the published format, or JSON Lines.")],
    directory: Annotated[Path, typer.Option("--output", "-o", help="Output directory of the shards.")],
    model: ModelOption = "theatre",
    shard_size: Annotated[int, typer.Option(min=1, help="Clips per shard.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Threads that prefetch videos.")] = 1,
    max_bad: Annotated[
        str, typer.Option(help="Maximum of bad clips: a number, or a share of the manifest.")
    ] = "1%",
    max_latent_frames: Annotated[
        int | None, typer.Option(help="Truncate longer shots; default: the model's usual length.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Dtype of stored tensors: float16 or bfloat16.")] = "float16",
    text: Annotated[
        bool,
        typer.Option("--text/--no-text", help="Also store embeddings of the captions, or only their text."),
    ] = True,
    shard_of: Annotated[
        str | None,
        typer.Option(
            help="i/n: encode every n-th shard, starting at i; default: RANK and WORLD_SIZE, if set."
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Encode the clips of a manifest once; the same command resumes after the last complete shard."""
    console = make_console()

    def kept() -> str:
        return _kept(directory)

    with bad_input(kept), console.status("reading the manifest"):
        from shotstream.data.encode import EncodeConfig, TooManyBadClips, encode_manifest
        from shotstream.film.live import warn
        from shotstream.streaming.loading import load_encoders

        process, num_processes = _share(shard_of)
        config = EncodeConfig(
            clips_per_shard=shard_size,
            dtype=dtype,
            max_latent_frames=max_latent_frames,
            with_text=text,
            max_bad=max_bad,
            num_workers=workers,
            process=process,
            num_processes=num_processes,
        )
        if not manifest.is_file():
            raise ValueError(f"{manifest}: no such manifest")
        if device == "auto" and "LOCAL_RANK" in os.environ:
            device = _local_device(number_from_torchrun("LOCAL_RANK", 0))
        encoders = load_encoders(model, device)
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    bar = Progress("clips", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console)
    try:
        with bad_input(kept), bar:
            task = bar.add_task("clips", total=None)

            def progress(done: int, total: int, left_out: str) -> None:
                bar.update(task, completed=done, total=total)
                if left_out:
                    bar.console.print(f"left out: {left_out}", markup=False, highlight=False, soft_wrap=True)

            report = encode_manifest(
                manifest, encoders, directory, config, progress, lambda line: warn(bar.console, line)
            )
    except TooManyBadClips as error:
        raise Fault(str(error)) from error
    console.print(
        f"{directory}: {report.num_encoded} shards made, {report.num_kept} were there, "
        f"{report.num_clips} clips; left out: {len(report.bad_clips)} bad clips, "
        f"{report.num_short_shots} short shots"
        + ("" if report.is_complete else "; shards of other processes are missing, so there is no index yet"),
        highlight=False,
        soft_wrap=True,
    )


@data_app.command("check")
def data_check(
    directory: Annotated[Path, typer.Argument(help="Directory that `data encode` wrote.")],
) -> None:
    """Read every file, compare it with its hashes, and show a table and one line of JSON."""
    with bad_input():
        from rich.table import Table

        from shotstream.data.shard_check import check_shards

        findings = check_shards(directory)
        first = next(findings)
    table = Table("file", "clips", "shots", "MB", "state")
    damaged: list[str] = []
    totals = {"shards": 0, "clips": 0, "shots": 0, "bytes": 0}
    for finding in (first, *findings):
        is_shard = finding.name.endswith(".tar")
        counts = (int(is_shard), finding.num_samples, finding.num_shots, finding.num_bytes)
        clips, shots = (str(count) if is_shard else "" for count in counts[1:3])
        table.add_row(finding.name, clips, shots, f"{finding.num_bytes / 1e6:.1f}", finding.damage or "good")
        for name, count in zip(totals, counts, strict=True):
            totals[name] += count
        if finding.damage:
            damaged.append(finding.name)
    make_console(stderr=False).print(table)
    print(json.dumps({"directory": str(directory), **totals, "damaged": damaged}))
    if damaged:
        raise typer.Exit(complain(f"{directory}: damaged: {', '.join(damaged)}", FAULT))


def _kept(directory: Path) -> str:
    from shotstream.data.shards import num_whole_shards

    count = num_whole_shards(directory)
    if not count:
        return "nothing was made"
    return f"{count} complete shards are kept in {directory}; the same command continues with the others"


def _share(shard_of: str | None) -> tuple[int, int]:
    """Returns the index of this process and the number of processes."""
    if shard_of is None:
        return number_from_torchrun("RANK", 0), number_from_torchrun("WORLD_SIZE", 1)
    first, _, second = shard_of.partition("/")
    if not (first.isdecimal() and second.isdecimal()):
        raise ValueError(f"--shard-of is {shard_of!r}; write i/n, for example 0/4")
    return int(first), int(second)


def _local_device(local_rank: int) -> str:
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{local_rank % count}" if count else "cpu"
