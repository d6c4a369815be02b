"""Stories in a database: SQLite beside the media, or PostgreSQL by URL; the schema is Alembic's.

A story's history is a tree of steps, each a whole script; a branch points to its present step (head) and to
the furthest one that can be done again (tip). Steps and takes are written once and never changed, so that a
server killed at any moment leaves the last committed step, and all before it, as they were. One transaction
per change. Only the worker writes; any thread may read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import JSON, BigInteger, Boolean, ForeignKey, String, create_engine, event, func, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from shotstream.studio.script import Script, TakeRecord

_MIGRATIONS = Path(__file__).parent / "migrations"


class StoreError(ValueError):
    """A database that cannot be used; one line."""


class Base(DeclarativeBase):
    """The tables; `migrations/` makes and changes them."""


class StoryRow(Base):
    """A story."""

    __tablename__ = "stories"
    story_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    created_at: Mapped[str] = mapped_column(String(40))
    updated_at: Mapped[str] = mapped_column(String(40), index=True)
    seed: Mapped[str] = mapped_column(String(20))
    autoplay: Mapped[bool] = mapped_column(Boolean)
    branch_id: Mapped[str] = mapped_column(String(16))
    wanted: Mapped[list[dict[str, Any]]] = mapped_column(JSON)


class BranchRow(Base):
    """A line of a story's history."""

    __tablename__ = "branches"
    branch_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    story_id: Mapped[str] = mapped_column(ForeignKey("stories.story_id"), index=True)
    created_at: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(200))
    head_id: Mapped[str] = mapped_column(String(16))
    tip_id: Mapped[str] = mapped_column(String(16))


class StepRow(Base):
    """A script of a story's history; never changed."""

    __tablename__ = "steps"
    step_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    story_id: Mapped[str] = mapped_column(ForeignKey("stories.story_id"), index=True)
    parent_id: Mapped[str | None] = mapped_column(String(16))
    created_at: Mapped[str] = mapped_column(String(40))
    label: Mapped[str] = mapped_column(String(200))
    script: Mapped[dict[str, Any]] = mapped_column(JSON)


class TakeRow(Base):
    """A finished take; never changed."""

    __tablename__ = "takes"
    take_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    story_id: Mapped[str] = mapped_column(ForeignKey("stories.story_id"), index=True)
    created_at: Mapped[str] = mapped_column(String(40))
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    record: Mapped[dict[str, Any]] = mapped_column(JSON)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A moment of a story's history."""

    step_id: str
    parent_id: str | None
    label: str
    """What was done, for the person."""
    script: Script


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


def new_id() -> str:
    """A new id."""
    return token_hex(8)


