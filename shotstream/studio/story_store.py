"""Stories in a database: SQLite beside the media, or PostgreSQL by URL; the schema is Alembic's.

A story's history is a line of steps for each branch, each a whole script; a branch points to its present step
(head) and to the furthest one that can be done again (tip). Steps and takes are written once and not changed,
so that a server killed at any moment leaves the last committed step, and those before it, as they were; the
oldest steps are forgotten beyond a bound, and those that can never be done again at once. One transaction per
change. What comes before what is told by numbers: a clock may go back. Only the worker writes; any thread may
read.
"""

import json
import logging
import os
import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, delete, event, func, select, text, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from shotstream.files import lock_file
from shotstream.studio.shot_list import ShotList
from shotstream.studio.tables import BranchRow, FolderRow, StepRow, StoryRow, TakeRow
from shotstream.studio.take_record import TakeRecord

_log = logging.getLogger(__name__)
_MIGRATIONS = Path(__file__).parent / "migrations"
_INCREMENTAL = 2  # auto_vacuum: free pages are given back when asked
_LOCK_WAIT_MS = 2000
_LOG_BYTES = 2**22
_LOCKED_BY_OTHER = "another server works with this database; give each its own"
_MOVED = "the file was moved"
_ADVISORY_LOCK = 0x53686F74  # of all advisory locks of a database: this program's


class StorageError(ValueError):
    """A database that cannot be used; one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A moment of a story's history."""

    step_id: str
    parent_id: str | None
    label: str
    """What was done, for the person."""
    shot_list: ShotList


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredBranch:
    """A branch, as it is in the database."""

    branch_id: str
    name: str
    head_id: str
    tip_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredStory:
    """A story, as it is in the database."""

    story_id: str
    created_at: str
    updated_at: str
    seed: int
    autoplay: bool
    branch_id: str
    wanted: tuple[dict[str, Any], ...]
    branches: tuple[StoredBranch, ...]
    takes: tuple[TakeRecord, ...]
    """In the order in which they were finished."""
    history_bytes: int
    """Of the scripts of all its steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveResult:
    """What a change has made of a story's history."""

    num_bytes: int
    """So much more it takes than before; less than 0 where more was forgotten than written."""
    parent_id: str | None
    """The step before the branch's present one, if it is still there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryLimit:
    """How much of a story's history is kept; the present step of each branch always is."""

    steps: int
    num_bytes: int


def new_id() -> str:
    """A new id."""
    return token_hex(8)


