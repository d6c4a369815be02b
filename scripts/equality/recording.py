"""A recording in the making: things under names, progress for a person, and files that are kept."""

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
    """What is recorded of a checkout into a directory."""

    def __init__(self, directory: Path, checkout: Checkout, old: Path | None) -> None:
        """`old`: a recording whose files are to be read and gone on with; None: those of this one."""
        self.directory, self.checkout = directory, checkout
        self.old = (old or directory) / "work"
        self.things: dict[str, Any] = {}
        self.notes: dict[str, Any] = {}
        self.num_failed = 0

    @property
    def work(self) -> Path:
        """Where files are made."""
        return self.checkout.work

    @property
    def is_own(self) -> bool:
        """Whether it is its own files that are gone on with."""
        return self.old == self.work

    def keep(self, what: str, thing: Any) -> None:
        """Records a thing."""
        assert what not in self.things, what
        self.things[what] = json.loads(json.dumps(thing))

    def note(self, what: str, thing: Any) -> None:
        """Records what is only shown where it differs: a name may have changed."""
        self.notes[what] = json.loads(json.dumps(thing))

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """A part that may fail: then it is recorded as failed, and the others still are."""
        began_s = time.monotonic()
        try:
            yield
        except _FAULTS as error:
            self.num_failed += 1
            self.things[what] = {ERROR: f"{type(error).__name__}: {error}"}
            tell(f"  {what}: FAILED: {error}")
        else:
            tell(f"  {what} ({time.monotonic() - began_s:.1f} s)")

    def fresh(self, name: str) -> Path:
        """An empty folder under `work`."""
        path = self.work / name
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True)
        return path

    def copy_of_old(self, name: str, new: str) -> Path:
        """A copy of a folder or file of the old recording."""
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


def scores(said: str) -> dict[str, Any]:
    """What the oracle gave, of a command that ends in a line of JSON; without the time that it took."""
    found = json.loads(said.splitlines()[-1])
    return {name: found[name] for name in found if name != "wall_s"}


def tell(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)
