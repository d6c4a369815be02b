"""The tables of the database, as SQLAlchemy models. Alembic's migrations are in `migrations/`."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, ForeignKey, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Base class of all tables."""


class StoryRow(Base):
    """A story."""

    __tablename__ = "stories"
    story_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    created_at: Mapped[str] = mapped_column(String(40))
    updated_at: Mapped[str] = mapped_column(String(40), index=True)
    number: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Number that orders stories by their last change."""
    seed: Mapped[str] = mapped_column(String(20))
    autoplay: Mapped[bool] = mapped_column(Boolean)
    branch_id: Mapped[str] = mapped_column(String(16))
    wanted: Mapped[list[dict[str, Any]]] = mapped_column(JSON)


class BranchRow(Base):
    """A branch of a story's history."""

    __tablename__ = "branches"
    branch_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    story_id: Mapped[str] = mapped_column(ForeignKey("stories.story_id"), index=True)
    created_at: Mapped[str] = mapped_column(String(40))
    number: Mapped[int] = mapped_column(BigInteger, server_default="0")
    name: Mapped[str] = mapped_column(String(200))
    head_id: Mapped[str] = mapped_column(String(16))
    tip_id: Mapped[str] = mapped_column(String(16))


class StepRow(Base):
    """A step of a story's history: a complete shot list. Rows are never changed."""

    __tablename__ = "steps"
    step_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    story_id: Mapped[str] = mapped_column(ForeignKey("stories.story_id"), index=True)
    parent_id: Mapped[str | None] = mapped_column(String(16))
    created_at: Mapped[str] = mapped_column(String(40))
    number: Mapped[int] = mapped_column(BigInteger, server_default="0")
    label: Mapped[str] = mapped_column(String(200))
    script: Mapped[dict[str, Any]] = mapped_column(JSON)
    num_bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Size of the shot list as JSON, in bytes."""


class TakeRow(Base):
    """A finished take. A row is changed only when the take is repaired."""

    __tablename__ = "takes"
    take_id: Mapped[str] = mapped_column(String(16), primary_key=True)
    story_id: Mapped[str] = mapped_column(ForeignKey("stories.story_id"), index=True)
    created_at: Mapped[str] = mapped_column(String(40))
    number: Mapped[int] = mapped_column(BigInteger, server_default="0")
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    record: Mapped[dict[str, Any]] = mapped_column(JSON)


class PictureRow(Base):
    """A picture of a story's references. Rows are never changed."""

    __tablename__ = "pictures"
    story_id: Mapped[str] = mapped_column(ForeignKey("stories.story_id"), primary_key=True)
    picture_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    outside: Mapped[str | None] = mapped_column(String(400))
    image: Mapped[str] = mapped_column(Text)
    """The picture at the model's size, as a data URI."""


class FolderRow(Base):
    """The id of the data directory that holds the files of the takes; one row."""

    __tablename__ = "folders"
    folder_id: Mapped[str] = mapped_column(String(16), primary_key=True)
