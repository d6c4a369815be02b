"""The data folder belongs to one database and to its owner; whatever ends the server, nothing is lost."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shotstream.files
from shotstream.studio.app import StudioSettings, check_data_dir, create_app
from shotstream.studio.data_dir import DataDir
from shotstream.studio.database import StorageError
from shotstream.studio.media_store import MediaStore
from shotstream.studio.story_store import StoryStore
from tests.params import first
from tests.streaming.tiny import tiny_pipeline
from tests.studio.studio_harness import StudioHarness

PIPELINE = tiny_pipeline()


class Killed(BaseException):
    """The process ends here."""


class Opened(StudioHarness):
    """A studio in a data folder, as a server opens one."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        self.folder = DataDir(folder)
        try:
            store, media = opened(folder)
            with contextlib.closing(store):
                self.folder.reconcile(store, media)
            super().__init__(folder, **fields)
        except BaseException:
            self.folder.close()
            raise

    def close(self) -> None:
        super().close()
        self.folder.close()

    def killed(self) -> None:
        """Nothing is tidied up."""
        self.store.close()
        self.folder.close()


def opened(folder: Path) -> tuple[StoryStore, MediaStore]:
    store = StoryStore(f"sqlite:///{folder / 'stories.sqlite'}")
    store.upgrade()
    return store, MediaStore(folder / "media", PIPELINE)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Path]:
    """A folder with a finished story of one shot."""
    studio = Opened(tmp_path / "data", num_shots=1)
    studio.run()
    studio.close()
    yield tmp_path / "data"


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_empty_database_does_not_open_a_folder_with_takes_and_deletes_nothing(made: Path) -> None:
    """It deleted all of them."""
    (made / "stories.sqlite").rename(made / "elsewhere.sqlite")
    before = files(made / "media")
    assert len(before) == 3
    with pytest.raises(StorageError) as error:
        create_app(StudioSettings(data_dir=made), PIPELINE)
    assert "nothing was changed or deleted" in str(error.value) and "--database" in str(error.value)
    assert "\n" not in str(error.value)
    assert files(made / "media") == before
    (made / "stories.sqlite").unlink()
    (made / "elsewhere.sqlite").rename(made / "stories.sqlite")
    studio = Opened(made)
    assert studio.statuses == ["done"]
    studio.close()


def test_a_folder_is_looked_at_before_anything_large_is_loaded(tmp_path: Path) -> None:
    check_data_dir(tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"a part of the path is not a directory; give another --data"):
        check_data_dir(tmp_path / "file" / "data")
    open_one = DataDir(tmp_path / "new")
    with pytest.raises(StorageError, match="another server"):
        check_data_dir(tmp_path / "new")
    open_one.close()
    check_data_dir(tmp_path / "new")


def test_another_database_is_refused_and_so_is_another_folder(made: Path, tmp_path: Path) -> None:
    other = Opened(tmp_path / "other", num_shots=1)
    other.run()
    other.close()
    urls = [f"sqlite:///{folder / 'stories.sqlite'}" for folder in (made, tmp_path / "other")]
    for folder, url in ((made, urls[1]), (tmp_path / "other", urls[0]), (tmp_path / "new", urls[0])):
        with pytest.raises(StorageError) as error:
            create_app(StudioSettings(data_dir=folder, database_url=url), PIPELINE)
        assert "1 takes that are not here: give the --data that holds them" in str(error.value)
    for folder in (made, tmp_path / "other"):
        Opened(folder).close()


def test_a_folder_and_a_database_without_takes_may_meet_and_stay_bound(tmp_path: Path) -> None:
    Opened(tmp_path / "data").close()
    (tmp_path / "data" / "stories.sqlite").unlink()
    studio = Opened(tmp_path / "data")
    assert (tmp_path / "data" / "studio.id").read_text().strip() == studio.store.folder_id()
    studio.close()


@pytest.mark.slow
def test_a_folder_of_an_earlier_version_is_bound_to_the_database_that_knows_its_takes(made: Path) -> None:
    (made / "studio.id").unlink()
    studio = Opened(made)
    with studio.store.engine.begin() as connection:
        connection.exec_driver_sql("delete from folders")
    studio.close()
    studio = Opened(made)
    assert studio.statuses == ["done"]
    assert (made / "studio.id").read_text().strip() == studio.store.folder_id()
    studio.close()


@pytest.mark.slow
def test_lost_files_are_made_again_once_a_person_says_that_they_are_lost(made: Path, tmp_path: Path) -> None:
    studio = Opened(made)
    hashes, bound = studio.frame_hashes(), studio.store.folder_id()
    studio.close()
    (tmp_path / "new").mkdir()
    (made / "stories.sqlite").rename(tmp_path / "new" / "stories.sqlite")
    with pytest.raises(StorageError, match=f"write {bound} into"):
        Opened(tmp_path / "new")
    (tmp_path / "new" / "studio.id").write_text(f"{bound}\n")
    studio = Opened(tmp_path / "new")
    studio.send_ok("add_shot", shot={"caption": "a owl walks"})
    studio.run()
    assert studio.statuses == ["done"] * 2 and studio.frame_hashes()[:1] == hashes
    studio.close()


