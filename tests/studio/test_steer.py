"""Steering: another caption for the take in the making, and what becomes of it in films and exports."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shotstream.film.replay import Replay, hash_frames, read_replay
from shotstream.story import Steer, story_from_bytes
from shotstream.studio.exporter import Exporter
from shotstream.studio.history import QueuedTake
from shotstream.studio.limits import Limits
from shotstream.studio.schemas.state import Switch
from shotstream.studio.shot_list import ShotList
from shotstream.studio.take_job import encode_take_memory
from shotstream.studio.take_record import TakeRecord
from tests.studio.studio_harness import CAPTIONS, GLOBAL_CAPTION, StudioHarness

STEERED = "a owl sleeps"


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[StudioHarness]:
    studio = StudioHarness(tmp_path, num_shots=2)
    for shot in studio.story.shots:
        studio.send_ok("edit_shot", shot_id=shot.shot_id, num_chunks=3)
    yield studio
    studio.close()


def switch(chunk_index: int = 1, mode: str = "recache", caption: str = STEERED) -> Switch:
    return Switch(caption=caption, chunk_index=chunk_index, mode=mode)  # pyright: ignore[reportArgumentType]


def steered(studio: StudioHarness, mode: str = "recache") -> StudioHarness:
    """The film, whose first shot was steered after its first chunk."""
    studio.run(1)
    studio.send_ok("steer", caption=STEERED, mode=mode)
    studio.run()
    return studio


def by_session(studio: StudioHarness, then: list[list[Steer]]) -> list[tuple[str, ...]]:
    """The hashes of the same film as the library makes it."""
    session = studio.pipeline.session(GLOBAL_CAPTION, seed=7, quiet=True)
    return [
        tuple(
            digest
            for chunk in session.shot(caption, num_chunks=3, then=steers)
            for digest in hash_frames(chunk.frames)
        )
        for caption, steers in zip(CAPTIONS, then, strict=False)
    ]


@pytest.mark.parametrize("mode", ["recache", "blend", "keep"])
def test_a_steered_take_is_that_of_a_session_with_the_same_switch(studio: StudioHarness, mode: str) -> None:
    steered(studio, mode)
    steer = Steer(caption=STEERED, chunk_index=1, mode=mode)  # pyright: ignore[reportArgumentType]
    assert studio.frame_hashes() == by_session(studio, [[steer], []])
    assert studio.frame_hashes() != by_session(studio, [[], []])


def test_a_steer_is_answered_with_the_chunk_from_which_it_holds(studio: StudioHarness) -> None:
    studio.run(2)
    effect = studio.send_ok("steer", caption=STEERED).effect
    assert (effect.shot_index, effect.chunk_index, effect.film_frame) == (0, 2, 21)
    assert studio.story.shots[0].then == (switch(2),)
    assert studio.story.undo == f"Steer shot 1: {STEERED}"
    studio.run()
    effect_frame = studio.story.shots[1].film_frame
    studio.send_ok("retake", shot_id=studio.story.shots[1].shot_id)
    studio.run(1)
    effect = studio.send_ok("steer", caption=STEERED, mode="blend").effect
    assert (effect.shot_index, effect.chunk_index, effect.film_frame) == (1, 1, (effect_frame or 0) + 9)


def test_what_cannot_be_steered_is_told_in_one_line_and_changes_nothing(studio: StudioHarness) -> None:
    studio.send_ok("set_autoplay", on=False)
    assert "no shot is being made" in studio.send_refused("steer", caption=STEERED).message
    studio.send_ok("set_autoplay", on=True)
    # A take whose first chunk is not yet made.
    job = studio.open_story._start_job()
    assert job is not None
    assert "the shot has no chunk yet" in studio.send_refused("steer", caption=STEERED).message
    studio.run(3)
    assert studio.open_story.job is None
    studio.run(2)
    long = studio.send_refused("steer", caption="a" * (studio.app.limits.caption_chars + 1))
    assert long.code == "limit"
    # The last chunk is made, and its take waits to be stored.
    assert studio.open_story.job is not None
    studio.open_story.job.make_chunk()
    refused = studio.send_refused("steer", caption=STEERED)
    assert refused.code == "refused" and "the last chunk of this shot is being made" in refused.message


def test_undo_makes_the_take_without_the_steer_and_redo_brings_it_back(studio: StudioHarness) -> None:
    studio.run(1)
    studio.send_ok("steer", caption="a fox sleeps")
    studio.run(1)
    studio.send_ok("steer", caption=STEERED)
    assert [one.chunk_index for one in studio.story.shots[0].then] == [1, 2]
    studio.send_ok("undo")
    assert [one.caption for one in studio.story.shots[0].then] == ["a fox sleeps"]
    studio.send_ok("undo")
    assert studio.story.shots[0].then == () and not studio.story.autoplay
    studio.run()
    assert studio.statuses == ["done", "waiting"]
    plain = studio.frame_hashes()
    assert plain == by_session(studio, [[], []])[:1]
    studio.send_ok("undo")
    studio.send_ok("redo")
    assert studio.frame_hashes() == plain


def test_after_undo_of_a_retakes_steer_the_retake_goes_on_as_it_was_asked_for(studio: StudioHarness) -> None:
    studio.run()
    shot = studio.story.shots[0]
    studio.send_ok("retake", shot_id=shot.shot_id, caption="a owl flies", seed="5", num_chunks=2)
    studio.run(1)
    studio.send_ok("steer", caption=STEERED)
    assert studio.open_story.job is not None
    studio.send_ok("undo")
    assert studio.open_story.history.queue == {
        shot.shot_id: QueuedTake(shot_id=shot.shot_id, caption="a owl flies", seed=5, num_chunks=2, then=())
    }
    studio.run()
    made = studio.story.shots[0]
    assert (made.caption, made.seed, made.num_chunks, made.then) == ("a owl flies", "5", 2, ())


def test_a_steer_is_stored_at_once_and_made_again_after_the_server_ended(tmp_path: Path) -> None:
    first = StudioHarness(tmp_path, num_shots=1)
    first.run(1)
    first.send_ok("steer", caption=STEERED)
    first.store.close()  # Killed: nothing is told goodbye.
    again = StudioHarness(tmp_path)
    assert again.story.shots[0].then == (switch(),)
    again.run()
    plain = StudioHarness(tmp_path / "plain", num_shots=1)
    plain.run()
    assert again.frame_hashes()[0][:9] == plain.frame_hashes()[0][:9]
    assert again.frame_hashes()[0][9:] != plain.frame_hashes()[0][9:]
    again.close()
    plain.close()


def test_new_takes_make_the_switches_again_and_a_new_caption_ends_them(studio: StudioHarness) -> None:
    steered(studio)
    shot = studio.story.shots[0]
    studio.send_ok("retake", shot_id=shot.shot_id, seed=shot.takes[0].seed)
    studio.run()
    takes = studio.open_story.history.takes
    one, other = (takes[take.take_id] for take in studio.story.shots[0].takes)
    assert one.frame_sha256 == other.frame_sha256 and other.then == one.then
    # A shorter take leaves out what lies beyond it; the next long one has it again.
    studio.send_ok("retake", shot_id=shot.shot_id, num_chunks=1)
    studio.run()
    assert takes[studio.take_ids()[0] or ""].then == ()
    assert studio.story.shots[0].then == (switch(),)
    assert studio.statuses[0] == "done"
    studio.send_ok("retake", shot_id=shot.shot_id, caption="a fox walks", num_chunks=3)
    studio.run()
    assert studio.story.shots[0].then == ()
    studio.send_ok("choose_take", shot_id=shot.shot_id, take_id=one.take_id)
    assert studio.story.shots[0].then == (switch(),) and studio.statuses[0] == "done"


def test_switches_can_be_planned_changed_and_taken_away(studio: StudioHarness) -> None:
    shot = studio.story.shots[0].shot_id
    studio.send_ok("edit_shot", shot_id=shot, then=[{"caption": STEERED, "chunk_index": 1}])
    studio.run()
    assert studio.frame_hashes() == by_session(studio, [[Steer(caption=STEERED, chunk_index=1)], []])
    assert studio.statuses == ["done", "done"]
    studio.send_ok("edit_shot", shot_id=shot, then=[])
    assert studio.statuses[0] == "stale" and studio.story.shots[0].stale_reasons == ("caption",)
    studio.send_ok("undo")
    assert studio.statuses[0] == "done"
    twice = [{"caption": STEERED, "chunk_index": 1}] * 2
    assert studio.send_refused("edit_shot", shot_id=shot, then=twice).code == "invalid"


def test_a_cut_keeps_the_switches_of_the_chunks_that_it_keeps(studio: StudioHarness) -> None:
    steered(studio)
    whole = studio.open_story.history.takes[studio.take_ids()[0] or ""]
    for frame_index, then in ((9, whole.then), (0, ())):
        studio.send_ok("cut", playing={"take_id": whole.take_id, "frame_index": frame_index})
        short = studio.open_story.history.takes[studio.take_ids()[0] or ""]
        assert short.then == then and short.frame_sha256 == whole.frame_sha256[: short.num_frames]
        assert len(studio.story.shots[0].then) == len(then) and not studio.story.shots[0].stale_reasons
        kept = studio.media.read_memory(studio.story_id, short)
        assert kept.then == then and len(kept.later_captions) == len(then)
        studio.send_ok("undo")
    # In the making, in the chunk before the switch.
    studio.send_ok("retake", shot_id=studio.story.shots[1].shot_id)
    studio.run(2)
    studio.send_ok("steer", caption=STEERED)
    making = studio.story.making
    assert making is not None
    studio.send_ok("cut", playing={"take_id": making.take_id, "frame_index": 0})
    assert studio.story.shots[1].then == ()


def test_the_memory_of_a_steered_take_is_that_of_its_frames(studio: StudioHarness) -> None:
    steered(studio)
    record = studio.open_story.history.takes[studio.take_ids()[0] or ""]
    kept = studio.media.read_memory(studio.story_id, record)
    frames = studio.media.read_frames(studio.story_id, record)
    asked = encode_take_memory(studio.app, record, frames)
    assert kept.later_captions == asked.later_captions == ((9, STEERED),)
    assert kept.then == asked.then == (Steer(caption=STEERED, chunk_index=1),)


def test_a_branch_and_the_story_file_have_the_switches(studio: StudioHarness) -> None:
    steered(studio)
    text = Exporter(studio.app, studio.manager.film_snapshot(studio.story_id)).story_yaml()
    assert story_from_bytes(text.encode()).shots[0].then == (Steer(caption=STEERED, chunk_index=1),)
    studio.send_ok("branch", shot_id=studio.story.shots[0].shot_id)
    assert studio.story.shots[0].then == (switch(),) and studio.statuses == ["done"]


def test_the_replay_of_a_steered_film_gives_every_frame_again(studio: StudioHarness, tmp_path: Path) -> None:
    steered(studio, "blend")
    path = tmp_path / "film.replay.json"
    path.write_text(Exporter(studio.app, studio.manager.film_snapshot(studio.story_id)).replay())
    replay: Replay = read_replay(path)
    assert replay.plan.story.shots[0].then == (Steer(caption=STEERED, chunk_index=1, mode="blend"),)
    then = [list(shot.then) for shot in replay.plan.story.shots]
    assert by_session(studio, then) == list(replay.frame_sha256) == studio.frame_hashes()


def test_a_damaged_steered_take_is_made_again_frame_by_frame(studio: StudioHarness) -> None:
    steered(studio)
    take_id = studio.take_ids()[0] or ""
    (studio.media._take_dir(studio.story_id, take_id) / "frames.mkv").write_bytes(b"")
    studio.open_story.repair_take(take_id)
    studio.run()
    record = studio.open_story.history.takes[take_id]
    assert len(studio.media.read_frames(studio.story_id, record)) == record.num_frames
    assert not studio.app.unrecoverable_takes


def test_lists_and_records_of_earlier_versions_are_read_and_written_as_they_were(
    studio: StudioHarness,
) -> None:
    studio.run()
    document = studio.open_story.shot_list.to_document()
    assert set(document["cards"][0]) == {"shot_id", "caption", "num_chunks", "seed", "take_id"}
    assert ShotList.from_document(document) == studio.open_story.shot_list
    record = next(iter(studio.open_story.history.takes.values()))
    old = {name: value for name, value in record.to_document().items() if name != "then"}
    assert TakeRecord.from_document(old) == record
    assert QueuedTake.from_document({"shot_id": "a", "caption": None, "num_chunks": 2, "seed": None}) == (
        QueuedTake(shot_id="a", num_chunks=2)
    )
    told = replace(record, then=(Steer(caption=STEERED, chunk_index=1),))
    assert TakeRecord.from_document(told.to_document()) == told


def test_a_steer_beyond_a_servers_limit_is_refused(tmp_path: Path) -> None:
    studio = StudioHarness(tmp_path, limits=Limits(caption_chars=15), num_shots=1)
    studio.run(1)
    assert studio.send_refused("steer", caption=STEERED * 2).code == "limit"
    assert studio.send_ok("steer", caption=STEERED).effect.chunk_index == 1
    studio.close()
