"""Atomic files: they exist completely or not at all, even if the process or the machine stops."""

import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

if os.name == "posix":
    import fcntl


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """Yields a file to write; if the block succeeds, it replaces `path`, which is unchanged until then."""
    part = _part_of(path)
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        flush(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(content: bytes, path: Path) -> None:
    """Writes `content`, so that `path` holds either the old file or the complete new one."""
    with replacing(path) as file:
        file.write(content)


def make_atomically(path: Path, make: Callable[[Path], None]) -> None:
    """Calls `make` with a temporary path beside `path`, then flushes the result and renames it to `path`."""
    part = _part_of(path)
    remove(part)
    make(part)
    for file in [part, *part.rglob("*")] if part.is_dir() else [part]:
        flush(file)
    if path.is_dir():
        remove(path)
    part.replace(path)
    flush(path.parent)


def at_home(path: Path, remedy: str) -> Path:
    """Returns a path with `~` expanded; ValueError, with `remedy`, if the home directory is unknown."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: this account has no home folder; {remedy}") from error


def require_directory(path: Path) -> None:
    """Raises ValueError unless `path` is a writable directory, or one could be created; it is not."""
    nearest = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not nearest.is_dir():
        raise ValueError(f"{nearest} is a file, and a directory is needed there; give another")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{nearest} cannot be written to; give another directory")


def lock_file(path: Path) -> int | None:
    """Returns a descriptor that locks a file against other processes; None if another one holds the lock.

    The system releases the lock when the process ends.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if os.name == "posix":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
    return descriptor


def flush(path: Path) -> None:
    """Waits until a file's content, or a directory's entries, are on disk."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Deletes a file or a directory with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _part_of(path: Path) -> Path:
    """Returns the temporary path; it keeps the suffix, by which video writers choose a format."""
    return path.with_name(f".part.{path.name}")