def test_takes_that_the_database_does_not_know_are_set_aside_and_other_files_left_alone(
    made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    studio = Opened(made)
    unknown = made / "media" / studio.story_id / ("e" * 16)
    unfinished = made / "media" / studio.story_id / f".part.{'e' * 16}"
    foreign = made / "media" / "lost+found"
    studio.close()
    for folder in (unknown, unfinished, foreign, made / "exports" / "own"):
        folder.mkdir()
        (folder / "frames.mkv").write_bytes(b"precious")
    (made / "exports" / "tmp1234.mp4").write_bytes(b"left by a kill")
    with caplog.at_level("WARNING"):
        Opened(made).close()
    assert "1 takes" in caplog.text and str(made / "set-aside") in caplog.text, "a person is told where"
    assert not unknown.exists() and not unfinished.exists()
    [aside] = (made / "set-aside").rglob("frames.mkv")
    assert aside.read_bytes() == b"precious" and aside.parent.name == "e" * 16
    assert (foreign / "frames.mkv").exists() and (made / "exports" / "own" / "frames.mkv").exists()
    assert not (made / "exports" / "tmp1234.mp4").exists()


def test_everything_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        studio = Opened(tmp_path / "data", num_shots=1)
        studio.run()
        paths = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
        assert {path.name for path in paths} >= {"stories.sqlite", "stories.sqlite-wal", "frames.mkv", "lock"}
        for path in paths:
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))
        studio.close()
    finally:
        os.umask(before)


def test_a_database_that_others_could_read_is_closed_to_them(made: Path) -> None:
    (made / "stories.sqlite").chmod(0o644)
    (made / "media").chmod(0o755)
    Opened(made).close()
    assert stat.S_IMODE((made / "stories.sqlite").stat().st_mode) == 0o600
    assert stat.S_IMODE((made / "media").stat().st_mode) == 0o700


def unchanged(*_: object, **__: object) -> None:
    """Instead of a change of mode."""


def test_nothing_is_open_to_others_even_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are made closed, not closed after they were made."""
    before = os.umask(0)
    monkeypatch.setattr(Path, "chmod", unchanged)
    try:
        folder = DataDir(tmp_path / "above" / "data")
        StoryStore(f"sqlite:///{tmp_path / 'above' / 'data' / 'stories.sqlite'}").upgrade()
        MediaStore(folder.media, PIPELINE)
        folder.close()
    finally:
        os.umask(before)
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "above" / "data").rglob("*")
    }
    assert {modes.pop("lock"), modes.pop("stories.sqlite")} == {0o600}
    assert {
        modes.pop("media"),
        modes.pop("exports"),
        stat.S_IMODE((tmp_path / "above/data").stat().st_mode),
    } == {0o700}


@pytest.mark.slow
def test_files_that_were_made_anew_are_their_owners_alone_too(made: Path) -> None:
    before = os.umask(0)
    try:
        studio = Opened(made)
        [take_id] = studio.open_story.history.takes
        folder = made / "media" / studio.story_id / take_id
        for path in folder.iterdir():
            path.write_bytes(b"")
            path.chmod(0o644)
        studio.manager.repair_take(studio.story_id, take_id)
        studio.run()
        assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == dict.fromkeys(
            ("recording.mp4", "frames.mkv", "memory.safetensors"), 0o600
        )
        studio.close()
    finally:
        os.umask(before)


def test_an_id_that_cannot_be_read_is_of_another_folder_and_no_fault(made: Path) -> None:
    """With the takes that it knows the database is this folder's all the same, and says so again."""
    bound = (made / "studio.id").read_text()
    for damaged in (b"\xff\xfe\x00", b"", b"  \n", b"0" * 16):
        (made / "studio.id").write_bytes(damaged)
        Opened(made).close()
        assert (made / "studio.id").read_text() == bound


def die_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The process ends right after the number-th rename or removal that the studio's files see."""
    seen = 0

    def counted(real: Any) -> Any:
        def call(*arguments: Any, **fields: Any) -> Any:
            nonlocal seen
            if seen == number:
                raise Killed
            done = real(*arguments, **fields)
            seen += 1
            if seen == number:
                raise Killed
            return done

        return call

    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    monkeypatch.setattr(shotstream.files.shutil, "rmtree", counted(shotstream.files.shutil.rmtree))
    monkeypatch.setattr(StoryStore, "save_change", counted(StoryStore.save_change))
    monkeypatch.setattr(StoryStore, "delete_story", counted(StoryStore.delete_story))
    monkeypatch.setattr(StoryStore, "replace_take", counted(StoryStore.replace_take))


