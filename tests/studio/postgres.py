"""A PostgreSQL server of the test's own, from Debian's package."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path


def find_binaries() -> Path | None:
    """Where initdb and pg_ctl are; None: PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def running() -> Generator[str]:
    """The URL of an empty database; the server ends with the context."""
    # Not below pytest's folder: that is closed to the user whom the server runs as.
    with tempfile.TemporaryDirectory() as name:
        yield from _running(Path(name))


def _running(folder: Path) -> Iterator[str]:
    binaries = find_binaries()
    assert binaries is not None
    # It refuses to run as root, who runs tests in a container.
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(name: str, *arguments: str) -> None:
        # Into a file: a server that is left running would keep a pipe open for ever.
        with (folder / f"{name}.log").open("wb") as log:
            command = [str(binaries / name), "-D", str(folder / "data"), *arguments]
            subprocess.run(command, user=user, cwd=folder, stdout=log, stderr=log, check=True, timeout=120)

    call("initdb", "-U", "studio", "--auth=trust", "--no-sync")
    call("pg_ctl", "-w", "-o", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1", "start")
    try:
        yield f"postgresql+psycopg://studio@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-m", "immediate", "stop")
