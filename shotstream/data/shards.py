"""Encoded clips on disk: WebDataset shards, a record of the members of each, and an index.

    index.json               what the shards were made with, every shard's size, SHA-256 and counts, and the
                             SHA-256 of every other file; written last, when the directory is complete
    form.json                what the shards are made with; written first
    unconditional.safetensors  unconditional text embeddings, for guidance
    shard-000000.tar         a WebDataset shard, uncompressed; a sample is one clip:
        KEY.json                 video, captions, frame ranges, frame rate, one entry per shot
        KEY.context.safetensors  per shot, single frames that may become context, each encoded alone
        KEY.shot0.safetensors    the first shot encoded as a video; KEY.shot1.safetensors, ...
        KEY.text.safetensors     embeddings of the composed captions, without the zero rows at their end
    shard-000000.json        offsets of the members of each sample, their lengths and checksums

Any WebDataset reader can stream the shards. Training here reads single members through the offsets instead,
because an order that is new in every epoch and can be resumed exactly needs random access: a stream can only
be shuffled in a buffer, whose content depends on everything read before.
"""

import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from shotstream.configs import ConfigError, config_from_document
from shotstream.files import write_atomically
from shotstream.weights.tensor_files import sha256_of_file

FORMAT = "shotstream-shards/1"
INDEX_NAME, FORM_NAME, UNCONDITIONAL_NAME = "index.json", "form.json", "unconditional.safetensors"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
CONTEXT, TEXT = "context.safetensors", "text.safetensors"
_SHARD = re.compile(r"shard-[0-9]{6,}\.tar")


class ShardError(ValueError):
    """Shards that are missing, incomplete, damaged or of another kind; the message names the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardForm:
    """The form of a directory of shards: the sizes and models that all its shards share."""

    model_id: str
    """Name of the bundle whose codec and text encoder were used."""
    family: str
    weights_sha256: str
    """SHA-256 of that bundle."""
    manifest_sha256: str
    """SHA-256 of the clips in the manifest."""
    num_clips: int
    """Number of clips in the manifest."""
    clips_per_shard: int
    fps: int
    height: int
    """Height of a frame in pixels."""
    width: int
    latent_channels: int
    latent_height: int
    latent_width: int
    chunk_latent_frames: int
    """Minimum number of latent frames of a shot."""
    max_latent_frames: int
    """Maximum number of latent frames of a shot."""
    context_budget: int
    """Number of context frames that the stored single frames can serve."""
    dtype: str
    """Dtype of latents and embeddings."""
    text_shape: tuple[int, int] | None = None
    """Rows and width of an embedding; None: captions are stored as text only."""

    @property
    def num_shards(self) -> int:
        """Number of shards, including empty ones."""
        return -(-self.num_clips // self.clips_per_shard)


class Member(NamedTuple):
    """The place of a file in its shard: offset and size in bytes."""

    offset: int
    num_bytes: int
    crc32: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredSample:
    """A clip in a shard: its key, its files and the lengths of its shots."""

    key: str
    """Index of the clip in the manifest, with eight digits."""
    num_latent_frames: tuple[int, ...]
    """Number of latent frames of each of its shots."""
    members: Mapping[str, Member]
    """Place of each file, by the part of its name after the key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRecord:
    """The record of a shard: its samples and its checksum."""

    name: str
    num_bytes: int
    sha256: str
    num_samples: int
    num_shots: int
    num_short_shots: int
    """Number of shots left out because they do not fill a chunk."""
    bad_clips: tuple[tuple[str, str], ...] = ()
    """Video and reason for each clip that was left out."""
    samples: tuple[StoredSample, ...] = field(default=(), repr=False)

    def summary(self) -> dict[str, Any]:
        """Returns the record without its samples, as plain JSON."""
        return {name: value for name, value in asdict(self).items() if name != "samples"}


def shard_name(number: int) -> str:
    """Returns the name of a shard's tar file."""
    return f"shard-{number:06d}.tar"


