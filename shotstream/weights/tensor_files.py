"""Tensors in files, read lazily and written one by one: a large checkpoint need not fit in memory.

Reads safetensors (one file, or shards with an index) and PyTorch files. A pickle is never executed: PyTorch
files are opened with `torch.load(weights_only=True)` only, which refuses all but tensors in plain containers.
Checks names and shapes in both directions before any data is read.
"""

import hashlib
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_NUM_KEYS_SHOWN = 3
_DTYPE_NAMES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES_OF_DTYPES = {dtype: name for name, dtype in _DTYPE_NAMES.items()}

# What torch's unpickler runs into in a damaged file, by trial with files cut and changed at random.
_DAMAGE = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    struct.error,
    zipfile.BadZipFile,
)


class CheckpointError(ValueError):
    """No checkpoint, a damaged one, or one of another model; the message says which and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LazyTensor:
    """A tensor that is read when `load` is called."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> "LazyTensor":
        """A tensor already at hand; one from a memory-mapped file costs no memory until it is read."""
        return cls(shape=tuple(tensor.shape), dtype=tensor.dtype, load=lambda: tensor)

    def to(self, dtype: torch.dtype) -> "LazyTensor":
        """The same tensor in another floating dtype; integers and booleans keep theirs."""
        if not self.dtype.is_floating_point or dtype == self.dtype:
            return self
        return LazyTensor(shape=self.shape, dtype=dtype, load=lambda: self.load().to(dtype))


LazyTensors = dict[str, LazyTensor]


def check_tensors(
    expected: Mapping[str, tuple[int, ...]], given: Mapping[str, LazyTensor], where: str, advice: str
) -> None:
    """Return only if `given` has exactly the expected names and shapes.

    Raises:
        CheckpointError: Counts the missing keys, unexpected keys and differing shapes, and names a few.
    """
    findings: list[str] = []
    for label, names in (
        ("missing", expected.keys() - given.keys()),
        ("unexpected", given.keys() - expected.keys()),
    ):
        if names:
            findings.append(f"{len(names)} {label} keys ({_first_few(names)})")
    differing = [
        f"{name} is {list(given[name].shape)} and should be {list(shape)}"
        for name, shape in expected.items()
        if name in given and given[name].shape != shape
    ]
    if differing:
        findings.append(f"{len(differing)} wrong shapes ({_first_few(differing)})")
    if findings:
        raise CheckpointError(f"{where}: {'; '.join(findings)}; {advice}")


def rename(tensors: Mapping[str, LazyTensor], names: Mapping[str, str]) -> LazyTensors:
    """The tensors under new names; one that has none keeps its own, for `check_tensors` to report."""
    return {names.get(name, name): tensor for name, tensor in tensors.items()}


def read_safetensors(path: Path) -> LazyTensors:
    """The tensors of a safetensors file, or of all the shards of a `*.safetensors.index.json`.

    Raises:
        CheckpointError: No such file, damaged, truncated, or shards that differ from their index.
    """
    if path.name.endswith(".json"):
        return _read_shards(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        handle = safe_open(str(path), framework="pt", device="cpu")
        tensors = {name: _lazy_of_slice(handle, name, path) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({_brief(error)}); it is truncated or of another format, "
            "fetch it again"
        ) from error
    return tensors


def _lazy_of_slice(handle: Any, name: str, path: Path) -> LazyTensor:
    view = handle.get_slice(name)
    dtype = _DTYPE_NAMES.get(view.get_dtype())
    if dtype is None:
        raise CheckpointError(f"{path}: {name} has dtype {view.get_dtype()}, which is not supported")
    return LazyTensor(shape=tuple(view.get_shape()), dtype=dtype, load=lambda: handle.get_tensor(name))


def _read_shards(index: Path) -> LazyTensors:
    document = read_json(index)
    shard_of = document.get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise CheckpointError(f"{index}: no weight_map from keys to files; it is not a safetensors index")
    tensors: LazyTensors = {}
    for shard in sorted(set(shard_of.values())):
        if Path(shard).name != shard:
            raise CheckpointError(f"{index}: shard {shard!r} is not a file beside the index")
        found = read_safetensors(index.parent / shard)
        listed = {name for name, file in shard_of.items() if file == shard}
        if listed != found.keys():
            odd = listed ^ found.keys()
            raise CheckpointError(
                f"{index.parent / shard}: {len(odd)} keys differ from the index ({_first_few(odd)}); "
                "fetch the shards again"
            )
        tensors |= found
    return tensors


def read_pytorch(path: Path) -> dict[str, Any]:
    """The dictionary in a PyTorch file, memory-mapped where its format allows; no code in it is run.

    Raises:
        CheckpointError: No such file, truncated, or holding more than tensors in plain containers.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    is_zip = _is_zip(path)
    if not is_zip and _begins_as_zip(path):
        raise CheckpointError(f"{path}: truncated PyTorch file; fetch it again")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, it holds more than tensors or is damaged ({_brief(error)}); "
            "only checkpoints of plain tensors are read, for they cannot run code"
        ) from error
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path}: not a whole PyTorch file ({_brief(error)}); fetch it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dictionary of tensors")
    return content


def lazy_tensors(content: Mapping[Any, Any], where: str) -> LazyTensors:
    """A state dict as lazy tensors; CheckpointError when an entry is no tensor or a key no string."""
    odd = [
        str(key)
        for key, value in content.items()
        if not isinstance(key, str) or not isinstance(value, Tensor)
    ]
    if odd:
        raise CheckpointError(f"{where}: {len(odd)} entries are not named tensors ({_first_few(odd)})")
    return {name: LazyTensor.of(tensor) for name, tensor in content.items()}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file; CheckpointError when the file is missing or holds anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not JSON ({_brief(error)})") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(document).__name__}, not an object")
    return document


def write_safetensors(path: Path, tensors: Mapping[str, LazyTensor]) -> str:
    """Write the tensors one at a time and flush them to the disk; returns the file's sha256 in hex.

    Raises:
        CheckpointError: There is no tensor, or one of a dtype that the format lacks.
    """
    if not tensors:
        raise CheckpointError(f"{path}: no tensor to write")
    # Widest dtype first, so that every tensor is aligned to its own width.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES_OF_DTYPES:
            raise CheckpointError(f"{path}: {name} has dtype {tensor.dtype}, which the format lacks")
        begin, end = end, end + tensor.dtype.itemsize * torch.Size(tensor.shape).numel()
        dtype = _NAMES_OF_DTYPES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in (len(encoded).to_bytes(8, "little"), encoded):
            file.write(piece)
            digest.update(piece)
        for name in order:
            piece = _bytes_of(name, tensors[name])
            file.write(piece)
            digest.update(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _bytes_of(name: str, lazy: LazyTensor) -> memoryview:
    tensor = lazy.load()
    assert tuple(tensor.shape) == lazy.shape and tensor.dtype == lazy.dtype, name
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def sha256_of_file(path: Path) -> str:
    """sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def _begins_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _first_few(names: Collection[str]) -> str:
    shown = sorted(names)[:_NUM_KEYS_SHOWN]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")


def _brief(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
