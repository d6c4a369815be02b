"""The command `models`: the models that are known, what they are allowed for, and what was checked."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shotstream.cli.shared import bad_input, make_console

if TYPE_CHECKING:
    from shotstream.weights.students import Student

_CHECKS = {"goldens": "goldens", "described": "no golden"}


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the models: published students, what they need, and what was checked; and those installed here."""
    with bad_input():
        from rich.table import Table

        from shotstream.weights.hub import available
        from shotstream.weights.students import STUDENTS

        installed = available()
    console = make_console(stderr=False)
    if as_json:
        rows = [model_row(student, student.name in installed) for student in STUDENTS.values()]
        others = [name for name in installed if name not in STUDENTS]
        console.print_json(json.dumps({"students": rows, "others_installed": others}))
        return
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("model", "licence", "size", "steps", "window", "checked", "here"):
        table.add_column(name, no_wrap=True)
    for student in STUDENTS.values():
        table.add_row(
            student.name,
            student.licence,
            student.parameters,
            _steps(student),
            _window(student),
            _CHECKS[student.check] if student.support == "films" else "no films",
            "yes" if student.name in installed else "",
        )
    console.print(table)
    others = ", ".join(name for name in installed if name not in STUDENTS)
    console.print(f"installed besides: {others}", markup=False, highlight=False, soft_wrap=True)
    for line in (
        "window: latent frames that a chunk attends to / of them those that stay; + frames of a memory "
        "or of other shots",
        "checked: with recorded numbers of the published code; no real checkpoint was ever run",
    ):
        console.print(line, highlight=False, soft_wrap=True)


def model_row(student: "Student", is_installed: bool) -> dict[str, Any]:
    """Returns a student as JSON values."""
    from shotstream.configs import config_to_document

    return {
        "name": student.name,
        "repository": student.repository,
        "files": list(student.files),
        "lora": None if student.lora is None else student.lora.file,
        "base": student.base,
        "licence": student.licence,
        "parameters": student.parameters,
        "chunk_frames": student.chunk_frames,
        "rules": None if student.rules is None else config_to_document(student.rules),
        "makes_films": student.support == "films",
        "checked_by": student.check,
        "checkpoint_was_run": False,
        "note": student.note,
        "is_installed": is_installed,
    }


def _steps(student: "Student") -> str:
    rules = student.rules
    if rules is None:
        return "4" if student.support == "films" else ""
    first = f"{len(rules.first_chunk_steps)}, " if rules.first_chunk_steps else ""
    return f"{first}{len(rules.steps)}"


def _window(student: "Student") -> str:
    """Returns the frames that a chunk attends to, and how many of them are fixed."""
    rules = student.rules
    if rules is None:
        return "21 + 6" if student.support == "films" else ""
    more = f" + {rules.bank}" if rules.bank else ""
    return f"{rules.window}{f' / {rules.sink}' if rules.sink else ''}{more}"
