"""Directories of torch's distributed checkpoints, read without running any code that they hold.

Their `.metadata` is a pickle. torch loads it without restrictions, and loads everything in it that is not a
tensor in the same way. Here the metadata is unpickled with only the few classes that it consists of,
everything that is not a tensor is refused, a file is read only if it is in the directory, and every tensor is
compared with the checksums that were written with it.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from shotstream.weights.file_kinds import CheckpointError

METADATA_NAME = ".metadata"
_LONGEST_METADATA_BYTES = 256 << 20
_PIECE_BYTES = 1 << 20

_CLASSES: dict[tuple[str, str], Any] = {
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,  # pyright: ignore[reportPrivateUsage] (the name of a layout's pickle)
    ("collections", "OrderedDict"): OrderedDict,
    # The path that the checkpoint was written to; it is not used.
    ("pathlib", "PosixPath"): PurePosixPath,
    ("pathlib._local", "PosixPath"): PurePosixPath,
    ("pathlib", "WindowsPath"): PurePosixPath,
    ("pathlib._local", "WindowsPath"): PurePosixPath,
    (filesystem.__name__, "_StorageInfo"): filesystem._StorageInfo,  # pyright: ignore[reportPrivateUsage] (what a metadata holds)
    **{
        (metadata.__name__, name): getattr(metadata, name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    },
}
# Errors that a damaged pickle raises.
_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    RuntimeError,
    OverflowError,
    MemoryError,
)


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows only the classes of a distributed checkpoint's metadata."""

    def __init__(self, file: io.BytesIO, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        known = _CLASSES.get((module, name))
        if known is not None:
            return known
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise CheckpointError(
            f"{self._path}: refused, it wants to run {module}.{name}, and what a file runs can do anything "
            "to this machine; a distributed checkpoint contains only tensors"
        )


class _Reader(FileSystemReader):
    """torch's file reader, with checked metadata and tensors."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        del args, kwargs
        found = read_metadata(Path(self.path))
        assert found.storage_meta is not None
        found.storage_meta.load_id = self.load_id
        return found

    def _slice_file(self, file: Any, sinfo: Any) -> io.BytesIO:
        """Returns a tensor as it was written: a file of torch.save within the file."""
        content = io.BytesIO(super()._slice_file(file, sinfo).read())
        try:
            with zipfile.ZipFile(content) as archive:
                members = archive.infolist()
                if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                    raise CheckpointError(f"{sinfo.relative_path}: compressed, which torch never does")
                for member in members:
                    with archive.open(member) as part:
                        while part.read(_PIECE_BYTES):
                            pass
        except (zipfile.BadZipFile, OSError, EOFError, LookupError, RuntimeError) as error:
            raise CheckpointError(
                f"{sinfo.relative_path}: damaged: a tensor in it differs from the checksums beside it"
            ) from error
        content.seek(0)
        return content


def read_metadata(directory: Path) -> Metadata:
    """Returns the metadata of a distributed checkpoint: the tensors in files of its directory.

    Raises:
        CheckpointError: There is none, it is damaged, would run code, or names something that is not a tensor
            or is elsewhere.
    """
    path = directory / METADATA_NAME
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_METADATA_BYTES + 1)
    except OSError as error:
        raise CheckpointError(
            f"{path}: no such file; the checkpoint was not finished or is damaged"
        ) from error
    if len(content) > _LONGEST_METADATA_BYTES:
        raise CheckpointError(
            f"{path}: more than {_LONGEST_METADATA_BYTES:,} bytes; it is not one of our checkpoints"
        )
    try:
        found = _Unpickler(io.BytesIO(content), path).load()
        _check(found, directory)
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: damaged, or of another format") from error
    if found.storage_meta is None:
        found.storage_meta = metadata.StorageMeta()
    return found


def _check(found: Any, directory: Path) -> None:
    path = directory / METADATA_NAME
    if not isinstance(found, Metadata) or not isinstance(found.storage_data, Mapping):
        raise CheckpointError(f"{path}: no metadata of a distributed checkpoint")
    num_bytes = 0
    entries: dict[Any, Any] = found.state_dict_metadata
    for name, value in entries.items():
        if not isinstance(name, str) or not isinstance(value, TensorStorageMetadata):
            raise CheckpointError(f"{path}: refused, {name!r} is not a tensor, and would be loaded as code")
        num_bytes += value.size.numel() * value.properties.dtype.itemsize
        if min(value.size, default=0) < 0:
            raise CheckpointError(f"{path}: {name!r} has the size {list(value.size)}; it is damaged")
    for info in found.storage_data.values():
        if Path(info.relative_path).name != info.relative_path:
            raise CheckpointError(f"{path}: refused, it names {info.relative_path!r}, outside the checkpoint")
        if getattr(info, "transform_descriptors", None):
            raise CheckpointError(f"{path}: its tensors are compressed, which a run of ours never does")
    stored = sum(file.stat().st_size for file in directory.iterdir() if file.is_file())
    if num_bytes > stored:
        raise CheckpointError(
            f"{path}: claims to hold {num_bytes:,} bytes of tensors, and its files have {stored:,}; it is "
            "damaged"
        )


def read_distributed(directory: Path, into: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Returns the tensors of a distributed checkpoint, by name.

    Args:
        directory: The checkpoint.
        into: Tensors to fill: every process fills its own part, and all processes must call this together.
            None: new complete tensors in this process.

    Raises:
        CheckpointError: It is damaged, or holds what would run code.
        CheckpointException: It lacks a tensor of `into`, or has it in another size.
    """
    known = read_metadata(directory).state_dict_metadata
    if into is None:
        tensors: dict[str, Any] = {
            name: torch.empty(value.size, dtype=value.properties.dtype)
            for name, value in known.items()
            if isinstance(value, TensorStorageMetadata)
        }
    else:
        tensors = dict(into)
    if tensors:
        try:
            load(tensors, storage_reader=_Reader(directory), no_dist=into is None)
        except CheckpointException as error:
            refused = next((e for e, _ in error.failures.values() if isinstance(e, CheckpointError)), None)
            if refused is not None:
                raise CheckpointError(f"{directory}: {refused}") from error
            raise
    return tensors
