"""The commands `weights ...`: import, download and show weights, and export those of a training run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shotstream.cli.shared import Fault, bad_input, make_console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shotstream.weights.lora import LoraSource

weights_app = typer.Typer(help="Import, download and show model weights.")


@weights_app.command("import")
def weights_import(
    source: Annotated[Path, typer.Argument(help="Directory of published files.")],
    as_: Annotated[
        str, typer.Option("--as", help="Name of the imported model; that of a student imports the student.")
    ] = "wan-1.3b",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Output directory of the bundle.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="File or directory with the transformer to use instead of the base model's."),
    ] = None,
    ema: Annotated[
        bool | None,
        typer.Option(
            "--ema/--no-ema",
            help="The checkpoint's EMA weights, or its raw weights (default, if there).",
        ),
    ] = None,
    lora: Annotated[
        list[Path] | None, typer.Option(help="LoRA to add, a file or a directory. Repeatable.")
    ] = None,
    lora_scale: Annotated[
        list[float] | None,
        typer.Option(help="Multiplies the strength in the LoRA's file (alpha / rank); one for each --lora."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
) -> None:
    """Convert published weights into a bundle, once."""
    console = make_console()
    notes: list[str] = []
    with bad_input(), console.status("importing"):
        from shotstream.weights.hub import import_weights
        from shotstream.weights.official import PublishedSource
        from shotstream.weights.students import STUDENTS

        if source.is_file():
            raise ValueError(
                f"{source}: a file; give the directory of the base model, and a student with --checkpoint"
            )
        if not source.is_dir():
            raise ValueError(f"{source}: no such directory")
        published = PublishedSource(
            directory=source, checkpoint=checkpoint, ema=ema, loras=_with_scales(lora or [], lora_scale or [])
        )
        directory = import_weights(published, as_=as_, notes=notes, out=output, overwrite=overwrite)
    for note in notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    console.print(f"{as_} is imported: {directory}", soft_wrap=True, markup=False)
    if checkpoint is None and as_ not in STUDENTS:
        console.print(
            "note: this is the base model, which needs dozens of guided steps and makes no film in four; "
            "give --checkpoint FILE for the few-step student",
            soft_wrap=True,
        )


def _with_scales(loras: list[Path], scales: list[float]) -> "tuple[LoraSource, ...]":
    from shotstream.weights.lora import LoraSource

    if scales and len(scales) != len(loras):
        raise ValueError(
            f"{len(scales)} --lora-scale for {len(loras)} --lora; give one for each, in their order, or none"
        )
    multipliers = scales or [1.0] * len(loras)
    return tuple(
        LoraSource(path=path, multiplier=multiplier)
        for path, multiplier in zip(loras, multipliers, strict=True)
    )


@weights_app.command("download")
def weights_download(
    repository: Annotated[str, typer.Argument(help="For example KlingTeam/ShotStream.")],
    revision: Annotated[
        str | None, typer.Option(help="Default: the locked revision; for the first download the newest.")
    ] = None,
) -> None:
    """Download published weights; the first download locks revision and hashes."""
    with bad_input():
        from shotstream.weights.hub import DownloadError, download

        try:
            directory = download(repository, revision)
        except DownloadError as error:
            raise Fault(str(error)) from error
    make_console().print(f"{repository}: {directory}", soft_wrap=True, markup=False)


@weights_app.command("show")
def weights_show(
    model: Annotated[str | None, typer.Argument(help="A name or a bundle's directory; default: all.")] = None,
) -> None:
    """List the models, or show one and check its hashes."""
    console = make_console(stderr=False)
    with bad_input():
        from shotstream.weights.bundle import read_bundle
        from shotstream.weights.hub import available, resolve

        if model is None:
            console.print("\n".join(available()), markup=False, highlight=False)
            return
        bundle = read_bundle(resolve(model))
    console.print(
        f"{bundle.directory}\nsha256 {bundle.sha256}", soft_wrap=True, highlight=False, markup=False
    )
    for line in _made_of(bundle.provenance):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    for part, tensors in bundle.tensors.items():
        num_bytes = sum(tensor.nbytes for tensor in tensors.values())
        num_parameters = sum(tensor.numel() for tensor in tensors.values())
        console.print(
            f"{part}: {len(tensors)} tensors, {num_parameters:,} parameters, {num_bytes / 1e6:.1f} MB",
            highlight=False,
        )


def _made_of(provenance: "Mapping[str, Any]") -> list[str]:
    """Returns the files that an imported model's transformer was made from, one line each."""
    lines = [f"base: {provenance['base']}"] if "base" in provenance else []
    lines += [f"student: {provenance['student']}"] if "student" in provenance else []
    if "checkpoint" in provenance:
        which = "average over training" if provenance.get("averaged") else "weights as trained"
        part = provenance.get("part") or "the bare weights"
        lines.append(f"checkpoint: {provenance['checkpoint']}, {part}, {which}{_hash(provenance)}")
    for lora in provenance.get("loras", []):
        strengths = ", ".join(f"{strength:.4g}" for strength in lora["strengths"]) or "whole weights"
        lines.append(f"LoRA: {lora['file']}, strength {strengths}, times {lora['scale']:g}{_hash(lora)}")
    return lines


def _hash(file: "Mapping[str, Any]") -> str:
    return f", sha256 {file['sha256']}" if "sha256" in file else ""


@weights_app.command("export")
def weights_export(
    run: Annotated[str, typer.Argument(help="Name of a run, for example theatre_causal_init.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Output directory of the bundle; replaced if it exists.")
    ],
    runs: Annotated[Path, typer.Option(help="Directory of all runs.")] = Path("runs"),
) -> None:
    """Export a run as a bundle: EMA weights in half precision."""
    with bad_input():
        from shotstream.training.export import export_run

        sha256 = export_run(run, runs, output)
    make_console().print(f"{output}\nsha256 {sha256}", soft_wrap=True, highlight=False, markup=False)


@weights_app.command("pack")
def weights_pack(
    run: Annotated[str, typer.Argument(help="Name of a run, for example theatre_teacher.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Output file; replaced if it exists.")],
    runs: Annotated[Path, typer.Option(help="Directory of all runs.")] = Path("runs"),
) -> None:
    """Pack a run into a small file for `train --start-from`, without optimizer state."""
    with bad_input():
        from shotstream.training.checkpoint import write_portable
        from shotstream.training.inputs import newest_checkpoint

        write_portable(newest_checkpoint(runs, run), output)
    make_console().print(f"{output}: {output.stat().st_size / 1e6:.1f} MB", highlight=False, markup=False)
