"""The bundle, ShotStream's format for weights: a directory of safetensors files with their SHA-256.

    config.json              {"format", "format_version", "config": {...},
                              "files": {name: {"sha256", "num_bytes"}}}
    <part>.safetensors       one per network: dit, codec, text_encoder
    other listed files       for example tokenizer.json

A bundle is read completely or not at all: every file that is used is compared with its hash before a tensor
of it is returned. Tensors are written one by one, so a bundle may be larger than memory. The configs inside
are plain JSON; the reader knows which class they belong to (`configs.config_from_document`).
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shotstream.weights.tensor_files import (
    CheckpointError,
    LazyTensor,
    is_finite,
    read_json,
    read_safetensors,
    sha256_of_file,
    write_safetensors,
)

_FORMAT = "shotstream-bundle"
_FORMAT_VERSION = 1
_CONFIG_NAME = "config.json"
_SUFFIX = ".safetensors"
_SUM = "document_sha256"
_KEYS = frozenset({"format", "format_version", "config", "files", "provenance", _SUM})


class BundleError(ValueError):
    """A directory that is not a bundle, or whose content differs from what was written; says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """The weights and configs of a bundle, read and verified."""

    directory: Path
    """Directory that it was read from."""
    config: dict[str, Any]
    """The plain JSON that was given to `write_bundle`, with tuples as lists."""
    tensors: dict[str, dict[str, Tensor]]
    """Tensors by part and name."""
    files: dict[str, Path]
    """Paths of the other files, which are verified as well."""
    sha256: str
    """SHA-256 of config.json without the provenance. It includes all hashes, so it identifies configs and
    weights together.
    """
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])
    """Origin of the weights, for people; not part of `sha256`. Empty if `write_bundle` was given none."""


def write_bundle(
    directory: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor | LazyTensor]],
    *,
    files: Mapping[str, bytes | Path] | None = None,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """Writes a bundle and returns its SHA-256; `directory` either holds all of it or is untouched.

    Everything is written and flushed beside the target and then renamed into place. Replacing an existing
    bundle takes two renames: a crash between them leaves the old bundle under a `.partial` name and no bundle
    at the target.

    Args:
        directory: The bundle's directory; its parents are created.
        config: Plain JSON values with string keys.
        tensors: Tensors by part; a part becomes `<part>.safetensors`. Lazy ones are loaded one at a time.
        files: Further files by name, as content or as a path to copy.
        dtype: Dtype in which floating-point tensors are stored; None keeps each tensor's own.
        overwrite: Replace an existing bundle; anything else at the target is never replaced.
        provenance: Origin of the weights as plain JSON, for people; not part of the SHA-256.

    Raises:
        BundleError: The target exists, a name is unusable, the config is not plain JSON, or a tensor has a
            value that is not finite in the dtype in which it is stored.
    """
    encoded_config = _encode_config(config)
    _check_target(directory, overwrite)
    for name in [*tensors, *(files or {})]:
        _check_name(name)
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", suffix=".partial", dir=directory.parent))
    try:
        # mkdtemp makes a private directory; a bundle is an ordinary one.
        scratch.chmod(0o755)
        listed: dict[str, dict[str, Any]] = {}
        for part, named in sorted(tensors.items()):
            path = scratch / f"{part}{_SUFFIX}"
            stored = {name: _stored(name, part, value, dtype) for name, value in named.items()}
            sha256 = write_safetensors(path, stored)
            listed[path.name] = {"sha256": sha256, "num_bytes": path.stat().st_size}
        for name, content in sorted((files or {}).items()):
            path = scratch / name
            _write_file(path, content)
            listed[name] = {"sha256": sha256_of_file(path), "num_bytes": path.stat().st_size}
        document = {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "config": encoded_config,
            "files": listed,
            **({} if not provenance else {"provenance": _encode_config(provenance)}),
        }
        document[_SUM] = _sum_of(document)
        _write_file(scratch / _CONFIG_NAME, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())
        _sync_directory(scratch)
        _rename_into_place(scratch, directory)
    finally:
        if scratch.exists():
            shutil.rmtree(scratch)
    return _sha256_of_document(document)


