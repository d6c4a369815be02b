"""Asks all questions and cannot fail to answer: the asking is done by another process, which may die.

That process (`everything.py`) holds the device. It writes each answer itself, and says through a pipe what it
is about to ask. If it ends, hangs or takes too long, its question gets an answer that names the error, and
another process goes on with the next one. If this process ends, by whatever signal, the other one sees its
standard input close, and ends too. Imports nothing that takes time.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from shotstream.bench.answers import AnswerFile, Say, as_markdown, gist, table, title
from shotstream.bench.questions import Asked, Question

ANSWERS, LOG, DOCUMENT = "answers.jsonl", "log.txt", "answers.md"
MAX_BYTES = 7800
"""That are shown to a person in all."""

ASKER = (sys.executable, "-m", "shotstream.bench.everything")
"""What asks."""

_TABLE_BYTES, _UNTIL_TABLE_BYTES = 4200, 3500
_LOADING_S = 300.0
_MAX_FAILED_STARTS = 2
_GIST = 52
_GRACE = 1.5, 30.0
"""A question that has not ended by itself is ended at its budget times the first, plus the second."""


class _Stopped(Exception):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a measuring process, and why it came."""

    reason: str
    """What went wrong with the question under way, or with loading; empty where nothing did."""
    is_done: bool = False
    """Whether there is nothing more to ask."""
    has_asked: bool = False
    """Whether it came so far as to ask something."""


def supervise(
    asked: Asked,
    questions: Sequence[Question],
    directory: Path,
    *,
    limit_s: float,
    command: str,
    say: Say,
    asker: Sequence[str] = ASKER,
) -> int:
    """Exit code: 0 with a film's rate among the answers or none asked for, 1 without, 128 and more by signal.

    Args:
        asked: Of what.
        questions: In the order in which they are asked.
        directory: Gets the answers, a log of all that libraries print, and a document of both.
        limit_s: No question is begun after it; the first counts as begun at once.
        command: How a person called this, for the document.
        say: Shows text, of which no more than `MAX_BYTES` come in all.
        asker: The other process; it is given what to ask as one more argument.
    """
    screen = _Screen(say)
    run = _Run(asked, list(questions), directory, time.time() + limit_s, screen, asker)
    screen.begin(f"{len(questions)} questions, none after {limit_s:.0f} s; answers in {run.file.path}")
    screen.begin(f"loading {asked.model} ... ")
    code = 0
    with _signals_raise():
        try:
            run.all()
        except _Stopped as stop:
            run.give_up(str(stop))
            code = 128 + stop.number
    answers = run.file.read()
    (directory / DOCUMENT).write_text(as_markdown(answers, command), encoding="utf-8")
    if run.questions and not code:
        left = [title({"question": x.name, "variant": x.variant}) for x in run.questions]
        say(f"not asked: {'; '.join(left)[:300]}\n")
    say(table(answers, max_bytes=_TABLE_BYTES - 320) + "\n")
    wanted = any(question.name == "generate" for question in questions)
    return code or int(wanted and not any("fps" in answer for answer in answers))


class _Screen:
    """Shows what happens, until the room is used that the table leaves."""

    def __init__(self, say: Say) -> None:
        self._say, self._left, self._start_s = say, _UNTIL_TABLE_BYTES, time.time()
        self._is_open = False

    def begin(self, text: str) -> None:
        """The first half of a line, with the seconds so far."""
        if self._is_open:
            self.end("")
        self._is_open = True
        self._show(f"[{time.time() - self._start_s:4.0f} s] {text}")

    def end(self, text: str) -> None:
        """Its second half."""
        self._show(f"{text[:_GIST]}\n")
        self._is_open = False

    def _show(self, text: str) -> None:
        self._left -= len(text.encode())
        if self._left > 0:
            self._say(text)


