"""What is answered to each control: where it takes effect, what undo calls it, and what is too much."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shotstream.studio.limits import Limits
from shotstream.studio.schemas.server_messages import TakeEnded
from tests.studio.studio_harness import CAPTIONS, StudioHarness


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[StudioHarness]:
    studio = StudioHarness(tmp_path)
    yield studio
    studio.close()


def effect(studio: StudioHarness, control: str, **fields: Any) -> tuple[int, int, int]:
    """(shot, chunk, frame of the film) from which on a control is seen; the shot's id is checked."""
    found = studio.send_ok(control, **fields).effect
    shots = studio.open_story.shot_list.shots
    assert found.shot_id == (shots[found.shot_index].shot_id if found.shot_index < len(shots) else None)
    return found.shot_index, found.chunk_index, found.film_frame


def test_a_control_says_where_it_is_seen_and_undo_what_it_was(studio: StudioHarness) -> None:
    for shot in studio.story.shots[1:]:
        studio.send_ok("edit_shot", shot_id=shot.shot_id, num_chunks=1)
    studio.run()  # Three shots of 21, 9 and 9 frames.
    ids, film = [shot.shot_id for shot in studio.story.shots], studio.take_ids()
    studio.send_ok("pin", frame={"take_id": film[0], "frame_index": 0})
    long = {"caption": "a  owl\n walks " * 10}
    table: list[tuple[str, dict[str, Any], tuple[int, int, int], str]] = [
        ("add_shot", {"shot": {"caption": "a owl"}}, (3, 0, 39), "Add a owl"),
        ("add_shot", {"shot": {"caption": "a owl"}, "index": 1}, (1, 0, 21), "Add a owl"),
        ("add_shot", {"shot": long, "index": 0}, (0, 0, 0), "Add a owl walks a owl walks a owl walks a o…"),
        ("edit_shot", {"shot_id": ids[2], "num_chunks": 2}, (2, 0, 30), "Edit shot 3"),
        ("remove_shot", {"shot_id": ids[1]}, (1, 0, 21), "Remove shot 2"),
        ("remove_shot", {"shot_id": ids[2]}, (2, 0, 30), "Remove shot 3"),
        ("move_shot", {"shot_id": ids[2], "index": 1}, (1, 0, 21), "Move shot 3"),
        ("move_shot", {"shot_id": ids[1], "index": 2}, (1, 0, 21), "Move shot 2"),
        ("edit_story", {"title": "Another"}, (3, 0, 39), "Edit the story"),
        ("edit_story", {"global_caption": "a day"}, (0, 0, 0), "Edit the story"),
        ("pin", {"frame": {"take_id": film[1], "frame_index": 0}}, (3, 0, 39), "Pin a frame"),
        ("unpin", {"pin_id": studio.story.pins[0].pin_id}, (3, 0, 39), "Unpin a frame"),
        ("cut", {"playing": {"take_id": film[0], "frame_index": 8}}, (1, 0, 9), "Cut shot 1"),
    ]
    before, label = studio.open_story.shot_list, ""
    for control, fields, place, label in table:
        assert effect(studio, control, **fields) == place, (control, fields)
        assert studio.story.undo == label
        studio.send_ok("undo")
        assert studio.open_story.shot_list == before and studio.story.redo == label
    for control, fields, place in (
        ("set_autoplay", {"on": False}, (3, 0, 39)),
        ("stop", {}, (3, 0, 39)),
        ("edit_story", {"title": studio.story.title}, (3, 0, 39)),
        ("retake", {"shot_id": ids[1]}, (1, 0, 21)),
    ):
        assert effect(studio, control, **fields) == place and studio.story.redo == label, "no step"
    assert effect(studio, "branch", shot_id=ids[0]) == (1, 0, 21)
    assert studio.send_refused("undo").code == "refused", "a branch begins with what it shows"


def test_while_a_take_is_made_what_comes_after_it_is_seen_at_its_end(studio: StudioHarness) -> None:
    studio.run(3)  # The first is made, one chunk of the second.
    film = studio.take_ids()
    assert effect(studio, "set_autoplay", on=True) == (2, 0, 42)
    assert effect(studio, "pin", frame={"take_id": film[0], "frame_index": 0}) == (2, 0, 42)
    assert effect(studio, "add_shot", shot={"caption": "a owl"}) == (3, 0, 42)
    assert effect(studio, "edit_shot", shot_id=studio.story.shots[2].shot_id, caption="a owl") == (2, 0, 42)
    assert effect(studio, "make_shot", shot_id=studio.story.shots[1].shot_id) == (1, 0, 21), (
        "what is made itself"
    )
    assert effect(studio, "stop") == (1, 1, 30)
    assert studio.story.undo == "Stop in shot 2"
    studio.send_ok("retake", shot_id=studio.story.shots[0].shot_id)
    assert studio.run(2) == 2 and studio.story.undo == "Another take of shot 1"
    studio.send_ok("make_shot", shot_id=studio.story.shots[2].shot_id)
    studio.run(2)
    assert studio.story.undo == "Take of shot 3"


