"""Encodes the clips of a manifest once, with a frozen codec and text encoder, into shards.

Shard k holds the clips from k * clips_per_shard on, whatever the number of processes: process r of n makes
every n-th shard. Shards are therefore byte-identical for any number of processes, and an interrupted run
resumes after the last complete shard. A clip that cannot be read is reported, counted and left out, up to a
maximum number; above it the run ends. The properties in the form file beside the shards must not change
between calls.

webdataset comes with the `train` extra and is imported when the first shard is written.
"""

import logging
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from safetensors.torch import save

from shotstream.data.checks import bad_allowed
from shotstream.data.clips import ClipForm, ShotFrames, iter_shots
from shotstream.data.encode_clip import EncodedClip, embed_caption, encode_clip
from shotstream.data.shards import (
    DTYPES,
    FORM_NAME,
    UNCONDITIONAL_NAME,
    Member,
    ShardError,
    ShardForm,
    ShardRecord,
    StoredSample,
    form_document,
    has_record,
    read_form,
    read_record,
    sha256_of_documents,
    shard_name,
    write_document,
    write_index,
    write_record,
)
from shotstream.files import replacing, write_atomically
from shotstream.manifest import Clip, read_manifest
from shotstream.streaming.loading import Encoders
from shotstream.video.video_io import VideoError
from shotstream.weights.tensor_files import sha256_of_file

_log = logging.getLogger(__name__)

NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"  # noqa: RUF001
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，"  # noqa: RUF001
    "手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"  # noqa: RUF001
)
"""Negative prompt of Wan2.1's guidance, as published."""

UNCONDITIONAL_TEXT = {"theatre": "", "wan": NEGATIVE_PROMPT}
"""Text of the unconditional embedding, by model family."""


class TooManyBadClips(Exception):
    """More unreadable clips than allowed; the message names the last one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeConfig:
    """Configuration of the encoding of a manifest.

    Raises:
        ValueError: A value is out of range.
    """

    clips_per_shard: int = 64
    """Number of clips of a shard, at least 1."""
    dtype: str = "float16"
    """Dtype of stored latents and embeddings: float16 or bfloat16."""
    max_latent_frames: int | None = None
    """Maximum number of latent frames of a shot; longer ones are cut at the end. None: the model's default
    length.
    """
    with_text: bool = True
    """Whether to store captions as embeddings as well; a text encoder that is trained needs them as text."""
    max_bad: str = "1%"
    """Maximum of unreadable clips that are left out: a number, or a share of the manifest, rounded down."""
    num_workers: int = 1
    """Number of threads that read videos ahead; 0: none."""
    process: int = 0
    """Index of this process, from 0."""
    num_processes: int = 1
    """Number of processes that encode the manifest together, at least 1."""

    def __post_init__(self) -> None:
        if self.clips_per_shard < 1 or self.num_workers < 0:
            raise ValueError("a shard holds at least 1 clip, and there are at least 0 workers")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; give {' or '.join(DTYPES)}")
        if not 0 <= self.process < self.num_processes:
            raise ValueError(
                f"process {self.process} of {self.num_processes}; the first is 0, the last one less than all"
            )
        bad_allowed(self.max_bad, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeReport:
    """The result of a call to `encode_manifest`: numbers of shards and clips, and bad clips."""

    num_encoded: int
    """Number of shards made by this call."""
    num_kept: int
    """Number of this process's shards that were complete already."""
    num_clips: int
    """Number of clips in this process's shards."""
    num_short_shots: int
    bad_clips: tuple[tuple[str, str], ...]
    """Video and reason for each clip that was left out."""
    is_complete: bool
    """Whether every shard of the directory exists."""