def utc_now() -> str:
    """This moment, to be shown: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class StoryStore:
    """The database.

    Args:
        url: SQLAlchemy's; sqlite:///file or postgresql+psycopg://...

    Raises:
        StorageError: The URL or its driver is unknown.
    """

    def __init__(self, url: str) -> None:
        try:
            # Captions are private: no error and no log repeats what was written.
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
        """Brings the schema to this program's version; the file of SQLite is its owner's alone."""
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
        """Lets go of every connection."""
        if self._lock_connection is not None:
            # Said, for the server notices a closed connection a moment later.
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
        """For tests and tools."""
        return self._engine

    def ping(self) -> None:
        """Raises SQLAlchemyError when the database does not answer."""
        with self._engine.connect() as connection:
            connection.execute(text("select 1"))

    def check_writable(self) -> None:
        """Raises SQLAlchemyError when the database keeps nothing; from any thread."""
        with self.transaction() as session:
            found = session.scalar(select(FolderRow.folder_id))
            # Written as it is: it needs the lock, and room on the disk.
            session.execute(update(FolderRow).values(folder_id=found))

    def acquire_lock(self) -> None:
        """Keeps other servers out of the database until `close`, whatever folder they keep their takes in.

        Raises:
            StorageError: Another one works with it.
        """
        for path in self._sqlite_files()[:1]:
            if self._lock_file is None:
                self._lock_file = lock_file(path.with_name(f"{path.name}-lock"))
                if self._lock_file is None:
                    raise StorageError(_LOCKED_BY_OTHER)
        if self._engine.dialect.name != "postgresql" or self._lock_connection is not None:
            return
        claim = self._engine.connect()
        if not claim.scalar(text(f"select pg_try_advisory_lock({_ADVISORY_LOCK})")):
            claim.close()
            raise StorageError(_LOCKED_BY_OTHER)
        claim.commit()
        self._lock_connection = claim

    def folder_id(self) -> str | None:
        """The folder that holds the files; None: not known yet."""
        with Session(self._engine) as session:
            return session.scalar(select(FolderRow.folder_id))

    def set_folder_id(self, folder_id: str) -> None:
        """The files are in this folder from now on."""
        with self.transaction() as session:
            session.execute(delete(FolderRow))
            session.add(FolderRow(folder_id=folder_id))

    def create_story(self, story_id: str, shot_list: ShotList, *, seed: int, autoplay: bool) -> int:
        """A new story with one branch and one step; the bytes that it takes."""
        time, branch_id, step_id = utc_now(), new_id(), new_id()
        with self.transaction() as session:
            session.add(
                StoryRow(
                    story_id=story_id,
                    created_at=time,
                    updated_at=time,
                    number=_next_number(session),
                    seed=str(seed),
                    autoplay=autoplay,
                    branch_id=branch_id,
                    wanted=[],
                )
            )
            session.flush()
            step = _step_row(
                story_id, Step(step_id=step_id, parent_id=None, label="", shot_list=shot_list), 1
            )
            session.add(step)
            session.add(
                BranchRow(
                    branch_id=branch_id,
                    story_id=story_id,
                    created_at=time,
                    number=1,
                    name="Main",
                    head_id=step_id,
                    tip_id=step_id,
                )
            )
            return step.num_bytes

    def load_story(self, story_id: str) -> StoredStory | None:
        """A story; None: there is none of that id."""
        with Session(self._engine) as session:
            row = session.get(StoryRow, story_id)
            return None if row is None else _stored_story(session, row)

    def all_stories(self) -> list[StoredStory]:
        """Every story, the latest change first."""
        with Session(self._engine) as session:
            rows = session.scalars(select(StoryRow).order_by(StoryRow.number.desc())).all()
            return [_stored_story(session, row) for row in rows]

    def get_step(self, step_id: str) -> Step:
        """A step that is there."""
        with Session(self._engine) as session:
            row = session.get_one(StepRow, step_id)
            return Step(
                step_id=row.step_id,
                parent_id=row.parent_id,
                label=row.label,
                shot_list=ShotList.from_document(row.script),
            )

    def save_change(
        self,
        story_id: str,
        branch: StoredBranch,
        *,
        autoplay: bool,
        wanted: Sequence[dict[str, Any]],
        step: Step | None = None,
        takes: Sequence[TakeRecord] = (),
        history_limit: HistoryLimit | None = None,
    ) -> SaveResult:
        """One change of a story: all of it, or nothing.

        Args:
            story_id: the story.
            branch: the branch that is shown from now on, as it is from now on.
            autoplay: see `events.StoryState`.
            wanted: shots that were asked for.
            step: a new step.
            takes: new takes; their files are on disk.
            history_limit: how much of the history is kept; None: all of it.
        """
        with self.transaction() as session:
            row = session.get_one(StoryRow, story_id)
            row.updated_at, row.autoplay, row.branch_id = utc_now(), autoplay, branch.branch_id
            row.number = _next_number(session)
            row.wanted = list(wanted)
            known = session.get(BranchRow, branch.branch_id)
            if known is None:
                session.add(
                    BranchRow(
                        branch_id=branch.branch_id,
                        story_id=story_id,
                        created_at=utc_now(),
                        number=_next_number(session, BranchRow, story_id),
                        name=branch.name,
                        head_id=branch.head_id,
                        tip_id=branch.tip_id,
                    )
                )
            else:
                known.head_id, known.tip_id = branch.head_id, branch.tip_id
            grown = 0
            if step is not None:
                added = _step_row(story_id, step, _next_number(session, StepRow, story_id))
                session.add(added)
                grown += added.num_bytes
            number = _next_number(session, TakeRow, story_id)
            for place, take in enumerate(takes):
                session.add(
                    TakeRow(
                        take_id=take.take_id,
                        story_id=story_id,
                        created_at=take.created_at,
                        number=number + place,
                        num_bytes=take.num_bytes,
                        record=take.to_document(),
                    )
                )
            session.flush()
            if step is not None and history_limit is not None:
                grown -= _prune_history(session, story_id, history_limit)
            head = select(StepRow.parent_id).where(StepRow.step_id == branch.head_id)
            return SaveResult(num_bytes=grown, parent_id=session.scalar(head))

    def replace_take(self, record: TakeRecord) -> None:
        """A take whose files were made anew: other lengths and sums, the same frames."""
        with self.transaction() as session:
            row = session.get_one(TakeRow, record.take_id)
            row.num_bytes, row.record = record.num_bytes, record.to_document()

    def delete_story(self, story_id: str) -> None:
        """Forgets a story, if it is there."""
        with self.transaction() as session:
            for table in (TakeRow, StepRow, BranchRow, StoryRow):
                session.execute(delete(table).where(table.story_id == story_id))

    def shrink(self, most_bytes: int = 2**22) -> None:
        """Gives room that nothing needs any more back to the disk, so much at most; SQLite's alone.

        PostgreSQL's own autovacuum makes such room good for new rows.
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
                # A page is given back with each step of this statement: a script runs it to its end.
                raw.execute("PRAGMA busy_timeout=0")
                try:
                    raw.executescript(f"PRAGMA incremental_vacuum({most_bytes // size})")
                except sqlite3.OperationalError as error:
                    _log.debug("the database does not shrink now: %s", error)
                finally:
                    raw.execute(f"PRAGMA busy_timeout={_LOCK_WAIT_MS}")

    def get_take(self, story_id: str, take_id: str) -> TakeRecord | None:
        """A take of a story; None: it has none of that id."""
        with Session(self._engine) as session:
            row = session.get(TakeRow, take_id)
            return TakeRecord.from_document(row.record) if row and row.story_id == story_id else None

    def take_ids(self) -> set[tuple[str, str]]:
        """(story id, take id) of every take."""
        with Session(self._engine) as session:
            return {(row[0], row[1]) for row in session.execute(select(TakeRow.story_id, TakeRow.take_id))}

    def num_stories(self) -> int:
        """How many there are."""
        with Session(self._engine) as session:
            return session.scalar(select(func.count()).select_from(StoryRow)) or 0

    def num_bytes(self) -> int:
        """Of the files of all takes, and of all history."""
        with Session(self._engine) as session:
            sums = (select(func.sum(table.num_bytes)) for table in (TakeRow, StepRow))
            return sum(int(session.scalar(each) or 0) for each in sums)

    @contextmanager
    def transaction(self) -> Generator[Session]:
        """A transaction; it is not committed into a file that nobody would find again.

        SQLite goes on with a file that was deleted, moved or replaced by a copy, and all would look well.
        """
        with Session(self._engine) as session, session.begin():
            yield session
            session.flush()
            if self._file_id is not None and self._current_file_id() != self._file_id:
                raise OperationalError("", {}, sqlite3.OperationalError(_MOVED), hide_parameters=True)

    def _current_file_id(self) -> tuple[int, int] | None:
        """What is at the place of SQLite's file; None: nothing, or it is no file."""
        for path in self._sqlite_files()[:1]:
            with suppress(FileNotFoundError, NotADirectoryError):
                stat = path.stat()
                return stat.st_dev, stat.st_ino
        return None

    def _restrict_file_modes(self) -> None:
        """SQLite gives the files that it makes beside its own the same mode."""
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
        """Once for a file of an earlier version, or a new one: lets it give room back."""
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
                # It needs as much room again; the next start tries anew.
                _log.warning("the database's file cannot be made to shrink now: %s", error)


