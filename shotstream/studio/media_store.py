"""The files of takes: the recording, the lossless frames and the memory, one directory for each take.

    media/<story>/<take>/recording.mp4        MP4 header and fragments, exactly as they were sent
                         frames.mkv           the lossless frames
                         memory.safetensors   the latents that later shots are conditioned on

A take's directory is written under another name and renamed, so it exists completely or not at all. Files are
compared with the hashes in the take's record when they are read; a corrupt take is never used. The directory
of a story that is to be deleted is renamed first, so that a crash cannot bring the story back. Ids are
checked before they become part of a path. Files with other names are not touched. Directories and files are
readable by their owner alone.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from shotstream.files import flush, make_atomically, remove
from shotstream.film.replay import hash_frames
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.saved_session import SavedSession, SessionError, Take, read_session, write_session
from shotstream.studio.take_record import TakeRecord
from shotstream.video.video_io import FragmentWriter, H264Settings, VideoError, read_frames, write_lossless

_ID = re.compile(r"[0-9a-f]{16}")
_RECORDING, _FRAMES, _MEMORY = "recording.mp4", "frames.mkv", "memory.safetensors"
_DELETED = ".deleted."
_PROBE, _PROBE_BYTES = ".probe.", 2**16

Frames = UInt8[np.ndarray, "f h w 3"]


class CorruptTakeError(ValueError):
    """A take whose files are missing or differ from the hashes in its record."""

    def __init__(self, take_id: str, what: str) -> None:
        super().__init__(f"the files of a take are damaged: {what}")
        self.take_id = take_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """The MP4 recording of a take, as viewers were sent it."""

    header: bytes
    fragments: tuple[bytes, ...]
    """One fragment for each chunk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TakeFiles:
    """The contents of a take's files."""

    recording: Recording
    frames: Frames
    memory: Take


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedFiles:
    """The size and the hashes of a take's files on disk."""

    num_bytes: int
    """Size of all files in bytes."""
    file_sha256: dict[str, str]
    """SHA-256 of each file, by file name."""


