"""The tables of docs/studio_protocol.md, written by `python -m shotstream.studio.protocol_docs`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from shotstream.studio.schemas import rest, server_messages, state, viewer_messages

MARK = "<!-- Below this line: written by python -m shotstream.studio.protocol_docs -->"

_PARTS = (
    state.NewShot, state.Switch, state.NewReference, state.ReferenceState, state.Place, state.Effect,
    state.ContextFrame, state.TakeState, state.ShotState, state.PinState, state.BranchState,
    state.Making, state.StoryState, state.StorySummary, state.LimitsState, state.ModelState,
)  # fmt: skip
_BODIES = (
    rest.CreateStory, rest.ImportedStory, rest.BundledStory, rest.Suggestions, rest.CaptionCheck,
    rest.CitedReference, rest.CaptionAdvice, rest.Picture, rest.Problem,
)  # fmt: skip

_KINDS = {"string": "text", "integer": "whole number", "boolean": "true or false"}


def message_tables() -> str:
    """Returns a table of the fields of every schema, as Markdown."""
    from_viewer = get_args(get_args(viewer_messages.FromViewer)[0])
    from_server = get_args(get_args(server_messages.FromServer)[0])
    sections = (
        ("From the viewer", from_viewer),
        ("From the server", from_server),
        ("Parts of messages", _PARTS),
        ("Bodies of REST routes", _BODIES),
    )
    lines: list[str] = []
    for title, models in sections:
        lines += ["", f"## {title}"]
        for model in models:
            lines += ["", *_table(model)]
    return "\n".join(lines) + "\n"


def write_tables(path: Path) -> None:
    """Replaces everything below the marker line of a document by the tables."""
    before, mark, _ = path.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise ValueError(f"{path} has no line {MARK!r}")
    path.write_text(before + MARK + "\n" + message_tables(), encoding="utf-8")


def _table(model: type[BaseModel]) -> Iterator[str]:
    schema: dict[str, Any] = model.model_json_schema()
    name = schema["properties"].get("type", {}).get("const", model.__name__)
    yield f"### {name}"
    yield ""
    yield " ".join((model.__doc__ or "").split())
    fields = {key: value for key, value in schema["properties"].items() if key != "type"}
    if not fields:
        return
    yield ""
    yield "| field | type | |"
    yield "|---|---|---|"
    required = schema.get("required", ())
    for key, value in fields.items():
        optional = "" if key in required or "default" not in value else f" = {_literal(value['default'])}"
        yield f"| `{key}` | {_kind(value)}{optional} | {' '.join(value.get('description', '').split())} |"


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return schema["$ref"].rsplit("/", 1)[-1]
    if "anyOf" in schema:
        return " or ".join(_kind(part) for part in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_kind(schema['items'])}" if "items" in schema else "pair of texts"
    return _KINDS.get(kind, str(kind))


def _literal(value: Any) -> str:
    return "null" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    write_tables(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/studio_protocol.md"))
