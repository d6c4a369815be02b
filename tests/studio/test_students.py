"""The studio with students that have no memory across shots: all that it does, except pinning."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shotstream.film.replay import hash_frames
from shotstream.streaming.noise import shot_seed
from shotstream.weights.students import STUDENTS
from tests.studio.studio_harness import CAPTIONS, GLOBAL_CAPTION, StudioHarness


@pytest.fixture(params=["self-forcing", "memflow", "rolling-forcing"])
def studio(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StudioHarness]:
    studio = StudioHarness(tmp_path, num_shots=2, rules=STUDENTS[request.param].rules)
    yield studio
    studio.close()


def session_hashes(studio: StudioHarness) -> list[tuple[str, ...]]:
    session = studio.pipeline.session(GLOBAL_CAPTION, seed=7)
    shots = (session.shot(CAPTIONS[at], num_chunks=2, seed=shot_seed(7, at)) for at in range(2))
    return [tuple(h for chunk in shot for h in hash_frames(chunk.frames)) for shot in shots]


def test_a_film_is_that_of_a_session_and_undo_branches_and_cuts_keep_its_frames(
    studio: StudioHarness,
) -> None:
    studio.run()
    whole = studio.frame_hashes()
    assert whole == session_hashes(studio)
    first = studio.take_ids()[0]
    studio.send_ok("cut", playing={"take_id": first, "frame_index": 3})
    studio.run()
    # The second shot does not depend on the length of the first.
    assert studio.frame_hashes() == [whole[0][:9], whole[1]]
    # The take of the second shot that was made after the cut, then the cut itself.
    studio.send_ok("undo")
    studio.send_ok("undo")
    assert studio.frame_hashes() == whole
    studio.send_ok("branch", shot_id=studio.story.shots[0].shot_id)
    assert studio.frame_hashes() == whole[:1]
    studio.send_ok("add_shot", shot={"caption": CAPTIONS[1]})
    studio.send_ok("make_shot", shot_id=studio.story.shots[1].shot_id)
    studio.run()
    assert studio.frame_hashes() == whole


def test_a_picture_cannot_be_pinned_and_the_viewer_is_told_why(studio: StudioHarness) -> None:
    studio.run()
    assert studio.story.max_pins == 0
    refused = studio.send_refused("pin", frame={"take_id": studio.take_ids()[0], "frame_index": 0})
    assert "this model has no memory across shots" in refused.message


def test_a_shot_beyond_the_trained_positions_is_refused_when_it_is_asked_for(tmp_path: Path) -> None:
    studio = StudioHarness(tmp_path, num_shots=1, rules=STUDENTS["self-forcing"].rules)
    refused = studio.send_refused("add_shot", shot={"caption": "a fox", "num_chunks": 8})
    assert "8 chunks; a shot has at most 7 here" in refused.message
    studio.close()
