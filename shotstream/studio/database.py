"""The database connection: engine, migrations, transactions, and locks against a second server.

SQLite in a file, or PostgreSQL. Alembic's migrations bring the schema to this version at every start.
"""

import logging
import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from shotstream.files import lock_file

_log = logging.getLogger(__name__)
_MIGRATIONS = Path(__file__).parent / "migrations"
_INCREMENTAL = 2  # The value of SQLite's auto_vacuum that returns free pages on request.
_LOCK_WAIT_MS = 2000
_LOG_BYTES = 2**22
_LOCKED_BY_OTHER = "another server works with this database; give each its own"
_MOVED = "the file was moved"
_ADVISORY_LOCK = 0x53686F74  # This program's key among the advisory locks of a PostgreSQL database.


class StorageError(ValueError):
    """A database or data directory that cannot be used; the message is one line for the user."""


class Database:
    """A database connection.

    Args:
        url: SQLAlchemy's: sqlite:///FILE or postgresql+psycopg://...

    Raises:
        StorageError: The URL or its driver is unknown.
    """

    def __init__(self, url: str) -> None:
        try:
            # Captions are private: no error and no log may show the parameters of a statement.
            self._engine = create_engine(url, pool_pre_ping=True, hide_parameters=True)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise StorageError(
                f"the database {url.partition(':')[0]!r} cannot be used: {error}; give sqlite:///FILE or "
                "postgresql+psycopg://..."
            ) from error
        self._lock_connection: Connection | None = None
        self._lock_file: int | None = None
        self._file_id: tuple[int, int] | None = None
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _tune_sqlite)
        if self._engine.dialect.name == "postgresql":
            event.listen(self._engine, "connect", _tune_postgresql)

    def upgrade(self) -> None:
        """Runs the migrations. SQLite's files are made accessible to their owner alone."""
        self._restrict_file_modes()
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        with self._engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        self._enable_incremental_vacuum()
        self._restrict_file_modes()
        self._file_id = self._current_file_id()

    def close(self) -> None:
        """Closes all connections and releases the lock."""
        if self._lock_connection is not None:
            # PostgreSQL notices a closed connection only a moment later, so the lock is released explicitly.
            with suppress(SQLAlchemyError):
                self._lock_connection.execute(text(f"select pg_advisory_unlock({_ADVISORY_LOCK})"))
            self._lock_connection.invalidate()
            self._lock_connection.close()
            self._lock_connection = None
        self._engine.dispose()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine, for tests and tools."""
        return self._engine

    def acquire_lock(self) -> None:
        """Locks the database against other servers until `close`, whatever data directory they use.

        Raises:
            StorageError: Another server holds the lock.
        """
        for path in self._sqlite_files()[:1]:
            if self._lock_file is None:
                self._lock_file = lock_file(path.with_name(f"{path.name}-lock"))
                if self._lock_file is None:
                    raise StorageError(_LOCKED_BY_OTHER)
        if self._engine.dialect.name != "postgresql" or self._lock_connection is not None:
            return
        connection = self._engine.connect()
        if not connection.scalar(text(f"select pg_try_advisory_lock({_ADVISORY_LOCK})")):
            connection.close()
            raise StorageError(_LOCKED_BY_OTHER)
        connection.commit()
        self._lock_connection = connection

    @contextmanager
    def transaction(self) -> Generator[Session]:
        """Yields a session in one transaction; it fails if SQLite's file is no longer at its path.

        SQLite keeps writing to a file that was deleted, moved or replaced, and would report success.
        """
        with Session(self._engine) as session, session.begin():
            yield session
            session.flush()
            if self._file_id is not None and self._current_file_id() != self._file_id:
                raise OperationalError("", {}, sqlite3.OperationalError(_MOVED), hide_parameters=True)

    def shrink(self, max_bytes: int = 2**22) -> None:
        """Returns up to `max_bytes` of free pages of SQLite's file to the disk.

        Does nothing for PostgreSQL, whose autovacuum makes free space available to new rows.
        """
        if self._engine.dialect.name != "sqlite":
            return
        with self._engine.connect() as connection:
            free, pages = (
                int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
                for name in ("freelist_count", "page_count")
            )
            if free * 8 > pages:
                size = int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
                connection.commit()
                raw = connection.connection.driver_connection
                assert raw is not None
                # Each step of this statement returns one page; executescript runs it to its end.
                raw.execute("PRAGMA busy_timeout=0")
                try:
                    raw.executescript(f"PRAGMA incremental_vacuum({max_bytes // size})")
                except sqlite3.OperationalError as error:
                    _log.debug("the database file cannot be shrunk now: %s", error)
                finally:
                    raw.execute(f"PRAGMA busy_timeout={_LOCK_WAIT_MS}")

    def _current_file_id(self) -> tuple[int, int] | None:
        """Returns device and inode of the file at SQLite's path; None if there is none."""
        for path in self._sqlite_files()[:1]:
            with suppress(FileNotFoundError, NotADirectoryError):
                stat = path.stat()
                return stat.st_dev, stat.st_ino
        return None

    def _restrict_file_modes(self) -> None:
        """Gives SQLite's file the mode 0600; SQLite gives the files beside it the same mode."""
        for path in self._sqlite_files():
            if not path.exists() and path.parent.is_dir():
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            path.chmod(0o600)

    def _sqlite_files(self) -> list[Path]:
        name = self._engine.url.database
        if self._engine.dialect.name != "sqlite" or not name or name.startswith((":", "file:")):
            return []
        beside = [Path(f"{name}{ending}") for ending in ("-wal", "-shm")]
        return [Path(name), *(path for path in beside if path.exists())]

    def _enable_incremental_vacuum(self) -> None:
        """Rewrites a new file, or one of an earlier version, so that it can be shrunk."""
        if self._engine.dialect.name != "sqlite":
            return
        with self._engine.connect() as connection:
            if connection.exec_driver_sql("PRAGMA auto_vacuum").scalar() == _INCREMENTAL:
                return
            connection.commit()
            raw = connection.connection.driver_connection
            assert raw is not None
            raw.execute(f"PRAGMA auto_vacuum={_INCREMENTAL}")
            try:
                raw.execute("VACUUM")
            except sqlite3.OperationalError as error:
                # It needs as much free space as the file is large; the next start tries again.
                _log.warning("the database file cannot be made shrinkable now: %s", error)


def _tune_sqlite(connection: Any, _record: Any) -> None:
    # FULL: a commit is on the disk when it returns, so that it survives a power cut. The size of the log
    # beside the file is bounded. The wait for a lock is short, because the worker serves all stories.
    for pragma in (
        f"auto_vacuum={_INCREMENTAL}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={_LOCK_WAIT_MS}",
        f"journal_size_limit={_LOG_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _tune_postgresql(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {_LOCK_WAIT_MS}")
    connection.commit()