def make_private_dir(path: Path) -> None:
    """Creates a directory, if it does not exist, and makes it accessible to its owner alone."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)


class MediaStore:
    """Reads and writes the files of takes.

    Args:
        root: A directory that no other server uses; created if it does not exist.
        pipeline: The pipeline that generates the takes.
    """

    def __init__(self, root: Path, pipeline: StreamingPipeline) -> None:
        make_private_dir(root)
        for left in root.glob(f"{_PROBE}*"):
            remove(left)
        self._root = root
        self._pipeline = pipeline
        self._verified: dict[Path, tuple[int, int, str]] = {}

    def save_take(self, story_id: str, take_id: str, files: TakeFiles) -> SavedFiles:
        """Writes the files of a take.

        Raises:
            OSError: A file cannot be written, on a full disk for example; no file is left.
        """
        target = self._take_dir(story_id, take_id)
        make_private_dir(target.parent)

        def make(part: Path) -> None:
            part.mkdir(mode=0o700)
            for name, write in self._writers(files).items():
                write(part / name)
                (part / name).chmod(0o600)

        try:
            make_atomically(target, make)
        except BaseException:
            remove(target.with_name(f".part.{target.name}"))
            raise
        return self._saved_files(target)

    def rewrite_corrupt_files(self, story_id: str, record: TakeRecord, files: TakeFiles) -> TakeRecord:
        """Writes the corrupt files of a take again, each atomically, and returns its new record."""
        target = self._take_dir(story_id, record.take_id)
        make_private_dir(target)
        writers = self._writers(files)
        for name in self._corrupt_files(record, target):

            def write(part: Path, name: str = name) -> None:
                writers[name](part)
                part.chmod(0o600)

            make_atomically(target / name, write)
            if name == _RECORDING:
                recording = files.recording
                lengths = tuple(map(len, recording.fragments))
                record = replace(record, header_bytes=len(recording.header), chunk_bytes=lengths)
        kept = self._saved_files(target)
        return replace(record, num_bytes=kept.num_bytes, file_sha256=kept.file_sha256)

    def read_memory(self, story_id: str, record: TakeRecord) -> Take:
        """Returns the memory of a take; raises CorruptTakeError."""
        path = self._take_dir(story_id, record.take_id) / _MEMORY
        self._verify_file(path, record)
        try:
            take = read_session(path).takes[0]
        except (SessionError, IndexError) as error:
            raise CorruptTakeError(record.take_id, _MEMORY) from error
        if (take.num_frames, take.num_chunks) != (record.num_frames, record.num_chunks):
            raise CorruptTakeError(record.take_id, _MEMORY)
        return take

    def read_frames(self, story_id: str, record: TakeRecord) -> Frames:
        """Returns the lossless frames of a take; raises CorruptTakeError."""
        return self._frames(story_id, record, 0, record.num_frames)

    def read_frame(self, story_id: str, record: TakeRecord, frame_index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Returns one lossless frame, which must exist; raises CorruptTakeError."""
        return self._frames(story_id, record, frame_index, frame_index + 1)[0]

    def recording_path(self, story_id: str, record: TakeRecord) -> Path:
        """Returns the path of a recording that was verified; raises CorruptTakeError."""
        path = self._take_dir(story_id, record.take_id) / _RECORDING
        self._verify_file(path, record)
        return path

    def read_recording(self, story_id: str, record: TakeRecord) -> Recording:
        """Returns a recording, split into header and fragments; raises CorruptTakeError."""
        data = self.recording_path(story_id, record).read_bytes()
        ends = np.cumsum([record.header_bytes, *record.chunk_bytes]).tolist()
        return Recording(
            header=data[: record.header_bytes],
            fragments=tuple(data[start:end] for start, end in pairwise(ends)),
        )

    def delete_take(self, story_id: str, take_id: str) -> None:
        """Deletes the files of a take that was not committed."""
        remove(self._take_dir(story_id, take_id))

    def mark_deleted(self, story_id: str) -> None:
        """Marks the files of a story for deletion. The next start completes it if the server stops here."""
        if self._story_dir(story_id).exists():
            self._story_dir(story_id).replace(self._root / f"{_DELETED}{story_id}")
            flush(self._root)

    def unmark_deleted(self, story_id: str) -> None:
        """Removes the mark again."""
        if (self._root / f"{_DELETED}{story_id}").exists():
            (self._root / f"{_DELETED}{story_id}").replace(self._story_dir(story_id))
            flush(self._root)

    def delete_marked_takes(self, story_id: str) -> None:
        """Deletes the takes of a story that is marked for deletion, and keeps the mark."""
        condemned = self._root / f"{_DELETED}{story_id}"
        for take in condemned.iterdir() if condemned.is_dir() else ():
            remove(take)

    def delete_marked_story(self, story_id: str) -> None:
        """Deletes all that is left of a story that is marked for deletion."""
        remove(self._root / f"{_DELETED}{story_id}")

    def stories_marked_deleted(self) -> list[str]:
        """Returns the ids of stories that are marked for deletion."""
        names = (path.name.removeprefix(_DELETED) for path in self._root.glob(f"{_DELETED}*"))
        return [name for name in names if _ID.fullmatch(name)]

    def take_ids(self) -> set[tuple[str, str]]:
        """Returns (story id, take id) of every take on disk."""
        return {(take.parent.name, take.name) for take in self._take_dirs() if _ID.fullmatch(take.name)}

    def quarantine_unknown_takes(self, known: set[tuple[str, str]], quarantine: Path) -> int:
        """Moves takes that are not in the database to `quarantine`, and returns how many.

        A crash between writing a take and its commit leaves one, and so does a database from a backup.
        Directories of takes that were not written completely are deleted.
        """
        num_moved = 0
        for take in list(self._take_dirs()):
            if take.name.startswith(".part."):
                remove(take)
            elif (take.parent.name, take.name) not in known:
                target = quarantine / take.parent.name
                make_private_dir(quarantine.parent)
                make_private_dir(target)
                remove(target / take.name)
                take.replace(target / take.name)
                num_moved += 1
            else:
                for part in take.glob(".part.*"):
                    remove(part)
        for story in self._story_dirs():
            if not any(story.iterdir()):
                story.rmdir()
        return num_moved

    def restore_quarantined_takes(self, known: set[tuple[str, str]], quarantines: Path) -> int:
        """Moves takes that are in the database again back from quarantine, and returns how many."""
        num_moved = 0
        for story_id, take_id in sorted(known - self.take_ids()):
            for found in sorted(quarantines.glob(f"*/{story_id}/{take_id}")):
                make_private_dir(self._story_dir(story_id))
                found.replace(self._take_dir(story_id, take_id))
                num_moved += 1
                break
        return num_moved

    def check_writable(self) -> None:
        """Raises OSError if the disk cannot be written. May be called from any thread."""
        with tempfile.NamedTemporaryFile(dir=self._root, prefix=_PROBE) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())

    def _writers(self, files: TakeFiles) -> dict[str, Callable[[Path], object]]:
        pipeline, recording = self._pipeline, files.recording
        session = SavedSession(
            model_id=pipeline.config.model_id,
            weights_sha256=pipeline.weights_sha256,
            context_policy=pipeline.config.context_policy,
            global_caption="",
            seed=0,
            takes=(files.memory,),
            pins=(),
        )
        return {
            _RECORDING: lambda path: path.write_bytes(recording.header + b"".join(recording.fragments)),
            _FRAMES: lambda path: write_lossless(path, files.frames, self._pipeline.fps),
            _MEMORY: lambda path: write_session(path, session),
        }

    def _frames(self, story_id: str, record: TakeRecord, start: int, stop: int) -> Frames:
        try:
            frames = read_frames(self._take_dir(story_id, record.take_id) / _FRAMES, start, stop)
        except VideoError as error:
            raise CorruptTakeError(record.take_id, _FRAMES) from error
        if hash_frames(frames) != record.frame_sha256[start:stop]:
            raise CorruptTakeError(record.take_id, _FRAMES)
        return frames

    def _corrupt_files(self, record: TakeRecord, target: Path) -> list[str]:
        """Returns the names of the files of a take that are corrupt."""
        checks: dict[str, Callable[[str, TakeRecord], object]] = {
            _RECORDING: self.recording_path,
            _FRAMES: self.read_frames,
            _MEMORY: self.read_memory,
        }
        found: list[str] = []
        for name, check in checks.items():
            try:
                check(target.parent.name, record)
            except CorruptTakeError:
                found.append(name)
        return found

    def _verify_file(self, path: Path, record: TakeRecord) -> None:
        """Compares a file with its recorded hash, unless it is unchanged since the last comparison."""
        try:
            stat = path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, record.file_sha256.get(path.name, ""))
            if self._verified.get(path) == seen:
                return
            if seen[2] and _sha256(path) != seen[2]:
                raise CorruptTakeError(record.take_id, path.name)
        except FileNotFoundError as error:
            raise CorruptTakeError(record.take_id, f"{path.name} is missing") from error
        if (
            not seen[2]
            and path.name == _RECORDING
            and stat.st_size != record.header_bytes + sum(record.chunk_bytes)
        ):
            raise CorruptTakeError(record.take_id, path.name)
        self._verified[path] = seen

    def _saved_files(self, target: Path) -> SavedFiles:
        files = [target / name for name in (_RECORDING, _FRAMES, _MEMORY)]
        return SavedFiles(
            num_bytes=sum(file.stat().st_size for file in files),
            file_sha256={file.name: _sha256(file) for file in files},
        )

    def _story_dirs(self) -> Iterator[Path]:
        return (path for path in self._root.iterdir() if _ID.fullmatch(path.name) and path.is_dir())

    def _take_dirs(self) -> Iterator[Path]:
        for story in list(self._story_dirs()):
            for take in list(story.iterdir()):
                if _ID.fullmatch(take.name.removeprefix(".part.")):
                    yield take

    def _story_dir(self, story_id: str) -> Path:
        assert _ID.fullmatch(story_id), "ids are the server's own"
        return self._root / story_id

    def _take_dir(self, story_id: str, take_id: str) -> Path:
        assert _ID.fullmatch(take_id), "ids are the server's own"
        return self._story_dir(story_id) / take_id


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encode_recording(
    pipeline: StreamingPipeline, scale: int, frames: Frames, ends: Sequence[int]
) -> Recording:
    """Returns the recording of frames, in chunks that end at the frames `ends`."""
    writer = fragment_writer(pipeline, scale)
    made = [writer.write(frames[start:end]) for start, end in pairwise([0, *ends])]
    return Recording(header=made[0][0], fragments=tuple(fragment for _, fragment in made))


def fragment_writer(pipeline: StreamingPipeline, scale: int) -> FragmentWriter:
    """Returns the encoder of a take's fragments."""
    return FragmentWriter(pipeline.fps, H264Settings(scale=scale, crf=16, preset="ultrafast"))


def mime_type(pipeline: StreamingPipeline, scale: int) -> str:
    """Returns the MIME type of recordings, with codecs as RFC 6381 has them, from a header of the encoder."""
    size = pipeline.pixel_size
    black = np.zeros((1, size.height, size.width, 3), np.uint8)
    header, _ = fragment_writer(pipeline, scale).write(black)
    # avcC: a version byte, then the three bytes that RFC 6381 asks for.
    start = header.index(b"avcC") + 5
    return f'video/mp4; codecs="avc1.{header[start : start + 3].hex()}"'
