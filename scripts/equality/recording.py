"""The recording of one checkout: values under names, progress on stderr, and the files that were made."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.equality.checkout import Checkout, CommandFailed
from scripts.equality.results import ERROR, FILE

_FAULTS = (CommandFailed, OSError, ValueError, KeyError, IndexError, RuntimeError, AssertionError)


class Recording:
    """Records values of a checkout, and writes them to a directory."""

    def __init__(self, directory: Path, checkout: Checkout, old: Path | None) -> None:
        """`old`: a recording whose files are read and continued; None: this recording's own files."""
        self.directory, self.checkout = directory, checkout
        self.old = (old or directory) / "work"
        self.things: dict[str, Any] = {}
        self.notes: dict[str, Any] = {}
        self.num_failed = 0

    @property
    def work(self) -> Path:
        """Directory of the files that are made."""
        return self.checkout.work

    @property
    def continues_itself(self) -> bool:
        """Whether it continues its own files, not those of an older recording."""
        return self.old == self.work

    def add(self, what: str, thing: Any) -> None:
        """Records a value."""
        assert what not in self.things, what
        self.things[what] = json.loads(json.dumps(thing))

    def add_note(self, what: str, thing: Any) -> None:
        """Records a value that is only reported if it differs, because names in it may change."""
        self.notes[what] = json.loads(json.dumps(thing))

    @contextmanager
    def section(self, what: str) -> Iterator[None]:
        """A section; if it fails, that is recorded and the other sections still run."""
        began_s = time.monotonic()
        try:
            yield
        except _FAULTS as error:
            self.num_failed += 1
            self.things[what] = {ERROR: f"{type(error).__name__}: {error}"}
            log(f"  {what}: FAILED: {error}")
        else:
            log(f"  {what} ({time.monotonic() - began_s:.1f} s)")

    def empty_dir(self, name: str) -> Path:
        """Creates an empty directory under `work`."""
        path = self.work / name
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True)
        return path

    def copy_from_old(self, name: str, new: str) -> Path:
        """Copies a directory or file of the old recording."""
        source, target = self.old / name, self.work / new
        if target.is_dir():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
        return target

    def write(self, about: dict[str, Any]) -> None:
        """Writes everything into the directory."""
        document = {"about": about, "things": self.things, "notes": self.notes}
        (self.directory / FILE).write_text(json.dumps(document, indent=1) + "\n")


def scores(output: str) -> dict[str, Any]:
    """The scores in the last line of a command's output, without the time that it took."""
    found = json.loads(output.splitlines()[-1])
    return {name: found[name] for name in found if name != "wall_s"}


def log(line: str) -> None:
    """Prints a line of progress."""
    print(line, file=sys.stderr, flush=True)
