"""Stories in the database: what is committed is there again, and the schema is the models'."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from shotstream.studio import database
from shotstream.studio.database import StorageError
from shotstream.studio.history import History, QueuedTake
from shotstream.studio.ids import new_id
from shotstream.studio.shot_list import ShotEntry, ShotList
from shotstream.studio.storage_errors import explain_failure
from shotstream.studio.story_store import StoryStore
from shotstream.studio.tables import Base
from shotstream.studio.take_record import ContextFrameRecord, TakeRecord
from tests.studio.postgres import find_binaries, running

SHOT_LIST = ShotList(
    title="A fox", global_caption="a forest", shots=(ShotEntry(shot_id="1" * 16, caption="a fox"),)
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoryStore]:
    if request.param == "sqlite":
        store = StoryStore(f"sqlite:///{tmp_path / 'stories.sqlite'}")
        store.upgrade()
        yield store
        store.close()
        return
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install 'shotstream[postgres]')")
    if find_binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with running() as url:
        store = StoryStore(url)
        store.upgrade()
        yield store
        store.close()


def opened(store: StoryStore, story_id: str) -> History:
    stored = store.load_story(story_id)
    assert stored is not None
    return History(store, stored)


def test_the_migrations_make_what_the_models_say(store: StoryStore) -> None:
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    store.upgrade()  # Once more changes nothing.
    store.close()


def test_sqlite_writes_ahead_and_waits_for_the_disk(tmp_path: Path) -> None:
    store = StoryStore(f"sqlite:///{tmp_path / 'stories.sqlite'}")
    with store.engine.connect() as connection:
        assert connection.execute(text("pragma journal_mode")).scalar() == "wal"
        assert connection.execute(text("pragma synchronous")).scalar() == 2
    store.close()


def test_history_is_the_same_after_a_restart_at_any_point(store: StoryStore) -> None:
    story_id = new_id()
    store.create_story(story_id, SHOT_LIST, seed=2**63 - 1, autoplay=True)
    history = opened(store, story_id)
    titled = [replace(SHOT_LIST, title=title) for title in "abcd"]
    for shot_list in titled:
        history.commit(shot_list, f"Title {shot_list.title}")
    history.undo()
    history.undo()
    again = opened(store, story_id)
    assert (again.shot_list, again.undo_label, again.redo_label) == (titled[1], "Title b", "Title c")
    assert again.seed == 2**63 - 1
    again.redo()
    again.redo()
    assert opened(store, story_id).shot_list == titled[3]
    again.undo()
    again.commit(SHOT_LIST, "Back")
    assert opened(store, story_id).redo_label is None
    store.close()


def test_branches_and_wishes_are_kept(store: StoryStore) -> None:
    story_id = new_id()
    store.create_story(story_id, SHOT_LIST, seed=0, autoplay=True)
    history = opened(store, story_id)
    main = history.branch.branch_id
    history.start_branch(replace(SHOT_LIST, title="other"), "Other")
    history.set_queue(autoplay=True, queue={"1" * 16: QueuedTake(shot_id="1" * 16, seed=2**63 - 1)})
    again = opened(store, story_id)
    assert again.shot_list.title == "other" and again.autoplay
    assert again.queue == {"1" * 16: QueuedTake(shot_id="1" * 16, seed=2**63 - 1)}
    again.switch_branch(main)
    assert opened(store, story_id).shot_list == SHOT_LIST
    store.close()


def test_a_change_that_the_database_refuses_leaves_everything_as_it_was(
    store: StoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    story_id = new_id()
    store.create_story(story_id, SHOT_LIST, seed=0, autoplay=True)
    history = opened(store, story_id)

    def locked(*_: object, **__: object) -> None:
        raise OperationalError("insert", {}, Exception("database is locked"))

    monkeypatch.setattr(store, "save_change", locked)
    with pytest.raises(OperationalError):
        history.commit(replace(SHOT_LIST, title="lost"), "Title")
    assert (history.shot_list, history.undo_label) == (SHOT_LIST, None)
    monkeypatch.undo()
    history.commit(replace(SHOT_LIST, title="kept"), "Title")
    assert opened(store, story_id).shot_list.title == "kept"
    store.close()


def test_a_deleted_story_leaves_no_row(store: StoryStore) -> None:
    story_id = new_id()
    store.create_story(story_id, SHOT_LIST, seed=0, autoplay=True)
    opened(store, story_id).commit(SHOT_LIST, "Again")
    store.delete_story(story_id)
    with store.engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            assert connection.execute(table.select()).all() == []
    store.close()


def test_looking_whether_the_database_keeps_anything_changes_nothing(store: StoryStore) -> None:
    store.check_writable()
    assert store.folder_id() is None
    for folder_id in ("a" * 16, "b" * 16):
        store.set_folder_id(folder_id)
        store.check_writable()
        assert store.folder_id() == folder_id, "one folder, the last"
    store.close()


def test_a_database_that_keeps_nothing_is_found_out(tmp_path: Path) -> None:
    """Also where reading goes on."""
    store = StoryStore(f"sqlite:///{tmp_path / 'stories.sqlite'}")
    store.upgrade()
    store.set_folder_id("a" * 16)
    with store.engine.connect() as connection:
        connection.exec_driver_sql("pragma query_only = on")
        connection.commit()
    assert store.folder_id() == "a" * 16
    with pytest.raises(OperationalError, match="readonly"):
        store.check_writable()
    store.close()


def test_a_storys_rows_are_its_own(store: StoryStore) -> None:
    """Two stories side by side: numbers, history and takes of one do not touch the other's."""
    ids = [new_id(), new_id()]
    for story_id in ids:
        store.create_story(story_id, SHOT_LIST, seed=0, autoplay=False)
    first, second = (opened(store, story_id) for story_id in ids)
    records = {name: taken(name * 16) for name in "abc"}
    first.commit(replace(SHOT_LIST, title="1"), "One", [records["a"], records["b"]])
    second.commit(replace(SHOT_LIST, title="2"), "Two", [records["c"]])
    first.start_branch(replace(SHOT_LIST, title="3"), "Other")
    stored = {story.story_id: story for story in store.load_stories()}
    assert list(stored) == ids, "the latest change first"
    assert [take.take_id for take in stored[ids[0]].takes] == ["a" * 16, "b" * 16]
    assert [take.take_id for take in stored[ids[1]].takes] == ["c" * 16]
    assert [[b.name for b in stored[key].branches] for key in ids] == [["Main", "Other"], ["Main"]]
    assert [stored[key].history_bytes for key in ids] == [first.num_bytes, second.num_bytes]
    assert store.num_bytes() == first.num_bytes + second.num_bytes + 3 * 100 and store.num_stories() == 2
    assert store.take_ids() == {(ids[0], "a" * 16), (ids[0], "b" * 16), (ids[1], "c" * 16)}
    assert store.get_take(ids[0], "a" * 16) == records["a"]
    assert store.get_take(ids[1], "a" * 16) is None and store.get_take(ids[0], "d" * 16) is None
    anew = replace(records["a"], num_bytes=7, file_sha256={"frames.mkv": "0"})
    store.replace_take(anew)
    assert store.get_take(ids[0], "a" * 16) == anew
    assert store.num_bytes() == first.num_bytes + second.num_bytes + 207
    store.delete_story(ids[0])
    assert store.load_story(ids[0]) is None and store.num_stories() == 1
    assert store.num_bytes() == second.num_bytes + 100
    assert opened(store, ids[1]).shot_list.title == "2" and opened(store, ids[1]).undo_label == "Two"
    store.close()


