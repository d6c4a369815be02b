"""Text documents written by people and other programs, parsed into values: JSON, YAML, CSV, lines of text.

All text is read here. UTF-8 and UTF-16 are accepted, with or without a byte order mark, UTF-32 with one, and
every kind of line end. Other encodings, damaged documents and ambiguous ones are refused with the line and a
remedy. This module knows none of the project's formats: callers interpret the values.

YAML is read as text: every scalar is a string, as it is written, so that a title of 1984 or a caption of
"yes" stays text, and `whole_number` converts where a number is expected. A document cannot create objects.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import yaml

from shotstream.kinds import BEGINNING_BYTES, kind_by_beginning

MAX_LINE_CHARS = 1 << 24
"""Maximum length in characters of a line, in a document that is read line by line."""
_MAX_DEPTH = 64
_MAX_MERGED_KEYS = 1000
_MAX_EVENTS = 20_000
_MAX_NUMBER_CHARS = 40
_WHOLE_FLOATS = 2.0**53
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ESCAPED = re.compile("[\udc80-\udcff]")
_BOMS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_WITHOUT_MARK: dict[tuple[bool, ...], str] = {
    (False, True, False, True): "utf-16-le",
    (True, False, True, False): "utf-16-be",
}
_KINDS: dict[type, str] = {
    str: "text",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a group of keys",
}
_MERGE = "<<"
_OTHER_KINDS = {
    "lfs": "a Git LFS pointer, not the file itself; run `git lfs pull` beside it",
    "page": "a web page saved under this name; fetch the file itself (its raw or download address)",
    "compressed": "a compressed archive; unpack it and give the file in it",
    "zip": "a zip archive or an Office document; save its text as plain text, a table as CSV, in UTF-8",
    "office": "an Office document; save its text as plain text, a table as CSV, in UTF-8",
    "pdf": "a PDF; save its text as plain text in UTF-8",
    "rtf": "rich text (RTF); save it as plain text in UTF-8",
    "parquet": "a Parquet file; convert it to CSV or JSON",
    "picture": "a picture, no text",
    "webp": "a picture, no text",
}


class DocumentError(ValueError):
    """A document that cannot be read; the message is one line, with the line number if it is known."""


# Bytes and text.


def read_text(path: Path, max_bytes: int) -> str:
    """Returns the text of a file; see `to_text`.

    Raises:
        DocumentError: It cannot be read, is larger than `max_bytes` or is not text; the message does not name
            the path.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise DocumentError(f"larger than {max_bytes} bytes, the most that is read")
    return to_text(data)


def to_text(data: bytes) -> str:
    r"""Returns the text in a file's bytes, without a byte order mark and with \n at the end of each line.

    Raises:
        DocumentError: It is neither UTF-8 nor UTF-16, or holds characters that text cannot hold.
    """
    return "".join(line for _, line in _lines(io.BytesIO(data), len(data)))