def _tune_sqlite(connection: Any, _record: Any) -> None:
    # FULL: a commit is on the disk when it returns, also in the case of a power cut. The log beside the file
    # is kept at a bounded size. Whoever is locked out is told so soon: others wait behind it.
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


def _next_number(
    session: Session, table: type[BranchRow | StepRow | TakeRow] | None = None, story_id: str = ""
) -> int:
    """One more than any so far: of a story's rows, or of all stories."""
    highest = select(func.max((table or StoryRow).number))
    if table is not None:
        highest = highest.where(table.story_id == story_id)
    return int(session.scalar(highest) or 0) + 1


def _prune_history(session: Session, story_id: str, bound: HistoryLimit) -> int:
    """Deletes steps that can never be done again, and the oldest beyond the bound; their bytes."""
    rows = session.execute(
        select(StepRow.step_id, StepRow.parent_id, StepRow.num_bytes)
        .where(StepRow.story_id == story_id)
        .order_by(StepRow.number)
    ).all()
    parents = {row.step_id: row.parent_id for row in rows}
    branches = session.execute(
        select(BranchRow.head_id, BranchRow.tip_id).where(BranchRow.story_id == story_id)
    ).all()
    reached = {step for branch in branches for step in _ancestors(parents, branch.tip_id)}
    before_heads = {step for branch in branches for step in _ancestors(parents, branch.head_id)[1:]}
    kept = {row.step_id: row.num_bytes for row in rows if row.step_id in reached}
    for row in rows:
        if len(kept) <= bound.steps and sum(kept.values()) <= bound.num_bytes:
            break
        # A step was made after the one before it, so that those that stay are still lines.
        if row.step_id in before_heads and row.step_id in kept:
            del kept[row.step_id]
    gone = [row for row in rows if row.step_id not in kept]
    for row in gone:
        session.execute(delete(StepRow).where(StepRow.step_id == row.step_id))
    first = [step for step in kept if parents[step] is not None and parents[step] not in kept]
    for step in first:
        session.execute(update(StepRow).where(StepRow.step_id == step).values(parent_id=None))
    return sum(row.num_bytes for row in gone)


