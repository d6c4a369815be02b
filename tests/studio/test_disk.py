"""A disk or database that takes nothing: nothing is told kept that is not, and the story goes on after it."""

import contextlib
import errno
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from shotstream.studio.api_error import ApiError
from shotstream.studio.limits import Limits
from shotstream.studio.schemas.server_messages import Error, Notice, TakeEnded, Telemetry
from shotstream.studio.storage_errors import explain_failure, is_storage_failure
from tests.params import first
from tests.studio.studio_harness import RecordingOutbox, StudioHarness

FULL = "database or disk is full"
LOCKED = "database is locked"


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[StudioHarness]:
    studio = StudioHarness(tmp_path)
    yield studio
    studio.close()


def says(words: str) -> Callable[..., Any]:
    def refuse(*_: object, **__: object) -> None:
        raise OperationalError("insert", {}, sqlite3.OperationalError(words))

    return refuse


def is_full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def try_again(studio: StudioHarness) -> None:
    """The next round tries without waiting."""
    studio.open_story._retry_storage_s = 0.0


@pytest.mark.parametrize(
    ("where", "fault", "reason"),
    first(
        2,
        [
            ("media.save_take", is_full, "the disk is full"),
            ("store.save_change", says(FULL), "the disk is full"),
            ("store.save_change", says(LOCKED), "another program has locked the database"),
            ("store.save_change", says("attempt to write a readonly database"), "the disk is read-only"),
        ],
    ),
)
def test_a_take_that_cannot_be_kept_is_not_told_finished_and_is_kept_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, fault: Callable[..., Any], reason: str
) -> None:
    plain = StudioHarness(tmp_path)
    plain.run()
    plain.close()
    (tmp_path / "other").mkdir()
    studio = StudioHarness(tmp_path / "other")
    part, _, name = where.partition(".")
    with monkeypatch.context() as broken:
        broken.setattr(getattr(studio, part), name, fault)
        studio.run()
        assert studio.outbox.of(TakeEnded) == []
        assert studio.statuses == ["generating", "queued", "queued"]
        assert studio.open_story.state(0.0) == "full"
        assert [n.code for n in studio.outbox.of(Notice)] == ["storage"]
        assert reason in studio.outbox.of(Notice)[0].message
        assert any(reason in said for said in studio.app.storage_failures())
        try_again(studio)
        studio.run()  # In vain, and not told once more.
        assert len(studio.outbox.of(Notice)) == 1
        assert studio.media.take_ids() == set()
    making = studio.story.making
    try_again(studio)
    studio.run()
    assert studio.statuses == ["done"] * 3
    ended = studio.outbox.of(TakeEnded)
    assert [e.outcome for e in ended] == ["finished"] * 3
    assert making is not None and ended[0].take_id == making.take_id, "what was made is kept, not made again"
    assert studio.app.storage_failures() == ()
    again = StudioHarness(tmp_path / "other")
    assert again.take_ids() == studio.take_ids()
    again.close()
    studio.close()


