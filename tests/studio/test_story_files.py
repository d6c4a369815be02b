"""Story files and bodies as people and programs send them: read or refused in one line, never a fault."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.studio.test_app import create, serving, watching

WORDS_OF_PYTHON = (
    "NoneType",
    "' object",
    "codec",
    "Traceback",
    "Errno",
    "int()",
    "sequence",
    "Expecting",
    "'str'",
)
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder: Path = tmp_path_factory.mktemp("studio")
    with serving(folder) as client:
        yield client


def test_what_a_file_held_beside_the_story_is_told_to_whom_it_belongs(client: TestClient) -> None:
    text = """{"video_path": "demo/data/sample/0001.mp4", "sample_id": "0", "frames_per_shot": [33, 81],
        "global_caption": "a forest night", "shot1": "a fox walks", "shot2": "a owl flies"}"""
    for data in (text.encode(), text.encode("utf-16"), text.replace("\n", "\r\n").encode("utf-8-sig")):
        answer = client.post("/api/stories/import", content=data)
        assert answer.status_code == 201, answer.text
        assert answer.json()["warnings"] == ["keys that are not read: 'video_path', 'sample_id'"]
        assert [(s["caption"], s["num_chunks"]) for s in answer.json()["shots"]] == [
            ("a fox walks", 3),
            ("a owl flies", 7),
        ]
    plain = client.post("/api/stories/import", content=b"global_caption: a forest\nshots:\n  - Wide: a fox\n")
    assert plain.json()["warnings"] == [] and plain.json()["shots"][0]["caption"] == "Wide: a fox"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'title: !!bool "x"\nglobal_caption: a\nshots: []', "a story of 0 shots"),
        (b"title: " + b"9" * 5000 + b"\nglobal_caption: a\nshots: [b]", "title has 5000 characters"),
        (
            b"title: 2024-02-31\nseed: 2024-02-31\nglobal_caption: a\nshots: [b]",
            "seed is 2024-02-31; write a",
        ),
        (b'{"global_caption": "a", "shot1": "b", "seed": ' + b"9" * 5000 + b"}", "seed is 9"),
        (b'{"global_caption": "a", "shot1": "b", "seed": 1e999}', "write a whole number"),
        (b"seed: &a [*a]\nglobal_caption: a\nshots: [b]", "line 1: an alias"),
        (b"? [a]\n: b\nglobal_caption: a", "line 1: a key that is not text"),
        (b"global_caption: a\nshots:\n  - the fox # walks", "line 3: YAML ends the text before '#'"),
        (b"global_caption: a\nshots:\n  - the fox\x92s den", "line 3: not UTF-8"),
        (b'{"global_caption": "\xd7\xcf", "shot1": "a"}', "line 1: not UTF-8"),
        ("global_caption: a".encode("utf-16") + b"\xd8", "damaged UTF-16; save it as UTF-8"),
        (b'["a", "b"]', "shot1 to shot2"),
        (b'{"prompts": ["a"]}\n{"prompts": ["b"]}', "JSON Lines; a story is one object"),
        (b"a fox\nan owl\n", "2 lines of text; write global_caption"),
        (b"shot_num_from_caption,json_path\n3,a.json\n", "not a story"),
        (b'{"global_caption": null, "shot1": "b"}', "global_caption is empty"),
        (b'{"global_caption": "a", "shots": null}', "'shots' is missing"),
        (b'{"global_caption": "a", "shot1": null}', "shot 1: caption is empty"),
        (b"\0\0\0\x18ftypisom", "no text file"),
        (b"{" * 5000, "no valid JSON"),
        (b"[" * 5000, "nested too deeply"),
        (b'{"a":' * 5000, "nested too deeply"),
        (b"a: " * 5000, "not a story"),
        (b"global_caption: a\nshots: " + b"{a: " * 5000, "not closed"),
    ],
)
def test_a_bad_story_file_is_refused_in_one_line(client: TestClient, data: bytes, reason: str) -> None:
    answer = client.post("/api/stories/import", content=data)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid"), answer.text
    message = answer.json()["message"]
    assert reason in message and not any(word in message for word in WORDS_OF_PYTHON), message


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        (b'{"global_caption": "the fox\x92s den"}', "malformed", "line 1: not UTF-8 (byte 0x92; "),
        (b'{"global_caption": "a",\n}', "malformed", "line 2: no valid JSON: a comma before the closing"),
        (b'{"global_caption": "a", "global_caption": "b"}', "malformed", "'global_caption' is given twice"),
        (b'{"global_caption": "a", "shots": ' + b"[" * 20_000 + b"}", "malformed", "nested too deeply"),
        (b"global_caption=a", "malformed", "line 1: no valid JSON"),
        (
            b'{"global_caption": "a", "seed": ' + b"9" * 5000 + b"}",
            "invalid",
            "seed: a seed is a whole number",
        ),
        (b'{"global_caption": "a", "title": NaN}', "invalid", "title: write text, in quotes"),
        (b'{"global_caption": "a", "shots": [null]}', "invalid", "shots.0: write an object"),
        (b'{"global_caption": "a", "shots": {"a": 1}}', "invalid", "shots: write a list"),
        (
            b'{"global_caption": "a", "shots": [{"caption": "b", "num_chunks": 2.5}]}',
            "invalid",
            "a whole number",
        ),
        (
            b'{"global_caption": "a", "shots": [{"caption": " "}]}',
            "invalid",
            "shots.0.caption: the text is empty",
        ),
        (b'{"global_caption": "a", "titel": "b"}', "invalid", "titel: there is no such field"),
        (b"[]", "invalid", "body: write an object"),
        (b"", "invalid", "body: it is missing"),
    ],
)
def test_a_bad_body_is_refused_in_one_line(client: TestClient, body: bytes, code: str, reason: str) -> None:
    answer = client.post("/api/stories", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text
    message = answer.json()["message"]
    assert reason in message and not any(word in message for word in WORDS_OF_PYTHON), message


def test_a_body_may_be_in_any_encoding_of_text(client: TestClient) -> None:
    for encoding in ("utf-8-sig", "utf-16", "utf-16-be"):
        body = '{"global_caption": "Él"}'.encode(encoding)
        assert client.post("/api/stories", content=body, headers=JSON).json()["global_caption"] == "Él"


def test_a_bad_message_is_answered_in_the_same_words(client: TestClient) -> None:
    with watching(client, create(client)) as viewer:
        for text, code, reason in (
            ('{"type": "undo", "id": "a", "id": "b"}', "malformed", "'id' is given twice"),
            ('{"type": "undo",}', "malformed", "line 1: no valid JSON: a comma before the closing"),
            ('{"type": "undo", "id": 1}', "invalid", "id: write text, in quotes"),
            ('{"type": "undo", "id": "a", "b": 1}', "invalid", "b: there is no such field"),
        ):
            answer = viewer.send(text)
            assert (answer.type, answer.code) == ("error", code) and reason in answer.message, answer
