"""Tensors in files, read lazily and written one by one: a large checkpoint need not fit in memory.

Reads safetensors (one file, or shards with an index); PyTorch files are read by `pytorch_files`. Names,
shapes and dtypes are checked before any data is read, and values when they are loaded: weights must be real,
finite, and not larger than any trained weight.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shotstream.documents import json_kind
from shotstream.weights.file_kinds import (
    CheckpointError,
    begins_as_pytorch,
    other_kind,
    refuse_other_kinds,
)
from shotstream.weights.pytorch_files import read_pytorch

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
# These dtypes are read, to be converted or refused by name; never written.
_READ_DTYPE_NAMES = {
    **_DTYPE_NAMES,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
}

# No trained network has a weight of this size; a flipped bit of an exponent produces one.
_LARGEST_WEIGHT = 1e6
_WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_LARGEST_JSON_BYTES = 64 << 20
_INDEX_SUFFIX = ".index.json"
_SHARD = re.compile(r"(.+)-\d+-of-0*(\d{1,9})\.\w+")


@dataclass(frozen=True, kw_only=True, slots=True)
class LazyTensor:
    """A tensor that is read when `load` is called."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> "LazyTensor":
        """Returns a lazy tensor of one in memory; a memory-mapped one uses no memory until it is read."""
        return cls(shape=tuple(tensor.shape), dtype=tensor.dtype, load=lambda: tensor)

    def to(self, dtype: torch.dtype) -> "LazyTensor":
        """Returns the same tensor in another floating-point dtype; integers and booleans keep theirs."""
        if not self.dtype.is_floating_point or dtype == self.dtype:
            return self
        return LazyTensor(shape=self.shape, dtype=dtype, load=lambda: self.load().to(dtype))


LazyTensors = dict[str, LazyTensor]


def check_tensors(
    expected: Mapping[str, tuple[int, ...]], given: Mapping[str, LazyTensor], where: str, advice: str
) -> None:
    """Raises CheckpointError unless `given` has exactly the expected names and shapes.

    Args:
        expected: Shape of every expected tensor, by name.
        given: The tensors to check.
        where: The place of the tensors, for the message.
        advice: The remedy, for the message.

    Raises:
        CheckpointError: The message counts the missing keys, unexpected keys and differing shapes, and names
            a few.
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
    """Returns the tensors under new names; without a new name a tensor keeps its own."""
    return {names.get(name, name): tensor for name, tensor in tensors.items()}


def sound(tensors: Mapping[str, LazyTensor], where: str) -> LazyTensors:
    """Returns the same tensors: floating-point and real, checked now; finite and plausible, when loaded.

    Raises:
        CheckpointError: A tensor has another dtype; `load` raises it for a value, with the tensor's name.
    """
    odd = {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype not in _WEIGHT_DTYPES}
    if odd:
        name = min(odd)
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise CheckpointError(
            f"{where}: {name}{more} holds {dtype_in_words(odd[name])}, and weights are real floating "
            "numbers; the file is damaged, quantised or of another kind"
        )
    return {name: _checked(name, tensor, where) for name, tensor in tensors.items()}


def _checked(name: str, lazy: LazyTensor, where: str) -> LazyTensor:
    def load() -> Tensor:
        tensor = lazy.load()
        refuse_odd_values(name, tensor, where)
        return tensor

    return LazyTensor(shape=lazy.shape, dtype=lazy.dtype, load=load)


def is_finite(tensor: Tensor) -> bool:
    """Returns whether all values of a real tensor are finite, without allocating memory."""
    return tensor.numel() == 0 or all(math.isfinite(float(bound)) for bound in tensor.aminmax())


def refuse_odd_values(name: str, tensor: Tensor, where: str) -> None:
    """Raises CheckpointError for a value that is infinite, NaN, or larger than any trained weight."""
    if tensor.numel() == 0:
        return
    least, most = (float(bound) for bound in tensor.aminmax())
    if least >= -_LARGEST_WEIGHT and most <= _LARGEST_WEIGHT:  # written so that a NaN fails
        return
    num_not_finite = int((~tensor.isfinite()).sum())
    what = (
        f"{num_not_finite} of its {tensor.numel():,} numbers are infinite or not numbers"
        if num_not_finite
        else f"it reaches {most if most > -least else least:.3g}, beyond what a weight can be"
    )
    raise CheckpointError(f"{where}: {name} is damaged: {what}; fetch the file again")


def dtype_in_words(dtype: torch.dtype) -> str:
    """Returns the name of a dtype's kind of numbers, for a message."""
    if dtype == torch.bool:
        return "truth values"
    kind = "complex numbers" if dtype.is_complex else "numbers"
    return f"{kind} ({str(dtype).removeprefix('torch.')})"


def read_safetensors(path: Path) -> LazyTensors:
    """Returns the tensors of a safetensors file, or of all shards of a `*.safetensors.index.json`.

    Raises:
        CheckpointError: There is no such file, it is damaged or truncated, or shards differ from their index.
    """
    if path.name.endswith(".json"):
        return _read_shards(path)
    try:
        handle = _open(path)
        names: list[str] = handle.keys()
        return {name: _lazy_of_slice(handle, name, path) for name in names}
    except SafetensorError as error:
        raise _not_whole(path, error) from error


