"""What an attack tried, and what did not hold."""

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Tally:
    """One row of the table: how many tries, and how each ended."""

    name: str
    """What was attacked."""
    tried: int = 0
    clean: int = 0
    """Tries that ended as they should: refused in one line, or nothing changed."""
    unseen: int = 0
    """Of these, damage that no reader of the form can see, for it has no sums; what was read is sound."""
    broken: list[str] = field(default_factory=list[str])
    """One line for each try that did not hold."""
    seconds: float = 0.0

    def add(self, fault: str | None, *, unseen: bool = False) -> None:
        """Counts a try; `fault` says what did not hold, None: it held."""
        self.tried += 1
        if fault is None:
            self.clean += 1
            self.unseen += unseen
        else:
            self.broken.append(fault)

    @contextmanager
    def timed(self) -> Generator["Tally"]:
        begun = time.monotonic()
        try:
            yield self
        finally:
            self.seconds += time.monotonic() - begun

    def document(self) -> dict[str, Any]:
        return {
            "attack": self.name,
            "tried": self.tried,
            "clean": self.clean,
            "unseen": self.unseen,
            "broken": len(self.broken),
            "first": self.broken[:3],
            "seconds": round(self.seconds, 1),
        }

    def line(self) -> str:
        return json.dumps(self.document(), ensure_ascii=False)


PYTHON_WORDING = (
    "NoneType",
    "object of type",
    "object is not",
    "not subscriptable",
    "has no attribute",
    "unexpected keyword",
    "required positional",
    "list index out of range",
    "invalid literal for int",
    "could not convert string",
    "codec can't decode",
    "Traceback",
    "<class '",
    "weights_only=False",
    "pickle.load",
)
"""Words of a program, not of a person: no message may hold one."""

MOST_WORDS = 600
"""Characters of the longest message that is still one line."""


def fault_of_message(message: str) -> str | None:
    """What is wrong with a refusal's words, None: nothing."""
    if not message.strip():
        return "refused without a word"
    if "\n" in message.strip():
        return f"more than one line: {message[:200]!r}"
    if len(message) > MOST_WORDS:
        return f"{len(message)} characters: {message[:200]!r}"
    for words in PYTHON_WORDING:
        if words in message:
            return f"Python's words reach a person: {message[:200]!r}"
    return None
