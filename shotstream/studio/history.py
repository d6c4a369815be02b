"""A story's state and its way through history: every change is one step in the database, then in memory.

The worker's alone. A change that the database refuses leaves everything as it was. As much is kept as the
limits allow; when all stories together have reached their quota, a story's history grows no more.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from shotstream.studio.limits import Limits
from shotstream.studio.refusal import Refusal
from shotstream.studio.script import Script, TakeRecord
from shotstream.studio.store import HistoryBound, Step, Store, StoredBranch, StoredStory, new_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A take that was asked for; None: as the card says."""

    shot_id: str
    caption: str | None = None
    num_chunks: int | None = None
    seed: int | None = None


class History:
    """A story, as far as it is in the database."""

    def __init__(self, store: Store, stored: StoredStory, limits: Limits | None = None) -> None:
        self._store = store
        self._limits = limits or Limits()
        self.num_bytes = stored.history_bytes
        """Of all its steps."""
        self.story_id = stored.story_id
        self.seed = stored.seed
        self.autoplay = stored.autoplay
        self.wanted: dict[str, Wanted] = {entry["shot_id"]: Wanted(**entry) for entry in stored.wanted}
        self.takes: dict[str, TakeRecord] = {take.take_id: take for take in stored.takes}
        self.branches: dict[str, StoredBranch] = {branch.branch_id: branch for branch in stored.branches}
        self._show(self.branches[stored.branch_id])

    @property
    def script(self) -> Script:
        """The story now."""
        return self._step.script

    @property
    def undo_label(self) -> str | None:
        """What `undo` would take back."""
        return self._step.label if self._step.parent_id is not None else None

    @property
    def redo_label(self) -> str | None:
        """What `redo` would do again."""
        return self._undone[-1].label if self._undone else None

    def scripts(self) -> dict[str, Script]:
        """The present script of every branch."""
        return {
            branch_id: self.script
            if branch_id == self.branch.branch_id
            else self._store.step(branch.head_id).script
            for branch_id, branch in self.branches.items()
        }

    def commit(
        self,
        script: Script,
        label: str,
        takes: Sequence[TakeRecord] = (),
        *,
        autoplay: bool | None = None,
        wanted: dict[str, Wanted] | None = None,
        may_grow: bool = True,
    ) -> None:
        """One change: what was undone can no longer be done again.

        Args:
            script: The story from now on.
            label: What was done, for the person.
            takes: What was finished with it.
            autoplay: As from now on; None: as it is.
            wanted: The shots that are asked for from now on; None: as they are.
            may_grow: Whether there is room for more history; if not, the oldest makes room.
        """
        wanted = self.wanted if wanted is None else wanted
        wanted = {shot_id: want for shot_id, want in wanted.items() if script.index_of(shot_id) is not None}
        step = Step(step_id=new_id(), parent_id=self._step.step_id, label=label, script=script)
        branch = replace(self.branch, head_id=step.step_id, tip_id=step.step_id)
        going = self.autoplay if autoplay is None else autoplay
        parent_id = self._save(branch, wanted, going, step, takes, may_grow)
        self.takes |= {take.take_id: take for take in takes}
        self._step, self._undone = replace(step, parent_id=parent_id), []

    def set_going(self, *, autoplay: bool | None = None, wanted: dict[str, Wanted] | None = None) -> None:
        """Changes what is to be made; no step, since nothing of the story changes."""
        wanted = self.wanted if wanted is None else wanted
        self._save(self.branch, wanted, self.autoplay if autoplay is None else autoplay)

    def undo(self) -> None:
        """One step back, and nothing is asked for any more."""
        if self._step.parent_id is None:
            raise Refusal("refused", "there is nothing to take back")
        step = self._store.step(self._step.parent_id)
        self._save(replace(self.branch, head_id=step.step_id), {}, autoplay=False)
        self._undone.append(self._step)
        self._step = step

    def redo(self) -> None:
        """One step forth, and nothing is asked for any more."""
        if not self._undone:
            raise Refusal("refused", "there is nothing to do again")
        step = self._undone[-1]
        self._save(replace(self.branch, head_id=step.step_id), {}, autoplay=False)
        self._undone.pop()
        self._step = step

    def begin_branch(self, script: Script, name: str) -> None:
        """A branch that begins with a script, shown from now on."""
        step = Step(step_id=new_id(), parent_id=None, label="", script=script)
        branch = StoredBranch(branch_id=new_id(), name=name, head_id=step.step_id, tip_id=step.step_id)
        self._save(branch, {}, autoplay=False, step=step)
        self._step, self._undone = step, []

    def switch(self, branch_id: str) -> None:
        """Shows another branch."""
        branch = self.branches.get(branch_id)
        if branch is None:
            raise Refusal("not_found", "this story has no such branch")
        self._save(branch, {}, autoplay=False)
        self._show(branch)

    def _show(self, branch: StoredBranch) -> None:
        self.branch = branch
        self._step = self._store.step(branch.head_id)
        self._undone: list[Step] = []
        step_id = branch.tip_id
        while step_id != branch.head_id:
            step = self._store.step(step_id)
            self._undone.append(step)
            assert step.parent_id is not None, "a branch's tip descends from its head"
            step_id = step.parent_id

    def _save(
        self,
        branch: StoredBranch,
        wanted: dict[str, Wanted],
        autoplay: bool,
        step: Step | None = None,
        takes: Sequence[TakeRecord] = (),
        may_grow: bool = True,
    ) -> str | None:
        """The step before the present one."""
        most = self._limits.history_bytes
        saved = self._store.save(
            self.story_id,
            branch,
            autoplay=autoplay,
            wanted=[asdict(want) for want in wanted.values()],
            step=step,
            takes=takes,
            bound=HistoryBound(
                steps=self._limits.undo_steps,
                num_bytes=most if may_grow else min(most, self.num_bytes),
            ),
        )
        self.num_bytes += saved.num_bytes
        self.branch, self.wanted, self.autoplay = branch, wanted, autoplay
        self.branches[branch.branch_id] = branch
        return saved.parent_id