def safetensors_metadata(path: Path) -> dict[str, str]:
    """Returns the metadata of a safetensors file; raises CheckpointError like `read_safetensors`."""
    try:
        return dict(_open(path).metadata() or {})
    except SafetensorError as error:
        raise _not_whole(path, error) from error


def _open(path: Path) -> Any:
    refuse_other_kinds(path, "safetensors")
    if begins_as_pytorch(path):
        raise CheckpointError(f"{path}: a PyTorch file under the name of another format; name it .pt")
    return safe_open(str(path), framework="pt", device="cpu")


def _not_whole(path: Path, error: SafetensorError) -> CheckpointError:
    return CheckpointError(
        f"{path}: not a complete safetensors file ({_brief(error)}); it is truncated or of another format, "
        "fetch it again"
    )


def _lazy_of_slice(handle: Any, name: str, path: Path) -> LazyTensor:
    view = handle.get_slice(name)
    dtype = _READ_DTYPE_NAMES.get(view.get_dtype())
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
        path = index.parent / shard
        if not path.is_file():
            raise CheckpointError(
                f"{path}: no such file, one of {len(set(shard_of.values()))} that {index.name} names; fetch "
                "it"
            )
        found = read_tensors(path)
        listed = {name for name, file in shard_of.items() if file == shard}
        if listed != found.keys():
            odd = listed ^ found.keys()
            raise CheckpointError(
                f"{path}: {len(odd)} keys differ from the index ({_first_few(odd)}); fetch the shards again"
            )
        tensors |= found
    return tensors


def read_tensors(path: Path) -> LazyTensors:
    """Returns the tensors of a file that holds nothing else, in either format, recognised by its content."""
    if path.is_file() and begins_as_pytorch(path):
        return lazy_tensors(read_pytorch(path), str(path))
    return read_safetensors(path)


def index_of_shard(path: Path) -> Path | None:
    """Returns the index beside a shard (`model-00001-of-00003.safetensors`); None for other files.

    Raises:
        CheckpointError: The file is a shard, and its index does not exist.
    """
    shard = _SHARD.fullmatch(path.name)
    if shard is None:
        return None
    found = path.with_name(f"{shard[1]}{path.suffix}{_INDEX_SUFFIX}")
    if not found.is_file() and int(shard[2]) > 1:
        raise CheckpointError(
            f"{path}: one of {int(shard[2])} shards, and the index of all, {found.name}, is not beside it; "
            "fetch it too"
        )
    return found if found.is_file() else None


def lazy_tensors(content: Mapping[Any, Any], where: str) -> LazyTensors:
    """Returns a state dict as lazy tensors; raises CheckpointError for other keys or values."""
    odd = [
        str(key)
        for key, value in content.items()
        if not isinstance(key, str) or not isinstance(value, Tensor)
    ]
    if odd:
        raise CheckpointError(f"{where}: {len(odd)} entries are not named tensors ({_first_few(odd)})")
    return {name: lazy_tensor(name, tensor, where) for name, tensor in content.items()}


def lazy_tensor(name: str, tensor: Tensor, where: str) -> LazyTensor:
    """Returns a tensor of a PyTorch file as a lazy one.

    Raises:
        CheckpointError: It is sparse, quantised or larger than its storage.
    """
    is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    is_plain = is_plain and not tensor.is_quantized and not tensor.is_nested
    if not is_plain:
        raise CheckpointError(
            f"{where}: {name} is sparse, quantised or without data; save it as a plain tensor"
        )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{where}: {name} is larger than its stored data; fetch it again")
    return LazyTensor.of(tensor.detach())


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file; raises CheckpointError if there is none or it is too large."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_JSON_BYTES + 1)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path}: a directory, not a JSON file") from error
    if len(content) > _LARGEST_JSON_BYTES:
        raise CheckpointError(f"{path}: more than {_LARGEST_JSON_BYTES:,} bytes; it is not a model's JSON")
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not JSON, because it is not UTF-8 text; fetch it again") from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: not JSON of ours, its values are nested too deeply") from error
    except (
        ValueError
    ) as error:  # ValueError, because a number of thousands of digits raises no JSONDecodeError
        kind = None if content.lstrip().startswith((b"{", b"[")) else other_kind(path)
        what = f"not JSON, but {kind}" if kind else f"not JSON (at {_place(error)}); fetch it again"
        raise CheckpointError(f"{path}: {what}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: holds {json_kind(document)}, not an object")
    return document


def _place(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}"
    return "a number of thousands of digits"


def write_safetensors(path: Path, tensors: Mapping[str, LazyTensor]) -> str:
    """Writes the tensors one at a time and flushes them to disk; returns the file's SHA-256 in hex.

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
    """Returns the SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_few(names: Collection[str]) -> str:
    shown = sorted(names)[:_NUM_KEYS_SHOWN]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")


def _brief(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
