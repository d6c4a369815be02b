"""Stories in the database: their branches, history and takes.

The history of a branch is a chain of steps, and each step holds a complete shot list. A branch points to its
current step (head) and to the last step that redo can reach (tip). Steps and takes are written once and not
changed, so a server that is killed at any moment leaves all committed steps intact. Steps that redo can no
longer reach are deleted at once, and the oldest steps beyond a limit. Each change is one transaction. Rows
are ordered by numbers, because a clock may go back. Only the worker's thread writes; any thread may read.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from shotstream.studio.cast import StoredPicture
from shotstream.studio.database import Database
from shotstream.studio.ids import new_id, utc_now
from shotstream.studio.shot_list import ShotList
from shotstream.studio.tables import BranchRow, FolderRow, PictureRow, StepRow, StoryRow, TakeRow
from shotstream.studio.take_record import TakeRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of a story's history: a shot list, and the change that led to it."""

    step_id: str
    parent_id: str | None
    label: str
    """Description of the change, for the user."""
    shot_list: ShotList


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredBranch:
    """A branch as stored."""

    branch_id: str
    name: str
    head_id: str
    tip_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredStory:
    """A story as stored, with its branches and takes."""

    story_id: str
    created_at: str
    updated_at: str
    seed: int
    autoplay: bool
    branch_id: str
    wanted: tuple[dict[str, Any], ...]
    branches: tuple[StoredBranch, ...]
    takes: tuple[TakeRecord, ...]
    """The takes, in the order they were finished."""
    history_bytes: int
    """Size of the shot lists of all steps in bytes."""
    pictures: tuple[StoredPicture, ...] = ()
    """The pictures of its references, of all steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveResult:
    """The result of saving a change."""

    num_bytes: int
    """Growth of the history in bytes; negative if more was deleted than written."""
    parent_id: str | None
    """Id of the step before the branch's current one; None if there is none any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryLimit:
    """The maximum size of a story's history. The current step of each branch is always kept."""

    steps: int
    num_bytes: int


