"""Verification of a directory of shards: every file is read completely.

Every shard is compared with its size and SHA-256, every member with its checksum, every tensor with the shape
and dtype in the form; every other file with its SHA-256 in the index; and the index with the form and the
records, whose content it repeats. Directories of earlier versions have no such checksums: their files are
compared only with each other.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from shotstream.data.shards import (
    CONTEXT,
    DTYPES,
    FORM_NAME,
    INDEX_NAME,
    TEXT,
    UNCONDITIONAL_NAME,
    ShardDirectory,
    ShardError,
    ShardForm,
    document_bytes,
    read_document,
    read_form,
    record_name,
)
from shotstream.weights.tensor_files import CheckpointError, read_safetensors, sha256_of_file

_ADVICE = "the same `shotstream data encode` writes it anew"


class ShardFinding(NamedTuple):
    """The result of `check_shards` for one file."""

    name: str
    num_samples: int
    """Number of samples of a shard; 0 for other files."""
    num_shots: int
    num_bytes: int
    damage: str
    """Description of the damage in one line; empty: none."""


def check_shards(directory: Path) -> Iterator[ShardFinding]:
    """Reads every file of a directory completely, and yields a finding for each.

    The order is: the index, the form, the unconditional embeddings, then shard after shard.

    Raises:
        ShardError: There is no index, or it cannot be read.
    """
    shards = ShardDirectory(directory)
    checks = [(INDEX_NAME, _check_index), (FORM_NAME, _check_form)]
    if shards.form.text_shape is not None:
        checks.append((UNCONDITIONAL_NAME, _check_unconditional))
    for name, check in checks:
        path = directory / name
        try:
            check(shards)
            damage = ""
        except (ShardError, CheckpointError) as error:
            damage = _brief(error, path)
        yield ShardFinding(name, 0, 0, path.stat().st_size if path.is_file() else 0, damage)
    for number, summary in enumerate(shards.shards):
        try:
            _check_shard(shards, number)
            damage = ""
        except ShardError as error:
            damage = _brief(error, directory / summary["name"])
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            damage = "it does not hold what its record says"
        yield ShardFinding(
            summary["name"], summary["num_samples"], summary["num_shots"], summary["num_bytes"], damage
        )


def _brief(error: Exception, path: Path) -> str:
    return " ".join(str(error).split()).removeprefix(f"{path}: ")


def _check_index(shards: ShardDirectory) -> None:
    """Compares the index with the form, and its bytes too unless it is of an earlier version."""
    path = shards.directory / INDEX_NAME
    document = read_document(path, _ADVICE)
    if shards.sums and path.read_bytes() != document_bytes(document):
        raise ShardError("its bytes are not those that were written")
    if len(shards.shards) != shards.form.num_shards:
        raise ShardError(f"it lists {len(shards.shards)} of {shards.form.num_shards} shards")
    form = shards.directory / FORM_NAME
    if form.is_file() and _has_its_sum(shards, FORM_NAME) and read_form(form, _ADVICE) != shards.form:
        raise ShardError(f"it says that the shards were made with something else than {FORM_NAME} says")
    names = [FORM_NAME, *(record_name(shard["name"]) for shard in shards.shards)]
    names += [UNCONDITIONAL_NAME] if shards.form.text_shape is not None else []
    if shards.sums and sorted(names) != sorted(shards.sums):
        raise ShardError("it does not list its files")


def _has_its_sum(shards: ShardDirectory, name: str) -> bool:
    return not shards.sums or sha256_of_file(shards.directory / name) == shards.sums.get(name)


def _check_form(shards: ShardDirectory) -> None:
    shards.require_sum(FORM_NAME)
    read_form(shards.directory / FORM_NAME, _ADVICE)


def _check_unconditional(shards: ShardDirectory) -> None:
    shards.require_sum(UNCONDITIONAL_NAME)
    tensors = read_safetensors(shards.directory / UNCONDITIONAL_NAME)
    if tensors.keys() != {"empty", "unconditional"}:
        raise ShardError("it does not hold the embeddings `empty` and `unconditional`")
    for name, lazy in tensors.items():
        _check_embedding(lazy.load(), shards.form, name)


def _check_shard(shards: ShardDirectory, number: int) -> None:
    record = shards.record(number)
    path = shards.directory / record.name
    shards.require_sum(record_name(record.name))
    if not path.is_file():
        raise ShardError("missing")
    if path.stat().st_size != record.num_bytes:
        raise ShardError(f"{path.stat().st_size} bytes instead of {record.num_bytes}")
    for sample, stored in enumerate(record.samples):
        told = json.loads(shards.read(number, sample, "json"))["shots"]
        _require(len(told) == len(stored.num_latent_frames), stored.key, "another number of shots")
        context = shards.tensors(number, sample, CONTEXT)
        text = {} if shards.form.text_shape is None else shards.tensors(number, sample, TEXT)
        for shot, length in enumerate(stored.num_latent_frames):
            latents = shards.tensors(number, sample, f"shot{shot}.safetensors")["latents"]
            _check_latents(latents, (length,), shards.form, f"{stored.key}.shot{shot}")
            singles = context[f"shot{shot}"].transpose(0, 1)
            count = (len(told[shot]["context_frames"]),)
            _check_latents(singles, count, shards.form, f"{stored.key}.context shot{shot}")
            if shards.form.text_shape is not None:
                _check_embedding(text[f"shot{shot}"], shards.form, f"{stored.key}.text shot{shot}")
    if sha256_of_file(path) != record.sha256:
        raise ShardError("another sha256 than it was written with")


def _check_latents(latents: Tensor, frames: tuple[int, ...], form: ShardForm, name: str) -> None:
    shape = (form.latent_channels, *frames, form.latent_height, form.latent_width)
    _require(tuple(latents.shape) == shape, name, f"shape {tuple(latents.shape)} instead of {shape}")
    _check_values(latents, form, name)


def _check_embedding(embedding: Tensor, form: ShardForm, name: str) -> None:
    assert form.text_shape is not None
    rows, width = embedding.shape if embedding.ndim == 2 else (form.text_shape[0] + 1, 0)
    fits = rows <= form.text_shape[0] and width == form.text_shape[1]
    _require(fits, name, f"an embedding of shape {tuple(embedding.shape)}")
    _check_values(embedding, form, name)


def _check_values(values: Tensor, form: ShardForm, name: str) -> None:
    _require(values.dtype == DTYPES[form.dtype], name, f"dtype {values.dtype} instead of {form.dtype}")
    _require(bool(torch.isfinite(values).all()), name, "values that are not finite")


def _require(fits: bool, name: str, what: str) -> None:
    if not fits:
        raise ShardError(f"{name}: {what}" if name else what)