def taken(take_id: str) -> TakeRecord:
    return TakeRecord(
        take_id=take_id, shot_id="1" * 16, created_at="2026-11-27", caption="a fox", global_caption="all",
        seed=2**63 - 1, num_steps=2, num_chunks=1, num_frames=9, was_cut=False, before=("e" * 16,),
        context=(ContextFrameRecord(take_id="e" * 16, frame_index=3, pin_id=None, shot_phase=1),),
        weights_sha256="0" * 64, environment={"torch": "2"}, header_bytes=1, chunk_bytes=(2,), num_bytes=100,
        frame_sha256=("0",) * 9,
    )  # fmt: skip


@pytest.mark.parametrize("url", ["nonsense", "nonsense://x"])
def test_unknown_databases_are_refused_in_one_line(url: str) -> None:
    with pytest.raises(StorageError) as error:
        StoryStore(url)
    assert "\n" not in str(error.value)


def test_rows_of_the_first_version_are_numbered_in_the_order_of_their_times(store: StoryStore) -> None:
    """With a script's length for the size of its step."""
    story_id = new_id()
    store.create_story(story_id, SHOT_LIST, seed=0, autoplay=True)
    history = opened(store, story_id)
    for title in "abcd":
        history.commit(replace(SHOT_LIST, title=title), title)
    before = store.num_bytes()
    with store.engine.begin() as connection:
        times = {row[0]: f"2026-01-01T00:00:0{9 - row[1]}" for row in rows(connection, "step_id, number")}
        for step_id, time in times.items():
            connection.exec_driver_sql(
                f"update steps set created_at = '{time}', num_bytes = 0 where step_id = '{step_id}'"
            )
        migrate(connection, command.downgrade, "0001")
        migrate(connection, command.upgrade, "head")
        found = {row[0]: row[1] for row in rows(connection, "step_id, number")}
        labels = [row[0] for row in rows(connection, "label") if row[0]]
    assert sorted(found, key=found.__getitem__) == sorted(times, key=times.__getitem__)
    assert sorted(found.values()) == [1, 2, 3, 4, 5] and sorted(labels) == list("abcd")
    assert before - 5 * 8 <= store.num_bytes() <= before + 5 * 200
    assert opened(store, story_id).shot_list.title == "d"


def migrate(connection: Connection, function: Any, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    function(config, revision)


def rows(connection: Connection, columns: str) -> list[Any]:
    return list(connection.exec_driver_sql(f"select {columns} from steps").all())


@pytest.mark.slow
def test_a_second_server_is_kept_out_of_a_postgresql_database() -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install 'shotstream[postgres]')")
    if find_binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with running() as url:
        first, second = StoryStore(url), StoryStore(url)
        first.acquire_lock()
        with pytest.raises(StorageError, match="another server"):
            second.acquire_lock()
        first.close()
        second.acquire_lock()
        # Whoever locks its tables is waited for a short time, and named.
        second.upgrade()
        with second.engine.begin() as connection:
            connection.exec_driver_sql("lock table folders in access exclusive mode")
            with pytest.raises(OperationalError) as error:
                first.check_writable()
        assert "locked" in explain_failure(error.value)
        first.close()
        second.close()
