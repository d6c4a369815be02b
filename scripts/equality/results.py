"""What was recorded of a checkout, and how two recordings are compared: bit for bit, each thing under a name.

A thing is a JSON value, or tensors: a name, a dtype, a shape and the sha256 of its bytes for each. Of tensors
names and values are compared apart, so that a tensor that was renamed is told as such.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

FILE = "results.json"
TENSORS = "tensors"
ERROR = "error"


def sha256(data: bytes) -> str:
    """Of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_of(path: Path) -> str:
    """Of a file."""
    return sha256(path.read_bytes())


def tensor_entry(tensor: torch.Tensor) -> list[Any]:
    """[dtype, shape, sha256, norm] of a tensor; the norm is there to see how far two are apart."""
    whole = tensor.detach().cpu().contiguous()
    data = whole.reshape(-1).view(torch.uint8).numpy().tobytes() if whole.numel() else b""
    norm = float(whole.double().norm()) if not whole.is_complex() else 0.0
    return [str(whole.dtype).removeprefix("torch."), list(whole.shape), sha256(data), norm]


def tensors_of(values: Any) -> dict[str, Any]:
    """Nested dictionaries and lists of tensors, numbers and texts, as an entry of tensors by dotted names."""
    return {TENSORS: dict(sorted(_leaves(values)))}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, list[Any]]]:
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    elif isinstance(value, torch.Tensor):
        yield name, tensor_entry(value)
    elif isinstance(value, np.ndarray):
        yield name, tensor_entry(torch.from_numpy(value))
    else:
        number = float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0
        yield name, [type(value).__name__, [], repr(value), number]
    for key, item in items:
        yield from _leaves(item, f"{name}.{key}" if name else str(key))


def file_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a file that torch or safetensors wrote."""
    if path.suffix == ".safetensors":
        return tensors_of(load_file(path))
    return tensors_of(torch.load(path, map_location="cpu", weights_only=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of the table."""

    what: str
    difference: str
    """Empty: equal."""


def compare(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Row]:
    """A row for every thing that either has."""
    rows: list[Row] = []
    for what in [*left, *(what for what in right if what not in left)]:
        if what not in left or what not in right:
            side = "the first" if what in left else "the second"
            rows.append(Row(what=what, difference=f"only {side} has it"))
        else:
            rows.append(Row(what=what, difference=difference(left[what], right[what])))
    return rows


def difference(left: Any, right: Any) -> str:
    """The first difference between two things; empty if they are equal."""
    if isinstance(left, dict) and isinstance(right, dict):
        if ERROR in left or ERROR in right:
            return _errors(left, right)
        if TENSORS in left and TENSORS in right:
            return _tensors(left[TENSORS], right[TENSORS])
    return next(_values(left, right, ""), "")


def _errors(left: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    """A thing that could not be made is never equal, not even to itself."""
    sides = [
        f"{name} failed: {side[ERROR]}"
        for name, side in (("first", left), ("second", right))
        if ERROR in side
    ]
    return "; ".join(sides)


def _tensors(left: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    gone = [name for name in left if name not in right]
    new = [name for name in right if name not in left]
    notes: list[str] = []
    if gone or new:
        notes.append(f"names differ: {len(gone)} gone ({_first(gone)}), {len(new)} new ({_first(new)})")
        before, after = (Counter(json.dumps(entry[:3]) for entry in side.values()) for side in (left, right))
        if before == after:
            notes.append("values are equal")
    changed = [name for name in left if name in right and left[name][:3] != right[name][:3]]
    if changed:
        one, other = left[changed[0]], right[changed[0]]
        notes.append(
            f"values differ: {len(changed)} of {len(left)}, the first {changed[0]}: "
            f"{one[0]} {one[1]} norm {one[3]!r}, then {other[0]} {other[1]} norm {other[3]!r}"
        )
    elif (gone or new) and len(notes) == 1:
        notes.append("values differ beyond the names")
    return "; ".join(notes)


def notes(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """What is only shown: settings of recipes whose name or values are others."""
    lines: list[str] = []
    for what in (what for what in left if what in right):
        sides = [
            {(name, json.dumps(value)) for name in side for value in side[name]}
            for side in (left[what], right[what])
        ]
        notes = [
            f"{word} {', '.join(f'{name}={value}' for name, value in sorted(found))}"
            for word, found in (("gone", sides[0] - sides[1]), ("new", sides[1] - sides[0]))
            if found
        ]
        lines += [f"{what}: {'; '.join(notes)}"] if notes else []
    return lines


def _first(names: list[str]) -> str:
    return names[0] if names else "none"


def _values(left: Any, right: Any, at: str) -> Iterator[str]:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in [*left, *(key for key in right if key not in left)]:
            where = f"{at}.{key}" if at else str(key)
            if key not in left or key not in right:
                yield f"{where} is only in the {'first' if key in left else 'second'}"
            else:
                yield from _values(left[key], right[key], where)
    elif isinstance(left, list) and isinstance(right, list):
        for index, (one, other) in enumerate(zip(left, right, strict=False)):
            yield from _values(one, other, f"{at}[{index}]")
        if len(left) != len(right):
            yield f"{at}: {len(left)} entries, then {len(right)}"
    elif type(left) is not type(right) or left != right:
        yield f"{at}: {_short(left)}, then {_short(right)}".removeprefix(": ")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def table(rows: list[Row], names: tuple[str, str]) -> str:
    """The rows for a person, and how many differ."""
    width = max((len(row.what) for row in rows), default=0)
    lines = [
        f"{row.what:<{width}}  {'DIFFERS  ' + row.difference if row.difference else 'equal'}" for row in rows
    ]
    num_different = sum(bool(row.difference) for row in rows)
    end = "nothing differs" if not num_different else f"{num_different} differ"
    return "\n".join([*lines, "", f"{names[0]} and {names[1]}: {len(rows)} compared, {end}"])


def read(directory: Path) -> dict[str, Any]:
    """What was recorded into a directory; ValueError if nothing was."""
    path = directory / FILE
    if not path.is_file():
        raise ValueError(
            f"{directory} holds no recording; make one with `scripts/same_results record {directory}`"
        )
    return json.loads(path.read_text())
