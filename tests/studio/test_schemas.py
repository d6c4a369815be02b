"""The protocol as it is written down, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shotstream.studio.protocol_docs import MARK, message_tables
from shotstream.studio.schemas.server_messages import FROM_SERVER, Error
from shotstream.studio.schemas.viewer_messages import FROM_VIEWER

DOCUMENT = Path(__file__).parents[2] / "docs" / "studio_protocol.md"
ID = "0" * 16


def test_the_document_shows_the_schemas_as_they_are() -> None:
    _, _, written = DOCUMENT.read_text(encoding="utf-8").partition(MARK + "\n")
    assert written == message_tables(), "run python -m shotstream.studio.protocol_docs"


@pytest.mark.parametrize(
    "message",
    [
        {"type": "add_shot", "id": "1", "shot": {"caption": "A fox.\nIt walks.", "seed": str(2**63 - 1)}},
        {"type": "cut", "id": "1", "playing": {"take_id": ID, "frame_index": 3}},
        {"type": "playhead", "at": None, "playing": False},
    ],
)
def test_good_messages_are_read(message: dict[str, Any]) -> None:
    assert FROM_VIEWER.validate_json(json.dumps(message)).type == message["type"]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "undo"},
        {"type": "undo", "id": 1},
        {"type": "undo", "id": "1", "extra": 1},
        {"type": "undo", "id": "1" * 65},
        {"type": "nonsense", "id": "1"},
        {"type": "pin", "id": "1", "frame": {"take_id": "../../etc/passwd", "frame_index": 0}},
        {"type": "pin", "id": "1", "frame": {"take_id": ID, "frame_index": -1}},
        {"type": "add_shot", "id": "1", "shot": {"caption": "bell \x07"}},
        {"type": "add_shot", "id": "1", "shot": {"caption": " "}},
        {"type": "add_shot", "id": "1", "shot": {"caption": "a" * 10_001}},
        {"type": "add_shot", "id": "1", "shot": {"caption": "a fox", "seed": str(2**63)}},
        {"type": "add_shot", "id": "1", "shot": {"caption": "a fox", "seed": "-1"}},
        {"type": "add_shot", "id": "1", "shot": {"caption": "a fox", "seed": "\u0663"}},
        {"type": "add_shot", "id": "1", "shot": {"caption": "a fox", "seed": "1" * 5000}},
        {"type": "add_shot", "id": "1", "shot": {"caption": "a fox", "num_chunks": "3"}},
        {"type": "set_autoplay", "id": "1", "on": 1},
    ],
)
def test_bad_messages_are_refused(message: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FROM_VIEWER.validate_json(json.dumps(message))


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValidationError):
        FROM_VIEWER.validate_json(b'{"type": "edit_story", "id": "1", "title": "\\ud800"}')


def test_server_messages_read_back_as_they_were_sent() -> None:
    error = Error(reply_to=None, code="invalid", message="no")
    assert FROM_SERVER.validate_json(error.model_dump_json()) == error
