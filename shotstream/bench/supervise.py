"""The supervisor of `shotstream bench all`: it runs the benchmarks in a worker process, which may crash.

The worker (`suite_worker.py`) holds the device. It writes each result itself, and reports through a pipe
which benchmark it starts. If it ends, hangs or takes too long, its benchmark gets a result with the error,
and another worker continues with the next one. If this process ends, the worker's standard input is closed,
and it ends too. Imports nothing that takes time.
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

from shotstream.bench.results import ResultFile, Say, as_markdown, summary, table, title
from shotstream.bench.suite import Benchmark, SuiteConfig

RESULTS, LOG, REPORT = "results.jsonl", "log.txt", "results.md"
MAX_BYTES = 7800
"""Maximum number of bytes that are printed."""

WORKER = (sys.executable, "-m", "shotstream.bench.suite_worker")
"""Command of the worker process."""

_TABLE_BYTES, _UNTIL_TABLE_BYTES = 4200, 3500
_LOADING_S = 300.0
_MAX_FAILED_STARTS = 2
_SUMMARY = 52
_GRACE = 1.5, 30.0
"""Factor on a benchmark's budget, and seconds added to it, after which it is terminated."""


class _Stopped(Exception):
    """A signal that asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a worker process, and its reason."""

    reason: str
    """Error of the current benchmark, or of loading; empty without an error."""
    is_done: bool = False
    """Whether nothing is left to measure."""
    has_measured: bool = False
    """Whether it started a benchmark."""


def supervise(
    suite: SuiteConfig,
    benchmarks: Sequence[Benchmark],
    directory: Path,
    *,
    limit_s: float,
    command: str,
    say: Say,
    worker: Sequence[str] = WORKER,
) -> int:
    """Runs the benchmarks, and returns the exit code.

    It is 0 if a film's rate is among the results or no film was selected, 1 without, 128 and more by signal.

    Args:
        suite: Model, device and numbers of repetitions.
        benchmarks: The benchmarks, in the order in which they are run.
        directory: Directory of the results, of a log of all that libraries print, and of a document of both.
        limit_s: No benchmark is started after this time, except the first.
        command: The command line, for the document.
        say: Function that prints text, of at most `MAX_BYTES` in all.
        worker: Command of the worker process; the benchmarks are added as one more argument.
    """
    screen = _Screen(say)
    run = _Run(suite, list(benchmarks), directory, time.time() + limit_s, screen, worker)
    screen.begin(f"{len(benchmarks)} benchmarks, none after {limit_s:.0f} s; results in {run.file.path}")
    screen.begin(f"loading {suite.model} ... ")
    code = 0
    with _signals_raise():
        try:
            run.all()
        except _Stopped as stop:
            run.give_up(str(stop))
            code = 128 + stop.number
    results = run.file.read()
    (directory / REPORT).write_text(as_markdown(results, command), encoding="utf-8")
    if run.benchmarks and not code:
        left = [title({"benchmark": x.name, "variant": x.variant}) for x in run.benchmarks]
        say(f"not run: {'; '.join(left)[:300]}\n")
    say(table(results, max_bytes=_TABLE_BYTES - 320) + "\n")
    wanted = any(benchmark.name == "generate" for benchmark in benchmarks)
    return code or int(wanted and not any("fps" in result for result in results))


class _Screen:
    """Prints progress, up to the space that the table needs."""

    def __init__(self, say: Say) -> None:
        self._say, self._left, self._start_s = say, _UNTIL_TABLE_BYTES, time.time()
        self._is_open = False

    def begin(self, text: str) -> None:
        """Prints the first half of a line, with the seconds so far."""
        if self._is_open:
            self.end("")
        self._is_open = True
        self._show(f"[{time.time() - self._start_s:4.0f} s] {text}")

    def end(self, text: str) -> None:
        """Prints the second half of a line."""
        self._show(f"{text[:_SUMMARY]}\n")
        self._is_open = False

    def _show(self, text: str) -> None:
        self._left -= len(text.encode())
        if self._left > 0:
            self._say(text)


