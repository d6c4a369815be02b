"""The history of a story: its current shot list, undo and redo, branches, and the queue of takes.

Used by the worker's thread alone. Each change is committed to the database, then applied in memory; if the
commit fails, nothing changes. The size of the history is limited; once all stories reach the quota, it grows
no more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from shotstream.story import Steer
from shotstream.studio.api_error import ApiError
from shotstream.studio.cast import StoredPicture
from shotstream.studio.ids import new_id
from shotstream.studio.limits import Limits
from shotstream.studio.shot_list import ShotList
from shotstream.studio.story_store import HistoryLimit, Step, StoredBranch, StoredStory, StoryStore
from shotstream.studio.take_record import TakeRecord, steers_from


@dataclass(frozen=True, kw_only=True, slots=True)
class QueuedTake:
    """A take that the user requested. A value of None is taken from the shot's entry."""

    shot_id: str
    caption: str | None = None
    num_chunks: int | None = None
    seed: int | None = None
    then: tuple[Steer, ...] | None = None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "QueuedTake":
        """Returns the queued take from plain values; earlier versions had no `then`."""
        values = dict(document)
        then = values.pop("then", None)
        return cls(then=None if then is None else steers_from(then), **values)


class History:
    """The part of an open story that the database holds."""

    def __init__(self, store: StoryStore, stored: StoredStory, limits: Limits | None = None) -> None:
        self._store = store
        self._limits = limits or Limits()
        self.num_bytes = stored.history_bytes
        """Size of all its steps in bytes."""
        self.story_id = stored.story_id
        self.seed = stored.seed
        self.autoplay = stored.autoplay
        self.queue: dict[str, QueuedTake] = {
            entry["shot_id"]: QueuedTake.from_document(entry) for entry in stored.wanted
        }
        self.takes: dict[str, TakeRecord] = {take.take_id: take for take in stored.takes}
        self.pictures: dict[str, StoredPicture] = {one.picture_id: one for one in stored.pictures}
        """The pictures of its references, by their ids."""
        self.branches: dict[str, StoredBranch] = {branch.branch_id: branch for branch in stored.branches}
        self._load_branch(self.branches[stored.branch_id])

    @property
    def shot_list(self) -> ShotList:
        """The current shot list."""
        return self._step.shot_list

    @property
    def step_id(self) -> str:
        """The id of the current step."""
        return self._step.step_id

    @property
    def undo_label(self) -> str | None:
        """The label of the change that `undo` would revert; None if there is none."""
        return self._step.label if self._step.parent_id is not None else None

    @property
    def redo_label(self) -> str | None:
        """The label of the change that `redo` would apply again; None if there is none."""
        return self._redo_stack[-1].label if self._redo_stack else None

    def branch_shot_lists(self) -> dict[str, ShotList]:
        """Returns the current shot list of each branch, by branch id."""
        return {
            branch_id: self.shot_list
            if branch_id == self.branch.branch_id
            else self._store.get_step(branch.head_id).shot_list
            for branch_id, branch in self.branches.items()
        }

    def with_take(self, shot_list: ShotList, record: TakeRecord) -> ShotList:
        """Returns the shot list with a take chosen, and its shot's entry as the take was requested."""
        index = shot_list.index_of(record.shot_id)
        assert index is not None
        old, queued = shot_list.shots[index], self.queue.get(record.shot_id)
        shot = replace(old, take_id=record.take_id, caption=record.caption, then=record.then)
        if queued is not None and queued.num_chunks is not None:
            shot = replace(shot, num_chunks=queued.num_chunks)
        if queued is not None and queued.seed is not None:
            shot = replace(shot, seed=queued.seed)
        if record.was_cut:
            shot = replace(shot, num_chunks=record.num_chunks)
        elif queued is None or queued.then is None:
            # Captions beyond the end of this take are for a longer one.
            later = (steer for steer in old.then if steer.chunk_index >= record.num_chunks)
            shot = replace(shot, then=(*record.then, *later))
        return shot_list.with_shot(shot)

    def commit(
        self,
        shot_list: ShotList,
        label: str,
        takes: Sequence[TakeRecord] = (),
        *,
        autoplay: bool | None = None,
        queue: dict[str, QueuedTake] | None = None,
        may_grow: bool = True,
    ) -> None:
        """Commits a change as a new step, and clears the redo stack.

        Args:
            shot_list: The new shot list.
            label: The change, for the user.
            takes: New takes.
            autoplay: The new value; None: unchanged.
            queue: The new queue, by shot id; None: unchanged.
            may_grow: Whether the history may grow; if not, its oldest steps are deleted.
        """
        queue = self.queue if queue is None else queue
        queue = {
            shot_id: queued for shot_id, queued in queue.items() if shot_list.index_of(shot_id) is not None
        }
        step = Step(step_id=new_id(), parent_id=self._step.step_id, label=label, shot_list=shot_list)
        branch = replace(self.branch, head_id=step.step_id, tip_id=step.step_id)
        plays = self.autoplay if autoplay is None else autoplay
        parent_id = self._save(branch, queue, plays, step, takes, may_grow)
        self.takes |= {take.take_id: take for take in takes}
        self._step, self._redo_stack = replace(step, parent_id=parent_id), []

    def add_picture(self, picture: StoredPicture, image: str) -> None:
        """Stores a picture, a data URI, unless the story has it; no step of the history."""
        if picture.picture_id not in self.pictures:
            self._store.save_picture(self.story_id, picture, image)
            self.pictures[picture.picture_id] = picture

    def set_queue(self, *, autoplay: bool | None = None, queue: dict[str, QueuedTake] | None = None) -> None:
        """Sets autoplay and the queue. This is no step of the history: the shot list does not change."""
        queue = self.queue if queue is None else queue
        self._save(self.branch, queue, self.autoplay if autoplay is None else autoplay)

    def undo(self, queue: dict[str, QueuedTake] | None = None) -> None:
        """Goes one step back, turns autoplay off, and sets the queue; None: it is empty then."""
        if self._step.parent_id is None:
            raise ApiError("refused", "there is nothing to undo")
        step = self._store.get_step(self._step.parent_id)
        self._save(replace(self.branch, head_id=step.step_id), queue or {}, autoplay=False)
        self._redo_stack.append(self._step)
        self._step = step

    def redo(self) -> None:
        """Goes one step forward, empties the queue and turns autoplay off."""
        if not self._redo_stack:
            raise ApiError("refused", "there is nothing to redo")
        step = self._redo_stack[-1]
        self._save(replace(self.branch, head_id=step.step_id), {}, autoplay=False)
        self._redo_stack.pop()
        self._step = step

    def start_branch(self, shot_list: ShotList, name: str) -> None:
        """Creates a branch whose first step is a shot list, and shows it."""
        step = Step(step_id=new_id(), parent_id=None, label="", shot_list=shot_list)
        branch = StoredBranch(branch_id=new_id(), name=name, head_id=step.step_id, tip_id=step.step_id)
        self._save(branch, {}, autoplay=False, step=step)
        self._step, self._redo_stack = step, []

    def switch_branch(self, branch_id: str) -> None:
        """Shows another branch, empties the queue and turns autoplay off."""
        branch = self.branches.get(branch_id)
        if branch is None:
            raise ApiError("not_found", "this story has no such branch")
        self._save(branch, {}, autoplay=False)
        self._load_branch(branch)

    def _load_branch(self, branch: StoredBranch) -> None:
        self.branch = branch
        self._step = self._store.get_step(branch.head_id)
        self._redo_stack: list[Step] = []
        step_id = branch.tip_id
        while step_id != branch.head_id:
            step = self._store.get_step(step_id)
            self._redo_stack.append(step)
            assert step.parent_id is not None, "a branch's tip descends from its head"
            step_id = step.parent_id

    def _save(
        self,
        branch: StoredBranch,
        queue: dict[str, QueuedTake],
        autoplay: bool,
        step: Step | None = None,
        takes: Sequence[TakeRecord] = (),
        may_grow: bool = True,
    ) -> str | None:
        """Saves a change, and returns the id of the step before the current one."""
        most = self._limits.history_bytes
        saved = self._store.save_change(
            self.story_id,
            branch,
            autoplay=autoplay,
            wanted=[asdict(queued) for queued in queue.values()],
            step=step,
            takes=takes,
            history_limit=HistoryLimit(
                steps=self._limits.undo_steps,
                num_bytes=most if may_grow else min(most, self.num_bytes),
            ),
        )
        self.num_bytes += saved.num_bytes
        self.branch, self.queue, self.autoplay = branch, queue, autoplay
        self.branches[branch.branch_id] = branch
        return saved.parent_id