class StoryStore(Database):
    """The database of stories, branches, steps, takes and pictures."""

    def check_writable(self) -> None:
        """Raises SQLAlchemyError if the database cannot be written. May be called from any thread."""
        with self.transaction() as session:
            found = session.scalar(select(FolderRow.folder_id))
            # Writing the same value still needs the lock, and space on the disk.
            session.execute(update(FolderRow).values(folder_id=found))

    def folder_id(self) -> str | None:
        """Returns the id of the data directory that holds the files; None: not known yet."""
        with Session(self._engine) as session:
            return session.scalar(select(FolderRow.folder_id))

    def set_folder_id(self, folder_id: str) -> None:
        """Stores the id of the data directory that holds the files."""
        with self.transaction() as session:
            session.execute(delete(FolderRow))
            session.add(FolderRow(folder_id=folder_id))

    def create_story(
        self,
        story_id: str,
        shot_list: ShotList,
        *,
        seed: int,
        autoplay: bool,
        pictures: Mapping[str, StoredPicture] | None = None,
    ) -> int:
        """Creates a story with one branch and one step, and returns its size in bytes.

        `pictures` are those of its references, by their data URIs.
        """
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
            for image, picture in (pictures or {}).items():
                session.add(PictureRow(story_id=story_id, image=image, **asdict(picture)))
            return step.num_bytes + sum(picture.num_bytes for picture in (pictures or {}).values())

    def load_story(self, story_id: str) -> StoredStory | None:
        """Returns a story; None if there is none with that id."""
        with Session(self._engine) as session:
            row = session.get(StoryRow, story_id)
            return None if row is None else _stored_story(session, row)

    def load_stories(self) -> list[StoredStory]:
        """Returns all stories, the most recently changed first."""
        with Session(self._engine) as session:
            rows = session.scalars(select(StoryRow).order_by(StoryRow.number.desc())).all()
            return [_stored_story(session, row) for row in rows]

    def get_step(self, step_id: str) -> Step:
        """Returns a step, which must exist."""
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
        """Saves a change of a story in one transaction.

        Args:
            story_id: The story.
            branch: The branch that is shown after the change, with its new head and tip.
            autoplay: As in `StoryState`.
            wanted: The queued takes.
            step: A new step.
            takes: New takes, whose files are on disk.
            history_limit: The maximum size of the history; None: unlimited.
        """
        with self.transaction() as session:
            row = session.get_one(StoryRow, story_id)
            row.updated_at, row.autoplay, row.branch_id = utc_now(), autoplay, branch.branch_id
            row.number = _next_number(session)
            row.wanted = list(wanted)
            _save_branch(session, story_id, branch)
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

    def save_picture(self, story_id: str, picture: StoredPicture, image: str) -> None:
        """Stores a picture, a data URI, which the story does not have yet."""
        with self.transaction() as session:
            values = asdict(picture)
            session.add(PictureRow(story_id=story_id, image=image, **values))

    def picture(self, story_id: str, picture_id: str) -> str | None:
        """Returns a picture as a data URI; None if the story has none with that id."""
        with Session(self._engine) as session:
            row = session.get(PictureRow, (story_id, picture_id))
            return None if row is None else row.image

    def replace_take(self, record: TakeRecord) -> None:
        """Replaces the record of a repaired take: the lengths and hashes of its files have changed."""
        with self.transaction() as session:
            row = session.get_one(TakeRow, record.take_id)
            row.num_bytes, row.record = record.num_bytes, record.to_document()

    def delete_story(self, story_id: str) -> None:
        """Deletes a story, if it exists."""
        with self.transaction() as session:
            for table in (PictureRow, TakeRow, StepRow, BranchRow, StoryRow):
                session.execute(delete(table).where(table.story_id == story_id))

    def get_take(self, story_id: str, take_id: str) -> TakeRecord | None:
        """Returns a take of a story; None if the story has none with that id."""
        with Session(self._engine) as session:
            row = session.get(TakeRow, take_id)
            return TakeRecord.from_document(row.record) if row and row.story_id == story_id else None

    def take_ids(self) -> set[tuple[str, str]]:
        """Returns (story id, take id) of every take."""
        with Session(self._engine) as session:
            return {(row[0], row[1]) for row in session.execute(select(TakeRow.story_id, TakeRow.take_id))}

    def num_stories(self) -> int:
        """Returns the number of stories."""
        with Session(self._engine) as session:
            return session.scalar(select(func.count()).select_from(StoryRow)) or 0

    def num_bytes(self) -> int:
        """Returns the size of the files of all takes, and of the history and pictures of all stories."""
        with Session(self._engine) as session:
            sums = (select(func.sum(table.num_bytes)) for table in (TakeRow, StepRow, PictureRow))
            return sum(int(session.scalar(each) or 0) for each in sums)


def _next_number(
    session: Session, table: type[BranchRow | StepRow | TakeRow] | None = None, story_id: str = ""
) -> int:
    """Returns the next number of a story's rows in `table`, or of all stories."""
    highest = select(func.max((table or StoryRow).number))
    if table is not None:
        highest = highest.where(table.story_id == story_id)
    return int(session.scalar(highest) or 0) + 1


def _save_branch(session: Session, story_id: str, branch: StoredBranch) -> None:
    known = session.get(BranchRow, branch.branch_id)
    if known is not None:
        known.head_id, known.tip_id = branch.head_id, branch.tip_id
        return
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


def _prune_history(session: Session, story_id: str, limit: HistoryLimit) -> int:
    """Deletes steps that redo cannot reach, and the oldest beyond the limit; returns their size."""
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
        if len(kept) <= limit.steps and sum(kept.values()) <= limit.num_bytes:
            break
        # Steps are deleted oldest first, so the remaining ones still form chains.
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
    """Returns a step and all steps before it, the latest first."""
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
        pictures=tuple(
            StoredPicture(picture_id=row.picture_id, num_bytes=row.num_bytes, outside=row.outside)
            for row in session.execute(
                select(PictureRow.picture_id, PictureRow.num_bytes, PictureRow.outside).where(
                    PictureRow.story_id == story_id
                )
            )
        ),
    )
