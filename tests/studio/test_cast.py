"""The cast: pictures that condition shots, which captions cite; what shots see of it, what changes them."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from shotstream.film import FilmFiles, FilmSettings, count_differences, make_film
from shotstream.film.replay import hash_frames, read_replay
from shotstream.geometry import PixelSize
from shotstream.story import Reference, story_from_bytes
from shotstream.studio.api_error import ApiError
from shotstream.studio.cast import cast_of_story
from shotstream.studio.exporter import Exporter
from shotstream.studio.limits import Limits
from shotstream.studio.shot_list import ShotList
from shotstream.studio.take_record import TakeRecord
from shotstream.video.pictures import picture_to_uri
from tests.studio.studio_harness import CAPTIONS, GLOBAL_CAPTION, StudioHarness


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[StudioHarness]:
    studio = StudioHarness(tmp_path, num_shots=2)
    yield studio
    studio.close()


def image(seed: int = 0) -> str:
    """A picture at the model's size."""
    rng = np.random.default_rng(seed)
    return picture_to_uri(rng.integers(0, 256, (32, 48, 3), np.uint8))


def add(studio: StudioHarness, name: str = "scout", seed: int = 0, **fields: Any) -> None:
    picture = studio.manager.add_picture(studio.story_id, image(seed))
    given = {"reference_id": name, "picture_id": picture.picture_id, "caption": "a fox", **fields}
    studio.send_ok("add_reference", reference=given)


def edit(studio: StudioHarness, **fields: Any) -> None:
    studio.send_ok("edit_reference", reference_id="scout", **fields)


def export(studio: StudioHarness) -> Exporter:
    return Exporter(studio.app, studio.manager.film_snapshot(studio.story_id))


def by_session(
    studio: StudioHarness, references: list[Reference], captions: tuple[str, ...] = CAPTIONS[:2]
) -> list[tuple[str, ...]]:
    """The hashes of the same film as the library makes it."""
    session = studio.pipeline.session(GLOBAL_CAPTION, seed=7, references=references, quiet=True)
    return [
        tuple(digest for chunk in session.shot(caption) for digest in hash_frames(chunk.frames))
        for caption in captions
    ]


def reference(name: str = "scout", seed: int = 0, **fields: Any) -> Reference:
    return Reference(**{"id": name, "image": image(seed), "caption": "a fox", **fields})


def seen(studio: StudioHarness) -> list[list[str | None]]:
    """The references that each chosen take has in its context."""
    takes = {take.take_id: take for shot in studio.story.shots for take in shot.takes}
    return [
        [one.reference_id for one in takes[take_id].context if one.reference_id is not None]
        for take_id in studio.take_ids()
        if take_id is not None
    ]


def test_a_film_with_a_cast_is_that_of_a_session_with_the_same_references(studio: StudioHarness) -> None:
    add(studio)
    add(studio, "den", 1, caption="a forest", role="place", shots="cited")
    studio.send_ok("edit_shot", shot_id=studio.story.shots[1].shot_id, caption="@scout walks @den")
    studio.run()
    references = [reference(), reference("den", 1, caption="a forest", shots="cited")]
    captions = (CAPTIONS[0], "@scout walks @den")
    assert studio.frame_hashes() == by_session(studio, references, captions)
    assert studio.frame_hashes() != by_session(studio, [], (CAPTIONS[0], "a fox walks a forest"))
    # A first shot has nothing else to remember, and the second all that it cites, before a frame.
    assert seen(studio) == [["scout"] * 3, ["scout", "den"]]
    phases = [one.shot_phase for one in studio.story.shots[1].takes[0].context]
    assert phases == [0, 1, 2]


def test_the_memory_shows_what_the_next_shot_sees_before_the_frames(studio: StudioHarness) -> None:
    add(studio)
    picture_id = studio.story.cast[0].picture_id
    assert [one.picture_id for one in studio.story.memory] == [picture_id] * 3
    studio.run(3)
    assert studio.story.making is not None
    assert [one.reference_id for one in studio.story.making.context] == ["scout", None, None]
    assert [one.take_id for one in studio.story.memory] == [None, *[studio.take_ids()[0]] * 2]