def document_bytes(document: Mapping[str, Any]) -> bytes:
    """Returns JSON as stored on disk: equal content gives equal bytes."""
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a JSON file atomically."""
    write_atomically(document_bytes(document), path)


def read_document(path: Path, advice: str) -> dict[str, Any]:
    """Returns a JSON file of this format; ShardError, with `advice`, if it is missing or invalid."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ShardError(f"{path}: is missing; {advice}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ShardError(f"{path}: cannot be read, or is damaged; {advice}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ShardError(f"{path}: not of the format {FORMAT!r}; {advice}")
    return document


def form_document(form: ShardForm) -> dict[str, Any]:
    """Returns a form as plain JSON."""
    return {"format": FORMAT, **json.loads(json.dumps(asdict(form)))}


def read_form(path: Path, advice: str) -> ShardForm:
    """Returns the form in form.json or index.json; raises ShardError if there is none."""
    document = read_document(path, advice)
    lacking = [name for name in ShardForm.__dataclass_fields__ if name not in document]
    if lacking:
        raise ShardError(f"{path}: damaged, it lacks {lacking[0]!r}; {advice}")
    values: dict[str, Any] = {name: document[name] for name in ShardForm.__dataclass_fields__}
    shape = values["text_shape"]
    is_shape = isinstance(shape, list) and len(shape) == 2 and all(type(size) is int for size in shape)
    if shape is not None and not is_shape:
        raise ShardError(f"{path}: damaged, its text_shape is no pair of numbers; {advice}")
    values["text_shape"] = None if shape is None else tuple(shape)
    try:
        return config_from_document(ShardForm, values, str(path))
    except ConfigError as error:
        raise ShardError(f"{error}; {advice}") from error


def write_record(directory: Path, record: ShardRecord) -> None:
    """Writes the record of a shard, which marks the shard as complete."""
    document = {"format": FORMAT, **asdict(record)}
    write_document(_record_path(directory, record.name), document)


def read_record(directory: Path, name: str) -> ShardRecord:
    """Returns the record that `write_record` wrote; raises ShardError if it is missing or damaged."""
    path = _record_path(directory, name)
    document = read_document(path, "encode the shard again: delete it and run the same command")
    try:
        values: dict[str, Any] = {key: document[key] for key in ShardRecord.__dataclass_fields__}
        values["bad_clips"] = tuple((video, why) for video, why in values["bad_clips"])
        values["samples"] = tuple(
            StoredSample(
                key=sample["key"],
                num_latent_frames=tuple(sample["num_latent_frames"]),
                members={name: Member(*where) for name, where in sample["members"].items()},
            )
            for sample in values["samples"]
        )
        return ShardRecord(**values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{path}: damaged; delete the shard and encode it again") from error


def has_record(directory: Path, name: str) -> bool:
    """Returns whether a shard is complete."""
    return _record_path(directory, name).is_file() and (directory / name).is_file()


def write_index(directory: Path, form: ShardForm, records: Sequence[ShardRecord]) -> None:
    """Writes the index, which marks a directory as complete."""
    shards = [record.summary() for record in records]
    names = [FORM_NAME, *(record_name(record.name) for record in records)]
    if form.text_shape is not None:
        names.append(UNCONDITIONAL_NAME)
    sums = {name: sha256_of_file(directory / name) for name in names}
    write_document(directory / INDEX_NAME, {**form_document(form), "shards": shards, "sums": sums})


class ShardDirectory:
    """A complete directory of shards, open for reading; any number of threads may read.

    Raises:
        ShardError: There is no index: it is not a directory of shards, or it is not complete.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        path = directory / INDEX_NAME
        advice = "give a directory that `shotstream data encode` has finished"
        self.form = read_form(path, advice)
        document = read_document(path, advice)
        listed, sums = document.get("shards"), document.get("sums", {})
        is_list = isinstance(listed, list) and isinstance(sums, dict)
        if not is_list or not listed or not all(map(_is_summary, listed)):
            raise ShardError(f"{path}: damaged, it lists no shards; {advice}")
        self.shards: list[dict[str, Any]] = listed
        self.sums: dict[str, str] = sums
        """SHA-256 of every other file; empty for directories of earlier versions."""
        self.record = lru_cache(maxsize=64)(self._record)

    def _record(self, shard: int) -> ShardRecord:
        summary = self.shards[shard]
        record = read_record(self.directory, summary["name"])
        if json.loads(json.dumps(record.summary())) != summary:
            raise ShardError(f"{self.directory / summary['name']}: is not the shard that the index lists")
        return record

    def require_sum(self, name: str) -> None:
        """Raises ShardError if a file differs from its SHA-256 in the index, if that has one."""
        path = self.directory / name
        if not path.is_file():
            raise ShardError(f"{path}: is missing")
        if name in self.sums and sha256_of_file(path) != self.sums[name]:
            raise ShardError(f"{path}: is damaged: another sha256 than it was written with")

    def read(self, shard: int, sample: int, member: str) -> bytes:
        """Returns the bytes of a member.

        Raises:
            ShardError: They are missing, or differ from what was written.
        """
        record = self.record(shard)
        stored = record.samples[sample]
        path = self.directory / record.name
        where = stored.members[member]
        try:
            with path.open("rb") as file:
                content = os.pread(file.fileno(), where.num_bytes, where.offset)
        except OSError as error:
            raise ShardError(f"{path}: cannot be read ({error.strerror})") from error
        if len(content) != where.num_bytes or zlib.crc32(content) != where.crc32:
            raise ShardError(f"{path}: {stored.key}.{member} is damaged")
        return content

    def tensors(self, shard: int, sample: int, member: str) -> dict[str, Tensor]:
        """Returns the tensors of a member as stored; raises ShardError like `read`."""
        content = self.read(shard, sample, member)
        try:
            return load_tensors(content)
        except SafetensorError as error:
            raise ShardError(f"{self.directory / shard_name(shard)}: {member} holds no tensors") from error


def sha256_of_documents(documents: Iterable[Mapping[str, Any]]) -> str:
    """Returns the SHA-256 of plain JSON documents, in order."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps(document, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def record_name(shard: str) -> str:
    """Returns the name of a shard's record file."""
    return shard.removesuffix(".tar") + ".json"


def num_whole_shards(directory: Path) -> int:
    """Returns the number of shards that are complete."""
    return sum(has_record(directory, path.name) for path in directory.glob("shard-*.tar"))


def _is_summary(told: object) -> bool:
    """Returns whether the entry of a shard in an index has the form of `ShardRecord.summary`."""
    counts = ("num_bytes", "num_samples", "num_shots", "num_short_shots")
    return (
        isinstance(told, dict)
        and told.keys() >= {name for name in ShardRecord.__dataclass_fields__ if name != "samples"}
        and all(type(told[name]) is int for name in counts)
        and isinstance(told["name"], str)
        and _SHARD.fullmatch(told["name"]) is not None
    )


def _record_path(directory: Path, name: str) -> Path:
    return directory / record_name(name)