def now() -> str:
    """This moment: ISO 8601, UTC; sorts as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Store:
    """The database.

    Args:
        url: SQLAlchemy's; sqlite:///file or postgresql+psycopg://...

    Raises:
        StoreError: The URL or its driver is unknown.
    """

    def __init__(self, url: str) -> None:
        try:
            self._engine = create_engine(url, pool_pre_ping=True)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise StoreError(
                f"the database {url.partition(':')[0]!r} cannot be used: {error}; give sqlite:///FILE or "
                "postgresql+psycopg://..."
            ) from error
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _tune_sqlite)

    def upgrade(self) -> None:
        """Brings the schema to this program's version."""
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        with self._engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        """Lets go of every connection."""
        self._engine.dispose()

    @property
    def engine(self) -> Engine:
        """For tests and tools."""
        return self._engine

    def ping(self) -> None:
        """Raises SQLAlchemyError when the database does not answer."""
        with self._engine.connect() as connection:
            connection.execute(text("select 1"))

    def create(self, story_id: str, script: Script, *, seed: int, autoplay: bool) -> None:
        """A new story with one branch and one step."""
        time, branch_id, step_id = now(), new_id(), new_id()
        with Session(self._engine) as session, session.begin():
            session.add(
                StoryRow(
                    story_id=story_id,
                    created_at=time,
                    updated_at=time,
                    seed=str(seed),
                    autoplay=autoplay,
                    branch_id=branch_id,
                    wanted=[],
                )
            )
            session.flush()
            session.add(_step_row(story_id, Step(step_id=step_id, parent_id=None, label="", script=script)))
            session.add(
                BranchRow(
                    branch_id=branch_id,
                    story_id=story_id,
                    created_at=time,
                    name="Main",
                    head_id=step_id,
                    tip_id=step_id,
                )
            )

    def load(self, story_id: str) -> StoredStory | None:
        """A story; None: there is none of that id."""
        with Session(self._engine) as session:
            row = session.get(StoryRow, story_id)
            return None if row is None else _stored(session, row)

    def all_stories(self) -> list[StoredStory]:
        """Every story, the latest change first."""
        with Session(self._engine) as session:
            rows = session.scalars(select(StoryRow).order_by(StoryRow.updated_at.desc())).all()
            return [_stored(session, row) for row in rows]

    def step(self, step_id: str) -> Step:
        """A step that is there."""
        with Session(self._engine) as session:
            row = session.get_one(StepRow, step_id)
            return Step(
                step_id=row.step_id,
                parent_id=row.parent_id,
                label=row.label,
                script=Script.from_document(row.script),
            )

    def save(
        self,
        story_id: str,
        branch: StoredBranch,
        *,
        autoplay: bool,
        wanted: Sequence[dict[str, Any]],
        step: Step | None = None,
        takes: Sequence[TakeRecord] = (),
    ) -> None:
        """One change of a story: all of it, or nothing.

        Args:
            story_id: the story.
            branch: the branch that is shown from now on, as it is from now on.
            autoplay: see `events.StoryState`.
            wanted: shots that were asked for.
            step: a new step.
            takes: new takes; their files are on disk.
        """
        with Session(self._engine) as session, session.begin():
            row = session.get_one(StoryRow, story_id)
            row.updated_at, row.autoplay, row.branch_id = now(), autoplay, branch.branch_id
            row.wanted = list(wanted)
            known = session.get(BranchRow, branch.branch_id)
            if known is None:
                session.add(
                    BranchRow(
                        branch_id=branch.branch_id,
                        story_id=story_id,
                        created_at=now(),
                        name=branch.name,
                        head_id=branch.head_id,
                        tip_id=branch.tip_id,
                    )
                )
            else:
                known.head_id, known.tip_id = branch.head_id, branch.tip_id
            if step is not None:
                session.add(_step_row(story_id, step))
            for take in takes:
                session.add(
                    TakeRow(
                        take_id=take.take_id,
                        story_id=story_id,
                        created_at=take.created_at,
                        num_bytes=take.num_bytes,
                        record=take.to_document(),
                    )
                )

    def delete(self, story_id: str) -> None:
        """Forgets a story."""
        with Session(self._engine) as session, session.begin():
            for table in (TakeRow, StepRow, BranchRow):
                for row in session.scalars(select(table).where(table.story_id == story_id)):
                    session.delete(row)
            session.flush()
            story = session.get(StoryRow, story_id)
            if story is not None:
                session.delete(story)

    def take(self, story_id: str, take_id: str) -> TakeRecord | None:
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
        """Of the files of all takes."""
        with Session(self._engine) as session:
            return int(session.scalar(select(func.sum(TakeRow.num_bytes))) or 0)


def _tune_sqlite(connection: Any, _record: Any) -> None:
    # FULL: a commit is on the disk when it returns, also in the case of a power cut.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}")


def _step_row(story_id: str, step: Step) -> StepRow:
    return StepRow(
        step_id=step.step_id,
        story_id=story_id,
        parent_id=step.parent_id,
        created_at=now(),
        label=step.label[:200],
        script=step.script.to_document(),
    )


def _stored(session: Session, row: StoryRow) -> StoredStory:
    story_id = row.story_id
    branches = session.scalars(
        select(BranchRow).where(BranchRow.story_id == story_id).order_by(BranchRow.created_at)
    )
    takes = session.scalars(select(TakeRow).where(TakeRow.story_id == story_id).order_by(TakeRow.created_at))
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
    )