def test_a_replay_of_a_film_with_a_cast_gives_every_frame_again(
    studio: StudioHarness, tmp_path: Path
) -> None:
    add(studio, shots="cited")
    studio.send_ok("edit_shot", shot_id=studio.story.shots[0].shot_id, caption="@scout walks", num_chunks=3)
    studio.run(1)
    studio.send_ok("steer", caption="@scout sleeps", mode="keep")
    studio.run()
    path = tmp_path / "film.replay.json"
    path.write_text(export(studio).replay())
    story = read_replay(path).plan.story
    assert story.references == (reference(shots="cited"),)
    session = studio.pipeline.session(GLOBAL_CAPTION, seed=7, references=story.references, quiet=True)
    again = [
        tuple(
            digest
            for chunk in session.shot(
                shot.caption, num_chunks=shot.num_chunks, seed=shot.seed, then=shot.then
            )
            for digest in hash_frames(chunk.frames)
        )
        for shot in story.shots
    ]
    assert again == studio.frame_hashes() == list(read_replay(path).frame_sha256)
    replay = read_replay(path)
    settings = FilmSettings(files=FilmFiles(film=tmp_path / "again.mp4"))
    film = make_film(studio.pipeline, replay.plan, replay.environment, settings, lambda _: None)
    assert count_differences(film, replay) == (0, "")


def test_a_change_of_what_a_shot_sees_makes_it_stale_and_undo_takes_that_back(studio: StudioHarness) -> None:
    studio.run()
    add(studio, shots="cited")
    assert studio.statuses == ["done", "done"], "nobody cites it"
    edit(studio, shots="all")
    assert studio.statuses == ["stale", "stale"]
    assert studio.story.shots[0].stale_reasons == ("cast",)
    studio.send_ok("remake_stale")
    studio.run()
    assert studio.statuses == ["done", "done"]
    edit(studio, role="style", new_id="fox")
    assert studio.statuses == ["done", "done"], "of its role and its id no frame depends"
    other = studio.manager.add_picture(studio.story_id, image(1)).picture_id
    for fields in ({"caption": "a owl"}, {"picture_id": other}):
        studio.send_ok("edit_reference", reference_id="fox", **fields)
        assert studio.statuses == ["stale", "stale"]
        with pytest.raises(ApiError, match="shot 1 is stale"):
            export(studio).replay()
        studio.send_ok("undo")
        assert studio.statuses == ["done", "done"]
    effect = studio.send_ok("remove_reference", reference_id="fox").effect
    assert effect.shot_index == 0 and studio.statuses == ["stale", "stale"] and studio.story.cast == ()
    studio.send_ok("undo")
    assert [one.reference_id for one in studio.story.cast] == ["fox"]
    assert studio.statuses == ["done", "done"]


def test_a_picture_by_the_numbers_of_shots_is_for_these(studio: StudioHarness) -> None:
    add(studio, shots=[2])
    studio.run()
    assert seen(studio) == [[], ["scout"]]
    assert studio.frame_hashes() == by_session(studio, [reference(shots=(2,))])


def test_the_take_in_the_making_begins_again_if_it_sees_the_change(studio: StudioHarness) -> None:
    studio.run(1)
    making = studio.open_story.job
    add(studio, shots="cited")
    assert studio.open_story.job is making
    edit(studio, shots="all")
    assert studio.open_story.job is None
    studio.run()
    assert studio.statuses == ["done", "done"]


def test_who_is_not_in_the_cast_is_told_before_anything_is_made(studio: StudioHarness) -> None:
    studio.run(1)
    add(studio)
    studio.run(1)
    shot = studio.story.shots[0].shot_id
    told = "the caption cites @nobody, which no reference has; there are: @scout"
    before = studio.open_story.job
    for control, fields in (
        ("add_shot", {"shot": {"caption": "@nobody walks"}}),
        ("add_shot", {"shot": {"caption": "a", "then": [{"caption": "@nobody", "chunk_index": 1}]}}),
        ("edit_shot", {"shot_id": shot, "caption": "@nobody walks"}),
        ("edit_shot", {"shot_id": shot, "then": [{"caption": "@nobody", "chunk_index": 1}]}),
        ("edit_story", {"global_caption": "@nobody in a forest"}),
        ("cut", {"shot": {"caption": "@nobody walks"}}),
        ("steer", {"caption": "@nobody walks"}),
    ):
        assert studio.send_refused(control, **fields).message == told
    studio.run()
    assert studio.send_refused("retake", shot_id=shot, caption="@nobody").message == told
    assert before is not None
    with pytest.raises(ApiError, match="cites @nobody"):
        studio.manager.create_story("A", "the den of @nobody", [], seed=0, autoplay=False)


