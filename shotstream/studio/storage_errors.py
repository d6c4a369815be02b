"""What a disk or a database answers when it keeps nothing: one line for the person, whatever it was.

Nothing of the statement or its parameters is repeated: captions are private. PostgreSQL's codes:
https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

import errno

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, TimeoutError

from shotstream.studio.api_error import ApiError

_OF_ERRNO = {
    errno.ENOSPC: "the disk is full; free some room, or delete a story",
    errno.EDQUOT: "the disk's quota is used up; free some room, or delete a story",
    errno.EROFS: "the disk is read-only; make it writable again",
    errno.EACCES: "the data folder may not be written; give it back to the user whom the server runs as",
    errno.EPERM: "the data folder may not be written; give it back to the user whom the server runs as",
    errno.EIO: "the disk fails; look at the system's log",
    errno.EMFILE: "the server may open no more files; raise the limit (ulimit -n)",
    errno.ENFILE: "the system can open no more files; raise its limit",
    errno.ENOENT: "a file or a folder is not there; was it moved?",
    errno.ENOTDIR: "a part of its path is no folder",
    errno.EEXIST: "where a folder is needed there is a file, or a link that leads nowhere",
    errno.ELOOP: "a link leads back to itself",
}
_LOCKED = "another program keeps the database locked; end that program"
_OF_WORDS = (
    ("database or disk is full", _OF_ERRNO[errno.ENOSPC]),
    ("database is locked", _LOCKED),
    ("database table is locked", _LOCKED),
    ("readonly database", _OF_ERRNO[errno.EROFS]),
    ("unable to open database file", "the database's file cannot be opened; was it moved, or closed to us?"),
    (
        "the file was moved",
        "the database's file was moved, deleted or replaced while the server ran; put it back, or put a copy "
        "there and start the server again",
    ),
    ("disk i/o error", _OF_ERRNO[errno.EIO]),
    ("malformed", "the database's file is damaged; put a copy in its place"),
    ("not a database", "the database's file is damaged; put a copy in its place"),
    ("no such table", "the database's tables are missing; was its file replaced? start the server again"),
)
_OF_SQLSTATE = {
    "53100": "the database's disk is full; free some room there",
    "55P03": _LOCKED,
    "57014": _LOCKED,
    "25006": "the database is read-only; make it writable again",
    "53300": "the database takes no more connections",
}


def is_storage_failure(error: BaseException) -> bool:
    """Whether an error is the disk's or the database's, and may pass."""
    final = isinstance(error, IntegrityError | ProgrammingError | DataError)
    return isinstance(error, OSError | DBAPIError | TimeoutError) and not final


def is_full_disk(error: BaseException) -> bool:
    """Whether there is no room."""
    return explain_failure(error) in (_OF_ERRNO[errno.ENOSPC], _OF_ERRNO[errno.EDQUOT])


def explain_failure(error: BaseException) -> str:
    """What is wrong, and what to do, in one line."""
    if isinstance(error, OSError):
        known = _OF_ERRNO.get(error.errno or 0)
        return known or f"the disk does not take it: {(error.strerror or 'unknown reason').lower()}"
    original = getattr(error, "orig", None)
    state = getattr(original, "sqlstate", None)
    if state in _OF_SQLSTATE:
        return _OF_SQLSTATE[state]
    said = str(original or "").lower()
    known = next((words for sign, words in _OF_WORDS if sign in said), None)
    return known or "the database does not answer; look whether it runs"


def one_line_reason(error: Exception) -> str:
    """Why a shot could not be made, for the person who waits for it."""
    if isinstance(error, OSError):
        return explain_failure(error)
    return " ".join(str(error).split()) or "a fault of the server; its log tells more"


def storage_api_error(error: BaseException) -> ApiError:
    """The answer to whoever asked for what could not be kept."""
    return ApiError("storage", f"nothing was changed: {explain_failure(error)}")