def iter_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Yields a file's lines with their numbers from 1, each with its \n; see `to_text`.

    Raises:
        DocumentError: The file cannot be read, or a line is not text; the message does not name the path.
    """
    try:
        with path.open("rb") as file:
            yield from _lines(file, MAX_LINE_CHARS)
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}") from error


def _lines(file: io.BytesIO | io.BufferedReader, max_chars: int) -> Iterator[tuple[int, str]]:
    begin = file.read(BEGINNING_BYTES)
    file.seek(0)
    if kind := kind_by_beginning(begin):
        raise DocumentError(_OTHER_KINDS[kind])
    encoding = _encoding_of(begin[:4])
    # Bytes that are not UTF-8 become surrogates, so that their line is known.
    errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
    text = io.TextIOWrapper(file, encoding=encoding, errors=errors)
    number = 0
    try:
        while line := text.readline(max_chars + 1):
            number += 1
            if len(line) > max_chars:
                raise DocumentError(f"line {number}: longer than {max_chars} characters")
            _check_line(line, number)
            yield number, line
    except UnicodeDecodeError as error:
        name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
        raise DocumentError(f"line {number + 1}: damaged {name}; save it as UTF-8") from error
    finally:
        text.detach()


def _encoding_of(start: bytes) -> str:
    for mark, encoding in _BOMS.items():
        if start.startswith(mark):
            return encoding
    # All expected documents begin with ASCII characters; in UTF-16 every second byte of these is 0.
    return _WITHOUT_MARK.get(tuple(byte == 0 for byte in start), "utf-8-sig")


def _check_line(line: str, number: int) -> None:
    bad = _CONTROL.search(line)
    if bad and bad[0] == "\0":
        raise DocumentError(f"line {number}: holds the character U+0000: no text file, or none in UTF-8")
    if foreign := _ESCAPED.search(line):
        byte = ord(foreign[0]) - 0xDC00
        raise DocumentError(
            f"line {number}: not UTF-8 (byte 0x{byte:02x}; is it in an older encoding, such as Windows-1252, "
            "Latin-1 or GBK?); save it as UTF-8"
        )
    if bad:
        raise DocumentError(f"line {number}: holds the character U+{ord(bad[0]):04X}; remove it")


# Values.


def whole_number(value: object) -> int | None:
    """Returns the integer that a value is or spells, such as 3, 3.0 or "3"; None for any other value.

    A float beyond 2^53 gives None, because the number that was written is unknown.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if abs(value) <= _WHOLE_FLOATS and value.is_integer() else None
    if isinstance(value, str) and len(value) <= _MAX_NUMBER_CHARS:
        spelled = re.fullmatch(r"([+-]?[0-9]+)(?:\.0+)?", value.strip(), re.ASCII)
        return int(spelled[1]) if spelled else None
    return None


def kind_of(value: object) -> str:
    """Returns the kind of a value, in words for users."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "yes or no"
    return _KINDS.get(type(value), "no text")


def json_kind(value: object) -> str:
    """Returns the kind of a JSON value, in words."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true or false"
    names: dict[type, str] = {
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "another value")


def shown(value: object) -> str:
    """Returns a value for a message: short, and only its kind if it contains other values."""
    text = kind_of(value) if isinstance(value, list | dict) or value is None else str(value)
    return shorten(text)


def shorten(text: str, most: int = 40) -> str:
    """Returns a text for a message: its beginning, on one line."""
    line = " ".join(text[: most + 1].split())
    return line if len(text) <= most else line[: most - 1] + "…"


def printable(text: str) -> str:
    """Returns a text for a terminal: control characters and invisible ones are shown as escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


# JSON.


def parse_json(text: str, *, first_line: int = 1) -> Any:
    """Returns the value of a JSON text.

    Numbers with too many digits are returned as text.

    Raises:
        DocumentError: It is not JSON, has a key twice, or is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_pairs, parse_int=_whole_or_text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise DocumentError(f"line {line}: no valid JSON: {_json_problem(text, error)}") from error
    except RecursionError as error:
        raise DocumentError("nested too deeply") from error


