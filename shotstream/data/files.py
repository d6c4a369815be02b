"""Files that are whole or not there, whatever stops the process or the machine."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """A file to write; when the block ends well, `path` is it, and until then the old one or nothing."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(content: bytes, path: Path) -> None:
    """Writes `content`, so that `path` holds either the old file or the whole new one."""
    with replacing(path) as file:
        file.write(content)
