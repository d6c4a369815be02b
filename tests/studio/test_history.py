"""History: counted, bounded, and in the order in which things were done, whatever the clock says."""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from shotstream.studio import story_store as store_module
from shotstream.studio.history import History, QueuedTake
from shotstream.studio.ids import new_id
from shotstream.studio.limits import Limits
from shotstream.studio.shot_list import ShotEntry, ShotList
from shotstream.studio.story_store import StoryStore
from tests.studio.studio_harness import StudioHarness

SHOT_LIST = ShotList(
    title="0", global_caption="a forest", shots=(ShotEntry(shot_id="1" * 16, caption="a fox"),)
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoryStore]:
    store = StoryStore(f"sqlite:///{tmp_path / 'stories.sqlite'}")
    store.upgrade()
    yield store
    store.close()


def begun(store: StoryStore, **limits: int) -> History:
    story_id = new_id()
    store.create_story(story_id, SHOT_LIST, seed=0, autoplay=False)
    return opened(store, story_id, **limits)


def opened(store: StoryStore, story_id: str, **limits: int) -> History:
    stored = store.load_story(story_id)
    assert stored is not None
    return History(store, stored, Limits(**limits))  # pyright: ignore[reportArgumentType]


def titled(number: int) -> ShotList:
    return replace(SHOT_LIST, title=str(number))


def count(store: StoryStore, table: str = "steps") -> int:
    with store.engine.connect() as connection:
        return int(connection.execute(text(f"select count(*) from {table}")).scalar_one())


def undone(history: History) -> list[str]:
    """The titles that undo leads back to, the latest first."""
    found: list[str] = []
    while history.undo_label is not None:
        history.undo()
        found.append(history.shot_list.title)
    return found


def test_the_latest_steps_are_kept_and_undo_ends_at_the_oldest_of_them(store: StoryStore) -> None:
    history = begun(store, undo_steps=4)
    for number in range(1, 11):
        history.commit(titled(number), f"Title {number}")
    assert count(store) == 4
    again = opened(store, history.story_id, undo_steps=4)
    assert undone(again) == undone(history) == ["9", "8", "7"]
    again = opened(store, history.story_id, undo_steps=4)
    while again.redo_label is not None:
        again.redo()
    assert again.shot_list.title == "10"