def _whole_or_text(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_NUMBER_CHARS else digits


def _unique_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise DocumentError(f"'{shorten(key)}' is given twice")
        found[key] = value
    return found


def _json_problem(text: str, error: json.JSONDecodeError) -> str:
    rest, before = text[error.pos :].lstrip(), text[: error.pos].rstrip()
    if error.msg == "Extra data":
        return "there is more after its end"
    if not rest:
        return "it ends too early; a bracket or a quote is not closed"
    if (rest[0] in "]}" and before.endswith(",")) or error.msg.startswith("Illegal trailing comma"):
        return "a comma before the closing bracket; remove the comma"
    if rest[0] in "\u2018\u2019\u201c\u201d'":
        return 'quotes that JSON does not know; write straight double ones: "'
    if rest.startswith(("//", "/*", "#")):
        return "it has no comments; remove it"
    if error.msg.startswith("Unterminated"):
        return "a quote that is not closed"
    if error.msg.startswith("Invalid control"):
        return r"a line break or a tab inside a text; write \n or \t"
    if error.msg.startswith("Invalid \\"):
        return r"a single \ in a text; write \\"
    if "delimiter" in error.msg:
        sign = "colon" if "':'" in error.msg else "comma"
        return f"a {sign} is missing before {shorten(rest, 20)!r}"
    return f"{shorten(rest, 20)!r} cannot stand there; are quotes missing?"


# YAML.


def parse_yaml(text: str) -> Any:
    """Returns the value of a YAML text: dicts, lists and strings as written; None if it is empty.

    Raises:
        DocumentError: It is not YAML, has a key twice, is nested too deeply, or has a tag that would create
            an object.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character[:1] or "\0")
        raise DocumentError(f"line {line}: holds the character U+{code:04X}; remove it") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # The search for the colon includes the lines below.
        if "could not find expected ':'" in (error.problem or ""):
            mark = error.context_mark or mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise DocumentError(f"{where}no valid YAML: {_yaml_problem(error)}") from error
    return None if node is None else _YamlValues(text).value(node)


def parse_setting(text: str) -> Any:
    """Returns the value of a setting, typed as in YAML: 3 is a number, [a, b] a list.

    Raises:
        DocumentError: It is not a valid value.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML does not catch errors of its constructors: a date of the 31st of February, `!!bool x`.
        raise DocumentError(f"{shorten(text)!r} is not a value in YAML") from error


class _Loader(yaml.SafeLoader):
    """A YAML loader that only composes nodes and resolves no types: every plain scalar is text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own form)
    _num_events = 0
    _depth = 0

    def get_event(self) -> yaml.Event:
        self._num_events += 1
        if self._num_events > _MAX_EVENTS:
            raise DocumentError(f"more than {_MAX_EVENTS} values; split the document")
        event = super().get_event()
        self._depth += isinstance(event, yaml.CollectionStartEvent)
        self._depth -= isinstance(event, yaml.CollectionEndEvent)
        if self._depth > _MAX_DEPTH:
            raise DocumentError(f"line {event.start_mark.line + 1}: nested too deeply")
        return event


class _YamlValues:
    """Converts composed nodes to values; an alias gives the same value as its anchor."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._values: dict[int, Any] = {}
        self._open: set[int] = set()

    def value(self, node: yaml.Node, *, in_flow: bool = False) -> Any:
        line = node.start_mark.line + 1
        if id(node) in self._values:
            return self._values[id(node)]
        if id(node) in self._open:
            raise DocumentError(f"line {line}: an alias (*) stands for what it is itself a part of")
        if not re.fullmatch(r"tag:yaml\.org,2002:[a-z]+", str(node.tag)):
            tag = shorten(str(node.tag).replace("tag:yaml.org,2002:", "!!"), 60)
            raise DocumentError(
                f"line {line}: no valid YAML: {tag} is not read; put text that begins with ! in quotes"
            )
        self._open.add(id(node))
        in_flow = in_flow or bool(getattr(node, "flow_style", False))
        if isinstance(node, yaml.MappingNode):
            value: Any = self._group(node, in_flow)
        elif isinstance(node, yaml.SequenceNode):
            value = [self.value(item, in_flow=in_flow) for item in node.value]
        else:
            value = self._scalar(cast("yaml.ScalarNode", node), in_flow)
        self._open.discard(id(node))
        self._values[id(node)] = value
        return value

    def _scalar(self, node: yaml.ScalarNode, in_flow: bool) -> str | None:
        text = cast("str", node.value)
        if node.style is None and in_flow and whole_number(text) is None:
            rest = self._text[node.end_mark.index : node.end_mark.index + 200]
            if re.match(r"[ \t]+#", rest):
                line = node.end_mark.line + 1
                raise DocumentError(
                    f"line {line}: YAML ends the text before '#'; put the whole text in quotes"
                )
        return None if node.style is None and not text else text

    def _group(self, node: yaml.MappingNode, in_flow: bool) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise DocumentError(f"line {line}: a key that is not text; put text with brackets in quotes")
            key = cast("str", key_node.value)
            if in_flow and not re.match(
                r"\s*:", self._text[key_node.end_mark.index : key_node.end_mark.index + 200]
            ):
                raise DocumentError(
                    f"line {line}: {shorten(key)!r} stands alone between commas; put text with commas in "
                    "quotes"
                )
            value = self.value(value_node, in_flow=in_flow)
            if key == _MERGE:
                for group in value if isinstance(value, list) else [value]:
                    if not isinstance(group, dict) or len(group) > _MAX_MERGED_KEYS:
                        raise DocumentError(f"line {line}: << takes a group of keys")
                    merged = {**group, **merged}
            elif key in found:
                raise DocumentError(f"line {line}: {shorten(key)!r} is given twice")
            else:
                found[key] = value
        return {**merged, **found}


def _yaml_problem(error: yaml.MarkedYAMLError) -> str:
    problem, context = error.problem or "", error.context or ""
    for sign, words in (
        ("mapping values are not allowed", "a colon within a text; put the text in quotes"),
        ("found character '\\t'", "a tab; indent with spaces"),
        (
            "could not find expected ':'",
            "neither 'key: value' nor '- text' (is a space missing after : or -?); indent continued text",
        ),
        ("found undefined alias", "text that begins with * needs quotes"),
        ("found unknown escape", r"a single \ in double quotes; write \\"),
        ("but found another document", "'---' begins a second document; one file holds one"),
        ("found unexpected end of stream", "a quote that is not closed"),
        ("found unexpected document separator", "a quote that is not closed"),
        (
            "expected ',' or",
            "a bracket that is not closed, or text with brackets or colons that needs quotes",
        ),
        ("that cannot start any token", "text that begins with a sign needs quotes"),
        ("expected <block end>", "indented differently from the lines before it, or text that needs quotes"),
        ("sequence entries are not allowed", "a dash where none can stand; put the text in quotes"),
    ):
        if sign in problem or sign in context:
            return words
    return f"{shorten(problem, 80) or 'it cannot be understood'}; put text with signs in quotes"


# Tables.


def iter_table(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the rows of a CSV by column, with their last line's number; empty lines are skipped.

    Columns are separated by commas, semicolons or tabs, as in the first line; their names become lower case.

    Raises:
        DocumentError: A required column is missing, a row has too many or too few cells, or the file is not
            text.
    """
    lines = iter_lines(path)
    header_line, header = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    if told := re.fullmatch(r"sep=(.)\s*", header, re.IGNORECASE):
        header_line, header = next(lines, (header_line + 1, ""))
        marks = [told[1]]
    else:
        marks = [",", ";", "\t"]
    names, mark = max(
        ((_cells(header, mark), mark) for mark in marks), key=lambda found: len(set(required) & set(found[0]))
    )
    if missing := [name for name in required if name not in names]:
        raise DocumentError(
            f"line {header_line}: the column '{missing[0]}' is missing; there are: "
            f"{shorten(', '.join(names), 120) or 'none'}"
        )
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise DocumentError(f"line {header_line}: the column '{shorten(twice)}' is given twice")
    last = header_line

    def texts() -> Iterator[str]:
        nonlocal last
        for last, line in lines:  # noqa: B007 (told in the messages)
            yield line

    rows = csv.reader(texts(), delimiter=mark, skipinitialspace=True)
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if any(cells[len(names) :]):
                raise DocumentError(
                    f"line {last}: {len(cells)} cells for {len(names)} columns; put a cell that holds "
                    f"{mark!r} in double quotes"
                )
            if short := [
                name for place, name in enumerate(names) if name in required and place >= len(cells)
            ]:
                raise DocumentError(
                    f"line {last}: '{short[0]}' is missing: {len(cells)} cells for {len(names)} columns"
                )
            yield last, dict(zip(names, cells, strict=False))
    except csv.Error as error:
        raise DocumentError(f"line {last}: a cell is too long or its quote is not closed") from error


def _cells(header: str, mark: str) -> list[str]:
    row = next(csv.reader([header], delimiter=mark, skipinitialspace=True), [])
    return [cell.strip().lower() for cell in row]
