"""The context policy of a story: stored with it, shown, changed, and kept in what is exported."""

import json
from pathlib import Path

import numpy as np
import pytest

from shotstream.film.replay import hash_frames
from shotstream.story import Reference, Steer
from shotstream.streaming.noise import shot_seed
from shotstream.studio.api_error import ApiError
from shotstream.studio.exporter import Exporter
from shotstream.studio.shot_list import ShotList
from shotstream.studio.take_record import TakeRecord
from shotstream.video.pictures import picture_to_uri
from tests.studio.studio_harness import CAPTIONS, GLOBAL_CAPTION, StudioHarness

BACK = "a fox walks"
"""A caption of the first shot again, once there are more shots than context frames."""


def plain(studio: StudioHarness, policy: str, captions: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The hashes of the film as a plain session makes it."""
    session = studio.pipeline.session(GLOBAL_CAPTION, seed=7, policy=policy, quiet=True)
    film: list[tuple[str, ...]] = []
    for index, caption in enumerate(captions):
        chunks = session.shot(caption, num_chunks=2, seed=shot_seed(7, index))
        film.append(hash_frames(np.concatenate([chunk.frames for chunk in chunks])))
    return film


@pytest.fixture
def studio(tmp_path: Path) -> StudioHarness:
    """A story of five shots under `prompt`, by a model that reads English; the last is the first again."""
    studio = StudioHarness(tmp_path, num_shots=4, policy="prompt", reads=True)
    studio.send_ok("add_shot", shot={"caption": BACK})
    return studio


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["prompt", "keys"])
def test_a_story_is_made_under_its_policy_as_a_plain_session_is(tmp_path: Path, policy: str) -> None:
    studio = StudioHarness(tmp_path, num_shots=4, policy=policy)
    studio.send_ok("add_shot", shot={"caption": BACK})
    studio.run()
    film = (*CAPTIONS, BACK)
    assert studio.frame_hashes() == plain(studio, policy, film) != plain(studio, "theatre", film)
    assert studio.story.context_policy == policy
    assert all(take.context_policy == policy for shot in studio.story.shots for take in shot.takes)
    studio.close()


def test_the_state_tells_which_frames_a_shot_remembers_and_why(studio: StudioHarness) -> None:
    studio.run()
    (take,) = studio.story.shots[4].takes
    film = studio.take_ids()
    assert [film.index(frame.take_id) for frame in take.context] == [0, 1, 3]
    # The colour is the seed's choice, as no caption names one.
    assert [frame.shared for frame in take.context] == [("purple fox", "forest")] * 2 + [("forest",)]
    assert all(frame.score is not None and 0 < frame.score <= 1 for frame in take.context)
    # The next shot, which has no caption yet.
    assert len(studio.story.memory) == 3
    studio.close()


@pytest.mark.parametrize("policy", ["prompt", "keys"])
def test_citations_and_steered_shots_are_compared_as_in_a_session(tmp_path: Path, policy: str) -> None:
    studio = StudioHarness(tmp_path, num_shots=0, policy=policy, reads=True)
    image = picture_to_uri(np.full((32, 48, 3), 90, np.uint8))
    picture = studio.manager.add_picture(studio.story_id, image)
    given = {"reference_id": "scout", "caption": "a fox", "picture_id": picture.picture_id, "shots": "cited"}
    studio.send_ok("add_reference", reference=given)
    then = {"caption": "it jumps", "chunk_index": 1, "mode": "recache"}
    for caption in CAPTIONS:
        studio.send_ok("add_shot", shot={"caption": caption, "then": [then], "num_chunks": 2})
    studio.send_ok("add_shot", shot={"caption": "@scout walks"})
    studio.run()
    (take,) = studio.story.shots[4].takes
    assert [frame.reference_id for frame in take.context] == ["scout", None, None]
    if policy == "prompt":
        film = studio.take_ids()
        assert [film.index(frame.take_id) for frame in take.context[1:]] == [0, 1]
        assert all("purple fox" in frame.shared for frame in take.context[1:])
    scout = Reference(id="scout", image=image, caption="a fox", shots="cited")
    session = studio.pipeline.session(GLOBAL_CAPTION, seed=7, references=[scout], policy=policy, quiet=True)
    steer = Steer(caption="it jumps", chunk_index=1)
    for index, caption in enumerate((*CAPTIONS, "@scout walks")):
        steers = [steer] if index < 4 else []
        chunks = session.shot(caption, num_chunks=2, seed=shot_seed(7, index), then=steers)
        assert hash_frames(np.concatenate([chunk.frames for chunk in chunks])) == studio.frame_hashes()[index]
    studio.close()


@pytest.mark.slow
def test_a_new_policy_makes_later_shots_stale_and_undo_brings_the_old_one_back(studio: StudioHarness) -> None:
    studio.run()
    studio.send_ok("set_autoplay", on=False)
    effect = studio.send_ok("edit_story", context_policy="theatre").effect
    assert effect.shot_index == 1
    assert studio.story.context_policy == "theatre"
    assert studio.statuses == ["done"] + ["stale"] * 4
    assert studio.story.shots[1].stale_reasons == ("context",)
    with pytest.raises(ApiError, match="shot 2 is stale"):
        Exporter(studio.app, studio.manager.film_snapshot(studio.story_id)).replay()
    studio.send_ok("undo")
    assert studio.statuses == ["done"] * 5 and studio.story.context_policy == "prompt"
    studio.send_ok("edit_story", context_policy="theatre")
    studio.send_ok("remake_stale")
    studio.run()
    assert studio.frame_hashes() == plain(studio, "theatre", (*CAPTIONS, BACK))
    assert all(frame.score is None for frame in studio.story.shots[4].takes[-1].context)
    studio.close()


def test_an_exported_replay_names_the_policy_of_the_story(studio: StudioHarness) -> None:
    studio.run()
    document = json.loads(Exporter(studio.app, studio.manager.film_snapshot(studio.story_id)).replay())
    assert document["plan"]["context_policy"] == "prompt"
    studio.close()


def test_a_policy_is_refused_where_it_cannot_be_used(studio: StudioHarness) -> None:
    known = "there are theatre, published, prompt, keys"
    assert studio.manager.model.context_policies == ("theatre", "published", "prompt", "keys")
    refused = studio.send_refused("edit_story", context_policy="latest")
    assert refused.code == "invalid" and refused.message == f"no context policy 'latest' here; {known}"
    with pytest.raises(ApiError, match=known):
        studio.create_story(policy="latest")
    studio.close()


def test_pinned_frames_stay_under_every_policy(studio: StudioHarness) -> None:
    studio.run(2)
    first = studio.take_ids()[0]
    studio.send_ok("pin", frame={"take_id": first, "frame_index": 0})
    for policy in ("published", "keys", "theatre"):
        studio.send_ok("edit_story", context_policy=policy)
        assert [frame.pin_id for frame in studio.story.memory if frame.take_id == first][:1] == [
            studio.story.pins[0].pin_id
        ]
        assert studio.story.max_pins == studio.pipeline.context_budget - 1
    studio.close()


@pytest.mark.slow
def test_a_damaged_take_is_repaired_before_its_keys_are_compared(tmp_path: Path) -> None:
    """The frames of a shot are chosen before it is generated: what they need may be damaged."""
    studio = StudioHarness(tmp_path, num_shots=3, policy="keys")
    studio.run()
    hashes = studio.frame_hashes()
    studio.close()
    (memory,) = (tmp_path / "media").rglob(f"{studio.take_ids()[0]}/*.safetensors")
    memory.write_bytes(memory.read_bytes()[:-40])
    again = StudioHarness(tmp_path)
    again.send_ok("add_shot", shot={"caption": BACK})
    again.run()
    assert again.statuses == ["done"] * 4 and again.frame_hashes()[:3] == hashes
    assert again.frame_hashes() == plain(again, "keys", (*CAPTIONS[:3], BACK))
    again.close()


def test_stories_of_earlier_versions_have_the_policy_of_the_model(tmp_path: Path) -> None:
    studio = StudioHarness(tmp_path)
    studio.run()
    shot_list = studio.open_story.shot_list.to_document()
    del shot_list["context_policy"]
    old = ShotList.from_document(shot_list)
    assert old.context_policy is None and old.shots == studio.open_story.shot_list.shots
    record = next(iter(studio.open_story.history.takes.values())).to_document()
    del record["context_policy"]
    record["context"] = [{"take_id": "a", "frame_index": 0, "pin_id": None, "shot_phase": 0}]
    taken = TakeRecord.from_document(record)
    assert taken.context_policy is None and taken.context[0].shared == ()
    studio.open_story.commit(old, "as of an earlier version")
    assert studio.manager.story_state(studio.story_id).context_policy == "theatre"
    # Naming the model's own changes nothing.
    studio.send_ok("edit_story", context_policy="theatre")
    assert studio.open_story.shot_list.context_policy is None
    studio.close()