def encode_manifest(
    manifest: Path,
    encoders: Encoders,
    directory: Path,
    config: EncodeConfig,
    progress: Callable[[int, int, str], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> EncodeReport:
    """Encodes this process's share of a manifest, or resumes it after its last complete shard.

    Args:
        manifest: The published CSV, or ShotStream's JSON Lines.
        encoders: The frozen codec and text encoder.
        directory: Directory of the shards; created if it does not exist.
        config: Configuration of the encoding.
        progress: Called with this process's number of finished clips, the number of all its clips, and the
            reason if one was left out, else "".
        warn: Called with the parts of the manifest that are ignored.

    Raises:
        ValueError: The manifest is invalid, or the directory holds shards made with other settings.
        TooManyBadClips: More clips than allowed are bad.
    """
    form = make_form(manifest, encoders, config, warn)
    _prepare(directory, form, encoders, config)
    own = range(config.process, form.num_shards, config.num_processes)
    total = sum(_num_clips(form, shard) for shard in own)
    allowed = bad_allowed(config.max_bad, form.num_clips)
    bad = [found for number in range(form.num_shards) for found in _bad_of(directory, number)]
    _check_bad(bad, allowed, form)
    done, num_encoded = 0, 0
    records: list[ShardRecord] = []
    clip_form = _clip_form(form, encoders)
    for number, clips in _shards_of(manifest, form, own):
        if has_record(directory, shard_name(number)):
            records.append(read_record(directory, shard_name(number)))
            done += len(clips)
            if progress:
                progress(done, total, "")
            continue
        samples = _encoded(clips, number * form.clips_per_shard, encoders, form, clip_form, config)

        def counted(samples: Iterator[EncodedClip] = samples) -> Iterator[EncodedClip]:
            nonlocal done
            for sample in samples:
                done += 1
                if sample.bad is not None:
                    bad.append(sample.bad)
                    _check_bad(bad, allowed, form)  # the message contains the last bad clip
                if progress:
                    progress(done, total, "" if sample.bad is None else f"{sample.bad[0]}: {sample.bad[1]}")
                elif sample.bad is not None:
                    _log.warning("left out: %s: %s", *sample.bad)
                yield sample

        records.append(_write_shard(directory, shard_name(number), counted()))
        num_encoded += 1
    return EncodeReport(
        num_encoded=num_encoded,
        num_kept=len(records) - num_encoded,
        num_clips=sum(record.num_samples for record in records),
        num_short_shots=sum(record.num_short_shots for record in records),
        bad_clips=tuple(found for record in records for found in record.bad_clips),
        is_complete=_complete(directory, form, allowed),
    )


def make_form(
    manifest: Path, encoders: Encoders, config: EncodeConfig, warn: Callable[[str], None] | None = None
) -> ShardForm:
    """Returns the form of a manifest's shards; reads the complete manifest, and no video.

    Raises:
        ValueError: A line of the manifest is invalid, or it is empty.
    """
    num_clips = 0

    def described() -> Iterator[dict[str, Any]]:
        nonlocal num_clips
        for clip in read_manifest(manifest, warn):
            num_clips += 1
            story = clip.story.to_document()
            yield {"video": clip.video.name, "ranges": clip.shot_ranges, "story": story}

    sha256 = sha256_of_documents(described())
    if not num_clips:
        raise ValueError(f"{manifest}: lists no clip")
    films, codec = encoders.config, encoders.codec
    latent = codec.geometry.latent_size(films.pixel_size)
    usual = codec.geometry.shot_num_latent_frames(films.num_chunks)
    return ShardForm(
        model_id=films.model_id,
        family=films.family,
        weights_sha256=encoders.weights_sha256,
        manifest_sha256=sha256,
        num_clips=num_clips,
        clips_per_shard=config.clips_per_shard,
        fps=films.fps,
        height=films.pixel_size.height,
        width=films.pixel_size.width,
        latent_channels=codec.latent_channels,
        latent_height=latent.height,
        latent_width=latent.width,
        chunk_latent_frames=codec.geometry.chunk_latent_frames,
        max_latent_frames=usual if config.max_latent_frames is None else config.max_latent_frames,
        context_budget=encoders.dit.num_context_frames,
        dtype=config.dtype,
        text_shape=(encoders.dit.text_length, encoders.dit.text_dim) if config.with_text else None,
    )


def _clip_form(form: ShardForm, encoders: Encoders) -> ClipForm:
    return ClipForm(
        size=encoders.config.pixel_size,
        fps=form.fps,
        geometry=encoders.codec.geometry,
        max_latent_frames=form.max_latent_frames,
    )


def _prepare(directory: Path, form: ShardForm, encoders: Encoders, config: EncodeConfig) -> None:
    """Creates the directory, or checks that it was made with the same form."""
    _clip_form(form, encoders)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / FORM_NAME
    if path.exists():
        found = read_form(path, "use another directory")
        differing = [name for name in ShardForm.__dataclass_fields__ if _of(found, name) != _of(form, name)]
        if differing:
            raise ValueError(
                f"{directory} holds shards with another {', '.join(differing)}; "
                "use another directory, or the same manifest, model and settings"
            )
        return
    # Files of a call that was killed before it wrote the form; nothing uses them yet.
    ours = (UNCONDITIONAL_NAME, f".part.{UNCONDITIONAL_NAME}", f".part.{FORM_NAME}")
    names = {entry.name for entry in directory.iterdir()}.difference(ours)
    if any(not name.endswith((".tmp", ".log")) for name in names):
        raise ValueError(f"{directory} is not empty and holds no shards; give a new directory")
    if config.with_text:
        text = UNCONDITIONAL_TEXT[form.family]
        tensors = {
            "empty": embed_caption("", encoders, form),
            "unconditional": embed_caption(text, encoders, form),
        }
        write_atomically(save(tensors), directory / UNCONDITIONAL_NAME)
    write_document(path, form_document(form))


def _of(form: ShardForm, name: str) -> object:
    return getattr(form, name)


def _shards_of(manifest: Path, form: ShardForm, own: Sequence[int]) -> Iterator[tuple[int, list[Clip]]]:
    clips = read_manifest(manifest)
    for number in range(form.num_shards):
        group = list(islice(clips, form.clips_per_shard))
        if number in own:
            yield number, group


def _num_clips(form: ShardForm, shard: int) -> int:
    return min(form.clips_per_shard, form.num_clips - shard * form.clips_per_shard)


def _encoded(
    clips: Sequence[Clip],
    first: int,
    encoders: Encoders,
    form: ShardForm,
    clip_form: ClipForm,
    config: EncodeConfig,
) -> Iterator[EncodedClip]:
    for number, (clip, result) in enumerate(_read_ahead(clips, clip_form, config.num_workers), start=first):
        key = f"{number:08d}"
        try:
            yield encode_clip(key, clip, result(), encoders, form)
        except VideoError as error:
            why = str(error).removeprefix(f"{clip.video}: ")
            yield EncodedClip(key, (), 0, {}, (str(clip.video), " ".join(why.split())))


def _read_ahead(
    clips: Sequence[Clip], form: ClipForm, num_workers: int
) -> Iterator[tuple[Clip, Callable[[], list[ShotFrames]]]]:
    """Yields each clip in order, with a function that returns its shots, which threads read ahead."""

    def read(clip: Clip) -> list[ShotFrames]:
        return list(iter_shots(clip, form))

    if not num_workers:
        for clip in clips:
            yield clip, lambda clip=clip: read(clip)
        return
    with ThreadPoolExecutor(num_workers) as pool:
        waiting: list[Future[list[ShotFrames]]] = []
        try:
            for index, clip in enumerate(clips):
                while len(waiting) <= num_workers and index + len(waiting) < len(clips):
                    waiting.append(pool.submit(read, clips[index + len(waiting)]))
                yield clip, waiting.pop(0).result
        finally:
            for future in waiting:
                future.cancel()


def _write_shard(directory: Path, name: str, samples: Iterator[EncodedClip]) -> ShardRecord:
    """Writes a shard, then its record; a shard without a record is made again."""
    try:
        from webdataset.writer import TarWriter
    except ImportError as error:
        raise ValueError(
            "writing shards needs webdataset; install it with: pip install 'shotstream[train]'"
        ) from error
    kept: list[EncodedClip] = []
    checksums: dict[str, int] = {}
    members: dict[str, dict[str, Member]] = {}
    bad: list[tuple[str, str]] = []
    path = directory / name
    with replacing(path) as file:
        # Fixed mtime and owner, so that the same clips give the same bytes.
        with TarWriter(file, encoder=False, mtime=0, user="", group="") as writer:
            for sample in samples:
                if sample.bad is not None:
                    bad.append(sample.bad)
                    continue
                writer.write({"__key__": sample.key, **sample.files})
                checksums |= {f"{sample.key}.{kind}": zlib.crc32(data) for kind, data in sample.files.items()}
                kept.append(sample._replace(files={}))
        file.flush()
        with tarfile.open(file.name) as tar:
            for entry in tar:
                key, _, kind = entry.name.partition(".")
                where = Member(entry.offset_data, entry.size, checksums[entry.name])
                members.setdefault(key, {})[kind] = where
    stored = tuple(
        StoredSample(key=sample.key, num_latent_frames=sample.num_latent_frames, members=members[sample.key])
        for sample in kept
    )
    record = ShardRecord(
        name=name,
        num_bytes=path.stat().st_size,
        sha256=sha256_of_file(path),
        num_samples=len(kept),
        num_shots=sum(len(sample.num_latent_frames) for sample in kept),
        num_short_shots=sum(sample.num_short_shots for sample in kept),
        bad_clips=tuple(bad),
        samples=stored,
    )
    write_record(directory, record)
    return record


def _bad_of(directory: Path, number: int) -> tuple[tuple[str, str], ...]:
    name = shard_name(number)
    return read_record(directory, name).bad_clips if has_record(directory, name) else ()


def _check_bad(bad: Sequence[tuple[str, str]], allowed: int, form: ShardForm) -> None:
    if len(bad) > allowed:
        raise TooManyBadClips(
            f"{bad[-1][0]}: {bad[-1][1]}; {len(bad)} bad clips, and --max-bad allows {allowed} of "
            f"{form.num_clips}"
        )


def _complete(directory: Path, form: ShardForm, allowed: int) -> bool:
    """Returns whether every shard of every process exists, and writes the index if so."""
    names = [shard_name(number) for number in range(form.num_shards)]
    if not all(has_record(directory, name) for name in names):
        return False
    records = [read_record(directory, name) for name in names]
    _check_bad([found for record in records for found in record.bad_clips], allowed, form)
    if not any(record.num_samples for record in records):
        raise ShardError(f"{directory}: no clip could be encoded")
    write_index(directory, form, records)
    return True
