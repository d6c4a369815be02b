"""Kinds of files by their first bytes: files that users often give by mistake.

It knows none of the project's formats: callers say what is expected and what to do.
"""

from typing import Literal

Kind = Literal["lfs", "page", "compressed", "zip", "office", "pdf", "rtf", "parquet", "picture", "webp"]

BEGINNING_BYTES = 512
"""Number of bytes from which the kind can be determined."""

_BINARY: tuple[tuple[bytes, Kind], ...] = (
    (b"\x1f\x8b", "compressed"),
    (b"7z\xbc\xaf", "compressed"),
    (b"Rar!", "compressed"),
    (b"\x28\xb5\x2f\xfd", "compressed"),
    (b"BZh", "compressed"),
    (b"\xfd7zXZ", "compressed"),
    (b"PK\x03\x04", "zip"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "office"),
    (b"%PDF-", "pdf"),
    (b"{\\rtf", "rtf"),
    (b"PAR1", "parquet"),
    (b"\x89PNG\r\n", "picture"),
    (b"\xff\xd8\xff", "picture"),
    (b"II*\0", "picture"),
    (b"MM\0*", "picture"),
    (b"version https://git-lfs", "lfs"),
)
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<error")


def kind_by_beginning(begin: bytes) -> Kind | None:
    """Returns the kind of a file that begins with these bytes; None for any other file."""
    for mark, kind in _BINARY:
        if begin.startswith(mark):
            return kind
    if begin.startswith(b"RIFF") and begin[8:12] == b"WEBP":
        return "webp"
    text = begin.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    return "page" if text.startswith(_PAGES) else None
