"""What is sent of a take in the making, what is asked for, and what is allowed: with three shots and more."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shotstream.film.replay import hash_frames
from shotstream.streaming.noise import shot_seed
from shotstream.studio.api_error import ApiError
from shotstream.studio.context_cache import ContextCache
from shotstream.studio.ids import new_id
from shotstream.studio.limits import Limits
from shotstream.studio.schemas.server_messages import TakeEnded
from shotstream.studio.schemas.state import NewShot
from shotstream.studio.take_job import encode_take_memory
from tests.studio.studio_harness import CAPTIONS, RecordingOutbox, StudioHarness


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[StudioHarness]:
    studio = StudioHarness(tmp_path)
    yield studio
    studio.close()


def test_every_chunk_says_where_it_lies_in_its_take_and_in_the_film(studio: StudioHarness) -> None:
    studio.send_ok("edit_shot", shot_id=studio.story.shots[1].shot_id, num_chunks=3)
    studio.run()
    places = [
        [(m.chunk_index, m.frame_index, m.num_frames, m.film_frame, m.is_last) for m in studio.media_of(take)]
        for take in studio.take_ids()
        if take is not None
    ]
    assert places == [
        [(0, 0, 9, 0, False), (1, 9, 12, 0, True)],
        [(0, 0, 9, 21, False), (1, 9, 12, 21, False), (2, 21, 12, 21, True)],
        [(0, 0, 9, 54, False), (1, 9, 12, 54, True)],
    ]
    # Of another take of the second shot, which is made while the film goes on behind it.
    studio.send_ok("retake", shot_id=studio.story.shots[1].shot_id, num_chunks=1)
    studio.run()
    again = studio.media_of(studio.take_ids()[1] or "")
    assert [(m.frame_index, m.num_frames, m.film_frame, m.is_last) for m in again] == [(0, 9, 21, True)]


@pytest.mark.parametrize(("frame_index", "chunk"), [(0, 0), (8, 0), (9, 1), (20, 1), (21, 2), (33, 3)])
def test_a_frame_lies_in_the_chunk_that_holds_it(studio: StudioHarness, frame_index: int, chunk: int) -> None:
    assert studio.app.chunk_index_of(frame_index) == chunk
    assert studio.app.num_frames(chunk) <= frame_index < studio.app.num_frames(chunk + 1)


@pytest.mark.slow
def test_a_cut_ends_with_the_chunk_on_the_screen_at_each_of_its_frames(studio: StudioHarness) -> None:
    studio.send_ok("edit_shot", shot_id=studio.story.shots[1].shot_id, num_chunks=4)
    studio.run()
    whole = studio.open_story.history.takes[studio.take_ids()[1] or ""]
    for frame_index, num_chunks in ((32, 3), (20, 2), (9, 2), (8, 1), (0, 1)):
        studio.send_ok("cut", playing={"take_id": whole.take_id, "frame_index": frame_index})
        short = studio.open_story.history.takes[studio.take_ids()[1] or ""]
        num_frames = studio.app.num_frames(num_chunks)
        assert (short.num_chunks, short.num_frames) == (num_chunks, num_frames)
        assert short.frame_sha256 == whole.frame_sha256[:num_frames]
        frames = studio.media.read_frames(studio.story_id, short)
        assert hash_frames(frames) == short.frame_sha256
        sent = studio.media.read_recording(studio.story_id, short)
        full = studio.media.read_recording(studio.story_id, whole)
        assert (sent.header, sent.fragments) == (full.header, full.fragments[:num_chunks])
        kept = studio.media.read_memory(studio.story_id, short)
        asked = encode_take_memory(studio.app, short, frames)
        assert kept.candidate_frames == asked.candidate_frames and kept.latents.equal(asked.latents)
        studio.send_ok("undo")
        assert studio.take_ids()[1] == whole.take_id


@pytest.mark.slow
def test_a_cut_that_was_taken_back_can_be_done_at_another_place(studio: StudioHarness) -> None:
    """It was taken for its shortened one, which is no longer in the film: the last shot was cut."""
    studio.run()
    whole = studio.take_ids()[0]
    for _ in range(2):
        assert studio.send_ok("cut", playing={"take_id": whole, "frame_index": 3}).effect.shot_index == 1
        studio.report_playhead(whole, 3)
        assert studio.viewer.playhead_frame == 3
        studio.send_ok("undo")
        assert studio.take_ids()[0] == whole
    studio.report_playhead(whole, 20)
    assert studio.viewer.playhead_frame == 20
    # Cut twice, and the page goes on naming the first one.
    studio.send_ok("retake", shot_id=studio.story.shots[0].shot_id, num_chunks=3)
    studio.run()
    whole = studio.take_ids()[0]
    for frame_index, num_chunks in ((20, 2), (8, 1)):
        assert (
            studio.send_ok("cut", playing={"take_id": whole, "frame_index": frame_index}).effect.shot_index
            == 1
        )
        assert studio.open_story.history.takes[studio.take_ids()[0] or ""].num_chunks == num_chunks


@pytest.mark.slow
def test_memories_of_other_weights_are_encoded_anew_from_the_frames(tmp_path: Path) -> None:
    first = StudioHarness(tmp_path)
    first.run()
    first.close()
    studio = StudioHarness(tmp_path, seed=1)
    record = studio.open_story.history.takes[studio.take_ids()[1] or ""]
    take = ContextCache(studio.app, studio.story_id).take(record, 1)
    frames = studio.media.read_frames(studio.story_id, record)[list(take.candidate_frames)]
    assert take.latents.equal(studio.pipeline.encode_frames(frames))
    assert not take.latents.equal(first.pipeline.encode_frames(frames))
    studio.close()


@pytest.mark.slow
def test_making_stale_shots_again_asks_for_what_is_made_from_the_first_of_them_on(
    studio: StudioHarness,
) -> None:
    studio.send_ok("add_shot", shot={"caption": CAPTIONS[3]})
    shots = [shot.shot_id for shot in studio.story.shots]
    studio.run()
    studio.send_ok("set_autoplay", on=False)
    studio.send_ok("add_shot", shot={"caption": "a fox walks"}, index=2)  # Not made, and not asked for.
    studio.send_ok("edit_shot", shot_id=shots[1], caption="a owl walks")
    assert studio.statuses == ["done", "stale", "waiting", "done", "done"]
    assert studio.send_ok("remake_stale").effect.shot_index == 1
    assert list(studio.open_story.history.queue) == shots[1:]
    studio.run()
    assert studio.statuses == ["done", "done", "waiting", "done", "done"]
    assert studio.run() == 0


def test_a_take_that_is_chosen_brings_its_caption_seed_and_length(studio: StudioHarness) -> None:
    studio.run()
    shot = studio.story.shots[1]
    studio.send_ok("retake", shot_id=shot.shot_id, caption="a owl walks", seed="5", num_chunks=1)
    studio.run()
    new = studio.story.shots[1]
    assert (new.caption, new.seed, new.num_chunks) == ("a owl walks", "5", 1)
    studio.send_ok("choose_take", shot_id=shot.shot_id, take_id=shot.take_id)
    old = studio.story.shots[1]
    assert (old.caption, old.seed, old.num_chunks) == (CAPTIONS[1], str(shot_seed(7, 1)), 2)
    studio.send_ok("choose_take", shot_id=shot.shot_id, take_id=new.take_id)
    assert (studio.story.shots[1].caption, studio.story.shots[1].seed) == ("a owl walks", "5")
    assert "stale" not in studio.statuses[:2]


def test_pins_end_with_the_take(studio: StudioHarness) -> None:
    studio.run()
    take = studio.open_story.history.takes[studio.take_ids()[0] or ""]
    answer = studio.send_refused("pin", frame={"take_id": take.take_id, "frame_index": take.num_frames})
    assert answer.code == "not_found"
    studio.send_ok("pin", frame={"take_id": take.take_id, "frame_index": take.num_frames - 1})
    assert (
        studio.send_refused("pin", frame={"take_id": take.take_id, "frame_index": take.num_frames - 1}).code
        == "refused"
    )


@pytest.mark.slow
def test_pins_stay_through_retakes_branches_and_removals(studio: StudioHarness) -> None:
    studio.run()
    first = studio.take_ids()[0]
    studio.send_ok("pin", frame={"take_id": first, "frame_index": 4})
    pin = studio.story.pins[0].pin_id
    studio.send_ok("retake", shot_id=studio.story.shots[1].shot_id)
    studio.run()
    assert [f.frame_index for f in studio.story.shots[1].takes[-1].context if f.pin_id == pin] == [4]
    studio.send_ok("branch", shot_id=studio.story.shots[1].shot_id)
    assert [p.pin_id for p in studio.story.pins] == [pin]
    studio.send_ok("add_shot", shot={"caption": "a owl walks"})
    studio.send_ok("make_shot", shot_id=studio.story.shots[-1].shot_id)
    studio.run()
    assert [f.frame_index for f in studio.story.shots[-1].takes[-1].context if f.pin_id == pin] == [4]
    # Another take of its shot is in the film: the pin rests, and counts again with its own.
    studio.send_ok("retake", shot_id=studio.story.shots[0].shot_id)
    studio.run()
    assert not studio.story.pins[0].is_used
    studio.send_ok("retake", shot_id=studio.story.shots[1].shot_id)
    studio.run()
    assert not [f for f in studio.story.shots[1].takes[-1].context if f.pin_id]
    studio.send_ok("choose_take", shot_id=studio.story.shots[0].shot_id, take_id=first)
    assert studio.story.pins[0].is_used


def test_a_refused_redo_does_not_drop_the_take_in_the_making(studio: StudioHarness) -> None:
    """It was dropped before it was known whether there was anything to do again."""
    studio.run(3)
    making = studio.story.making
    assert studio.send_refused("redo").code == "refused"
    assert studio.open_story.job is not None and making is not None
    assert studio.open_story.job.take_id == making.take_id
    assert [e.outcome for e in studio.outbox.of(TakeEnded)] == ["finished"]


def test_stories_hold_as_many_shots_and_servers_as_many_stories_as_they_may(tmp_path: Path) -> None:
    studio = StudioHarness(tmp_path, limits=Limits(shots=3, stories=2), num_shots=3)

    def create(num_shots: int) -> None:
        shots = [NewShot(caption="a fox")] * num_shots
        studio.manager.create_story("A", "a forest", shots, seed=0, autoplay=False)

    with pytest.raises(ApiError) as refusal:
        create(4)
    assert refusal.value.code == "limit" and "at most 3" in str(refusal.value)
    create(3)
    with pytest.raises(ApiError) as refusal:
        create(1)
    assert refusal.value.code == "limit" and "2 stories" in str(refusal.value)
    studio.close()


def test_the_story_that_is_empty_longest_makes_room_and_watched_ones_stay(tmp_path: Path) -> None:
    studio = StudioHarness(tmp_path, limits=Limits(open_stories=3, viewers_per_story=2))
    others = [studio.create_story(1) for _ in range(3)]
    viewers = [new_id() for _ in others]
    for other, viewer in zip(others[:2], viewers, strict=False):
        studio.manager.add_viewer(other, viewer, RecordingOutbox())
    with pytest.raises(ApiError) as refusal:
        studio.manager.add_viewer(others[2], viewers[2], RecordingOutbox())
    assert refusal.value.code == "busy"
    studio.manager.remove_viewer(others[1], viewers[1])
    studio.manager.remove_viewer(others[0], viewers[0])
    studio.manager._stories[others[1]].empty_since_s = 1.0
    studio.manager._stories[others[0]].empty_since_s = 2.0
    studio.manager.add_viewer(others[2], viewers[2], RecordingOutbox())
    assert set(studio.manager._stories) == {studio.story_id, others[0], others[2]}
    studio.add_viewer(RecordingOutbox())
    with pytest.raises(ApiError) as refusal:
        studio.add_viewer(RecordingOutbox())
    assert refusal.value.code == "busy" and "2 viewers" in str(refusal.value)
    studio.close()
