"""A file is the old one or the whole new one, wherever the process or the machine stops."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shotstream.files import make_atomically, write_atomically

_OLD, _NEW = b"old content", b"the new content, which is longer"


class _Stopped(BaseException):
    """A kill: nothing after it is done, and nothing is tidied up that a kill would leave."""


def _watched(monkeypatch: pytest.MonkeyPatch, stop_at: int) -> list[str]:
    """Every step that reaches the disk, by name; from number `stop_at` on there is no process any more."""
    steps: list[str] = []

    def watch(owner: Any, name: str, describe: Callable[..., str]) -> None:
        real = getattr(owner, name)

        def step(*args: Any, **options: Any) -> Any:
            if len(steps) >= stop_at:
                raise _Stopped
            steps.append(describe(*args))
            return real(*args, **options)

        monkeypatch.setattr(owner, name, step)

    def path_of(descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").readlink().name

    watch(os, "fsync", lambda descriptor: f"flush {path_of(descriptor)}")
    watch(Path, "replace", lambda path, target: f"rename {path.name} to {Path(target).name}")
    watch(Path, "unlink", lambda path, **_: f"unlink {path.name}")
    return steps


def _write(path: Path) -> None:
    write_atomically(_NEW, path)


def _make(path: Path) -> None:
    make_atomically(path, lambda part: part.write_bytes(_NEW) and None)


def _make_directory(path: Path) -> None:
    def make(part: Path) -> None:
        part.mkdir()
        (part / "a").write_bytes(_NEW)
        (part / "b").write_bytes(_NEW)

    make_atomically(path, make)


@pytest.mark.parametrize("write", [_write, _make])
def test_a_kill_at_any_step_leaves_the_old_file_or_the_whole_new_one(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    found: list[bytes] = []
    for stop_at in range(10):
        directory = tmp_path / str(stop_at)
        directory.mkdir()
        path = directory / "film.mkv"
        path.write_bytes(_OLD)
        with pytest.MonkeyPatch.context() as patch:
            steps = _watched(patch, stop_at)
            with contextlib.suppress(_Stopped):
                write(path)
        found.append(path.read_bytes())
        if len(steps) < stop_at:
            break
    assert found[0] == _OLD and found[-1] == _NEW
    assert set(found) == {_OLD, _NEW}
    assert found == sorted(found, key=lambda content: content == _NEW), "never back again"
    # A machine that stops keeps what was flushed: the content before its name, the name before the end.
    order = [step for step in steps if not step.startswith("unlink")]
    assert order == ["flush .part.film.mkv", "rename .part.film.mkv to film.mkv", f"flush {path.parent.name}"]


def test_a_directory_is_flushed_file_by_file_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = _watched(monkeypatch, 100)
    _make_directory(tmp_path / "frames")
    named = steps.index("rename .part.frames to frames")
    assert {step for step in steps[:named] if step.startswith("flush")} == {
        "flush .part.frames", "flush a", "flush b",
    }  # fmt: skip
    assert steps[named + 1] == f"flush {tmp_path.name}"


def test_what_an_earlier_kill_left_is_not_part_of_the_next(tmp_path: Path) -> None:
    part = tmp_path / ".part.frames"
    part.mkdir()
    (part / "stray").write_bytes(_OLD)
    _make_directory(tmp_path / "frames")
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["frames"]


def test_a_maker_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    path.write_bytes(_OLD)

    def fail(part: Path) -> None:
        part.write_bytes(_NEW[:3])
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        make_atomically(path, fail)
    assert path.read_bytes() == _OLD