def test_a_running_shot_cannot_turn_to_a_picture_that_it_does_not_see(studio: StudioHarness) -> None:
    """Its replay would: the captions of a planned shot are known when its context is chosen."""
    add(studio, shots="cited")
    studio.run(1)
    told = studio.send_refused("steer", caption="@scout walks").message
    assert told == "shot 1 was begun without the picture of @scout; cut to a new shot with it"


def test_a_picture_that_is_cited_stays(studio: StudioHarness) -> None:
    add(studio, shots="cited")
    shot = studio.story.shots[1].shot_id
    studio.send_ok("edit_shot", shot_id=shot, caption="@scout walks")
    refused = studio.send_refused("remove_reference", reference_id="scout")
    assert refused.message == "shot 2 cites @scout; change the caption, and generate again, first"
    assert (
        "there are: @fox" in studio.send_refused("edit_reference", reference_id="scout", new_id="fox").message
    )
    studio.run()
    studio.send_ok("edit_shot", shot_id=shot, caption="a fox walks")
    # Its chosen take was still told of it, and so would later shots be.
    assert studio.send_refused("remove_reference", reference_id="scout").code == "refused"
    studio.send_ok("retake", shot_id=shot)
    studio.run()
    studio.send_ok("remove_reference", reference_id="scout")
    old = studio.story.shots[1].takes[0]
    refused = studio.send_refused("choose_take", shot_id=shot, take_id=old.take_id)
    assert "cites @scout, which no reference has" in refused.message


def test_no_more_pictures_than_a_shot_has_places_for(studio: StudioHarness) -> None:
    add(studio)
    add(studio, "den", 1)
    picture_id = studio.manager.add_picture(studio.story_id, image(2)).picture_id
    third = {"reference_id": "sun", "picture_id": picture_id, "caption": "a sun"}
    told = studio.send_refused("add_reference", reference=third).message
    assert told == (
        "3 pictures of the cast for 2 places in the memory of a shot; leave one out, or let only shots that "
        "cite it see it"
    )
    studio.send_ok("add_reference", reference={**third, "shots": "cited"})
    refused = studio.send_refused("add_shot", shot={"caption": "@sun"})
    assert refused.code == "limit" and "3 pictures of the cast" in refused.message
    studio.run()
    pinned = studio.send_refused("pin", frame={"take_id": studio.take_ids()[0], "frame_index": 0})
    assert "2 pictures of the cast and 1 pinned frame for 2 places" in pinned.message
    edit(studio, shots="cited")
    studio.send_ok("pin", frame={"take_id": studio.take_ids()[0], "frame_index": 0})
    refused = studio.send_refused("edit_reference", reference_id="scout", shots="all")
    assert "and 1 pinned frame" in refused.message


def test_what_is_no_reference_is_refused_in_one_line(studio: StudioHarness) -> None:
    add(studio)
    given = {"reference_id": "scout", "picture_id": studio.story.cast[0].picture_id, "caption": "a fox"}
    for changes, code, told in (
        ({}, "refused", "there is @scout already; choose another id"),
        ({"reference_id": "two words"}, "invalid", "the id two words is no word"),
        ({"reference_id": "a", "picture_id": "0" * 64}, "not_found", "upload it first"),
        ({"reference_id": "a", "caption": "a" * 2001}, "limit", "at most 2000"),
        ({"reference_id": "a", "shots": [0]}, "invalid", "shots is 0; allowed are 1 to"),
    ):
        refused = studio.send_refused("add_reference", reference={**given, **changes})
        assert refused.code == code and told in refused.message, refused
    assert studio.send_refused("edit_reference", reference_id="a").code == "not_found"
    assert studio.send_refused("remove_reference", reference_id="a").code == "not_found"


