"""Processes that start with torch, the model and the studio imported already.

Importing them takes a process seconds, more than most tests then ask of it. These are forks of a process that
has imported them and done nothing else: real processes, which are signalled, killed and waited for like any
other, and have the environment, the folder and the pipes that `subprocess.Popen` would give them. A test of
what Python itself does at its start or end, or of what is imported, starts Python instead.
"""

import atexit
import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any, cast

import torch

ROOT = Path(__file__).parents[1]


class Forked:
    """`subprocess.Popen` of a Python that has imported what is slow to import.

    `arguments` are those of the interpreter: `-m MODULE ...`, `-c PROGRAM ...` or `FILE ...`. Text is UTF-8.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        start_new_session: bool = False,
    ) -> None:
        ends: list[int | None] = []
        self.stdout, self.stderr = (_reading(wanted, ends) for wanted in (stdout, stderr))
        self.args = [str(argument) for argument in arguments]
        self._process = _context().Process(
            target=_Start(
                self.args,
                str(cwd or Path.cwd()),
                dict(os.environ if env is None else env),
                start_new_session,
                ends,
            )
        )
        try:
            self._process.start()
        finally:
            for end in ends:
                if end is not None:
                    os.close(end)
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """What `poll` returns."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Returns the exit code, or minus the signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end; subprocess.TimeoutExpired if that takes longer than `timeout` seconds."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless the process has ended."""
        if self.poll() is None:
            # Its end is known to the process that it is a fork of before it is known here.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Reads both pipes to their ends, waits for the end, and returns what was read."""
        with concurrent.futures.ThreadPoolExecutor(2) as readers:
            read = [readers.submit(_all_of, pipe) for pipe in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            out, err = (one.result() for one in read)
        return out, err


def run(
    arguments: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` to its end, as `subprocess.run` does, and captures what it says."""
    process = Forked(arguments, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout)
    return subprocess.CompletedProcess(process.args, process.wait(), out, err)


def run_together(
    num_processes: int,
    arguments: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` in several processes with the environment that torchrun would give them.

    As torchrun does, it ends all of them when one fails; the exit code is that one's.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes)}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    given = {**(os.environ if env is None else env), **world}

    def member(rank: int) -> Forked:
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return Forked(arguments, cwd=cwd, env={**given, **ranks}, **pipes)

    members = [member(rank) for rank in range(num_processes)]

    def ended(process: Forked) -> tuple[str, str]:
        said = process.communicate(timeout)
        if process.returncode != 0:
            codes.append(process.wait())
            for other in members:  # each is asked for its end by one thread alone, its own
                with contextlib.suppress(ProcessLookupError):
                    os.kill(other.pid, signal.SIGKILL)
        return said

    codes: list[int] = []
    with concurrent.futures.ThreadPoolExecutor(num_processes) as waiting:
        said = list(waiting.map(ended, members))
    out, err = ("".join(each) for each in zip(*said, strict=True))
    return subprocess.CompletedProcess(members[0].args, codes[0] if codes else 0, out, err)


@functools.cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.forked", "tests.preloaded"])
    # The server imports from where it starts, and says nothing when it does not find the tests there.
    with contextlib.chdir(ROOT):
        forkserver.ensure_running()
    return context


def _reading(wanted: int | None, ends: list[int | None]) -> IO[str] | None:
    """The end of a pipe that is read here; the one that is written to, or /dev/null, is added to `ends`."""
    if wanted != subprocess.PIPE:
        ends.append(None if wanted is None else os.open(os.devnull, os.O_WRONLY))
        return None
    reads, writes = os.pipe()
    ends.append(writes)
    return os.fdopen(reads, encoding="utf-8", errors="replace")


def _all_of(pipe: IO[str] | None) -> str:
    if pipe is None or pipe.closed:
        return ""
    with pipe:
        return pipe.read()


@dataclass
class _Start:
    """What a fork does first; pickling it while the process is started hands its descriptors over."""

    arguments: list[str]
    cwd: str
    env: dict[str, str]
    new_session: bool
    ends: list[int | None]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "ends": [end if end is None else DupFd(end) for end in self.ends]}

    def __call__(self) -> None:
        assert "tests.preloaded" in sys.modules, "this is no fork of what has imported everything"
        if self.new_session:
            os.setsid()
        for number, end in enumerate(cast("list[Any]", self.ends), start=1):
            if end is not None:
                os.dup2(end.detach(), number)
        # Those of the process that is forked may have been files, which can be sought in.
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        os.chdir(self.cwd)
        os.environ.clear()
        os.environ.update(self.env)
        sys.path.insert(0, str(ROOT))
        if "OMP_NUM_THREADS" in self.env:
            torch.set_num_threads(int(self.env["OMP_NUM_THREADS"]))
        try:
            self._run()
        finally:
            atexit._run_exitfuncs()

    def _run(self) -> None:
        first, *rest = self.arguments
        if first == "-c":
            sys.argv = ["-c", *rest[1:]]
            main = types.ModuleType("__main__")
            sys.modules["__main__"] = main
            exec(compile(rest[0], "<string>", "exec"), vars(main))
        elif first == "-m":
            sys.argv = ["-m", *rest[1:]]
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(self.arguments)
            runpy.run_path(first, run_name="__main__")