class _Run:
    """The state of a run: the remaining benchmarks, and the current worker."""

    def __init__(
        self,
        suite: SuiteConfig,
        benchmarks: list[Benchmark],
        directory: Path,
        until_s: float,
        screen: _Screen,
        worker: Sequence[str],
    ) -> None:
        self.benchmarks = benchmarks
        self.file = ResultFile(directory / RESULTS)
        self.file.begin()
        self._suite, self._log, self._until_s, self._screen = suite, directory / LOG, until_s, screen
        self._log.write_bytes(b"")
        self._start_s, self._worker = time.time(), worker
        self._device = "cpu" if suite.device == "cpu" else "unknown"
        self._current: Benchmark | None = None
        self._hung_at_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def all(self) -> None:
        """Runs workers until nothing is left, the limit has passed, or no worker starts any more."""
        failed_starts = 0
        while self.benchmarks and failed_starts < _MAX_FAILED_STARTS:
            if self.file.read() and time.time() > self._until_s:
                return
            end = self._run_worker()
            if end.is_done:
                return
            self._drop_measured()
            failed_starts = 0 if end.has_measured else failed_starts + 1
            # A worker that ends between two benchmarks, as the device is unusable, causes no failed result.
            if self._current or not end.has_measured:
                self._fail(end.reason)

    def give_up(self, reason: str) -> None:
        """Ends the worker, and records that for its benchmark."""
        self._end_process()
        self._drop_measured()
        if self.benchmarks:
            self._fail(reason)

    def _drop_measured(self) -> None:
        """Drops benchmarks whose results are in the file, although their worker could not report them."""
        known = {(result["benchmark"], result.get("variant", "")) for result in self.file.read()}
        if self._current is not None and self._current.key in known:
            self._current = None
        self.benchmarks = [benchmark for benchmark in self.benchmarks if benchmark.key not in known]

    def _run_worker(self) -> _End:
        """Runs one worker until it ends."""
        self._current = None
        reading, writing = os.pipe()
        message = {
            "suite": self._suite.document(),
            "benchmarks": [list(benchmark.key) for benchmark in self.benchmarks],
            "results": str(self.file.path),
            "until_s": self._until_s,
            "events": writing,
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._worker, json.dumps(message)],
                stdin=subprocess.PIPE,  # the worker ends when this pipe is closed
                stdout=log,
                stderr=log,
                pass_fds=(writing,),
                # An interrupt from the terminal must reach this process alone.
                process_group=0,
            )
        os.close(writing)
        try:
            return self._follow(reading)
        finally:
            os.close(reading)
            self._end_process()

    def _follow(self, reading: int) -> _End:
        self._hung_at_s, has_measured = time.monotonic() + _LOADING_S, False
        for event in _events(reading, lambda: self._hung_at_s):
            kind = event["event"]
            if kind == "loaded":
                self._device = event["device"]
                self._screen.end(f"on {self._device}, {event['threads']} threads")
            elif kind == "started":
                self._current, has_measured = self.benchmarks[0], True
                name, variant = self._current.key
                self._screen.begin(title({"benchmark": name, "variant": variant}) + " ... ")
                self._hung_at_s = time.monotonic() + self._current.budget_s * _GRACE[0] + _GRACE[1]
            elif kind == "skipped":
                self.benchmarks.pop(0)
            elif kind == "finished":
                self._current = None
                self.benchmarks.pop(0)
                self._hung_at_s = time.monotonic() + _GRACE[1]
                self._screen.end(summary(event["result"]))
            elif kind == "failed":
                return _End(event["error"])
            elif kind == "done":
                return _End("", is_done=True)
        assert self._process is not None
        if time.monotonic() >= self._hung_at_s:
            return _End("did not come to an end, and was ended", has_measured=has_measured)
        return _End(
            f"its process ended with {self._process.wait()}: {_last_line(self._log)}",
            has_measured=has_measured,
        )

    def _fail(self, reason: str) -> None:
        benchmark = self.benchmarks.pop(0)
        result: dict[str, Any] = {"benchmark": benchmark.name}
        if benchmark.variant:
            result["variant"] = benchmark.variant
        result |= {"device": self._device, "at_s": time.time() - self._start_s, "error": reason}
        self.file.add(result)
        self._screen.end(summary(result))

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process = None


def _events(reading: int, until_s: Callable[[], float]) -> Generator[dict[str, Any]]:
    """Yields lines of a pipe until it is closed or a deadline, which may move, has passed."""
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
    """Turns the first signal to end into an exception."""

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