class _Run:
    """The state of a run: the questions left, and the processes that ask them."""

    def __init__(
        self,
        asked: Asked,
        questions: list[Question],
        directory: Path,
        until_s: float,
        screen: _Screen,
        asker: Sequence[str],
    ) -> None:
        self.questions = questions
        self.file = AnswerFile(directory / ANSWERS)
        self.file.begin()
        self._asked, self._log, self._until_s, self._screen = asked, directory / LOG, until_s, screen
        self._log.write_bytes(b"")
        self._start_s, self._asker = time.time(), asker
        self._device = "cpu" if asked.device == "cpu" else "unknown"
        self._current: Question | None = None
        self._hung_at_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def all(self) -> None:
        """Asks until nothing is left, the limit has passed, or no process starts any more."""
        failed_starts = 0
        while self.questions and failed_starts < _MAX_FAILED_STARTS:
            if self.file.read() and time.time() > self._until_s:
                return
            end = self._ask()
            if end.is_done:
                return
            self._drop_answered()
            failed_starts = 0 if end.has_asked else failed_starts + 1
            # One that ends between two questions, because the device can no longer be used, is not to blame.
            if self._current or not end.has_asked:
                self._fail(end.reason)

    def give_up(self, reason: str) -> None:
        """Ends the asking process and says so of its question."""
        self._end_process()
        self._drop_answered()
        if self.questions:
            self._fail(reason)

    def _drop_answered(self) -> None:
        """An answer may be in the file of which its process could not tell any more."""
        known = {(answer["question"], answer.get("variant", "")) for answer in self.file.read()}
        if self._current is not None and self._current.key in known:
            self._current = None
        self.questions = [question for question in self.questions if question.key not in known]

    def _ask(self) -> _End:
        """Runs one process until it ends."""
        self._current = None
        reading, writing = os.pipe()
        message = {
            "asked": self._asked.document(),
            "questions": [list(question.key) for question in self.questions],
            "answers": str(self.file.path),
            "until_s": self._until_s,
            "events": writing,
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._asker, json.dumps(message)],
                stdin=subprocess.PIPE,  # its end is how it learns of ours
                stdout=log,
                stderr=log,
                pass_fds=(writing,),
                # A terminal's interrupt is for this process alone.
                process_group=0,
            )
        os.close(writing)
        try:
            return self._follow(reading)
        finally:
            os.close(reading)
            self._end_process()

    def _follow(self, reading: int) -> _End:
        self._hung_at_s, has_asked = time.monotonic() + _LOADING_S, False
        for event in _events(reading, lambda: self._hung_at_s):
            kind = event["event"]
            if kind == "loaded":
                self._device = event["device"]
                self._screen.end(f"on {self._device}, {event['threads']} threads")
            elif kind == "asking":
                self._current, has_asked = self.questions[0], True
                name, variant = self._current.key
                self._screen.begin(title({"question": name, "variant": variant}) + " ... ")
                self._hung_at_s = time.monotonic() + self._current.budget_s * _GRACE[0] + _GRACE[1]
            elif kind == "left out":
                self.questions.pop(0)
            elif kind == "answered":
                self._current = None
                self.questions.pop(0)
                self._hung_at_s = time.monotonic() + _GRACE[1]
                self._screen.end(gist(event["answer"]))
            elif kind == "failed":
                return _End(event["error"])
            elif kind == "done":
                return _End("", is_done=True)
        assert self._process is not None
        if time.monotonic() >= self._hung_at_s:
            return _End("did not come to an end, and was ended", has_asked=has_asked)
        return _End(
            f"its process ended with {self._process.wait()}: {_last_line(self._log)}", has_asked=has_asked
        )

    def _fail(self, reason: str) -> None:
        question = self.questions.pop(0)
        answer: dict[str, Any] = {"question": question.name}
        if question.variant:
            answer["variant"] = question.variant
        answer |= {"device": self._device, "at_s": time.time() - self._start_s, "error": reason}
        self.file.add(answer)
        self._screen.end(gist(answer))

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process = None


def _events(reading: int, until_s: Callable[[], float]) -> Generator[dict[str, Any]]:
    """Lines of a pipe until it is closed or a deadline, which may move, has passed."""
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        while (left_s := until_s() - time.monotonic()) > 0:
            if not selector.select(left_s):
                continue
            data = os.read(reading, 65536)
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                yield json.loads(line)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip()[:160] for line in reversed(lines) if line.strip()), "it said nothing")


@contextlib.contextmanager
def _signals_raise() -> Generator[None]:
    """Within it a request to end becomes an exception, once."""

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise _Stopped(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
