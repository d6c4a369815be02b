"""The work directory of a film, `film.mp4.partial/`: each shot is stored in it before the next begins.

It holds the plan; for each finished shot its frames (lossless) and a small record with their hashes; and the
state of the session after the last one. A shot counts as finished once its record exists, because that is
written last. Every file is written under another name, flushed to disk and then renamed: after a crash or a
power cut, a file exists completely or not at all.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from jaxtyping import UInt8

from shotstream.files import make_atomically, remove
from shotstream.film.replay import Environment, FilmPlan, Replay, hash_frames
from shotstream.video.video_io import VideoError, read_frames, write_lossless

if os.name == "posix":
    import fcntl

_PLAN = "plan.json"


class WorkDirError(ValueError):
    """Unfinished work that cannot be resumed; the message says what to do."""


class OtherWorkError(WorkDirError):
    """A work directory of another film. The caller may discard it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedShot:
    """A shot that is stored on disk."""

    shot_index: int
    """Index of the shot in the film, from 0."""
    frames_file: Path
    """Path of its frames, lossless."""
    frame_sha256: tuple[str, ...]
    """SHA-256 of each frame."""


class WorkDir:
    """The work directory of a film, used by one process at a time.

    It is a context manager; the directory stays unless `remove` is called.

    Args:
        path: The directory, created if it does not exist.
        plan: The plan of the film.
        environment: The environment in which it is generated.
        fps: Frames per second of the stored frames.

    Raises:
        OtherWorkError: It holds the work of another film.
        WorkDirError: Another process uses it, or it holds something else.
    """

    def __init__(self, path: Path, plan: FilmPlan, environment: Environment, fps: int | Fraction) -> None:
        self.path = path
        self._fps = fps
        path.mkdir(parents=True, exist_ok=True)
        self._lock = _take_lock(path)
        document = _document(plan, environment)
        try:
            if not (path / _PLAN).exists():
                _check_empty(path)
                make_atomically(path / _PLAN, lambda part: _write_json(part, document))
            _check_same_work(path, document)
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> "WorkDir":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def finished_shots(self) -> list[FinishedShot]:
        """Returns the finished shots, in order from the first.

        Raises:
            WorkDirError: A record cannot be read.
        """
        shots: list[FinishedShot] = []
        while (record := self._record(len(shots))).exists():
            try:
                hashes = tuple(map(str, json.loads(record.read_text(encoding="utf-8"))["frame_sha256"]))
            except (ValueError, KeyError, TypeError) as error:
                raise WorkDirError(f"{record} is damaged; delete {self.path} and start again") from error
            shots.append(
                FinishedShot(shot_index=len(shots), frames_file=self._frames(len(shots)), frame_sha256=hashes)
            )
        return shots

    def keep_shot(
        self, shot_index: int, frames: UInt8[np.ndarray, "f h w 3"], save_session: Callable[[Path], None]
    ) -> FinishedShot:
        """Stores a shot: its frames, then the session's state, then the record that marks it as finished.

        Args:
            shot_index: Index of the shot, from 0; shots are stored in order.
            frames: All its frames.
            save_session: Writes the session's state after this shot to the path that it is given.
        """
        hashes = hash_frames(frames)
        make_atomically(self._frames(shot_index), lambda part: write_lossless(part, frames, self._fps))
        make_atomically(self.session_file(shot_index), save_session)
        document = {"frame_sha256": hashes}
        make_atomically(self._record(shot_index), lambda part: _write_json(part, document))
        if shot_index > 0:
            remove(self.session_file(shot_index - 1))
        return FinishedShot(shot_index=shot_index, frames_file=self._frames(shot_index), frame_sha256=hashes)

    def session_file(self, shot_index: int) -> Path:
        """Returns the path of the session's state after a shot; only the last finished shot's is kept."""
        return self.path / f"session_{shot_index:04}"

    def remove(self) -> None:
        """Deletes the directory when the film is complete."""
        discard_work(self.path)

    def _frames(self, shot_index: int) -> Path:
        return self.path / f"shot_{shot_index:04}.mkv"

    def _record(self, shot_index: int) -> Path:
        return self.path / _record_name(shot_index)

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def num_finished_shots(path: Path) -> int:
    """Returns the number of finished shots in the directory of any film; 0 if it does not exist."""
    num_shots = 0
    while (path / _record_name(num_shots)).is_file():
        num_shots += 1
    return num_shots


def is_work_of(path: Path, replay: Replay) -> bool:
    """Returns whether the directory holds the work that made a film."""
    try:
        found = json.loads((path / _PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return found == json.loads(_to_json(_document(replay.plan, replay.environment)))


def discard_work(path: Path) -> None:
    """Deletes unfinished work. It is renamed first, so that a crash leaves nothing that could be resumed."""
    discarded = path.with_name(f"{path.name}.old")
    remove(discarded)
    path.replace(discarded)
    remove(discarded)


def load_frames(shot: FinishedShot) -> UInt8[np.ndarray, "f h w 3"]:
    """Returns the shot's frames, bit for bit.

    Raises:
        WorkDirError: The file differs from what was written.
    """
    try:
        frames = read_frames(shot.frames_file)
    except VideoError as error:
        raise WorkDirError(f"{error}; delete {shot.frames_file.parent} and start again") from error
    if hash_frames(frames) != shot.frame_sha256:
        raise WorkDirError(
            f"{shot.frames_file} has changed since it was written; "
            f"delete {shot.frames_file.parent} and start again"
        )
    return frames


def _take_lock(directory: Path) -> int | None:
    """Returns a descriptor that keeps other processes out; the system releases it when this process ends."""
    if os.name != "posix":
        return None
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise WorkDirError(f"another process is making this film ({directory}); wait for it") from error
    return descriptor


def _record_name(shot_index: int) -> str:
    return f"shot_{shot_index:04}.json"


def _document(plan: FilmPlan, environment: Environment) -> dict[str, Any]:
    return {"plan": plan.to_document(), "environment": asdict(environment)}


def _to_json(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _write_json(path: Path, document: object) -> None:
    path.write_text(_to_json(document), encoding="utf-8")


def _check_empty(path: Path) -> None:
    strangers = [file.name for file in path.iterdir() if file.name not in ("lock", f".part.{_PLAN}")]
    if strangers:
        raise WorkDirError(f"{path} holds {strangers[0]!r} and no unfinished film; choose another name")


def _check_same_work(path: Path, document: dict[str, Any]) -> None:
    try:
        found = json.loads((path / _PLAN).read_text(encoding="utf-8"))
        stored = {
            "plan": FilmPlan.from_document(found["plan"]).to_document(),
            "environment": found["environment"],
        }
    except (ValueError, KeyError, TypeError) as error:
        raise WorkDirError(f"{path} holds no unfinished film of this version; delete it") from error
    for part in ("plan", "environment"):
        mine, theirs = cast("dict[str, Any]", document[part]), cast("dict[str, Any]", stored[part])
        odd = [name for name in mine if mine[name] != theirs.get(name)]
        if odd and part == "plan":
            raise OtherWorkError(
                f"{path} holds unfinished work with another {' and '.join(odd)}; "
                "go on with the command that began it, or discard it with --overwrite"
            )
        if odd:
            changed = "; ".join(f"{name} was {theirs.get(name)}, is {mine[name]}" for name in odd)
            raise OtherWorkError(
                f"{path} was begun where frames come out differently ({changed}); "
                "go on there, or discard it with --overwrite"
            )
