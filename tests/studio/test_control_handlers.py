"""What is answered to each control: where it takes effect, what undo calls it, and what is too much."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shotstream.studio.limits import Limits
from shotstream.studio.schemas.server_messages import TakeEnded
from tests.studio.stage import CAPTIONS, Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def effect(stage: Stage, control: str, **fields: Any) -> tuple[int, int, int]:
    """(shot, chunk, frame of the film) from which on a control is seen; the shot's id is checked."""
    found = stage.control(control, **fields).effect
    shots = stage.open_story.shot_list.shots
    assert found.shot_id == (shots[found.shot_index].shot_id if found.shot_index < len(shots) else None)
    return found.shot_index, found.chunk_index, found.film_frame


def test_a_control_says_where_it_is_seen_and_undo_what_it_was(stage: Stage) -> None:
    for shot in stage.story.shots[1:]:
        stage.control("edit_shot", shot_id=shot.shot_id, num_chunks=1)
    stage.run()  # Three shots of 21, 9 and 9 frames.
    ids, film = [shot.shot_id for shot in stage.story.shots], stage.film()
    stage.control("pin", frame={"take_id": film[0], "frame_index": 0})
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
        ("unpin", {"pin_id": stage.story.pins[0].pin_id}, (3, 0, 39), "Unpin a frame"),
        ("cut", {"playing": {"take_id": film[0], "frame_index": 8}}, (1, 0, 9), "Cut shot 1"),
    ]
    before, label = stage.open_story.shot_list, ""
    for control, fields, place, label in table:
        assert effect(stage, control, **fields) == place, (control, fields)
        assert stage.story.undo == label
        stage.control("undo")
        assert stage.open_story.shot_list == before and stage.story.redo == label
    for control, fields, place in (
        ("set_autoplay", {"on": False}, (3, 0, 39)),
        ("stop", {}, (3, 0, 39)),
        ("edit_story", {"title": stage.story.title}, (3, 0, 39)),
        ("retake", {"shot_id": ids[1]}, (1, 0, 21)),
    ):
        assert effect(stage, control, **fields) == place and stage.story.redo == label, "no step"
    assert effect(stage, "branch", shot_id=ids[0]) == (1, 0, 21)
    assert stage.refused("undo").code == "refused", "a branch begins with what it shows"


def test_while_a_take_is_made_what_comes_after_it_is_seen_at_its_end(stage: Stage) -> None:
    stage.run(3)  # The first is made, one chunk of the second.
    film = stage.film()
    assert effect(stage, "set_autoplay", on=True) == (2, 0, 42)
    assert effect(stage, "pin", frame={"take_id": film[0], "frame_index": 0}) == (2, 0, 42)
    assert effect(stage, "add_shot", shot={"caption": "a owl"}) == (3, 0, 42)
    assert effect(stage, "edit_shot", shot_id=stage.story.shots[2].shot_id, caption="a owl") == (2, 0, 42)
    assert effect(stage, "make_shot", shot_id=stage.story.shots[1].shot_id) == (1, 0, 21), (
        "what is made itself"
    )
    assert effect(stage, "stop") == (1, 1, 30)
    assert stage.story.undo == "Stop in shot 2"
    stage.control("retake", shot_id=stage.story.shots[0].shot_id)
    assert stage.run(2) == 2 and stage.story.undo == "Another take of shot 1"
    stage.control("make_shot", shot_id=stage.story.shots[2].shot_id)
    stage.run(2)
    assert stage.story.undo == "Take of shot 3"


def test_as_much_as_the_limits_say_may_be_asked_for_and_no_more(tmp_path: Path) -> None:
    stage = Stage(tmp_path, limits=Limits(caption_chars=20, shots=4, chunks_per_shot=3, branches=2))
    stage.run(2)
    stage.control("stop")
    shot, most, beyond = stage.story.shots[0].shot_id, "a" * 20, "a" * 21
    playing = {"take_id": stage.film()[0], "frame_index": 20}

    def refused(control: str, **fields: Any) -> None:
        assert stage.refused(control, **fields).code == "limit", (control, fields)

    for control in ("edit_shot", "retake"):
        stage.control(control, shot_id=shot, caption=most, num_chunks=3)
        refused(control, shot_id=shot, caption=beyond)
        refused(control, shot_id=shot, num_chunks=4)
    stage.control("edit_story", global_caption=most)
    refused("edit_story", global_caption=beyond)
    for bad in ({"caption": beyond}, {"caption": "a", "num_chunks": 4}):
        refused("add_shot", shot=bad)
        refused("cut", playing=playing, shot=bad)
    stage.control("add_shot", shot={"caption": most, "num_chunks": 3})
    refused("add_shot", shot={"caption": "a"})
    refused("cut", playing=playing, shot={"caption": "a"})
    stage.control("branch")
    refused("branch")
    assert [branch.name for branch in stage.story.branches] == ["Main", "Branch 2"]
    stage.close()


