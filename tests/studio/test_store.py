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

from shotstream.studio import store as store_module
from shotstream.studio.history import History, Wanted
from shotstream.studio.script import Card, Script
from shotstream.studio.store import Store, StoreError, new_id
from shotstream.studio.tables import Base
from shotstream.studio.trouble import explain
from tests.studio.postgres import find_binaries, running

SCRIPT = Script(title="A fox", global_caption="a forest", cards=(Card(shot_id="1" * 16, caption="a fox"),))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        store = Store(f"sqlite:///{tmp_path / 'stories.sqlite'}")
        store.upgrade()
        yield store
        store.close()
        return
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install 'shotstream[postgres]')")
    if find_binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with running() as url:
        store = Store(url)
        store.upgrade()
        yield store
        store.close()


def opened(store: Store, story_id: str) -> History:
    stored = store.load(story_id)
    assert stored is not None
    return History(store, stored)


def test_the_migrations_make_what_the_models_say(store: Store) -> None:
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    store.upgrade()  # Once more changes nothing.
    store.close()


def test_sqlite_writes_ahead_and_waits_for_the_disk(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'stories.sqlite'}")
    with store.engine.connect() as connection:
        assert connection.execute(text("pragma journal_mode")).scalar() == "wal"
        assert connection.execute(text("pragma synchronous")).scalar() == 2
    store.close()


def test_history_is_the_same_after_a_restart_at_any_point(store: Store) -> None:
    story_id = new_id()
    store.create(story_id, SCRIPT, seed=2**63 - 1, autoplay=True)
    history = opened(store, story_id)
    titled = [replace(SCRIPT, title=title) for title in "abcd"]
    for script in titled:
        history.commit(script, f"Title {script.title}")
    history.undo()
    history.undo()
    again = opened(store, story_id)
    assert (again.script, again.undo_label, again.redo_label) == (titled[1], "Title b", "Title c")
    assert again.seed == 2**63 - 1
    again.redo()
    again.redo()
    assert opened(store, story_id).script == titled[3]
    again.undo()
    again.commit(SCRIPT, "Back")
    assert opened(store, story_id).redo_label is None
    store.close()


def test_branches_and_wishes_are_kept(store: Store) -> None:
    story_id = new_id()
    store.create(story_id, SCRIPT, seed=0, autoplay=True)
    history = opened(store, story_id)
    main = history.branch.branch_id
    history.begin_branch(replace(SCRIPT, title="other"), "Other")
    history.set_going(autoplay=True, wanted={"1" * 16: Wanted(shot_id="1" * 16, seed=2**63 - 1)})
    again = opened(store, story_id)
    assert again.script.title == "other" and again.autoplay
    assert again.wanted == {"1" * 16: Wanted(shot_id="1" * 16, seed=2**63 - 1)}
    again.switch(main)
    assert opened(store, story_id).script == SCRIPT
    store.close()


def test_a_change_that_the_database_refuses_leaves_everything_as_it_was(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    story_id = new_id()
    store.create(story_id, SCRIPT, seed=0, autoplay=True)
    history = opened(store, story_id)

    def locked(*_: object, **__: object) -> None:
        raise OperationalError("insert", {}, Exception("database is locked"))

    monkeypatch.setattr(store, "save", locked)
    with pytest.raises(OperationalError):
        history.commit(replace(SCRIPT, title="lost"), "Title")
    assert (history.script, history.undo_label) == (SCRIPT, None)
    monkeypatch.undo()
    history.commit(replace(SCRIPT, title="kept"), "Title")
    assert opened(store, story_id).script.title == "kept"
    store.close()


def test_a_deleted_story_leaves_no_row(store: Store) -> None:
    story_id = new_id()
    store.create(story_id, SCRIPT, seed=0, autoplay=True)
    opened(store, story_id).commit(SCRIPT, "Again")
    store.delete(story_id)
    with store.engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            assert connection.execute(table.select()).all() == []
    store.close()


@pytest.mark.parametrize("url", ["nonsense", "nonsense://x"])
def test_unknown_databases_are_refused_in_one_line(url: str) -> None:
    with pytest.raises(StoreError) as error:
        Store(url)
    assert "\n" not in str(error.value)


def test_rows_of_the_first_version_are_numbered_in_the_order_of_their_times(store: Store) -> None:
    """With a script's length for the size of its step."""
    story_id = new_id()
    store.create(story_id, SCRIPT, seed=0, autoplay=True)
    history = opened(store, story_id)
    for title in "abcd":
        history.commit(replace(SCRIPT, title=title), title)
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
    assert opened(store, story_id).script.title == "d"


def migrate(connection: Connection, function: Any, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(store_module.__file__).parent / "migrations"))
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
        first, second = Store(url), Store(url)
        first.claim()
        with pytest.raises(StoreError, match="another server"):
            second.claim()
        first.close()
        second.claim()
        # Whoever locks its tables is waited for a short time, and named.
        second.upgrade()
        with second.engine.begin() as connection:
            connection.exec_driver_sql("lock table folders in access exclusive mode")
            with pytest.raises(OperationalError) as error:
                first.check()
        assert "locked" in explain(error.value)
        first.close()
        second.close()
