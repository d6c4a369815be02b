"""What is wrong with a document is said with its line, in a person's words."""

import gzip
import io
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from shotstream.documents import (
    DocumentError,
    iter_lines,
    parse_json,
    read_text,
    shorten,
    to_text,
    whole_number,
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1,\n}', "line 2: no valid JSON: a comma before the closing bracket; remove the comma"),
        ('{"a": 1\n"b": 2}', "line 2: no valid JSON: a comma is missing before '\"b\": 2}'"),
        ('{"a" 1}', "line 1: no valid JSON: a colon is missing before '1}'"),
        ("{'a': 1}", "line 1: no valid JSON: quotes that JSON does not know"),
        ('{"a": fox}', "line 1: no valid JSON: 'fox}' cannot stand there; are quotes missing?"),
        ('{"a": "b', "line 1: no valid JSON: a quote that is not closed"),
        ('{"a": [', "line 1: no valid JSON: it ends too early"),
        ('{"a": "b\tc"}', "line 1: no valid JSON: a line break or a tab inside a text"),
        (r'{"a": "C:\path"}', r"line 1: no valid JSON: a single \\ in a text"),
        ('// b\n{"a": 1}', "line 1: no valid JSON: it has no comments; remove it"),
        ('{"a": 1}\n{"a": 2}', "line 2: no valid JSON: there is more after its end"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_with_json_is_said(text: str, problem: str) -> None:
    with pytest.raises(DocumentError, match=problem.replace("?", r"\?").replace("(", r"\(")) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value) and "Expecting" not in str(caught.value)


def test_a_whole_number_is_what_spells_one_and_nothing_else() -> None:
    for value in (3, 3.0, "3", " +3 ", "003", "3.0"):
        assert whole_number(value) == 3, value
    for value in (
        True,
        None,
        3.5,
        "3.5",
        "1e3",
        "0x3",
        "three",
        "",
        [3],
        2.0**60,
        float("nan"),
        float("inf"),
    ):
        assert whole_number(value) is None, value
    assert parse_json("9" * 40) == int("9" * 40) and parse_json("9" * 41) == "9" * 41


def test_a_shortened_text_says_that_it_is_one() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abcde…"


def _archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    return stream.getvalue()


def _picture(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, kind)
    return stream.getvalue()


OTHERS = {
    "docx": (_archive(), "a zip archive or an Office document; save its text as plain text"),
    "rtf": (rb"{\rtf1\ansi global_caption: a\par}", "rich text .RTF.; save it as plain text in UTF-8"),
    "gz": (gzip.compress(b"global_caption: a"), "a compressed archive; unpack it"),
    "html": (b"\xef\xbb\xbf\n<!DOCTYPE html><title>404</title>", "a web page saved under this name"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4665\n",
        "a Git LFS pointer, .* lfs pull",
    ),
    "pdf": (b"%PDF-1.7\n%\xe2", "a PDF; save its text"),
    "parquet": (b"PAR1\x15\x04", "a Parquet file; convert it to CSV or JSON"),
    "png": (_picture("PNG"), "a picture, no text"),
    "webp": (_picture("WEBP"), "a picture, no text"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_text_is_named_with_what_to_do(tmp_path: Path, kind: str) -> None:
    """A .docx was told to hold the character U+0003, which was to be removed."""
    content, words = OTHERS[kind]
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    for read in (lambda: to_text(content), lambda: read_text(path, 1 << 20), lambda: list(iter_lines(path))):
        with pytest.raises(DocumentError, match=f"^{words}"):
            read()