def test_as_much_as_the_limits_say_may_be_asked_for_and_no_more(tmp_path: Path) -> None:
    studio = StudioHarness(tmp_path, limits=Limits(caption_chars=20, shots=4, chunks_per_shot=3, branches=2))
    studio.run(2)
    studio.send_ok("stop")
    shot, most, beyond = studio.story.shots[0].shot_id, "a" * 20, "a" * 21
    playing = {"take_id": studio.take_ids()[0], "frame_index": 20}

    def refused(control: str, **fields: Any) -> None:
        assert studio.send_refused(control, **fields).code == "limit", (control, fields)

    for control in ("edit_shot", "retake"):
        studio.send_ok(control, shot_id=shot, caption=most, num_chunks=3)
        refused(control, shot_id=shot, caption=beyond)
        refused(control, shot_id=shot, num_chunks=4)
    studio.send_ok("edit_story", global_caption=most)
    refused("edit_story", global_caption=beyond)
    for bad in ({"caption": beyond}, {"caption": "a", "num_chunks": 4}):
        refused("add_shot", shot=bad)
        refused("cut", playing=playing, shot=bad)
    studio.send_ok("add_shot", shot={"caption": most, "num_chunks": 3})
    refused("add_shot", shot={"caption": "a"})
    refused("cut", playing=playing, shot={"caption": "a"})
    studio.send_ok("branch")
    refused("branch")
    assert [branch.name for branch in studio.story.branches] == ["Main", "Branch 2"]
    studio.close()


def test_another_take_is_another_one_whichever_is_chosen(tmp_path: Path) -> None:
    studio = StudioHarness(tmp_path, num_shots=1)
    shot_id = studio.story.shots[0].shot_id
    studio.send_ok("edit_shot", shot_id=shot_id, num_chunks=1)
    studio.run()
    first = studio.take_ids()[0]
    for _ in range(2):
        studio.send_ok("choose_take", shot_id=shot_id, take_id=first)
        studio.send_ok("retake", shot_id=shot_id)
        studio.run()
    assert len({take.seed for take in studio.story.shots[0].takes}) == 3
    records = studio.open_story.history.takes
    assert len({records[take.take_id].frame_sha256 for take in studio.story.shots[0].takes}) == 3
    # The same once more, where that is what was asked for.
    seed = studio.story.shots[0].takes[0].seed
    studio.send_ok("retake", shot_id=shot_id, seed=seed)
    studio.run()
    assert [take.seed for take in studio.story.shots[0].takes].count(seed) == 2
    studio.close()


@pytest.mark.parametrize("control", ["retake", "choose_take"])
def test_what_is_asked_for_of_a_shot_takes_the_place_of_what_was(studio: StudioHarness, control: str) -> None:
    """The take that is being made of it is dropped, and only of it."""
    studio.run()
    first, second = (shot.shot_id for shot in studio.story.shots[:2])
    studio.send_ok("retake", shot_id=first, seed="1")
    studio.run(1)
    studio.send_ok("retake", shot_id=second, seed="2")
    ended = len(studio.outbox.of(TakeEnded))
    making = studio.open_story.job
    assert making is not None and making.request.shot_id == first, "it goes on"
    fields = {"seed": "3"} if control == "retake" else {"take_id": studio.take_ids()[0]}
    studio.send_ok(control, shot_id=first, **fields)
    assert [(e.take_id, e.outcome) for e in studio.outbox.of(TakeEnded)[ended:]] == [
        (making.take_id, "discarded")
    ]
    studio.run()
    seeds = [[take.seed for take in shot.takes[1:]] for shot in studio.story.shots]
    assert seeds == [["3"] if control == "retake" else [], ["2"], []]


def test_a_cut_where_the_shot_ends_anyway_is_no_step_and_asks_for_the_next_one(studio: StudioHarness) -> None:
    studio.run(2)
    studio.send_ok("stop")
    before = studio.story.undo
    playing = {"take_id": studio.take_ids()[0], "frame_index": 20}
    assert effect(studio, "cut", playing=playing) == (1, 0, 21)
    assert studio.story.undo == before and len(studio.story.shots[0].takes) == 1
    assert studio.run() == 2
    assert studio.statuses == ["done", "done", "waiting"]
    # Named or not: what was made last is cut.
    assert effect(studio, "cut") == (2, 0, 42)
    assert list(studio.open_story.history.queue) == [studio.story.shots[2].shot_id]


def test_a_cut_drops_what_was_made_after_it_and_nobody_has_seen(studio: StudioHarness) -> None:
    """Where it shortens nothing, nothing after it changes."""
    studio.run()
    film = studio.take_ids()
    studio.send_ok("cut", playing={"take_id": film[0], "frame_index": 20})
    assert studio.take_ids() == film
    studio.report_playhead(film[2], 0)
    studio.send_ok("cut", playing={"take_id": film[0], "frame_index": 0})
    assert studio.take_ids()[1:] == [None, film[2]]
    assert studio.statuses == ["done", "queued", "stale"]


def test_a_stale_shot_may_be_made_again_and_one_that_is_as_it_should_be_may_not(
    studio: StudioHarness,
) -> None:
    studio.run()
    last = studio.story.shots[2].shot_id
    assert studio.send_refused("make_shot", shot_id=last).code == "refused"
    studio.send_ok("edit_shot", shot_id=last, caption=CAPTIONS[3])
    studio.send_ok("make_shot", shot_id=last)
    assert studio.run() == 2 and studio.statuses == ["done"] * 3
