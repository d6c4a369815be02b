"""The command `verify`: compares this install with recorded results of the published implementation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shotstream.cli.shared import (
    DeviceOption,
    Fault,
    bad_input,
    make_console,
)

if TYPE_CHECKING:
    pass


def verify(
    directory: Annotated[
        Path | None, typer.Argument(help="Directory of golden cases; default: those of the package.")
    ] = None,
    device: DeviceOption = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
) -> None:
    """Compare this installation with recorded results of the published implementation."""
    with bad_input():
        import torch
        from rich.table import Table
        from rich.text import Text

        from shotstream.verify import bundled_goldens, verify_directory

        if directory is None:
            bundled = bundled_goldens()
            directories = [bundled, *sorted(path for path in bundled.iterdir() if path.is_dir())]
        elif directory.is_dir():
            directories = [directory]
        else:
            raise ValueError(f"{directory}: no such directory")
        if dtype not in ("float32", "bfloat16", "float16", "float64"):
            raise ValueError(f"no dtype {dtype!r}; give float32, bfloat16, float16 or float64")
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        rows = [row for each in directories for row in verify_directory(each, chosen, getattr(torch, dtype))]
    table = Table("case", "tensor", "error", "tolerance", "pass", header_style="bold")
    for row in rows:
        table.add_row(
            row.case or row.file,
            row.tensor or f"{row.file}: {row.message}",
            "" if row.error is None else f"{row.error:.2e}",
            "" if row.bound is None else f"{row.bound:.0e}",
            Text("yes", "green") if row.passed else Text("NO", "red"),
        )
    console = make_console(stderr=False)
    console.print(table)
    num_failed = sum(not row.passed for row in rows)
    if num_failed:
        raise Fault(f"{num_failed} of {len(rows)} comparisons failed")
    console.print(f"{len(rows)} comparisons, all within tolerance")
