"""Kinds of files that users give by mistake instead of weights, recognised for the error message."""

import json
from pathlib import Path

from shotstream.kinds import BEGINNING_BYTES, kind_by_beginning


class CheckpointError(ValueError):
    """A missing or damaged checkpoint, or one of another model; the message says what to do."""


_KINDS = {
    "lfs": "a Git LFS pointer, not the weights; run `git lfs pull` beside it, or fetch the file itself",
    "page": "a web page saved under this name, not the weights; the download needs another address (for "
    "huggingface.co, .../resolve/main/... instead of .../blob/main/...), or you to log in",
    "compressed": "a compressed archive; unpack it and give the file of weights in it",
}


def refuse_other_kinds(path: Path, wanted: str) -> None:
    """Raises CheckpointError if a file is missing, or is recognised as something other than weights.

    Args:
        path: The file that the user gave.
        wanted: The expected format, for the message: "PyTorch" or "safetensors".

    Raises:
        CheckpointError: There is no file, or it is empty, a Git LFS pointer, a web page, or of another
            format.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: a directory; give the {wanted} file in it")
    if not path.exists():
        raise CheckpointError(f"{path}: no such file")
    if not path.is_file():
        raise CheckpointError(f"{path}: not a regular file; give a {wanted} file")
    kind = other_kind(path)
    if kind is not None:
        raise CheckpointError(f"{path}: {kind}")


def begins_as_pytorch(path: Path) -> bool:
    """Returns whether a file begins like a file of torch.save, whatever its name."""
    with path.open("rb") as file:
        begin = file.read(9)
    return begin[:2] == b"PK" or (_is_pickle(begin) and not _is_safetensors(begin))


def _is_pickle(begin: bytes) -> bool:
    return begin[:1] == b"\x80" and begin[1:2] in (b"\2", b"\3", b"\4", b"\5")


def _is_safetensors(begin: bytes) -> bool:
    """Returns whether a JSON header follows its length, which may look like the start of a pickle."""
    return begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") < 1 << 32


def other_kind(path: Path) -> str | None:
    """Returns the kind of a file that cannot hold weights, and what to do; None for any other file."""
    with path.open("rb") as file:
        begin = file.read(BEGINNING_BYTES)
    text = begin.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not begin:
        return "an empty file: its download never began or the disk was full; fetch it again"
    if (told := _KINDS.get(kind_by_beginning(begin) or "")) is not None:
        return told
    if begin.startswith(b"GGUF"):
        return "a GGUF file of quantised weights, which is not read; fetch the safetensors file of the model"
    if text.startswith((b"{", b"[")) and _is_text(begin):
        return f"{_json_kind(path)}, not the weights"
    if not any(begin) and _only_zeros(path):
        return "nothing but zeros: the download was not finished; fetch it again"
    return None


def _is_text(begin: bytes) -> bool:
    return not any(byte < 9 for byte in begin)


def _json_kind(path: Path) -> str:
    try:
        document = json.loads(path.read_bytes()[: 1 << 16])
    except (ValueError, RecursionError):
        return "a text file"
    if isinstance(document, dict) and "error" in document:
        return "a server's error message saved under this name"
    return "a JSON file"


def _only_zeros(path: Path) -> bool:
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            if any(piece):
                return False
    return True
