"""Captions as people write them: the shares that are read right, of all answers and of whole captions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from shotstream.theatre.reading.reader import read_shot

_FOLDER = Path(__file__).parent


def wrong(entry: Mapping[str, Any]) -> tuple[list[str], int]:
    """Returns the answers to a caption that are not those of the entry, and the number of its answers."""
    said = read_shot(entry["shot"], entry.get("global") or "").to_document()
    pairs = [
        (name, entry[name], said[name]) for name in ("place", "time", "framing", "camera") if name in entry
    ]
    if "actors" in entry:
        pairs.append(("number of actors", len(entry["actors"]), len(said["actors"])))
        for number, actor in enumerate(entry["actors"]):
            own = said["actors"][number] if number < len(said["actors"]) else {}
            pairs += [(f"{name} of actor {number}", value, own.get(name)) for name, value in actor.items()]
    if "unknown_any" in entry:
        named = {word for asked in entry["unknown_any"] for word in asked.lower().split()}
        pairs.append(("unknown", True, bool(named & set(said["unknown"]))))
    return [f"{name}: {got}, not {asked}" for name, asked, got in pairs if asked != got], len(pairs)


@pytest.mark.parametrize("name", ["captions", "captions_seen_last"])
def test_almost_all_captions_are_read_right(name: str) -> None:
    entries = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    results = [(entry, *wrong(entry)) for entry in entries]
    failed = [
        f"{entry['global']!r} {entry['shot']!r}: {'; '.join(told)}" for entry, told, _ in results if told
    ]
    answers = sum(count for _, _, count in results)
    right = 1 - sum(len(told) for _, told, _ in results) / answers
    whole = 1 - len(failed) / len(entries)
    assert len(entries) >= 250
    assert right >= 0.97 and whole >= 0.9, (right, whole, failed)