@pytest.mark.parametrize("number", first(1, [4, 2, 1, 3]))
def test_a_take_that_was_told_finished_is_there_after_an_end_at_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    studio = Opened(tmp_path, num_shots=1)
    with monkeypatch.context() as patched:
        die_at(patched, number)
        with contextlib.suppress(Killed):
            studio.run()
    told = [e.outcome for e in studio.outbox.messages if e.type == "take_ended"]
    studio.killed()
    again = Opened(tmp_path)
    assert again.statuses == (["done"] if told else again.statuses)
    known = {(again.story_id, take_id) for take_id in again.open_story.history.takes}
    assert again.media.take_ids() == known
    again.run()
    assert again.statuses == ["done"]
    again.media.read_frames(again.story_id, again.open_story.history.takes[again.take_ids()[0] or ""])
    again.close()


@pytest.mark.parametrize("number", range(1, 4))
def test_a_deletion_that_was_cut_off_leaves_the_story_whole_or_nothing(
    made: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    studio = Opened(made)
    story_id = studio.story_id
    with monkeypatch.context() as patched:
        die_at(patched, number)
        with pytest.raises(Killed):
            studio.manager.delete_story(story_id)
    studio.killed()
    again = Opened(made)
    assert again.story_id != story_id, "a deletion that has begun is finished"
    assert list((made / "media").iterdir()) == [] and not (made / "set-aside").exists()
    assert again.store.num_bytes() == again.app.stored_bytes()
    again.close()


@pytest.mark.parametrize("number", first(2, [2, 4, 1, 3]))
def test_mending_that_was_cut_off_is_finished_later(
    made: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    studio = Opened(made)
    [take_id] = studio.open_story.history.takes
    hashes = studio.frame_hashes()
    folder = made / "media" / studio.story_id / take_id
    (folder / "frames.mkv").write_bytes(b"")
    (folder / "memory.safetensors").write_bytes(b"")
    with monkeypatch.context() as patched:
        die_at(patched, number)
        studio.manager.repair_take(studio.story_id, take_id)
        with contextlib.suppress(Killed):
            studio.run()
    studio.killed()
    again = Opened(made)
    again.send_ok("add_shot", shot={"caption": "a owl walks"})
    again.run()
    assert again.statuses == ["done"] * 2 and again.frame_hashes()[:1] == hashes
    record = again.open_story.history.takes[take_id]
    again.media.read_frames(again.story_id, record)
    again.media.read_memory(again.story_id, record)
    assert {p.name for p in folder.iterdir()} == {"recording.mp4", "frames.mkv", "memory.safetensors"}
    again.close()


def test_takes_are_taken_back_when_the_database_that_knows_them_comes_back(
    made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A backup of an earlier day, and then the right one: they stayed aside, and were made anew or lost."""

    def start(*, forget: bool = False) -> None:
        folder = DataDir(made)
        store, media = opened(made)
        with contextlib.closing(folder), contextlib.closing(store):
            for story_id, _ in store.take_ids() if forget else ():
                store.delete_story(story_id)
            folder.reconcile(store, media)

    right, before = (made / "stories.sqlite").read_bytes(), files(made / "media")
    start(forget=True)
    assert "1 takes that are not in the database were moved" in caplog.text
    assert files(made / "media") == {} and len(files(made / "set-aside")) == len(before) == 3
    (made / "stories.sqlite").write_bytes(right)
    start()
    assert "1 takes that are in the database again were moved back from" in caplog.text
    assert files(made / "media") == before and files(made / "set-aside") == {}


def test_takes_that_are_not_there_are_told_at_the_start(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A disk that is not mounted looks like an empty folder."""
    (made / "media").rename(made / "elsewhere")
    Opened(made).close()
    assert f"1 of the 1 takes in the database are missing in {made / 'media'}" in caplog.text
    (made / "media").rmdir()
    (made / "elsewhere").rename(made / "media")
    caplog.clear()
    Opened(made).close()
    assert caplog.text == ""


def test_one_server_works_with_a_file_of_stories_whatever_its_folder(tmp_path: Path) -> None:
    """The second one bound it to its own folder, and both wrote into it."""
    url = f"sqlite:///{tmp_path / 'shared.sqlite'}"

    def settings(name: str) -> StudioSettings:
        return StudioSettings(data_dir=tmp_path / name, database_url=url)

    first, store = DataDir(tmp_path / "one"), StoryStore(url)
    store.upgrade()
    first.reconcile(store, MediaStore(first.media, PIPELINE))
    bound = store.folder_id()
    with pytest.raises(StorageError, match="another server works with this database; give each its own"):
        create_app(settings("two"), PIPELINE)
    assert store.folder_id() == bound
    store.close()
    first.close()
    create_app(settings("two"), PIPELINE)


def test_a_place_for_takes_that_is_none_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "media").symlink_to(tmp_path / "gone")
    with pytest.raises(StorageError, match="there is a file or a broken link"):
        create_app(StudioSettings(data_dir=tmp_path), PIPELINE)