def test_a_story_has_as_many_references_as_its_server_allows(tmp_path: Path) -> None:
    studio = StudioHarness(tmp_path, limits=Limits(references=1), num_shots=1)
    add(studio, shots="cited")
    given = {"reference_id": "b", "picture_id": studio.story.cast[0].picture_id, "caption": "a fox"}
    assert studio.send_refused("add_reference", reference={**given, "shots": "cited"}).code == "limit"
    studio.close()


def test_pictures_count_as_storage_and_are_stored_once(studio: StudioHarness) -> None:
    before, own = studio.app.stored_bytes(), studio.story.num_bytes
    add(studio)
    added = studio.app.stored_bytes() - before
    assert added >= len(image()) and studio.app.stored_bytes() == studio.store.num_bytes()
    edit(studio, caption="a owl")
    assert studio.story.num_bytes - own == len(image())
    studio.manager.add_picture(studio.story_id, image())
    assert studio.app.stored_bytes() == studio.store.num_bytes()
    studio.app.limits = Limits(quota_bytes=1)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ApiError, match="quota"):
        studio.manager.add_picture(studio.story_id, image(1))
    studio.manager.delete_story(studio.story_id)
    assert studio.app.stored_bytes() == studio.store.num_bytes() == 0
    with studio.store.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM pictures")).scalar_one() == 0
    studio.story_id = studio.create_story(1)
    studio.add_viewer(studio.outbox)


def test_the_cast_is_there_after_a_restart_and_in_branches(tmp_path: Path) -> None:
    first = StudioHarness(tmp_path, num_shots=2)
    add(first)
    first.run()
    film = first.frame_hashes()
    first.close()
    studio = StudioHarness(tmp_path)
    assert studio.statuses == ["done", "done"] and studio.frame_hashes() == film
    studio.send_ok("branch", shot_id=studio.story.shots[0].shot_id)
    assert [one.reference_id for one in studio.story.cast] == ["scout"]
    studio.send_ok("add_shot", shot={"caption": CAPTIONS[1]})
    studio.send_ok("make_shot", shot_id=studio.story.shots[1].shot_id)
    studio.run()
    assert studio.frame_hashes() == film
    studio.close()


def test_a_damaged_take_is_made_again_with_the_pictures_that_it_saw(studio: StudioHarness) -> None:
    add(studio)
    studio.run()
    edit(studio, caption="a owl")
    take_id = studio.take_ids()[1] or ""
    (studio.media._take_dir(studio.story_id, take_id) / "frames.mkv").write_bytes(b"")
    studio.open_story.repair_take(take_id)
    studio.run()
    record = studio.open_story.history.takes[take_id]
    assert len(studio.media.read_frames(studio.story_id, record)) == record.num_frames
    assert not studio.app.unrecoverable_takes


def test_the_story_file_has_the_pictures(studio: StudioHarness) -> None:
    add(studio, shots="cited")
    studio.run()
    story = story_from_bytes(export(studio).story_yaml().encode())
    assert story.references == (reference(shots="cited"),)


def test_pictures_of_the_packages_own_stories_are_read_from_their_files(tmp_path: Path) -> None:
    file = tmp_path / "scout.png"
    file.write_bytes(base64.b64decode(image().partition(",")[2]))
    own = [reference(image=str(file))]
    (entry,), images = cast_of_story(own, PixelSize(32, 48), reads_files=True)
    assert images == {entry.picture_id: image()} and not entry.file_name
    (entry,), images = cast_of_story(own, PixelSize(32, 48), reads_files=False)
    assert (entry.picture_id, entry.file_name, images) == (None, "scout.png", {})


def test_documents_without_a_cast_are_those_of_earlier_versions(studio: StudioHarness) -> None:
    studio.run()
    document = studio.open_story.shot_list.to_document()
    assert document.pop("context_policy") == "theatre"
    assert set(document) == {"title", "global_caption", "cards", "pins"}
    assert ShotList.from_document(document).to_document() == document
    add(studio, shots=[1, 2])
    shot_list = studio.open_story.shot_list
    assert ShotList.from_document(shot_list.to_document()) == shot_list
    studio.send_ok("remake_stale")
    studio.run()
    record = studio.open_story.history.takes[studio.take_ids()[0] or ""]
    assert TakeRecord.from_document(record.to_document()) == record and record.seen == shot_list.cast
