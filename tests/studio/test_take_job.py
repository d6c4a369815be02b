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
from tests.studio.stage import CAPTIONS, Inbox, Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def test_every_chunk_says_where_it_lies_in_its_take_and_in_the_film(stage: Stage) -> None:
    stage.control("edit_shot", shot_id=stage.story.shots[1].shot_id, num_chunks=3)
    stage.run()
    places = [
        [(m.chunk_index, m.frame_index, m.num_frames, m.film_frame, m.is_last) for m in stage.media_of(take)]
        for take in stage.film()
        if take is not None
    ]
    assert places == [
        [(0, 0, 9, 0, False), (1, 9, 12, 0, True)],
        [(0, 0, 9, 21, False), (1, 9, 12, 21, False), (2, 21, 12, 21, True)],
        [(0, 0, 9, 54, False), (1, 9, 12, 54, True)],
    ]
    # Of another take of the second shot, which is made while the film goes on behind it.
    stage.control("retake", shot_id=stage.story.shots[1].shot_id, num_chunks=1)
    stage.run()
    again = stage.media_of(stage.film()[1] or "")
    assert [(m.frame_index, m.num_frames, m.film_frame, m.is_last) for m in again] == [(0, 9, 21, True)]


@pytest.mark.parametrize(("frame_index", "chunk"), [(0, 0), (8, 0), (9, 1), (20, 1), (21, 2), (33, 3)])
def test_a_frame_lies_in_the_chunk_that_holds_it(stage: Stage, frame_index: int, chunk: int) -> None:
    assert stage.app.chunk_index_of(frame_index) == chunk
    assert stage.app.num_frames(chunk) <= frame_index < stage.app.num_frames(chunk + 1)


@pytest.mark.slow
def test_a_cut_ends_with_the_chunk_on_the_screen_at_each_of_its_frames(stage: Stage) -> None:
    stage.control("edit_shot", shot_id=stage.story.shots[1].shot_id, num_chunks=4)
    stage.run()
    whole = stage.open_story.history.takes[stage.film()[1] or ""]
    for frame_index, num_chunks in ((32, 3), (20, 2), (9, 2), (8, 1), (0, 1)):
        stage.control("cut", playing={"take_id": whole.take_id, "frame_index": frame_index})
        short = stage.open_story.history.takes[stage.film()[1] or ""]
        num_frames = stage.app.num_frames(num_chunks)
        assert (short.num_chunks, short.num_frames) == (num_chunks, num_frames)
        assert short.frame_sha256 == whole.frame_sha256[:num_frames]
        frames = stage.media.read_frames(stage.story_id, short)
        assert hash_frames(frames) == short.frame_sha256
        sent = stage.media.read_recording(stage.story_id, short)
        full = stage.media.read_recording(stage.story_id, whole)
        assert (sent.header, sent.fragments) == (full.header, full.fragments[:num_chunks])
        kept = stage.media.read_memory(stage.story_id, short)
        asked = encode_take_memory(stage.app, short, frames)
        assert kept.candidate_frames == asked.candidate_frames and kept.latents.equal(asked.latents)
        stage.control("undo")
        assert stage.film()[1] == whole.take_id


@pytest.mark.slow
def test_a_cut_that_was_taken_back_can_be_done_at_another_place(stage: Stage) -> None:
    """It was taken for its shortened one, which is no longer in the film: the last shot was cut."""
    stage.run()
    whole = stage.film()[0]
    for _ in range(2):
        assert stage.control("cut", playing={"take_id": whole, "frame_index": 3}).effect.shot_index == 1
        stage.report_playhead(whole, 3)
        assert stage.viewer.playhead_frame == 3
        stage.control("undo")
        assert stage.film()[0] == whole
    stage.report_playhead(whole, 20)
    assert stage.viewer.playhead_frame == 20
    # Cut twice, and the page goes on naming the first one.
    stage.control("retake", shot_id=stage.story.shots[0].shot_id, num_chunks=3)
    stage.run()
    whole = stage.film()[0]
    for frame_index, num_chunks in ((20, 2), (8, 1)):
        assert (
            stage.control("cut", playing={"take_id": whole, "frame_index": frame_index}).effect.shot_index
            == 1
        )
        assert stage.open_story.history.takes[stage.film()[0] or ""].num_chunks == num_chunks


@pytest.mark.slow
def test_memories_of_other_weights_are_encoded_anew_from_the_frames(tmp_path: Path) -> None:
    first = Stage(tmp_path)
    first.run()
    first.close()
    stage = Stage(tmp_path, seed=1)
    record = stage.open_story.history.takes[stage.film()[1] or ""]
    take = ContextCache(stage.app, stage.story_id).take(record, 1)
    frames = stage.media.read_frames(stage.story_id, record)[list(take.candidate_frames)]
    assert take.latents.equal(stage.pipeline.encode_frames(frames))
    assert not take.latents.equal(first.pipeline.encode_frames(frames))
    stage.close()


@pytest.mark.slow
def test_making_stale_shots_again_asks_for_what_is_made_from_the_first_of_them_on(stage: Stage) -> None:
    stage.control("add_shot", shot={"caption": CAPTIONS[3]})
    shots = [shot.shot_id for shot in stage.story.shots]
    stage.run()
    stage.control("set_autoplay", on=False)
    stage.control("add_shot", shot={"caption": "a fox walks"}, index=2)  # Not made, and not asked for.
    stage.control("edit_shot", shot_id=shots[1], caption="a owl walks")
    assert stage.statuses == ["done", "stale", "waiting", "done", "done"]
    assert stage.control("remake_stale").effect.shot_index == 1
    assert list(stage.open_story.history.queue) == shots[1:]
    stage.run()
    assert stage.statuses == ["done", "done", "waiting", "done", "done"]
    assert stage.run() == 0


