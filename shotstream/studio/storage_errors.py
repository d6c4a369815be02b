"""Descriptions of disk and database errors: one line each, with a remedy.

Statements and their parameters are never shown, because captions are private. PostgreSQL's codes:
https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

import errno

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, TimeoutError

from shotstream.studio.api_error import ApiError

_BY_ERRNO = {
    errno.ENOSPC: "the disk is full; free some space, or delete a story",
    errno.EDQUOT: "the disk's quota is used up; free some space, or delete a story",
    errno.EROFS: "the disk is read-only; make it writable again",
    errno.EACCES: "the data directory cannot be written; make it belong to the user that the server runs as",
    errno.EPERM: "the data directory cannot be written; make it belong to the user that the server runs as",
    errno.EIO: "the disk fails; see the system's log",
    errno.EMFILE: "the server has too many files open; raise the limit (ulimit -n)",
    errno.ENFILE: "the system has too many files open; raise its limit",
    errno.ENOENT: "a file or directory is missing; was it moved?",
    errno.ENOTDIR: "a part of the path is not a directory",
    errno.EEXIST: "a directory is needed, but there is a file or a broken link",
    errno.ELOOP: "a symbolic link leads back to itself",
}
_LOCKED = "another program has locked the database; stop that program"
_BY_TEXT = (
    ("database or disk is full", _BY_ERRNO[errno.ENOSPC]),
    ("database is locked", _LOCKED),
    ("database table is locked", _LOCKED),
    ("readonly database", _BY_ERRNO[errno.EROFS]),
    (
        "unable to open database file",
        "the database file cannot be opened; was it moved, or its permissions changed?",
    ),
    (
        "the file was moved",
        "the database file was moved, deleted or replaced while the server ran; put it back, or put a copy "
        "there and restart the server",
    ),
    ("disk i/o error", _BY_ERRNO[errno.EIO]),
    ("malformed", "the database file is damaged; replace it by a backup"),
    ("not a database", "the database file is damaged; replace it by a backup"),
    ("no such table", "the database's tables are missing; was the file replaced? restart the server"),
)
_BY_SQLSTATE = {
    "53100": "the database's disk is full; free some space there",
    "55P03": _LOCKED,
    "57014": _LOCKED,
    "25006": "the database is read-only; make it writable again",
    "53300": "the database accepts no more connections",
}


def is_storage_failure(error: BaseException) -> bool:
    """Returns whether an error comes from disk or database and may be temporary."""
    final = isinstance(error, IntegrityError | ProgrammingError | DataError)
    return isinstance(error, OSError | DBAPIError | TimeoutError) and not final


def is_full_disk(error: BaseException) -> bool:
    """Returns whether an error means that the disk or its quota is full."""
    return explain_failure(error) in (_BY_ERRNO[errno.ENOSPC], _BY_ERRNO[errno.EDQUOT])


def explain_failure(error: BaseException) -> str:
    """Returns one line that says what failed, and what to do."""
    if isinstance(error, OSError):
        known = _BY_ERRNO.get(error.errno or 0)
        return known or f"the disk cannot be written: {(error.strerror or 'unknown reason').lower()}"
    original = getattr(error, "orig", None)
    state = getattr(original, "sqlstate", None)
    if state in _BY_SQLSTATE:
        return _BY_SQLSTATE[state]
    said = str(original or "").lower()
    known = next((words for sign, words in _BY_TEXT if sign in said), None)
    return known or "the database does not answer; check that it runs"


def one_line_reason(error: Exception) -> str:
    """Returns one line for the user on why a shot could not be generated."""
    if isinstance(error, OSError):
        return explain_failure(error)
    return " ".join(str(error).split()) or "internal server error; see the server's log"


def storage_api_error(error: BaseException) -> ApiError:
    """Returns the API error of a change that could not be stored."""
    return ApiError("storage", f"nothing was changed: {explain_failure(error)}")