def _ancestors(parents: Mapping[str, str | None], step_id: str | None) -> list[str]:
    """A step and those before it, the latest first."""
    line: list[str] = []
    while step_id is not None:
        line.append(step_id)
        step_id = parents[step_id]
    return line


def _step_row(story_id: str, step: Step, number: int) -> StepRow:
    document = step.shot_list.to_document()
    return StepRow(
        step_id=step.step_id,
        story_id=story_id,
        parent_id=step.parent_id,
        created_at=utc_now(),
        number=number,
        label=step.label[:200],
        script=document,
        num_bytes=len(json.dumps(document)),
    )


def _stored_story(session: Session, row: StoryRow) -> StoredStory:
    story_id = row.story_id
    branches = session.scalars(
        select(BranchRow).where(BranchRow.story_id == story_id).order_by(BranchRow.number)
    )
    takes = session.scalars(select(TakeRow).where(TakeRow.story_id == story_id).order_by(TakeRow.number))
    return StoredStory(
        story_id=story_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
        seed=int(row.seed),
        autoplay=row.autoplay,
        branch_id=row.branch_id,
        wanted=tuple(row.wanted),
        branches=tuple(
            StoredBranch(branch_id=b.branch_id, name=b.name, head_id=b.head_id, tip_id=b.tip_id)
            for b in branches
        ),
        takes=tuple(TakeRecord.from_document(take.record) for take in takes),
        history_bytes=int(
            session.scalar(select(func.sum(StepRow.num_bytes)).where(StepRow.story_id == story_id)) or 0
        ),
    )
