"""A checkout that is examined: its commands are run in processes that see its code and one thread."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

RUNNER = Path(__file__).with_name("runner.py")


class CommandFailed(Exception):
    """A command of the checkout ended with the wrong code; the message shows its last lines."""


class Checkout:
    """A context in which commands of a checkout are run.

    Args:
        path: root of the checkout.
        work: where commands are run, and where models that they import are kept.
    """

    def __init__(self, path: Path, work: Path) -> None:
        self.path, self.work = path.resolve(), work
        self._logs = work / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._count = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def env(self) -> dict[str, str]:
        """The environment of its commands."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("SHOTSTREAM_")},
            "PYTHONPATH": str(self.path),  # the runner finds the command by it
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONHASHSEED": "0",
            "HF_HUB_OFFLINE": "1",
            "SHOTSTREAM_HOME": str(self.work / "home"),
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }

    def __enter__(self) -> "Checkout":
        self._process = subprocess.Popen(
            [sys.executable, str(RUNNER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.env,
            cwd=self.work,
        )
        found = Path(self._answer()["package"])
        if found != self.path:
            raise CommandFailed(f"the code of {found} was found instead of that of {self.path}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def run(
        self,
        *arguments: object,
        code: int | None = 0,
        cwd: Path | None = None,
        script: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """What `shotstream ARGUMENTS` prints.

        Args:
            arguments: of the command.
            code: that it must end with; None: any.
            cwd: where it runs; default: `work`.
            script: a Python file that is run in the place of the command.
            env: further variables.

        Raises:
            CommandFailed: it ended with another code.
        """
        self._count += 1
        words = [str(argument) for argument in arguments]
        log = self._logs / f"{self._count:03}-{'-'.join(words[:2]).replace('/', '_')[-60:]}.log"
        request = {
            "argv": words,
            "cwd": str(cwd or self.work),
            "script": str(script or ""),
            "env": dict(env or {}),
            "log": str(log),
        }
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        ended = self._answer()["code"]
        output = log.read_text(errors="replace")
        if code is not None and ended != code:
            last = "\n".join(output.splitlines()[-12:])
            raise CommandFailed(f"`shotstream {' '.join(words)}` ended with code {ended}:\n{last}")
        return output

    def start(self, *arguments: object, cwd: Path | None = None) -> subprocess.Popen[str]:
        """A command in a process that the caller ends; its messages are read from `stderr`."""
        command = [sys.executable, "-m", "shotstream.cli", *map(str, arguments)]
        return subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env,
            cwd=cwd or self.work,
        )

    def _answer(self) -> dict[str, object] | dict[str, str]:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise CommandFailed(f"the code of {self.path} could not be imported")
        return json.loads(line)


def revision(path: Path) -> str:
    """The commit of a checkout, with `+` where files differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(path), *words], capture_output=True, text=True, check=True
        ).stdout

    changed: Sequence[str] = git("status", "--porcelain", "--untracked-files=no").split()
    return git("rev-parse", "--short=10", "HEAD").strip() + ("+" if changed else "")
