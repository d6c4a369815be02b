"""What docs/studio_protocol.md promises of takes, cuts, effects and codes, beside the tables of messages."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

import shotstream.studio
from shotstream.studio import validation
from shotstream.studio.api_error import ApiError
from shotstream.studio.exporter import Exporter
from shotstream.studio.limits import Limits
from shotstream.studio.routers import viewer_socket
from shotstream.studio.schemas.server_messages import Hello, Media, Notice, Story, TakeEnded, TakeStarted
from shotstream.studio.schemas.viewer_messages import FROM_VIEWER
from shotstream.studio.storage_errors import one_line_reason
from tests.studio.studio_harness import CAPTIONS, RecordingOutbox, StudioHarness

STUDIO = Path(inspect.getfile(shotstream.studio)).parent
SOURCES = "".join(path.read_text(encoding="utf-8") for path in STUDIO.glob("*.py"))


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioHarness]:
    """Three shots of two chunks, and a fourth that waits."""
    harness = StudioHarness(tmp_path_factory.mktemp("filmed"))
    harness.run()
    harness.send_ok("set_autoplay", on=False)
    harness.send_ok("add_shot", shot={"caption": CAPTIONS[3]})
    yield harness
    harness.close()


@pytest.mark.parametrize("given", ["1", "a" * 64, " ", "a\nb", "\u200d", "\u00a0", "狐"])
def test_any_text_of_at_most_64_characters_is_an_id_and_comes_back(filmed: StudioHarness, given: str) -> None:
    """One with a line break came back in `done`, and not in `error`: no page knew what was refused."""
    event = FROM_VIEWER.validate_python({"type": "set_autoplay", "id": given, "on": False})
    filmed.manager.handle_control(filmed.story_id, filmed.viewer, event)  # pyright: ignore[reportArgumentType]
    assert filmed.outbox.messages[-1].reply_to == given
    assert viewer_socket._reply_to({"id": given, "type": "nonsense"}) == given


@pytest.mark.parametrize("given", [None, "", "a" * 65, 1, ["1"], "\ud800"])
def test_what_is_no_id_does_not_come_back(given: object) -> None:
    assert viewer_socket._reply_to({"id": given}) is None


def test_a_message_without_a_type_is_told_so() -> None:
    with pytest.raises(ValidationError) as found:
        FROM_VIEWER.validate_python({"id": "1"})
    assert str(validation.validation_api_error(found.value)) == "type: it is missing"


def test_every_notice_and_outcome_of_the_protocol_is_told_by_something() -> None:
    """Two of the notices were promised and never sent."""
    sent = set(re.findall(r'Notice\(\s*code="(\w+)"', SOURCES))
    assert sent == set(get_args(Notice.model_fields["code"].annotation))
    outcomes = get_args(TakeEnded.model_fields["outcome"].annotation)
    assert all(f'"{outcome}"' in SOURCES for outcome in outcomes)


EFFECTS: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "add_shot": ({"shot": {"caption": "a fox walks"}, "index": 1}, (1, 0, 21)),
    "make_shot": ({"shot_id": 3}, (3, 0, 63)),
    "retake": ({"shot_id": 1}, (1, 0, 21)),
    "edit_shot": ({"shot_id": 1, "caption": "a owl walks"}, (1, 0, 21)),
    "remove_shot": ({"shot_id": 1}, (1, 0, 21)),
    "move_shot": ({"shot_id": 2, "index": 1}, (1, 0, 21)),
    "cut": ({"playing": (1, 3)}, (2, 0, 30)),
    "stop": ({}, (4, 0, 63)),
    "edit_story": ({"global_caption": "a owl night"}, (0, 0, 0)),
    "edit_story ": ({"title": "An owl"}, (4, 0, 63)),
    "branch": ({"shot_id": 0}, (1, 0, 21)),
    "pin": ({"frame": (0, 3)}, (4, 0, 63)),
    "undo": ({}, (3, 0, 63)),
    "set_autoplay": ({"on": True}, (3, 0, 63)),
}


@pytest.mark.parametrize("control", EFFECTS)
def test_done_tells_the_chunk_at_which_a_control_takes_effect(filmed: StudioHarness, control: str) -> None:
    before = filmed.open_story.shot_list
    shots, film = filmed.story.shots, filmed.take_ids()
    fields, (shot_index, chunk_index, film_frame) = EFFECTS[control]

    def meant(name: str, value: Any) -> Any:
        if name == "shot_id":
            return shots[value].shot_id
        if name in ("playing", "frame"):
            return {"take_id": film[value[0]], "frame_index": value[1]}
        return value

    given = {name: meant(name, value) for name, value in fields.items()}
    effect = filmed.send_ok(control.strip(), **given).effect
    after = filmed.story
    assert (effect.shot_index, effect.chunk_index, effect.film_frame) == (shot_index, chunk_index, film_frame)
    assert effect.shot_id == (after.shots[shot_index].shot_id if shot_index < len(after.shots) else None)
    filmed.open_story.history.set_queue(autoplay=False, queue={})
    if control == "branch":
        filmed.send_ok("switch_branch", branch_id=filmed.story.branches[0].branch_id)
    elif control == "undo":
        filmed.send_ok("redo")
    elif filmed.open_story.shot_list != before:
        filmed.send_ok("undo")
    assert filmed.open_story.shot_list == before


def test_who_comes_is_told_hello_then_notices_then_the_story_then_what_is_being_made(
    filmed: StudioHarness,
) -> None:
    takes, first = filmed.open_story.history.takes, filmed.take_ids()[0] or ""
    own = takes[first]
    takes[first] = replace(own, weights_sha256="f" * 64)
    filmed.send_ok("make_shot", shot_id=filmed.story.shots[3].shot_id)
    filmed.run(1)
    outbox = RecordingOutbox()
    viewer = filmed.add_viewer(outbox)
    assert [type(message) for message in outbox.messages] == [Hello, Notice, Story, TakeStarted, Media]
    assert outbox.messages[1].code == "weights_changed"
    filmed.manager.remove_viewer(filmed.story_id, viewer.viewer_id)
    takes[first] = own
    filmed.open_story.history.set_queue(queue={})
    filmed.open_story.discard_job()


def test_a_pin_takes_effect_at_the_next_shot_to_be_made_behind_the_one_in_the_making(
    filmed: StudioHarness,
) -> None:
    """A finished shot behind the one that was taken again was told, which stays as it is."""
    filmed.send_ok("retake", shot_id=filmed.story.shots[1].shot_id)
    filmed.run(1)
    filmed.send_ok("set_autoplay", on=True)
    pin = {"take_id": filmed.take_ids()[0], "frame_index": 0}
    assert filmed.send_ok("pin", frame=pin).effect.shot_index == 3
    filmed.send_ok("undo")  # The take in the making.
    filmed.send_ok("undo")
    assert not filmed.story.pins


def test_a_cut_at_the_last_chunk_of_a_finished_shot_leaves_the_film_as_it_is(filmed: StudioHarness) -> None:
    film = filmed.take_ids()
    effect = filmed.send_ok("cut", playing={"take_id": film[0], "frame_index": 20}).effect
    assert (effect.shot_index, effect.film_frame) == (1, 21)
    filmed.send_ok("stop")
    assert filmed.take_ids() == film


def test_a_cut_in_a_take_that_is_not_in_the_film_is_refused(filmed: StudioHarness) -> None:
    """The last shot that was made was cut in its place."""
    old = filmed.take_ids()[0]
    filmed.send_ok("retake", shot_id=filmed.story.shots[0].shot_id)
    filmed.run()
    assert filmed.take_ids()[0] != old
    assert filmed.send_refused("cut", playing={"take_id": old, "frame_index": 3}).code == "refused"
    filmed.send_ok("undo")
    assert filmed.take_ids()[0] == old


def test_what_was_asked_for_by_name_is_made_behind_a_shot_that_failed(filmed: StudioHarness) -> None:
    """It waited for ever: the failed one was first in turn, and waits for the person."""
    filmed.send_ok("add_shot", shot={"caption": "a fox walks"}, index=1)
    filmed.open_story.failures[filmed.story.shots[1].shot_id] = "it could not be made"
    filmed.send_ok("set_autoplay", on=True)
    assert filmed.run() == 0, "by itself nothing is made behind it"
    last = filmed.take_ids()[3]
    filmed.send_ok("retake", shot_id=filmed.story.shots[3].shot_id)
    assert filmed.run() == 2
    assert filmed.take_ids()[3] != last
    assert filmed.statuses[1] == "failed"
    filmed.open_story.failures.clear()
    filmed.send_ok("undo")
    filmed.send_ok("undo")
    assert filmed.take_ids()[2] == last


def test_a_take_in_the_making_is_dropped_when_everybody_has_been_away_for_a_while(tmp_path: Path) -> None:
    assert Limits().linger_s == 20
    harness = StudioHarness(tmp_path)
    harness.run(1)
    open_story, job = harness.open_story, harness.open_story.job
    assert job is not None
    harness.manager.remove_viewer(harness.story_id, harness.viewer.viewer_id)
    harness.manager._telemetry_s = -1e9
    harness.manager.do_housekeeping()
    assert open_story.job is job, "a page can be reloaded"
    assert open_story.empty_since_s is not None
    open_story.empty_since_s -= 21
    harness.manager._telemetry_s = -1e9
    harness.manager.do_housekeeping()
    assert open_story.job is None
    harness.close()


def test_a_film_of_several_numbers_of_steps_has_no_replay(filmed: StudioHarness) -> None:
    takes, last = filmed.open_story.history.takes, filmed.take_ids()[2] or ""
    own = takes[last]
    Exporter(filmed.app, filmed.manager.film_snapshot(filmed.story_id)).replay()
    takes[last] = replace(own, num_steps=own.num_steps + 1)
    with pytest.raises(ApiError, match="shots 1 and 3 were generated by different models"):
        Exporter(filmed.app, filmed.manager.film_snapshot(filmed.story_id)).replay()
    takes[last] = own


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), "the disk is full; free some space, or delete a story"),
        (ValueError("a caption\n  of no words"), "a caption of no words"),
        (RuntimeError(), "internal server error; see the server's log"),
    ],
)
def test_why_a_shot_failed_is_told_in_a_persons_words(error: Exception, told: str) -> None:
    assert one_line_reason(error) == told
