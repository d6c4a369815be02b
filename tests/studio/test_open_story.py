"""Where viewers are, how far a film is made in front of them, and what they are told of it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shotstream.studio.limits import Limits
from shotstream.studio.schedule import look_ahead, next_index
from shotstream.studio.schemas.server_messages import Telemetry
from shotstream.studio.schemas.viewer_messages import FROM_VIEWER
from shotstream.studio.shot_list import ShotEntry, ShotList, first_difference
from tests.studio.studio_harness import RecordingOutbox, StudioHarness


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[StudioHarness]:
    studio = StudioHarness(tmp_path)
    yield studio
    studio.close()


def test_a_viewer_is_where_the_film_shows_what_it_sees(studio: StudioHarness) -> None:
    """Never past the end of what it looks at; a take that the film has not leaves it where it was."""
    studio.run(3)
    first, job = studio.take_ids()[0], studio.story.making
    assert job is not None and studio.viewer.playhead_frame == 0
    places = [(first, 0, 0), (first, 20, 20), (first, 1000, 21)]
    places += [(job.take_id, 0, 21), (job.take_id, 8, 29), (job.take_id, 1000, 21 + 9)]
    for take_id, frame_index, film_frame in places:
        studio.report_playhead(take_id, frame_index)
        assert studio.viewer.playhead_frame == film_frame, (take_id, frame_index)
    studio.report_playhead("f" * 16, 5)
    studio.report_playhead(None, 0)
    assert studio.viewer.playhead_frame == 30
    studio.run()
    for index, film_frame in ((0, 4), (1, 25), (2, 46)):
        studio.report_playhead(studio.take_ids()[index], 4)
        assert studio.viewer.playhead_frame == film_frame


def test_standstills_are_counted_once_however_often_they_are_told(studio: StudioHarness) -> None:
    def told(stalls: int) -> float | None:
        report = {"type": "playhead", "at": None, "playing": True, "stalls": stalls}
        studio.manager.handle_report(studio.story_id, studio.viewer, FROM_VIEWER.validate_python(report))  # pyright: ignore
        return studio.app.metrics.registry.get_sample_value("shotstream_stalls_total")

    assert [told(stalls) for stalls in (0, 2, 2, 1, 3, 3)] == [0, 2, 2, 2, 3, 3]


def test_the_slowest_of_those_who_play_and_report_is_waited_for(studio: StudioHarness) -> None:
    """Of those who pause where nobody plays, and of those who are silent where nobody else is."""
    studio.run()
    first = studio.take_ids()[0]
    paused, silent = studio.add_viewer(RecordingOutbox()), studio.add_viewer(RecordingOutbox())
    now_s = time.monotonic()
    length = studio.story.num_frames
    studio.report_playhead(first, 12)
    studio.report_playhead(first, 5, viewer=paused, playing=False)
    studio.report_playhead(first, 2, viewer=silent)
    assert look_ahead(studio.open_story, now_s) == length - 2
    silent.reported_s -= studio.app.limits.silent_s + 1
    assert look_ahead(studio.open_story, now_s) == length - 12
    studio.viewer.is_playing = False
    assert look_ahead(studio.open_story, now_s) == length - 5, "both pause"
    studio.viewer.reported_s = paused.reported_s = silent.reported_s
    assert look_ahead(studio.open_story, now_s) == length - 2, "all are silent, and one of them played"
    silent.is_playing = False
    silent.playhead_frame = length + 100
    studio.viewer.playhead_frame = paused.playhead_frame = length + 50
    assert look_ahead(studio.open_story, now_s) == 0


def test_a_shot_that_was_asked_for_by_name_is_made_however_far_the_film_is(tmp_path: Path) -> None:
    """And is itself made no further ahead than any other."""
    studio = StudioHarness(tmp_path, limits=Limits(look_ahead_s=2.0))
    studio.run()
    ahead = look_ahead(studio.open_story, time.monotonic())
    assert ahead >= 24 and studio.open_story.state(time.monotonic()) == "ahead"
    last = studio.story.shots[2].shot_id
    studio.send_ok("edit_shot", shot_id=last, num_chunks=8)
    for shot in studio.story.shots[:2]:
        if shot.take_id is None:
            studio.send_ok("make_shot", shot_id=shot.shot_id)
    studio.send_ok("make_shot", shot_id=last)
    studio.run()
    job = studio.open_story.job
    assert job is not None and job.request.shot_id == last
    assert (job.num_made, job.num_frames) == (3, 33), "two seconds are 24 frames, and the next chunk"
    studio.close()


def test_what_is_told_of_the_making_is_so_and_told_when_it_changes(studio: StudioHarness) -> None:
    open_story, now_s = studio.open_story, time.monotonic()
    studio.report_playhead(None, 0)
    studio.run(2)
    studio.report_playhead(studio.take_ids()[0], 9)
    open_story._recent_chunks.clear()
    open_story._recent_chunks.extend([(now_s - 5.5, 1000), (now_s - 4.5, 9), (now_s, 12)])
    open_story._first_chunk_s = 0.12345
    told: list[Any] = []
    for count in (2, 2, 3):
        open_story.send_telemetry(now_s, count, 1)
        told.append(studio.outbox.of(Telemetry))
    assert [len(one) for one in told] == [1, 1, 2]
    assert told[0][0] == Telemetry(
        state="generating", fps=4.2, num_generating=2, queue_position=1, look_ahead_s=1.0,
        first_chunk_s=0.123, num_viewers=1,
    )  # fmt: skip
    late = RecordingOutbox()
    studio.add_viewer(late)
    open_story.send_telemetry(now_s, 3, 1)
    assert [one.num_viewers for one in (late.of(Telemetry)[-1], studio.outbox.of(Telemetry)[-1])] == [2, 2]


def test_of_several_stories_each_is_told_its_place(studio: StudioHarness) -> None:
    inboxes = [studio.outbox, RecordingOutbox(), RecordingOutbox()]
    for outbox in inboxes[1:]:
        studio.manager.add_viewer(studio.create_story(1), "a" * 16, outbox)
    studio.manager.make_next_chunk()
    studio.manager.do_housekeeping()
    told = [outbox.of(Telemetry)[-1] for outbox in inboxes]
    assert [(one.num_generating, one.queue_position) for one in told] == [(3, 2), (3, 0), (3, 1)]


def test_a_shot_that_failed_holds_up_what_would_follow_by_itself_and_nothing_else(
    studio: StudioHarness,
) -> None:
    shots = [shot.shot_id for shot in studio.story.shots]
    studio.open_story.failures[shots[0]] = "odd"
    assert next_index(studio.open_story) is None and studio.run() == 0
    studio.send_ok("make_shot", shot_id=shots[1])
    assert next_index(studio.open_story) == 0, "it was asked for, and what it looks at before it"


CARDS = tuple(ShotEntry(shot_id=letter * 16, caption=letter) for letter in "abc")


@pytest.mark.parametrize(
    ("title", "caption", "cards", "place"),
    [
        ("another title", "all", CARDS, 3),
        ("title", "another for all", CARDS, 0),
        ("title", "all", CARDS[:2], 2),
        ("title", "all", CARDS[1:], 0),
        ("title", "all", (CARDS[0], CARDS[2], CARDS[1]), 1),
        ("title", "all", (*CARDS, ShotEntry(shot_id="d" * 16, caption="d")), 3),
        ("title", "all", (), 0),
    ],
)
def test_films_differ_from_the_first_shot_on_that_is_another(
    title: str, caption: str, cards: tuple[ShotEntry, ...], place: int
) -> None:
    old = ShotList(title="title", global_caption="all", shots=CARDS)
    new = ShotList(title=title, global_caption=caption, shots=cards)
    assert first_difference(old, new) == first_difference(new, old) == place