def test_a_take_that_is_chosen_brings_its_caption_seed_and_length(stage: Stage) -> None:
    stage.run()
    shot = stage.story.shots[1]
    stage.control("retake", shot_id=shot.shot_id, caption="a owl walks", seed="5", num_chunks=1)
    stage.run()
    new = stage.story.shots[1]
    assert (new.caption, new.seed, new.num_chunks) == ("a owl walks", "5", 1)
    stage.control("choose_take", shot_id=shot.shot_id, take_id=shot.take_id)
    old = stage.story.shots[1]
    assert (old.caption, old.seed, old.num_chunks) == (CAPTIONS[1], str(shot_seed(7, 1)), 2)
    stage.control("choose_take", shot_id=shot.shot_id, take_id=new.take_id)
    assert (stage.story.shots[1].caption, stage.story.shots[1].seed) == ("a owl walks", "5")
    assert "stale" not in stage.statuses[:2]


def test_pins_end_with_the_take(stage: Stage) -> None:
    stage.run()
    take = stage.open_story.history.takes[stage.film()[0] or ""]
    answer = stage.refused("pin", frame={"take_id": take.take_id, "frame_index": take.num_frames})
    assert answer.code == "not_found"
    stage.control("pin", frame={"take_id": take.take_id, "frame_index": take.num_frames - 1})
    assert (
        stage.refused("pin", frame={"take_id": take.take_id, "frame_index": take.num_frames - 1}).code
        == "refused"
    )


@pytest.mark.slow
def test_pins_stay_through_retakes_branches_and_removals(stage: Stage) -> None:
    stage.run()
    first = stage.film()[0]
    stage.control("pin", frame={"take_id": first, "frame_index": 4})
    pin = stage.story.pins[0].pin_id
    stage.control("retake", shot_id=stage.story.shots[1].shot_id)
    stage.run()
    assert [f.frame_index for f in stage.story.shots[1].takes[-1].context if f.pin_id == pin] == [4]
    stage.control("branch", shot_id=stage.story.shots[1].shot_id)
    assert [p.pin_id for p in stage.story.pins] == [pin]
    stage.control("add_shot", shot={"caption": "a owl walks"})
    stage.control("make_shot", shot_id=stage.story.shots[-1].shot_id)
    stage.run()
    assert [f.frame_index for f in stage.story.shots[-1].takes[-1].context if f.pin_id == pin] == [4]
    # Another take of its shot is in the film: the pin rests, and counts again with its own.
    stage.control("retake", shot_id=stage.story.shots[0].shot_id)
    stage.run()
    assert not stage.story.pins[0].is_used
    stage.control("retake", shot_id=stage.story.shots[1].shot_id)
    stage.run()
    assert not [f for f in stage.story.shots[1].takes[-1].context if f.pin_id]
    stage.control("choose_take", shot_id=stage.story.shots[0].shot_id, take_id=first)
    assert stage.story.pins[0].is_used


def test_a_refused_redo_does_not_drop_the_take_in_the_making(stage: Stage) -> None:
    """It was dropped before it was known whether there was anything to do again."""
    stage.run(3)
    making = stage.story.making
    assert stage.refused("redo").code == "refused"
    assert stage.open_story.job is not None and making is not None
    assert stage.open_story.job.take_id == making.take_id
    assert [e.outcome for e in stage.inbox.of(TakeEnded)] == ["finished"]


def test_stories_hold_as_many_shots_and_servers_as_many_stories_as_they_may(tmp_path: Path) -> None:
    stage = Stage(tmp_path, limits=Limits(shots=3, stories=2), num_shots=3)

    def create(num_shots: int) -> None:
        shots = [NewShot(caption="a fox")] * num_shots
        stage.manager.create_story("A", "a forest", shots, seed=0, autoplay=False)

    with pytest.raises(ApiError) as refusal:
        create(4)
    assert refusal.value.code == "limit" and "at most 3" in str(refusal.value)
    create(3)
    with pytest.raises(ApiError) as refusal:
        create(1)
    assert refusal.value.code == "limit" and "2 stories" in str(refusal.value)
    stage.close()


def test_the_story_that_is_empty_longest_makes_room_and_watched_ones_stay(tmp_path: Path) -> None:
    stage = Stage(tmp_path, limits=Limits(open_stories=3, viewers_per_story=2))
    others = [stage.create_story(1) for _ in range(3)]
    viewers = [new_id() for _ in others]
    for other, viewer in zip(others[:2], viewers, strict=False):
        stage.manager.add_viewer(other, viewer, Inbox())
    with pytest.raises(ApiError) as refusal:
        stage.manager.add_viewer(others[2], viewers[2], Inbox())
    assert refusal.value.code == "busy"
    stage.manager.remove_viewer(others[1], viewers[1])
    stage.manager.remove_viewer(others[0], viewers[0])
    stage.manager._stories[others[1]].empty_since_s = 1.0
    stage.manager._stories[others[0]].empty_since_s = 2.0
    stage.manager.add_viewer(others[2], viewers[2], Inbox())
    assert set(stage.manager._stories) == {stage.story_id, others[0], others[2]}
    stage.add_viewer(Inbox())
    with pytest.raises(ApiError) as refusal:
        stage.add_viewer(Inbox())
    assert refusal.value.code == "busy" and "2 viewers" in str(refusal.value)
    stage.close()
