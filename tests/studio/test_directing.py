"""What a person may do to a story while it is being made, and what becomes of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shotstream.streaming.noise import shot_seed
from shotstream.studio.api_error import ApiError
from shotstream.studio.limits import Limits
from shotstream.studio.schemas.server_messages import MediaDropped, Notice, TakeEnded
from tests.studio.studio_harness import CAPTIONS, GLOBAL_CAPTION, RecordingOutbox, StudioHarness

NOBODY = "f" * 16


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[StudioHarness]:
    studio = StudioHarness(tmp_path)
    yield studio
    studio.close()


def engine_hashes(
    studio: StudioHarness, lengths: list[int], seeds: list[int] | None = None
) -> list[tuple[str, ...]]:
    """The film as a plain session makes it."""
    from shotstream.film.replay import hash_frames

    session = studio.pipeline.session(GLOBAL_CAPTION, seed=7)
    film: list[tuple[str, ...]] = []
    for index, length in enumerate(lengths):
        seed = shot_seed(7, index) if seeds is None else seeds[index]
        chunks = session.shot(CAPTIONS[index], num_chunks=length, seed=seed)
        film.append(tuple(h for chunk in chunks for h in hash_frames(chunk.frames)))
    return film


def test_a_story_plays_by_itself_and_its_frames_are_those_of_a_plain_session(studio: StudioHarness) -> None:
    studio.run()
    assert studio.statuses == ["done"] * 3
    assert studio.frame_hashes() == engine_hashes(studio, [2, 2, 2])
    for take_id in studio.take_ids():
        assert take_id is not None
        media = studio.media_of(take_id)
        assert [m.chunk_index for m in media] == [0, 1]
        assert (
            tuple(h for m in media for h in m.frame_sha256)
            == studio.open_story.history.takes[take_id].frame_sha256
        )


@pytest.mark.slow
def test_the_recording_on_disk_is_what_was_sent(studio: StudioHarness) -> None:
    studio.run()
    on_disk = b"".join(
        studio.media.recording_path(studio.story_id, studio.open_story.history.takes[take_id]).read_bytes()
        for take_id in studio.take_ids()
        if take_id
    )
    assert on_disk == b"".join(studio.outbox.pictures)


def test_a_cut_ends_the_playing_shot_at_its_chunk_and_drops_what_nobody_saw(studio: StudioHarness) -> None:
    studio.run(3)  # Shot 1 is made, shot 2 has begun; the viewer is in the first chunk of shot 1.
    first, unseen = studio.take_ids()[0], studio.story.making
    assert first is not None and unseen is not None
    effect = studio.send_ok("cut", playing={"take_id": first, "frame_index": 3}).effect
    assert (effect.shot_index, effect.chunk_index, effect.film_frame) == (1, 0, 9)
    assert [e.outcome for e in studio.outbox.of(TakeEnded) if e.take_id == unseen.take_id] == ["discarded"]
    assert studio.statuses == ["done", "queued", "queued"]
    studio.run()
    assert studio.frame_hashes() == engine_hashes(studio, [1, 2, 2])
    assert studio.story.shots[0].takes[-1].was_cut


def test_a_cut_in_the_take_that_is_made_keeps_the_chunks_up_to_the_playing_one(studio: StudioHarness) -> None:
    studio.send_ok("edit_shot", shot_id=studio.story.shots[0].shot_id, num_chunks=4)
    studio.run(3)
    making = studio.story.making
    assert making is not None
    effect = studio.send_ok("cut", playing={"take_id": making.take_id, "frame_index": 9}).effect
    assert (effect.shot_index, effect.film_frame) == (1, 21)
    ended = studio.outbox.of(TakeEnded)[-1]
    assert (ended.outcome, ended.num_chunks) == ("cut", 2)
    studio.run()
    assert studio.frame_hashes() == engine_hashes(studio, [2, 2, 2])


@pytest.mark.slow
def test_a_cut_may_bring_the_next_shot(studio: StudioHarness) -> None:
    studio.run()
    first = studio.take_ids()[0]
    studio.send_ok("cut", playing={"take_id": first, "frame_index": 0}, shot={"caption": "a owl walks"})
    assert [shot.caption for shot in studio.story.shots][:3] == [CAPTIONS[0], "a owl walks", CAPTIONS[1]]
    assert studio.statuses == ["done", "queued", "queued", "queued"]


def test_a_cut_makes_stale_what_has_been_seen_and_undo_brings_it_back(studio: StudioHarness) -> None:
    studio.run()
    before, hashes = studio.take_ids(), studio.frame_hashes()
    for take_id in before:
        studio.report_playhead(take_id, 0)
    studio.send_ok("cut", playing={"take_id": before[0], "frame_index": 0})
    assert studio.statuses == ["done", "stale", "stale"]
    assert studio.take_ids()[1:] == before[1:]
    studio.send_ok("undo")
    assert (studio.take_ids(), studio.frame_hashes(), studio.statuses) == (before, hashes, ["done"] * 3)


def test_stop_keeps_what_is_made_and_makes_no_more(studio: StudioHarness) -> None:
    studio.run(3)
    effect = studio.send_ok("stop").effect
    assert (effect.shot_index, effect.chunk_index, effect.film_frame) == (1, 1, 21 + 9)
    assert studio.run() == 0
    assert studio.statuses == ["done", "done", "waiting"]
    assert studio.frame_hashes() == engine_hashes(studio, [2, 1])


@pytest.mark.slow
def test_choosing_an_earlier_take_makes_later_shots_stale_and_choosing_back_mends_it(
    studio: StudioHarness,
) -> None:
    studio.run()
    old = studio.take_ids()
    shot = studio.story.shots[1]
    studio.send_ok("retake", shot_id=shot.shot_id)
    assert studio.statuses == ["done", "queued", "done"]
    studio.run()
    assert studio.statuses == ["done", "done", "stale"]
    assert studio.story.shots[2].stale_reasons == ("context",)
    assert len(studio.story.shots[1].takes) == 2
    seeds = {take.seed for take in studio.story.shots[1].takes}
    assert len(seeds) == 2
    studio.send_ok("choose_take", shot_id=shot.shot_id, take_id=old[1])
    assert (studio.take_ids(), studio.statuses) == (old, ["done"] * 3)


@pytest.mark.slow
def test_stale_shots_are_made_again_from_what_is_chosen_now(studio: StudioHarness) -> None:
    studio.run()
    studio.send_ok("retake", shot_id=studio.story.shots[0].shot_id, seed="5")
    studio.run()
    assert studio.statuses == ["done", "stale", "stale"]
    assert studio.send_ok("remake_stale").effect.shot_index == 1
    studio.run()
    assert studio.statuses == ["done"] * 3
    assert studio.frame_hashes() == engine_hashes(studio, [2, 2, 2], [5, shot_seed(7, 1), shot_seed(7, 2)])
    assert studio.send_refused("remake_stale").code == "refused"


@pytest.mark.parametrize(
    ("control", "fields", "reason"),
    [
        ("edit_shot", {"caption": "a owl walks"}, "caption"),
        ("edit_shot", {"seed": "12"}, "seed"),
    ],
)
def test_editing_a_made_shot_makes_it_stale(
    studio: StudioHarness, control: str, fields: dict[str, str], reason: str
) -> None:
    studio.run()
    studio.send_ok(control, shot_id=studio.story.shots[2].shot_id, **fields)
    assert studio.story.shots[2].stale_reasons == (reason,)


def test_editing_the_global_caption_makes_everything_stale(studio: StudioHarness) -> None:
    studio.run()
    assert studio.send_ok("edit_story", global_caption="a owl night").effect.shot_index == 0
    assert studio.statuses == ["stale"] * 3
    studio.send_ok("undo")
    assert studio.statuses == ["done"] * 3


def test_anything_can_be_undone_and_done_again(studio: StudioHarness) -> None:
    studio.run()
    shots = studio.story.shots
    shot_lists = [studio.open_story.shot_list]
    for control, fields in (
        ("add_shot", {"shot": {"caption": "a owl walks"}}),
        ("move_shot", {"shot_id": shots[0].shot_id, "index": 2}),
        ("edit_shot", {"shot_id": shots[1].shot_id, "num_chunks": 3}),
        ("pin", {"frame": {"take_id": shots[1].take_id, "frame_index": 5}}),
        ("remove_shot", {"shot_id": shots[2].shot_id}),
        ("edit_story", {"title": "Another"}),
    ):
        studio.send_ok("set_autoplay", on=False)
        studio.send_ok(control, **fields)
        shot_lists.append(studio.open_story.shot_list)
    for shot_list in reversed(shot_lists[:-1]):
        studio.send_ok("undo")
        assert studio.open_story.shot_list == shot_list
    for shot_list in shot_lists[1:]:
        studio.send_ok("redo")
        assert studio.open_story.shot_list == shot_list
    assert studio.send_refused("redo").code == "refused"


@pytest.mark.slow
def test_undo_while_a_take_is_made_takes_back_that_take(studio: StudioHarness) -> None:
    studio.run(3)
    assert studio.story.undo == "Take of shot 2 in the making"
    studio.send_ok("undo")
    assert studio.statuses == ["done", "waiting", "waiting"]
    assert studio.run() == 0
    studio.send_ok("make_shot", shot_id=studio.story.shots[2].shot_id)
    studio.run()
    assert studio.frame_hashes() == engine_hashes(studio, [2, 2, 2])


def test_undo_to_the_beginning_and_no_further(studio: StudioHarness) -> None:
    studio.run()
    for _ in range(3):
        studio.send_ok("undo")
    assert studio.statuses == ["waiting"] * 3
    assert studio.send_refused("undo").code == "refused"


def test_a_branch_keeps_the_film_up_to_a_shot_and_the_other_stays(studio: StudioHarness) -> None:
    studio.run()
    before, main = studio.take_ids(), studio.story.branch_id
    studio.send_ok("branch", shot_id=studio.story.shots[0].shot_id, name="Other")
    assert studio.take_ids() == before[:1]
    studio.send_ok("add_shot", shot={"caption": CAPTIONS[1]})
    studio.send_ok("set_autoplay", on=True)
    studio.run()
    other = studio.take_ids()
    assert len(other) == 2 and other[0] == before[0] and other[1] != before[1]
    assert studio.frame_hashes() == engine_hashes(studio, [2, 2])
    studio.send_ok("switch_branch", branch_id=main)
    assert (studio.take_ids(), studio.statuses) == (before, ["done"] * 3)
    assert [branch.name for branch in studio.story.branches] == ["Main", "Other"]


def test_pins_reach_later_shots_only_and_the_memory_shows_them(studio: StudioHarness) -> None:
    studio.run()
    plain, film = studio.frame_hashes(), studio.take_ids()
    studio.send_ok("pin", frame={"take_id": film[0], "frame_index": 4})
    assert studio.statuses == ["done"] * 3
    pin = studio.story.pins[0]
    assert [frame.frame_index for frame in studio.story.memory if frame.pin_id == pin.pin_id] == [4]
    studio.send_ok("retake", shot_id=studio.story.shots[2].shot_id, seed=str(shot_seed(7, 2)))
    studio.run()
    assert studio.frame_hashes()[:2] == plain[:2] and studio.frame_hashes()[2] != plain[2]
    studio.send_ok("unpin", pin_id=pin.pin_id)
    studio.send_ok("retake", shot_id=studio.story.shots[2].shot_id, seed=str(shot_seed(7, 2)))
    studio.run()
    assert studio.frame_hashes() == plain


@pytest.mark.slow
def test_as_many_pins_as_the_memory_takes(studio: StudioHarness) -> None:
    studio.run()
    film = studio.take_ids()
    for frame_index in range(studio.story.max_pins):
        studio.send_ok("pin", frame={"take_id": film[0], "frame_index": frame_index})
    assert studio.send_refused("pin", frame={"take_id": film[1], "frame_index": 0}).code == "limit"
    studio.send_ok("add_shot", shot={"caption": "a fox walks"})
    studio.run()
    assert studio.statuses[-1] == "done"


def test_without_autoplay_shots_wait_until_they_are_asked_for(tmp_path: Path) -> None:
    studio = StudioHarness(tmp_path)
    studio.send_ok("set_autoplay", on=False)
    assert studio.run() == 0
    studio.send_ok("make_shot", shot_id=studio.story.shots[1].shot_id)
    assert studio.run() == 4
    assert studio.statuses == ["done", "done", "waiting"]
    assert studio.send_refused("make_shot", shot_id=studio.story.shots[0].shot_id).code == "refused"
    studio.close()


def test_making_runs_no_further_ahead_than_allowed_and_goes_on_when_the_viewer_does(tmp_path: Path) -> None:
    studio = StudioHarness(tmp_path, limits=Limits(look_ahead_s=2.0))
    fps = studio.pipeline.fps
    studio.run()
    made = studio.story.num_frames + (studio.open_story.job.num_frames if studio.open_story.job else 0)
    assert 2 * fps <= made < 2 * fps + 12
    studio.report_playhead(studio.take_ids()[0], 20)
    assert studio.run() > 0
    studio.close()


@pytest.mark.slow
def test_the_slowest_viewer_who_plays_is_waited_for(tmp_path: Path) -> None:
    studio = StudioHarness(tmp_path, limits=Limits(look_ahead_s=2.0))
    slow = studio.add_viewer(RecordingOutbox())
    studio.run()
    film = studio.take_ids()
    studio.report_playhead(film[0], 20)
    studio.report_playhead(film[0], 2, viewer=slow)
    assert studio.run() == 0
    studio.report_playhead(film[0], 2, playing=False, viewer=slow)
    assert studio.run() > 0
    studio.close()


@pytest.mark.slow
def test_nothing_is_made_while_nobody_watches_and_the_take_comes_out_the_same(studio: StudioHarness) -> None:
    studio.run(3)
    studio.manager.remove_viewer(studio.story_id, studio.viewer.viewer_id)
    assert studio.run() == 0
    studio.manager._close_story(studio.story_id)
    studio.outbox = RecordingOutbox()
    studio.viewer = studio.add_viewer(studio.outbox)
    studio.run()
    assert studio.frame_hashes() == engine_hashes(studio, [2, 2, 2])


@pytest.mark.slow
def test_stories_take_turns_chunk_by_chunk(studio: StudioHarness) -> None:
    other = studio.create_story(3)
    studio.manager.add_viewer(other, NOBODY, RecordingOutbox())
    open_stories = [studio.open_story, studio.manager._stories[other]]
    for turn in range(1, 9):
        assert studio.manager.make_next_chunk()
        made = [open_story.app and len(open_story._recent_chunks) for open_story in open_stories]
        assert abs(made[0] - made[1]) <= 1 and sum(made) == turn


@pytest.mark.slow
def test_a_second_viewer_is_told_what_the_first_one_was(studio: StudioHarness) -> None:
    studio.run(3)
    late = RecordingOutbox()
    studio.add_viewer(late)
    studio.run()
    assert (
        late.of(type(studio.outbox.messages[1]))[-1] == studio.outbox.of(type(studio.outbox.messages[1]))[-1]
    )
    assert late.pictures == studio.outbox.pictures[2:]


def test_a_viewer_whose_outbox_is_full_is_told_what_it_missed(studio: StudioHarness) -> None:
    studio.outbox.is_full = True
    studio.run(2)
    assert [(m.chunk_index) for m in studio.outbox.of(MediaDropped)] == [0, 1]
    assert not studio.outbox.pictures
    assert studio.statuses[0] == "done"


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


def test_ids_that_do_not_exist_change_nothing(studio: StudioHarness) -> None:
    studio.run(3)
    before, making = studio.open_story.history.shot_list, studio.story.making
    for control, fields in CONTROLS_OF_NOBODY:
        assert studio.send_refused(control, **fields).code == "not_found", control
        assert studio.open_story.history.shot_list == before and studio.story.making == making, control
    studio.run()
    assert studio.frame_hashes() == engine_hashes(studio, [2, 2, 2])


@pytest.mark.slow
def test_ids_of_another_story_change_nothing(studio: StudioHarness, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = StudioHarness(tmp_path / "other")
    other.run()
    studio.run()
    foreign = other.story.shots[0]
    assert (
        studio.send_refused(
            "choose_take", shot_id=studio.story.shots[0].shot_id, take_id=foreign.take_id
        ).code
        == "not_found"
    )
    assert (
        studio.send_refused("pin", frame={"take_id": foreign.take_id, "frame_index": 0}).code == "not_found"
    )
    other.close()


@pytest.mark.slow
def test_controls_out_of_order_are_refused(tmp_path: Path) -> None:
    studio = StudioHarness(tmp_path)
    studio.send_ok("set_autoplay", on=False)
    assert studio.send_refused("cut").code == "refused"
    assert studio.send_refused("retake", shot_id=studio.story.shots[0].shot_id).code == "refused"
    assert studio.send_refused("redo").code == "refused"
    studio.send_ok("stop")
    studio.close()


def test_limits_are_answered(tmp_path: Path) -> None:
    studio = StudioHarness(
        tmp_path, limits=Limits(caption_chars=20, shots=3, chunks_per_shot=4, branches=1, open_stories=1)
    )
    assert (
        studio.send_refused("edit_shot", shot_id=studio.story.shots[0].shot_id, caption="a " * 20).code
        == "limit"
    )
    assert (
        studio.send_refused("edit_shot", shot_id=studio.story.shots[0].shot_id, num_chunks=5).code == "limit"
    )
    assert studio.send_refused("add_shot", shot={"caption": "a fox"}).code == "limit"
    assert studio.send_refused("branch").code == "limit"
    other = studio.create_story(1)
    with pytest.raises(ApiError) as refusal:
        studio.manager.add_viewer(other, NOBODY, RecordingOutbox())
    assert refusal.value.code == "busy"
    studio.close()


def test_a_full_quota_stops_the_making_and_deleting_frees_it(tmp_path: Path) -> None:
    studio = StudioHarness(tmp_path, limits=Limits(quota_bytes=10_000))
    assert studio.run() == 2  # A take that has begun is finished.
    other = studio.story_id
    studio.story_id = studio.create_story(1)
    studio.outbox = RecordingOutbox()
    studio.viewer = studio.add_viewer(studio.outbox)
    assert studio.run() == 0
    studio.manager.delete_story(other)
    assert not (tmp_path / "media" / other).exists()
    assert studio.run() == 2
    studio.close()


@pytest.mark.slow
def test_a_story_made_with_other_weights_goes_on_and_says_so(tmp_path: Path) -> None:
    first = StudioHarness(tmp_path)
    first.run()
    old = first.frame_hashes()
    first.close()
    second = StudioHarness(tmp_path, seed=1)
    assert [notice.code for notice in second.outbox.of(Notice)] == ["weights_changed"]
    second.send_ok("add_shot", shot={"caption": "a owl walks"})
    second.run()
    assert second.statuses == ["done"] * 4
    assert second.frame_hashes()[:3] == old
    assert [take.weights_match for shot in second.story.shots for take in shot.takes] == [False] * 3 + [True]
    second.close()


def test_a_failing_shot_says_so_and_the_story_goes_on(
    studio: StudioHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.run(2)

    def breaks(*_: object, **__: object) -> int:
        raise ValueError("the encoder made no fragment")

    monkeypatch.setattr(studio.media, "save_take", breaks)
    studio.run()
    assert studio.statuses == ["done", "failed", "queued"]
    assert studio.story.shots[1].failure == "the encoder made no fragment"
    monkeypatch.undo()
    studio.send_ok("make_shot", shot_id=studio.story.shots[1].shot_id)
    studio.run()
    assert studio.frame_hashes() == engine_hashes(studio, [2, 2, 2])