def test_another_take_is_another_one_whichever_is_chosen(tmp_path: Path) -> None:
    stage = Stage(tmp_path, num_shots=1)
    shot_id = stage.story.shots[0].shot_id
    stage.control("edit_shot", shot_id=shot_id, num_chunks=1)
    stage.run()
    first = stage.film()[0]
    for _ in range(2):
        stage.control("choose_take", shot_id=shot_id, take_id=first)
        stage.control("retake", shot_id=shot_id)
        stage.run()
    assert len({take.seed for take in stage.story.shots[0].takes}) == 3
    records = stage.open_story.history.takes
    assert len({records[take.take_id].frame_sha256 for take in stage.story.shots[0].takes}) == 3
    # The same once more, where that is what was asked for.
    seed = stage.story.shots[0].takes[0].seed
    stage.control("retake", shot_id=shot_id, seed=seed)
    stage.run()
    assert [take.seed for take in stage.story.shots[0].takes].count(seed) == 2
    stage.close()


@pytest.mark.parametrize("control", ["retake", "choose_take"])
def test_what_is_asked_for_of_a_shot_takes_the_place_of_what_was(stage: Stage, control: str) -> None:
    """The take that is being made of it is dropped, and only of it."""
    stage.run()
    first, second = (shot.shot_id for shot in stage.story.shots[:2])
    stage.control("retake", shot_id=first, seed="1")
    stage.run(1)
    stage.control("retake", shot_id=second, seed="2")
    ended = len(stage.inbox.of(TakeEnded))
    making = stage.open_story.job
    assert making is not None and making.request.shot_id == first, "it goes on"
    fields = {"seed": "3"} if control == "retake" else {"take_id": stage.film()[0]}
    stage.control(control, shot_id=first, **fields)
    assert [(e.take_id, e.outcome) for e in stage.inbox.of(TakeEnded)[ended:]] == [
        (making.take_id, "discarded")
    ]
    stage.run()
    seeds = [[take.seed for take in shot.takes[1:]] for shot in stage.story.shots]
    assert seeds == [["3"] if control == "retake" else [], ["2"], []]


def test_a_cut_where_the_shot_ends_anyway_is_no_step_and_asks_for_the_next_one(stage: Stage) -> None:
    stage.run(2)
    stage.control("stop")
    before = stage.story.undo
    playing = {"take_id": stage.film()[0], "frame_index": 20}
    assert effect(stage, "cut", playing=playing) == (1, 0, 21)
    assert stage.story.undo == before and len(stage.story.shots[0].takes) == 1
    assert stage.run() == 2
    assert stage.statuses == ["done", "done", "waiting"]
    # Named or not: what was made last is cut.
    assert effect(stage, "cut") == (2, 0, 42)
    assert list(stage.open_story.history.queue) == [stage.story.shots[2].shot_id]


def test_a_cut_drops_what_was_made_after_it_and_nobody_has_seen(stage: Stage) -> None:
    """Where it shortens nothing, nothing after it changes."""
    stage.run()
    film = stage.film()
    stage.control("cut", playing={"take_id": film[0], "frame_index": 20})
    assert stage.film() == film
    stage.report_playhead(film[2], 0)
    stage.control("cut", playing={"take_id": film[0], "frame_index": 0})
    assert stage.film()[1:] == [None, film[2]]
    assert stage.statuses == ["done", "queued", "stale"]


def test_a_stale_shot_may_be_made_again_and_one_that_is_as_it_should_be_may_not(stage: Stage) -> None:
    stage.run()
    last = stage.story.shots[2].shot_id
    assert stage.refused("make_shot", shot_id=last).code == "refused"
    stage.control("edit_shot", shot_id=last, caption=CAPTIONS[3])
    stage.control("make_shot", shot_id=last)
    assert stage.run() == 2 and stage.statuses == ["done"] * 3