def test_an_end_is_told_after_its_commit(studio: StudioHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    save = studio.store.save_change
    told: list[int] = []

    def watched(*arguments: Any, **fields: Any) -> Any:
        told.append(len(studio.outbox.of(TakeEnded)))
        return save(*arguments, **fields)

    monkeypatch.setattr(studio.store, "save_change", watched)
    studio.run(3)
    studio.send_ok("stop")
    assert told == [0, 1], "the first take's commit, then the one of the stop"
    assert [e.outcome for e in studio.outbox.of(TakeEnded)] == ["finished", "cut"]


CONTROLS: list[tuple[str, Callable[[StudioHarness], dict[str, Any]]]] = [
    ("add_shot", lambda _: {"shot": {"caption": "a owl walks"}}),
    ("edit_shot", lambda s: {"shot_id": s.story.shots[2].shot_id, "caption": "a owl"}),
    ("remove_shot", lambda s: {"shot_id": s.story.shots[0].shot_id}),
    ("move_shot", lambda s: {"shot_id": s.story.shots[0].shot_id, "index": 2}),
    ("retake", lambda s: {"shot_id": s.story.shots[0].shot_id}),
    ("cut", lambda s: {"playing": {"take_id": s.take_ids()[0], "frame_index": 0}}),
    ("cut", lambda s: {"playing": {"take_id": s.story.making.take_id, "frame_index": 0}}),  # pyright: ignore
    ("stop", lambda _: {}),
    ("undo", lambda _: {}),
    ("branch", lambda _: {}),
    ("set_autoplay", lambda _: {"on": False}),
    ("edit_story", lambda _: {"title": "Lost"}),
    ("pin", lambda s: {"frame": {"take_id": s.take_ids()[0], "frame_index": 1}}),
]


def test_a_control_that_cannot_be_kept_is_refused_and_changes_nothing(
    studio: StudioHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.run(3)
    history = studio.open_story.history
    for control, fields in CONTROLS:
        while studio.story.making is None:
            studio.run(1)
        before = (
            history.shot_list,
            history.autoplay,
            dict(history.queue),
            history.undo_label,
            history.redo_label,
        )
        takes, num_told = studio.media.take_ids(), len(studio.outbox.of(TakeEnded))
        with monkeypatch.context() as broken:
            broken.setattr(studio.store, "save_change", says(LOCKED))
            answer = studio.send(control, **fields(studio))
            assert isinstance(answer, Error) and answer.code == "storage", control
            assert "has locked the database" in answer.message and "insert" not in answer.message
        assert studio.open_story.history is history
        after = (history.shot_list, history.autoplay, history.queue, history.undo_label, history.redo_label)
        assert before == after, control
        assert studio.media.take_ids() == takes, control
        assert not {"finished", "cut"} & {e.outcome for e in studio.outbox.of(TakeEnded)[num_told:]}, control
    studio.run()
    assert studio.statuses == ["done"] * 3


@pytest.mark.parametrize("control", ["cut", "stop"])
def test_a_cut_that_cannot_be_written_is_refused_and_the_take_is_made_again(
    studio: StudioHarness, monkeypatch: pytest.MonkeyPatch, control: str
) -> None:
    studio.run(3)
    with monkeypatch.context() as broken:
        broken.setattr(studio.media, "save_take", is_full)
        answer = studio.send(control)
        assert isinstance(answer, Error) and answer.code == "storage"
    assert [e.outcome for e in studio.outbox.of(TakeEnded)] == ["finished", "discarded"]
    studio.run()
    assert studio.statuses == ["done"] * 3
    assert [take.was_cut for take in studio.open_story.history.takes.values()] == [False] * 3


@pytest.mark.slow
def test_a_story_is_deleted_on_a_full_disk(studio: StudioHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files make the room that the database needs to forget it."""
    studio.run()
    delete = studio.store.delete_story

    def needs_room(story_id: str) -> None:
        if any(path.suffix == ".mkv" for path in studio.media._root.rglob("*")):
            says(FULL)()
        delete(story_id)

    monkeypatch.setattr(studio.store, "delete_story", needs_room)
    studio.manager.delete_story(studio.story_id)
    assert studio.store.load_stories() == [] and list(studio.media._root.iterdir()) == []
    assert studio.app.stored_bytes() == studio.store.num_bytes() == 0


def test_a_deletion_that_the_database_refuses_leaves_the_story_whole(
    studio: StudioHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.run()
    takes = studio.media.take_ids()
    with monkeypatch.context() as broken:
        broken.setattr(studio.store, "delete_story", says(LOCKED))
        with pytest.raises(ApiError) as refusal:
            studio.manager.delete_story(studio.story_id)
    assert refusal.value.code == "storage"
    assert studio.outbox.code is None, "its viewer still watches"
    assert studio.media.take_ids() == takes
    assert studio.app.stored_bytes() == studio.store.num_bytes() > 0


@pytest.mark.slow
def test_a_database_that_another_process_holds_is_told_and_waited_for(
    studio: StudioHarness, tmp_path: Path
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "stories.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        studio.run(2)
        assert studio.outbox.of(TakeEnded) == []
        other.execute("ROLLBACK")
    try_again(studio)
    studio.run()
    assert studio.statuses == ["done"] * 3
    assert studio.app.storage_failures() == ()


def test_the_page_is_told_that_nothing_can_be_kept(
    studio: StudioHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(studio.media, "save_take", is_full)
        studio.run()
        studio.manager.do_housekeeping()
    assert studio.outbox.of(Telemetry)[-1].state == "full"


def test_a_story_that_waits_does_not_hold_up_another(
    studio: StudioHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, waiting = studio.media.save_take, studio.story_id

    def refuses_one(story_id: str, *rest: Any) -> Any:
        if story_id == waiting:
            is_full()
        return keep(story_id, *rest)

    monkeypatch.setattr(studio.media, "save_take", refuses_one)
    studio.run()
    studio.story_id = studio.create_story(2)
    studio.outbox = RecordingOutbox()
    studio.viewer = studio.add_viewer(studio.outbox)
    studio.run()
    assert studio.statuses == ["done"] * 2
    studio.manager.delete_story(waiting)
    assert studio.app.storage_failures() == (), "a story that is gone troubles nobody"


def test_what_was_written_is_in_no_error_and_no_answer(studio: StudioHarness) -> None:
    """Captions are private; SQLAlchemy's errors repeat them unless told not to."""
    studio.store.create_story("a" * 16, studio.open_story.shot_list, seed=0, autoplay=False)
    with pytest.raises(Exception) as error:
        studio.store.create_story("a" * 16, studio.open_story.shot_list, seed=0, autoplay=False)
    assert "fox" not in str(error.value) and "forest" not in str(error.value)
    assert not is_storage_failure(error.value), "a fault of ours does not pass by waiting"
    assert "fox" not in explain_failure(error.value)


def test_nothing_is_kept_in_a_database_that_nobody_would_find_again(
    studio: StudioHarness, tmp_path: Path
) -> None:
    """SQLite goes on with a file that was deleted or replaced: all was told kept, and lost at the end."""
    place, away = tmp_path / "stories.sqlite", tmp_path / "away.sqlite"
    studio.run(2)
    for put in (None, b"", studio.store):
        place.rename(away)
        if put is studio.store:
            with contextlib.closing(sqlite3.connect(place)) as copy:
                copy.execute("create table t (x)")
        elif put is not None:
            place.write_bytes(b"")
        [reason] = studio.app.storage_failures()
        assert (
            reason.startswith("the database file was moved, deleted or replaced") and "put it back" in reason
        )
        answer = studio.send("add_shot", shot={"caption": "a owl walks"})
        assert isinstance(answer, Error) and answer.code == "storage" and reason in answer.message
        with pytest.raises(ApiError, match="nothing was changed"):
            studio.create_story()
        assert reason in studio.manager.shutdown_summary()
        away.replace(place)
        assert studio.app.storage_failures() == ()
    try_again(studio)
    studio.run()
    assert studio.statuses == ["done"] * 3
    assert studio.manager.shutdown_summary() == "every finished shot is safe"


def test_who_watches_is_told_at_the_end_of_a_shot_that_could_not_be_kept(
    studio: StudioHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told to wait until it could be kept, and then that every finished shot is safe."""
    with monkeypatch.context() as broken:
        broken.setattr(studio.media, "save_take", is_full)
        broken.setattr(studio.media, "check_writable", is_full)
        studio.run()
        studio.manager.close()
    told = studio.outbox.of(Notice)[-1]
    assert told.code == "closing" and "safe" not in told.message
    assert "1 finished shots could not be stored and have to be made again" in told.message
    assert "the disk is full" in told.message


def test_a_take_that_waits_is_kept_when_it_can_be_though_nobody_watches_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its viewer was told that it waits; it was dropped as soon as the page was closed."""
    studio = StudioHarness(tmp_path, num_shots=1, limits=Limits(look_ahead_s=1000.0, linger_s=1e-9))
    with monkeypatch.context() as broken:
        broken.setattr(studio.media, "save_take", is_full)
        studio.run()
        studio.manager.remove_viewer(studio.story_id, studio.viewer.viewer_id)
        studio.manager.do_housekeeping()
        assert studio.open_story.state(time.monotonic()) == "full"
    try_again(studio)
    while studio.manager.make_next_chunk():
        pass
    [take] = studio.store.load_story(studio.story_id).takes  # type: ignore[union-attr]
    assert studio.open_story.shot_list.take_ids() == (take.take_id,)
    studio.manager._telemetry_s = 0.0
    studio.manager.do_housekeeping()
    assert studio.story_id not in studio.manager._stories, "it is let go when it is kept"
    studio.close()