def test_history_takes_no_more_bytes_than_it_may(store: StoryStore) -> None:
    history = begun(store)
    history.commit(titled(1), "")
    one = history.num_bytes // 2
    history = begun(store, history_bytes=5 * one + one // 2)
    for number in range(1, 10):
        history.commit(titled(number), "")
        assert history.num_bytes <= 5 * one + one // 2
    assert undone(history) == ["8", "7", "6", "5"]
    # The present step is kept, however large.
    large = begun(store, history_bytes=1)
    for number in range(1, 4):
        large.commit(titled(number), "")
    assert (large.shot_list.title, large.undo_label) == ("3", None)


def test_what_can_never_be_done_again_is_forgotten(store: StoryStore) -> None:
    history = begun(store)
    for number in range(1, 6):
        history.commit(titled(number), "")
    for _ in range(3):
        history.undo()
    assert count(store) == 6
    history.commit(titled(9), "")
    assert count(store) == 4
    assert undone(opened(store, history.story_id)) == ["2", "1", "0"]


def test_no_branch_loses_its_present_step_or_what_can_be_done_again(store: StoryStore) -> None:
    history = begun(store, undo_steps=3)
    main = history.branch.branch_id
    for number in range(1, 6):
        history.commit(titled(number), "")
    history.undo()
    history.start_branch(titled(50), "Other")
    for number in range(51, 60):
        history.commit(titled(number), "")
    assert history.shot_list.title == "59"
    history.switch_branch(main)
    assert (history.shot_list.title, history.redo_label is not None) == ("4", True)
    history.redo()
    assert history.shot_list.title == "5"
    shot_lists = opened(store, history.story_id).branch_shot_lists()
    assert {shot_list.title for shot_list in shot_lists.values()} == {"5", "59"}
    assert shot_lists[main].title == "5"


def test_every_branch_is_shown_as_it_is_now(store: StoryStore) -> None:
    history = begun(store)
    names = {history.branch.branch_id: "1"}
    history.commit(titled(1), "")
    for number in (20, 30):
        history.start_branch(titled(number), str(number))
        names[history.branch.branch_id] = str(number + 1)
        history.commit(titled(number + 1), "")
    assert {key: shot_list.title for key, shot_list in history.branch_shot_lists().items()} == names
    assert list(history.branch_shot_lists()) == list(opened(store, history.story_id).branch_shot_lists())


def test_what_was_undone_is_done_again_one_step_at_a_time(store: StoryStore) -> None:
    history = begun(store)
    for number in range(1, 5):
        history.commit(titled(number), f"Title {number}")
    assert undone(history) == ["3", "2", "1", "0"]
    for found in (history, opened(store, history.story_id)):
        for number in range(1, 5):
            assert found.redo_label == f"Title {number}"
            found.redo()
            assert (found.shot_list, found.undo_label) == (titled(number), f"Title {number}")
        assert found.redo_label is None
        undone(found)


@pytest.mark.parametrize("way", ["undo", "redo", "branch", "switch"])
def test_after_a_step_through_history_nothing_is_asked_for_any_more(store: StoryStore, way: str) -> None:
    """In memory and in the database alike: a film does not go on by itself behind who looks back."""
    history = begun(store)
    main = history.branch.branch_id
    for number in (1, 2):
        history.commit(titled(number), "")
    if way == "redo":
        history.undo()
    if way == "switch":
        history.start_branch(titled(3), "Other")
    history.set_queue(autoplay=True, queue={"1" * 16: QueuedTake(shot_id="1" * 16)})
    {
        "undo": history.undo,
        "redo": history.redo,
        "branch": lambda: history.start_branch(titled(4), "Another"),
        "switch": lambda: history.switch_branch(main),
    }[way]()
    for found in (history, opened(store, history.story_id)):
        assert not found.autoplay and found.queue == {}


def test_what_is_asked_for_stays_until_it_is_changed_or_its_shot_is_gone(store: StoryStore) -> None:
    history = begun(store)
    wants = {key * 16: QueuedTake(shot_id=key * 16) for key in "12"}
    two = replace(SHOT_LIST, shots=(*SHOT_LIST.shots, ShotEntry(shot_id="2" * 16, caption="a owl")))
    history.commit(two, "", queue=wants, autoplay=True)
    history.set_queue()
    history.commit(replace(two, title="1"), "")
    for found in (history, opened(store, history.story_id)):
        assert found.autoplay and found.queue == wants
    history.set_queue(autoplay=False)
    assert (history.autoplay, history.queue) == (False, wants)
    history.commit(SHOT_LIST, "")
    for found in (history, opened(store, history.story_id)):
        assert not found.autoplay and list(found.queue) == ["1" * 16]


def test_a_step_and_its_branch_are_one_transaction(
    store: StoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = begun(store)
    history.commit(titled(1), "One")
    with monkeypatch.context() as broken:
        broken.setattr("shotstream.studio.history.new_id", lambda: history._step.step_id)
        with pytest.raises(IntegrityError):
            history.commit(titled(2), "Two")
    again = opened(store, history.story_id)
    assert (again.shot_list, again.undo_label) == (titled(1), "One")
    history.commit(titled(3), "Three")
    assert undone(opened(store, history.story_id)) == ["1", "0"]


def test_stories_count_their_history_and_a_deletion_gives_it_back(tmp_path: Path) -> None:
    studio = StudioHarness(tmp_path)
    studio.run(2)
    for number in range(5):
        studio.send_ok("edit_story", title=f"Title {number}")
        assert studio.app.stored_bytes() == studio.store.num_bytes()
    studio.send_ok("branch")
    studio.send_ok("undo") if studio.story.undo else None
    assert studio.app.stored_bytes() == studio.store.num_bytes()
    taken = sum(take.num_bytes for take in studio.open_story.history.takes.values())
    assert studio.app.stored_bytes() == taken + studio.open_story.history.num_bytes
    studio.manager.delete_story(studio.story_id)
    assert studio.app.stored_bytes() == studio.store.num_bytes() == 0
    studio.close()


def test_at_the_quota_history_grows_no_more_and_new_takes_are_refused(tmp_path: Path) -> None:
    studio = StudioHarness(tmp_path)
    studio.run()
    size = studio.open_story.history.num_bytes
    object.__setattr__(studio.app.limits, "quota_bytes", 1)
    for number in range(10):
        studio.send_ok("edit_story", title=f"Title {number}")
        assert studio.open_story.history.num_bytes <= size
    assert studio.story.title == "Title 9" and studio.story.undo is not None
    before = studio.media.take_ids()
    playing = {"take_id": studio.take_ids()[0], "frame_index": 0}
    assert studio.send_refused("cut", playing=playing).code == "quota"
    assert studio.send_refused("branch").code == "quota"
    assert studio.media.take_ids() == before
    studio.close()


@pytest.mark.slow
def test_the_file_shrinks_when_history_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "stories.sqlite"
    store = StoryStore(f"sqlite:///{path}")
    store.upgrade()
    large = replace(
        SHOT_LIST, shots=tuple(ShotEntry(shot_id=new_id(), caption="x" * 2000) for _ in range(100))
    )
    story_id = new_id()
    store.create_story(story_id, large, seed=0, autoplay=False)
    history = opened(store, story_id)
    for number in range(20):
        history.commit(replace(large, title=str(number)), "")
    store.close()
    full = path.stat().st_size
    assert full > 20 * 200_000
    bound = opened(store, story_id, history_bytes=1)
    bound.commit(large, "")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        store.shrink()  # Not now, and without waiting for it.
        other.execute("ROLLBACK")
    for _ in range(5):
        store.shrink(2**20)
    store.close()
    assert path.stat().st_size < full / 5
    assert opened(store, story_id).shot_list == large
    store.close()


def test_a_file_of_an_earlier_version_can_shrink_too(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "old.sqlite") as old:
        old.execute("create table something (x)")
    old.close()
    store = StoryStore(f"sqlite:///{tmp_path / 'old.sqlite'}")
    store.upgrade()
    with store.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA auto_vacuum").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    store.close()


@pytest.mark.slow
def test_the_order_of_takes_branches_and_stories_does_not_depend_on_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock goes back with every look at it, as after a correction."""
    seconds = iter(range(100_000, 0, -1))

    def earlier() -> str:
        return f"2026-11-27T00:00:00.{next(seconds):06}+00:00"

    monkeypatch.setattr(store_module, "utc_now", earlier)
    monkeypatch.setattr("shotstream.studio.take_job.utc_now", earlier)
    studio = StudioHarness(tmp_path)
    studio.run()
    for _ in range(2):
        studio.send_ok("retake", shot_id=studio.story.shots[1].shot_id)
        studio.run()
    for name in ("Second", "Third"):
        studio.send_ok("branch", name=name)
    told = studio.story
    other = studio.create_story(1)
    assert [story.story_id for story in studio.store.load_stories()] == [other, studio.story_id]
    studio.send_ok("edit_story", title="Changed last")
    assert [story.story_id for story in studio.store.load_stories()] == [studio.story_id, other]
    stored = studio.store.load_story(studio.story_id)
    assert stored is not None
    assert [t.take_id for t in stored.takes] == list(studio.open_story.history.takes)
    times = [t.created_at for t in stored.takes]
    assert times == sorted(times, reverse=True)
    again = History(studio.store, stored)
    assert [b.name for b in again.branches.values()] == [b.name for b in told.branches]
    assert [b.name for b in told.branches] == ["Main", "Second", "Third"]
    studio.close()
