"""What a disk or a database answers is told in a person's words, each with what to do."""

import errno
import sqlite3

import pytest
from sqlalchemy.exc import (
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    TimeoutError,
)

from shotstream.studio.storage_errors import (
    explain_failure,
    is_full_disk,
    is_storage_failure,
    storage_api_error,
)

SECRET = "a fox that nobody may read of"


class Answer(Exception):
    """What psycopg raises: words, and a code."""

    def __init__(self, sqlstate: str | None, words: str = "") -> None:
        super().__init__(words)
        self.sqlstate = sqlstate


def said(words: str) -> OperationalError:
    """SQLite's."""
    return OperationalError(f"insert {SECRET}", {}, sqlite3.OperationalError(words))


def answered(sqlstate: str | None, words: str = "") -> OperationalError:
    """PostgreSQL's."""
    return OperationalError(f"insert {SECRET}", {}, Answer(sqlstate, words))


FULL = "the disk is full; free some space, or delete a story"
LOCKED = "another program has locked the database; stop that program"
DAMAGED = "the database file is damaged; replace it by a backup"
ANSWERS = [
    (OSError(errno.ENOSPC, "No space left on device"), FULL, True),
    (OSError(errno.EDQUOT, ""), "the disk's quota is used up; free some space, or delete a story", True),
    (OSError(errno.EROFS, ""), "the disk is read-only; make it writable again", False),
    (OSError(errno.EACCES, ""), "the data directory cannot be written", False),
    (OSError(errno.EPERM, ""), "the data directory cannot be written", False),
    (OSError(errno.EIO, ""), "the disk fails; see the system's log", False),
    (OSError(errno.EMFILE, ""), "the server has too many files open; raise the limit (ulimit -n)", False),
    (OSError(errno.ENFILE, ""), "the system has too many files open", False),
    (OSError(errno.ENOENT, ""), "a file or directory is missing", False),
    (OSError(errno.ENOTDIR, ""), "a part of the path is not a directory", False),
    (OSError(errno.EFBIG, "File too large"), "the disk cannot be written: file too large", False),
    (OSError(SECRET), "the disk cannot be written: unknown reason", False),
    (said("database or disk is full"), FULL, True),
    (said("database is locked"), LOCKED, False),
    (said("database table is locked: steps"), LOCKED, False),
    (said("attempt to write a readonly database"), "the disk is read-only", False),
    (said("unable to open database file"), "the database file cannot be opened", False),
    (said("disk I/O error"), "the disk fails", False),
    (said("database disk image is malformed"), DAMAGED, False),
    (said("file is not a database"), DAMAGED, False),
    (said("no such table: steps"), "the database's tables are missing", False),
    (said("something new"), "the database does not answer; check that it runs", False),
    (answered("53100"), "the database's disk is full; free some space there", False),
    (answered("55P03"), LOCKED, False),
    (answered("57014"), LOCKED, False),
    (answered("25006"), "the database is read-only; make it writable again", False),
    (answered("53300"), "the database accepts no more connections", False),
    (answered("08006", "server closed the connection"), "the database does not answer", False),
    (answered(None, "database is locked"), LOCKED, False),
    (InterfaceError(SECRET, {}, Answer(None)), "the database does not answer", False),
    (TimeoutError(SECRET), "the database does not answer", False),
]  # fmt: skip


@pytest.mark.parametrize(("error", "words", "frees_room"), ANSWERS)
def test_each_answer_of_a_disk_or_a_database_has_its_words(
    error: Exception, words: str, frees_room: bool
) -> None:
    assert (
        explain_failure(error).startswith(words)
        and "\n" not in explain_failure(error)
        and SECRET not in explain_failure(error)
    )
    assert is_storage_failure(error), "it may pass: what was made waits"
    assert is_full_disk(error) == frees_room, "whether a story's files make the room that is missing"
    refusal = storage_api_error(error)
    assert (refusal.code, str(refusal)) == ("storage", f"nothing was changed: {explain_failure(error)}")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        RuntimeError("x"),
        *(kind(SECRET, {}, Answer(None)) for kind in (IntegrityError, ProgrammingError, DataError)),
    ],
)
def test_a_fault_of_ours_does_not_pass_by_waiting(error: Exception) -> None:
    assert not is_storage_failure(error)
