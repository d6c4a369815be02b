"""What a person may do to a story while it is being made, and what becomes of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shotstream.streaming.noise import shot_seed
from shotstream.studio.api_error import ApiError
from shotstream.studio.limits import Limits
from shotstream.studio.schemas.server_messages import MediaDropped, Notice, TakeEnded
from tests.studio.stage import CAPTIONS, GLOBAL_CAPTION, Inbox, Stage

NOBODY = "f" * 16


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def engine_hashes(stage: Stage, lengths: list[int], seeds: list[int] | None = None) -> list[tuple[str, ...]]:
    """The film as a plain session makes it."""
    from shotstream.film.replay import hash_frames

    session = stage.pipeline.session(GLOBAL_CAPTION, seed=7)
    film: list[tuple[str, ...]] = []
    for index, length in enumerate(lengths):
        seed = shot_seed(7, index) if seeds is None else seeds[index]
        chunks = session.shot(CAPTIONS[index], num_chunks=length, seed=seed)
        film.append(tuple(h for chunk in chunks for h in hash_frames(chunk.frames)))
    return film


def test_a_story_plays_by_itself_and_its_frames_are_those_of_a_plain_session(stage: Stage) -> None:
    stage.run()
    assert stage.statuses == ["done"] * 3
    assert stage.hashes() == engine_hashes(stage, [2, 2, 2])
    for take_id in stage.film():
        assert take_id is not None
        media = stage.media_of(take_id)
        assert [m.chunk_index for m in media] == [0, 1]
        assert (
            tuple(h for m in media for h in m.frame_sha256)
            == stage.open_story.history.takes[take_id].frame_sha256
        )


@pytest.mark.slow
def test_the_recording_on_disk_is_what_was_sent(stage: Stage) -> None:
    stage.run()
    on_disk = b"".join(
        stage.media.recording_path(stage.story_id, stage.open_story.history.takes[take_id]).read_bytes()
        for take_id in stage.film()
        if take_id
    )
    assert on_disk == b"".join(stage.inbox.pictures)


def test_a_cut_ends_the_playing_shot_at_its_chunk_and_drops_what_nobody_saw(stage: Stage) -> None:
    stage.run(3)  # Shot 1 is made, shot 2 has begun; the viewer is in the first chunk of shot 1.
    first, unseen = stage.film()[0], stage.story.making
    assert first is not None and unseen is not None
    effect = stage.control("cut", playing={"take_id": first, "frame_index": 3}).effect
    assert (effect.shot_index, effect.chunk_index, effect.film_frame) == (1, 0, 9)
    assert [e.outcome for e in stage.inbox.of(TakeEnded) if e.take_id == unseen.take_id] == ["discarded"]
    assert stage.statuses == ["done", "queued", "queued"]
    stage.run()
    assert stage.hashes() == engine_hashes(stage, [1, 2, 2])
    assert stage.story.shots[0].takes[-1].was_cut


def test_a_cut_in_the_take_that_is_made_keeps_the_chunks_up_to_the_playing_one(stage: Stage) -> None:
    stage.control("edit_shot", shot_id=stage.story.shots[0].shot_id, num_chunks=4)
    stage.run(3)
    making = stage.story.making
    assert making is not None
    effect = stage.control("cut", playing={"take_id": making.take_id, "frame_index": 9}).effect
    assert (effect.shot_index, effect.film_frame) == (1, 21)
    ended = stage.inbox.of(TakeEnded)[-1]
    assert (ended.outcome, ended.num_chunks) == ("cut", 2)
    stage.run()
    assert stage.hashes() == engine_hashes(stage, [2, 2, 2])


@pytest.mark.slow
def test_a_cut_may_bring_the_next_shot(stage: Stage) -> None:
    stage.run()
    first = stage.film()[0]
    stage.control("cut", playing={"take_id": first, "frame_index": 0}, shot={"caption": "a owl walks"})
    assert [shot.caption for shot in stage.story.shots][:3] == [CAPTIONS[0], "a owl walks", CAPTIONS[1]]
    assert stage.statuses == ["done", "queued", "queued", "queued"]


def test_a_cut_makes_stale_what_has_been_seen_and_undo_brings_it_back(stage: Stage) -> None:
    stage.run()
    before, hashes = stage.film(), stage.hashes()
    for take_id in before:
        stage.report_playhead(take_id, 0)
    stage.control("cut", playing={"take_id": before[0], "frame_index": 0})
    assert stage.statuses == ["done", "stale", "stale"]
    assert stage.film()[1:] == before[1:]
    stage.control("undo")
    assert (stage.film(), stage.hashes(), stage.statuses) == (before, hashes, ["done"] * 3)


def test_stop_keeps_what_is_made_and_makes_no_more(stage: Stage) -> None:
    stage.run(3)
    effect = stage.control("stop").effect
    assert (effect.shot_index, effect.chunk_index, effect.film_frame) == (1, 1, 21 + 9)
    assert stage.run() == 0
    assert stage.statuses == ["done", "done", "waiting"]
    assert stage.hashes() == engine_hashes(stage, [2, 1])


@pytest.mark.slow
def test_choosing_an_earlier_take_makes_later_shots_stale_and_choosing_back_mends_it(stage: Stage) -> None:
    stage.run()
    old = stage.film()
    shot = stage.story.shots[1]
    stage.control("retake", shot_id=shot.shot_id)
    assert stage.statuses == ["done", "queued", "done"]
    stage.run()
    assert stage.statuses == ["done", "done", "stale"]
    assert stage.story.shots[2].stale_reasons == ("context",)
    assert len(stage.story.shots[1].takes) == 2
    seeds = {take.seed for take in stage.story.shots[1].takes}
    assert len(seeds) == 2
    stage.control("choose_take", shot_id=shot.shot_id, take_id=old[1])
    assert (stage.film(), stage.statuses) == (old, ["done"] * 3)


@pytest.mark.slow
def test_stale_shots_are_made_again_from_what_is_chosen_now(stage: Stage) -> None:
    stage.run()
    stage.control("retake", shot_id=stage.story.shots[0].shot_id, seed="5")
    stage.run()
    assert stage.statuses == ["done", "stale", "stale"]
    assert stage.control("remake_stale").effect.shot_index == 1
    stage.run()
    assert stage.statuses == ["done"] * 3
    assert stage.hashes() == engine_hashes(stage, [2, 2, 2], [5, shot_seed(7, 1), shot_seed(7, 2)])
    assert stage.refused("remake_stale").code == "refused"


@pytest.mark.parametrize(
    ("control", "fields", "reason"),
    [
        ("edit_shot", {"caption": "a owl walks"}, "caption"),
        ("edit_shot", {"seed": "12"}, "seed"),
    ],
)
def test_editing_a_made_shot_makes_it_stale(
    stage: Stage, control: str, fields: dict[str, str], reason: str
) -> None:
    stage.run()
    stage.control(control, shot_id=stage.story.shots[2].shot_id, **fields)
    assert stage.story.shots[2].stale_reasons == (reason,)


def test_editing_the_global_caption_makes_everything_stale(stage: Stage) -> None:
    stage.run()
    assert stage.control("edit_story", global_caption="a owl night").effect.shot_index == 0
    assert stage.statuses == ["stale"] * 3
    stage.control("undo")
    assert stage.statuses == ["done"] * 3


def test_anything_can_be_undone_and_done_again(stage: Stage) -> None:
    stage.run()
    shots = stage.story.shots
    shot_lists = [stage.open_story.shot_list]
    for control, fields in (
        ("add_shot", {"shot": {"caption": "a owl walks"}}),
        ("move_shot", {"shot_id": shots[0].shot_id, "index": 2}),
        ("edit_shot", {"shot_id": shots[1].shot_id, "num_chunks": 3}),
        ("pin", {"frame": {"take_id": shots[1].take_id, "frame_index": 5}}),
        ("remove_shot", {"shot_id": shots[2].shot_id}),
        ("edit_story", {"title": "Another"}),
    ):
        stage.control("set_autoplay", on=False)
        stage.control(control, **fields)
        shot_lists.append(stage.open_story.shot_list)
    for shot_list in reversed(shot_lists[:-1]):
        stage.control("undo")
        assert stage.open_story.shot_list == shot_list
    for shot_list in shot_lists[1:]:
        stage.control("redo")
        assert stage.open_story.shot_list == shot_list
    assert stage.refused("redo").code == "refused"


@pytest.mark.slow
def test_undo_while_a_take_is_made_takes_back_that_take(stage: Stage) -> None:
    stage.run(3)
    assert stage.story.undo == "Take of shot 2 in the making"
    stage.control("undo")
    assert stage.statuses == ["done", "waiting", "waiting"]
    assert stage.run() == 0
    stage.control("make_shot", shot_id=stage.story.shots[2].shot_id)
    stage.run()
    assert stage.hashes() == engine_hashes(stage, [2, 2, 2])


def test_undo_to_the_beginning_and_no_further(stage: Stage) -> None:
    stage.run()
    for _ in range(3):
        stage.control("undo")
    assert stage.statuses == ["waiting"] * 3
    assert stage.refused("undo").code == "refused"


def test_a_branch_keeps_the_film_up_to_a_shot_and_the_other_stays(stage: Stage) -> None:
    stage.run()
    before, main = stage.film(), stage.story.branch_id
    stage.control("branch", shot_id=stage.story.shots[0].shot_id, name="Other")
    assert stage.film() == before[:1]
    stage.control("add_shot", shot={"caption": CAPTIONS[1]})
    stage.control("set_autoplay", on=True)
    stage.run()
    other = stage.film()
    assert len(other) == 2 and other[0] == before[0] and other[1] != before[1]
    assert stage.hashes() == engine_hashes(stage, [2, 2])
    stage.control("switch_branch", branch_id=main)
    assert (stage.film(), stage.statuses) == (before, ["done"] * 3)
    assert [branch.name for branch in stage.story.branches] == ["Main", "Other"]


def test_pins_reach_later_shots_only_and_the_memory_shows_them(stage: Stage) -> None:
    stage.run()
    plain, film = stage.hashes(), stage.film()
    stage.control("pin", frame={"take_id": film[0], "frame_index": 4})
    assert stage.statuses == ["done"] * 3
    pin = stage.story.pins[0]
    assert [frame.frame_index for frame in stage.story.memory if frame.pin_id == pin.pin_id] == [4]
    stage.control("retake", shot_id=stage.story.shots[2].shot_id, seed=str(shot_seed(7, 2)))
    stage.run()
    assert stage.hashes()[:2] == plain[:2] and stage.hashes()[2] != plain[2]
    stage.control("unpin", pin_id=pin.pin_id)
    stage.control("retake", shot_id=stage.story.shots[2].shot_id, seed=str(shot_seed(7, 2)))
    stage.run()
    assert stage.hashes() == plain


@pytest.mark.slow
def test_as_many_pins_as_the_memory_takes(stage: Stage) -> None:
    stage.run()
    film = stage.film()
    for frame_index in range(stage.story.max_pins):
        stage.control("pin", frame={"take_id": film[0], "frame_index": frame_index})
    assert stage.refused("pin", frame={"take_id": film[1], "frame_index": 0}).code == "limit"
    stage.control("add_shot", shot={"caption": "a fox walks"})
    stage.run()
    assert stage.statuses[-1] == "done"


def test_without_autoplay_shots_wait_until_they_are_asked_for(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.control("set_autoplay", on=False)
    assert stage.run() == 0
    stage.control("make_shot", shot_id=stage.story.shots[1].shot_id)
    assert stage.run() == 4
    assert stage.statuses == ["done", "done", "waiting"]
    assert stage.refused("make_shot", shot_id=stage.story.shots[0].shot_id).code == "refused"
    stage.close()


def test_making_runs_no_further_ahead_than_allowed_and_goes_on_when_the_viewer_does(tmp_path: Path) -> None:
    stage = Stage(tmp_path, limits=Limits(look_ahead_s=2.0))
    fps = stage.pipeline.fps
    stage.run()
    made = stage.story.num_frames + (stage.open_story.job.num_frames if stage.open_story.job else 0)
    assert 2 * fps <= made < 2 * fps + 12
    stage.report_playhead(stage.film()[0], 20)
    assert stage.run() > 0
    stage.close()


@pytest.mark.slow
def test_the_slowest_viewer_who_plays_is_waited_for(tmp_path: Path) -> None:
    stage = Stage(tmp_path, limits=Limits(look_ahead_s=2.0))
    slow = stage.add_viewer(Inbox())
    stage.run()
    film = stage.film()
    stage.report_playhead(film[0], 20)
    stage.report_playhead(film[0], 2, viewer=slow)
    assert stage.run() == 0
    stage.report_playhead(film[0], 2, playing=False, viewer=slow)
    assert stage.run() > 0
    stage.close()


@pytest.mark.slow
def test_nothing_is_made_while_nobody_watches_and_the_take_comes_out_the_same(stage: Stage) -> None:
    stage.run(3)
    stage.manager.remove_viewer(stage.story_id, stage.viewer.viewer_id)
    assert stage.run() == 0
    stage.manager._close_story(stage.story_id)
    stage.inbox = Inbox()
    stage.viewer = stage.add_viewer(stage.inbox)
    stage.run()
    assert stage.hashes() == engine_hashes(stage, [2, 2, 2])


@pytest.mark.slow
def test_stories_take_turns_chunk_by_chunk(stage: Stage) -> None:
    other = stage.create_story(3)
    stage.manager.add_viewer(other, NOBODY, Inbox())
    open_stories = [stage.open_story, stage.manager._stories[other]]
    for turn in range(1, 9):
        assert stage.manager.make_next_chunk()
        made = [open_story.app and len(open_story._recent_chunks) for open_story in open_stories]
        assert abs(made[0] - made[1]) <= 1 and sum(made) == turn


@pytest.mark.slow
def test_a_second_viewer_is_told_what_the_first_one_was(stage: Stage) -> None:
    stage.run(3)
    late = Inbox()
    stage.add_viewer(late)
    stage.run()
    assert late.of(type(stage.inbox.messages[1]))[-1] == stage.inbox.of(type(stage.inbox.messages[1]))[-1]
    assert late.pictures == stage.inbox.pictures[2:]


def test_a_viewer_whose_outbox_is_full_is_told_what_it_missed(stage: Stage) -> None:
    stage.inbox.is_full = True
    stage.run(2)
    assert [(m.chunk_index) for m in stage.inbox.of(MediaDropped)] == [0, 1]
    assert not stage.inbox.pictures
    assert stage.statuses[0] == "done"


CONTROLS_OF_NOBODY: list[tuple[str, dict[str, object]]] = [
    ("edit_shot", {"shot_id": NOBODY, "caption": "a fox"}),
    ("remove_shot", {"shot_id": NOBODY}),
    ("make_shot", {"shot_id": NOBODY}),
    ("retake", {"shot_id": NOBODY}),
    ("choose_take", {"shot_id": NOBODY, "take_id": NOBODY}),
    ("cut", {"playing": {"take_id": NOBODY, "frame_index": 0}}),
    ("branch", {"shot_id": NOBODY}),
    ("switch_branch", {"branch_id": NOBODY}),
    ("pin", {"frame": {"take_id": NOBODY, "frame_index": 0}}),
    ("unpin", {"pin_id": NOBODY}),
]


def test_ids_that_do_not_exist_change_nothing(stage: Stage) -> None:
    stage.run(3)
    before, making = stage.open_story.history.shot_list, stage.story.making
    for control, fields in CONTROLS_OF_NOBODY:
        assert stage.refused(control, **fields).code == "not_found", control
        assert stage.open_story.history.shot_list == before and stage.story.making == making, control
    stage.run()
    assert stage.hashes() == engine_hashes(stage, [2, 2, 2])


@pytest.mark.slow
def test_ids_of_another_story_change_nothing(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Stage(tmp_path / "other")
    other.run()
    stage.run()
    foreign = other.story.shots[0]
    assert (
        stage.refused("choose_take", shot_id=stage.story.shots[0].shot_id, take_id=foreign.take_id).code
        == "not_found"
    )
    assert stage.refused("pin", frame={"take_id": foreign.take_id, "frame_index": 0}).code == "not_found"
    other.close()


@pytest.mark.slow
def test_controls_out_of_order_are_refused(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.control("set_autoplay", on=False)
    assert stage.refused("cut").code == "refused"
    assert stage.refused("retake", shot_id=stage.story.shots[0].shot_id).code == "refused"
    assert stage.refused("redo").code == "refused"
    stage.control("stop")
    stage.close()


def test_limits_are_answered(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path, limits=Limits(caption_chars=20, shots=3, chunks_per_shot=4, branches=1, open_stories=1)
    )
    assert stage.refused("edit_shot", shot_id=stage.story.shots[0].shot_id, caption="a " * 20).code == "limit"
    assert stage.refused("edit_shot", shot_id=stage.story.shots[0].shot_id, num_chunks=5).code == "limit"
    assert stage.refused("add_shot", shot={"caption": "a fox"}).code == "limit"
    assert stage.refused("branch").code == "limit"
    other = stage.create_story(1)
    with pytest.raises(ApiError) as refusal:
        stage.manager.add_viewer(other, NOBODY, Inbox())
    assert refusal.value.code == "busy"
    stage.close()


def test_a_full_quota_stops_the_making_and_deleting_frees_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path, limits=Limits(quota_bytes=10_000))
    assert stage.run() == 2  # A take that has begun is finished.
    other = stage.story_id
    stage.story_id = stage.create_story(1)
    stage.inbox = Inbox()
    stage.viewer = stage.add_viewer(stage.inbox)
    assert stage.run() == 0
    stage.manager.delete_story(other)
    assert not (tmp_path / "media" / other).exists()
    assert stage.run() == 2
    stage.close()


@pytest.mark.slow
def test_a_story_made_with_other_weights_goes_on_and_says_so(tmp_path: Path) -> None:
    first = Stage(tmp_path)
    first.run()
    old = first.hashes()
    first.close()
    second = Stage(tmp_path, seed=1)
    assert [notice.code for notice in second.inbox.of(Notice)] == ["weights_changed"]
    second.control("add_shot", shot={"caption": "a owl walks"})
    second.run()
    assert second.statuses == ["done"] * 4
    assert second.hashes()[:3] == old
    assert [take.weights_match for shot in second.story.shots for take in shot.takes] == [False] * 3 + [True]
    second.close()


def test_a_failing_shot_says_so_and_the_story_goes_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.run(2)

    def breaks(*_: object, **__: object) -> int:
        raise ValueError("the encoder made no fragment")

    monkeypatch.setattr(stage.media, "save_take", breaks)
    stage.run()
    assert stage.statuses == ["done", "failed", "queued"]
    assert stage.story.shots[1].failure == "the encoder made no fragment"
    monkeypatch.undo()
    stage.control("make_shot", shot_id=stage.story.shots[1].shot_id)
    stage.run()
    assert stage.hashes() == engine_hashes(stage, [2, 2, 2])
