"""PyTorch files as dictionaries of tensors: verified as far as possible, read without running code.

`torch.load(weights_only=True)` alone is not enough: it accepts a file with damaged tensors, because it
ignores the checksums of the zip; it advises the user to load a refused file without protection; and it
unpacks a compressed archive of any size. Here the checksum of every member of the zip is verified first, an
error names the class that the file wants to run, and compressed archives are refused.
"""

import logging
import pickle
import re
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from shotstream.weights.file_kinds import CheckpointError, refuse_other_kinds

log = logging.getLogger(__name__)

_PIECE_BYTES = 1 << 20
_LONGEST_PICKLE_BYTES = 256 << 20
_NUM_CLASSES_SHOWN = 3
_KINDS = (
    (torch.Tensor, "a single tensor"),
    ((list, tuple, set), "a list"),
    (str, "a text"),
    ((bool, int, float, complex), "a number"),
    (type(None), "nothing"),
)
"""Names of the kinds of objects that a file may hold instead of a dictionary, for messages."""
# Errors of torch's unpickler for a damaged file, found by truncating and changing files at random.
_DAMAGE = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
)
# torch's message about a class that it refused, for files whose classes cannot be listed.
_REFUSED_CLASS = re.compile(
    r"(?:GLOBAL|Unsupported class|instantiate) ([A-Za-z_][\w.]*)|class ([A-Za-z_][\w.]*)"
)


def read_pytorch(path: Path, notes: list[str] | None = None, *, mapped: bool = True) -> dict[Any, Any]:
    """Returns the dictionary in a PyTorch file; no code in it is run.

    Args:
        path: A file that torch.save wrote.
        notes: Messages for the user about the file are appended here.
        mapped: Keep the tensors memory-mapped if the format allows it; False reads them into memory.

    Raises:
        CheckpointError: There is no such file, or it is truncated, damaged, or holds more than tensors in
            plain containers.
    """
    refuse_other_kinds(path, "PyTorch")
    is_zip = _is_zip(path)
    if is_zip:
        has_sums = _check_archive(path)
    else:
        has_sums = False
        _check_is_legacy(path)
    if not has_sums and notes is not None:
        notes.append(
            f"{path.name} was saved without checksums, so damage to its numbers cannot be seen; "
            "compare its sha256 with the one that its publisher gives"
        )
    content = _load(path, is_zip, mapped)
    if not isinstance(content, dict):
        kind = next((words for type_, words in _KINDS if isinstance(content, type_)), "something else")
        raise CheckpointError(
            f"{path}: holds {kind}, not tensors by their names; save a model's weights by name "
            "(in PyTorch: its state_dict)"
        )
    return content


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile as error:  # the end record, by which zipfile recognises a zip, is damaged
        raise CheckpointError(f"{path}: damaged at its end; fetch it again") from error


def _load(path: Path, is_zip: bool, mapped: bool) -> Any:
    try:
        with warnings.catch_warnings():
            # Warnings about the pickle protocol and about deprecated classes of torch do not concern users.
            warnings.simplefilter("ignore")
            # torch decides by the file name, and would read this one as safetensors.
            if path.suffix.lower() == ".safetensors":
                with path.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip and mapped)
    except (pickle.UnpicklingError, *_DAMAGE) as error:
        # torch's message advises loading the file without protection, so it goes to the log alone.
        log.debug("%s was refused", path, exc_info=error)
        classes = _classes_in(path, is_zip, error)
        if not classes:
            raise CheckpointError(
                f"{path}: damaged, or no file of PyTorch's; fetch it again, or save it again where it was "
                "made"
            ) from error
        shown = ", ".join(classes[:_NUM_CLASSES_SHOWN]) + (
            ", ..." if len(classes) > _NUM_CLASSES_SHOWN else ""
        )
        raise CheckpointError(
            f"{path}: refused, it wants to run {shown}, and what a file runs can do anything to this "
            "machine; "
            "only tensors in plain containers are read: where the file was made, save only the weights "
            "(as safetensors, for example) and give that file"
        ) from error


def _classes_in(path: Path, is_zip: bool, error: BaseException) -> list[str]:
    """Returns the classes that a file would import besides tensors; its pickle is read, not run."""
    if is_zip:
        try:
            return sorted(get_unsafe_globals_in_checkpoint(str(path)))
        except (pickle.UnpicklingError, *_DAMAGE):
            return []
    if not isinstance(error, pickle.UnpicklingError):
        return []
    found = _REFUSED_CLASS.search(str(error))
    return [] if found is None else [found[1] or found[2]]


def _check_archive(path: Path) -> bool:
    """Returns whether a zip has checksums, after comparing every byte with them.

    Raises:
        CheckpointError: A byte differs, something is compressed, or it is not an archive of torch.save.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(path, members)
            if not any(member.CRC for member in members):  # torch.serialization.set_crc32_options(False)
                return False
            for member in members:
                with archive.open(member) as file:
                    while file.read(_PIECE_BYTES):
                        pass
    except (zipfile.BadZipFile, NotImplementedError, *_DAMAGE) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path}: damaged: its content differs from the checksums in it; fetch it again"
        ) from error
    return True


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename.partition("/")[2] for member in members]
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise CheckpointError(
            f"{path}: refused, it is a TorchScript program and not a file of tensors; save only the weights "
            "(as safetensors, for example) and give that file"
        )
    if "data.pkl" not in names:
        inside = ", ".join(member.filename for member in members[:3]) or "nothing"
        raise CheckpointError(
            f"{path}: a zip archive, but none that PyTorch saved (it holds {inside}); unpack it and give the "
            "file of weights in it"
        )
    packed = next((member for member in members if member.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise CheckpointError(
            f"{path}: {packed.filename} in it is compressed, which PyTorch never does, and would take "
            f"{packed.file_size:,} bytes; unpack it and save it again with torch.save"
        )
    size = path.stat().st_size
    if sum(member.file_size for member in members) > size:
        raise CheckpointError(
            f"{path}: claims to hold more than its {size:,} bytes; it is damaged or made to fill the memory"
        )
    pickled = next(m for m in members if m.filename.partition("/")[2] == "data.pkl")
    if pickled.file_size > _LONGEST_PICKLE_BYTES:
        raise CheckpointError(
            f"{path}: its table of contents takes {pickled.file_size:,} bytes, more than "
            f"{_LONGEST_PICKLE_BYTES:,}; it holds other things than tensors, save only the weights"
        )


def _check_is_legacy(path: Path) -> None:
    """Raises CheckpointError unless the file begins as torch.save wrote before it used zips."""
    with path.open("rb") as file:
        begin = file.read(2)
    if begin == b"PK":
        raise CheckpointError(f"{path}: truncated PyTorch file; fetch it again")
    if begin[:1] != b"\x80":
        if tarfile.is_tarfile(path):
            raise CheckpointError(
                f"{path}: a tar archive, as PyTorch saved before version 0.4 or as weights are packed for "
                "sending; unpack it, and give the file of weights in it"
            )
        raise CheckpointError(f"{path}: refused, it is not a PyTorch file; give a .pt or a .safetensors")