def read_bundle(
    directory: Path,
    *,
    parts: Collection[str] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Bundle:
    """Returns the bundle in a directory, after comparing every file that is read with its hash.

    Args:
        directory: A directory that `write_bundle` wrote.
        parts: The parts to read; None reads all. The other files are always verified.
        device: Device of the tensors.
        dtype: Dtype to which floating-point tensors are converted; None keeps the stored one.

    Raises:
        BundleError: It is not a bundle, has a newer format, a file is missing, truncated or changed, or a
            part is unknown.
    """
    document = _read_document(directory)
    listed: dict[str, dict[str, Any]] = document["files"]
    known = {name.removesuffix(_SUFFIX) for name in listed if name.endswith(_SUFFIX)}
    wanted = known if parts is None else set(parts)
    if wanted - known:
        raise BundleError(
            f"{directory}: no part {sorted(wanted - known)[0]!r}; the bundle holds {', '.join(sorted(known))}"
        )
    tensors: dict[str, dict[str, Tensor]] = {}
    files: dict[str, Path] = {}
    for name, entry in listed.items():
        path = directory / name
        part = name.removesuffix(_SUFFIX)
        if part in known:
            if part in wanted:
                _verify(path, entry)
                tensors[part] = _read_part(path, device, dtype)
        else:
            _verify(path, entry)
            files[name] = path
    return Bundle(
        directory=directory,
        config=document["config"],
        tensors=tensors,
        files=files,
        sha256=_sha256_of_document(document),
        provenance=document.get("provenance", {}),
    )


def _as_lazy(value: Tensor | LazyTensor, dtype: torch.dtype | None) -> LazyTensor:
    lazy = LazyTensor.of(value) if isinstance(value, Tensor) else value
    return lazy if dtype is None else lazy.to(dtype)


def _stored(name: str, part: str, value: Tensor | LazyTensor, dtype: torch.dtype | None) -> LazyTensor:
    """Returns a tensor as it is written; loading it raises BundleError if a value is not finite."""
    lazy = _as_lazy(value, dtype)

    def load() -> Tensor:
        tensor = lazy.load()
        if tensor.is_floating_point() and not is_finite(tensor):
            raise BundleError(
                f"{part}: {name} holds a value that is not finite in "
                f"{str(lazy.dtype).removeprefix('torch.')}; "
                "the weights are damaged or too large for it, nothing was written"
            )
        return tensor

    return LazyTensor(shape=lazy.shape, dtype=lazy.dtype, load=load)


def _encode_config(config: Mapping[str, Any]) -> Any:
    try:
        return json.loads(json.dumps(config, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"the config is not plain JSON ({error}); give strings, numbers, lists and objects"
        ) from error


def _check_target(directory: Path, overwrite: bool) -> None:
    if not directory.exists() and not directory.is_symlink():
        return
    if not overwrite:
        raise BundleError(f"{directory}: exists already; remove it or allow overwriting it")
    if directory.is_symlink() or not (directory / _CONFIG_NAME).is_file():
        raise BundleError(
            f"{directory}: exists and is not a bundle; it is not replaced, choose another place"
        )


def _check_name(name: str) -> None:
    if Path(name).name != name or name.startswith(".") or name == _CONFIG_NAME:
        raise BundleError(f"{name!r} cannot be a file of a bundle; use a plain name")


def _write_file(path: Path, content: bytes | Path) -> None:
    with path.open("wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            with content.open("rb") as source:
                shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())


def _rename_into_place(scratch: Path, directory: Path) -> None:
    aside: Path | None = None
    if directory.exists():
        aside = Path(
            tempfile.mkdtemp(prefix=f".{directory.name}-old-", suffix=".partial", dir=directory.parent)
        )
        directory.rename(aside)  # onto an empty directory, which POSIX replaces
    scratch.rename(directory)
    _sync_directory(directory.parent)
    if aside is not None:
        shutil.rmtree(aside)


def _sync_directory(directory: Path) -> None:
    """Flushes a directory's entries; only after this a rename is safe on disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_document(directory: Path) -> dict[str, Any]:
    path = directory / _CONFIG_NAME
    if not directory.is_dir():
        raise BundleError(f"{directory}: no such bundle")
    try:
        document = read_json(path)
    except CheckpointError as error:
        raise BundleError(f"{error}; a bundle is a directory with a config.json") from error
    if document.get("format") != _FORMAT:
        raise BundleError(
            f"{path}: not a ShotStream bundle; published checkpoints are converted once with: "
            "shotstream weights import"
        )
    version = document.get("format_version")
    if version != _FORMAT_VERSION:
        raise BundleError(
            f"{path}: format version {str(version)[:9]}, not {_FORMAT_VERSION}; update the program or "
            "import again"
        )
    config, listed = document.get("config"), document.get("files")
    made_of = document.get("provenance", {})
    if not isinstance(config, dict) or not isinstance(listed, dict) or not isinstance(made_of, dict):
        raise BundleError(f"{path}: config or files is missing; fetch or import the bundle again")
    # Bundles of earlier versions have no checksum of config.json.
    if not document.keys() <= _KEYS or document.get(_SUM, "") not in ("", _sum_of(document)):
        raise BundleError(f"{path}: differs from what was written; fetch or import the bundle again")
    for name, entry in listed.items():
        if not _is_entry(name, entry):
            raise BundleError(
                f"{path}: the entry of file {name!r} is damaged; fetch or import the bundle again"
            )
    return document


def _is_entry(name: str, entry: object) -> bool:
    return (
        Path(name).name == name
        and isinstance(entry, dict)
        and entry.keys() == {"sha256", "num_bytes"}
        and isinstance(entry["sha256"], str)
        and isinstance(entry["num_bytes"], int)
    )


def _verify(path: Path, entry: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise BundleError(f"{path}: missing; fetch or import the bundle again")
    num_bytes = path.stat().st_size
    if num_bytes != entry["num_bytes"]:
        raise BundleError(
            f"{path}: {num_bytes} bytes instead of {entry['num_bytes']}; it is truncated or of another "
            "bundle, fetch or import it again"
        )
    sha256 = sha256_of_file(path)
    if sha256 != entry["sha256"]:
        raise BundleError(
            f"{path}: sha256 {sha256[:12]}... instead of {str(entry['sha256'])[:12]}...; the file was "
            "changed, fetch or import the bundle again"
        )


def _read_part(path: Path, device: torch.device | str, dtype: torch.dtype | None) -> dict[str, Tensor]:
    try:
        lazy = read_safetensors(path)
    except CheckpointError as error:
        raise BundleError(str(error)) from error
    tensors: dict[str, Tensor] = {}
    for name, tensor in lazy.items():
        loaded = _as_lazy(tensor, dtype).load()
        if loaded.is_complex() or (loaded.is_floating_point() and not is_finite(loaded)):
            raise BundleError(
                f"{path}: {name} holds a value that is not a finite real number; "
                "fetch or import the bundle again"
            )
        tensors[name] = loaded.to(device)
    return tensors


def _sha256_of_document(document: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of the parts of a document that a film may depend on."""
    return _sum_of({key: value for key, value in document.items() if key != "provenance"})


def _sum_of(document: Mapping[str, Any]) -> str:
    hashed = {key: value for key, value in document.items() if key != _SUM}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
