"""Files of takes that are not what was written: never used, and made anew with every frame as it was."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shotstream.film.replay import hash_frames
from shotstream.streaming.context_sampling import (
    POLICIES,
    ContextCandidate,
    NextShot,
    TheatrePolicy,
    kept_frames,
)
from shotstream.streaming.shot import make_shot
from shotstream.streaming.shot_request import ShotRequest
from shotstream.studio.api_error import ApiError
from shotstream.studio.context_cache import ContextCache
from shotstream.studio.media_store import CorruptTakeError
from shotstream.studio.schemas.server_messages import Notice
from shotstream.studio.take_job import encode_take_memory
from shotstream.studio.take_record import TakeRecord
from shotstream.video.video_io import VideoError, read_frames
from tests.studio.studio_harness import StudioHarness

FILES = ("recording.mp4", "frames.mkv", "memory.safetensors")


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[StudioHarness]:
    studio = StudioHarness(tmp_path)
    yield studio
    studio.close()


def flip(path: Path, seed: int = 0) -> None:
    """One bit, in the second half: in a file's own data, not in its header."""
    content = bytearray(path.read_bytes())
    rng = random.Random(seed)
    content[rng.randrange(len(content) // 2, len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def record_of(studio: StudioHarness, index: int) -> TakeRecord:
    take_id = studio.take_ids()[index]
    assert take_id is not None
    return studio.open_story.history.takes[take_id]


def files_of(studio: StudioHarness, index: int) -> dict[str, bytes]:
    folder = studio.media._take_dir(studio.story_id, record_of(studio, index).take_id)
    return {name: (folder / name).read_bytes() for name in FILES}


def reopened(tmp_path: Path) -> StudioHarness:
    """With nothing left in memory."""
    return StudioHarness(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_single_flipped_bit_is_noticed(studio: StudioHarness, name: str) -> None:
    studio.run()
    record = record_of(studio, 1)
    path = studio.media._take_dir(studio.story_id, record.take_id) / name
    read = {
        "recording.mp4": studio.media.read_recording,
        "frames.mkv": studio.media.read_frames,
        "memory.safetensors": studio.media.read_memory,
    }[name]
    whole = path.read_bytes()
    for seed in range(5):
        read(studio.story_id, record)
        flip(path, seed)
        # A flip that FFmpeg mends without changing a pixel is no damage.
        if name == "frames.mkv" and not damages(studio, record):
            path.write_bytes(whole)
            continue
        with pytest.raises(CorruptTakeError):
            read(studio.story_id, record)
        path.write_bytes(whole)
    path.unlink()
    with pytest.raises(CorruptTakeError):
        read(studio.story_id, record)


def damages(studio: StudioHarness, record: TakeRecord) -> bool:
    try:
        frames = read_frames(studio.media._take_dir(studio.story_id, record.take_id) / "frames.mkv")
    except VideoError:
        return True
    return hash_frames(frames) != record.frame_sha256


@pytest.mark.parametrize("names", [FILES, *(pytest.param((name,), marks=pytest.mark.slow) for name in FILES)])
@pytest.mark.parametrize("index", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_damaged_take_is_made_anew_as_it_was(tmp_path: Path, names: tuple[str, ...], index: int) -> None:
    studio = StudioHarness(tmp_path)
    studio.run()
    studio.send_ok("pin", frame={"take_id": studio.take_ids()[0], "frame_index": 4})
    studio.send_ok("retake", shot_id=studio.story.shots[1].shot_id)  # The shot that is mended looks at a pin.
    studio.run()
    whole = files_of(studio, index)
    memory = studio.media.read_memory(studio.story_id, record_of(studio, index))
    folder = studio.media._take_dir(studio.story_id, record_of(studio, index).take_id)
    take_id = record_of(studio, index).take_id
    studio.close()
    for name in names:
        (folder / name).write_bytes(b"damaged")
    studio = reopened(tmp_path)
    studio.manager.repair_take(studio.story_id, take_id)
    studio.run()
    mended = files_of(studio, index)
    record = record_of(studio, index)
    assert mended["recording.mp4"] == whole["recording.mp4"]
    assert studio.media.read_memory(studio.story_id, record).latents.equal(memory.latents)
    assert hash_frames(studio.media.read_frames(studio.story_id, record)) == record.frame_sha256
    assert studio.store.get_take(studio.story_id, take_id) == record
    assert "damaged" in studio.outbox.of(Notice)[-1].message
    assert studio.app.stored_bytes() == studio.store.num_bytes()
    assert not list(folder.glob(".part.*"))
    studio.close()


@pytest.mark.slow
def test_damaged_memories_do_not_stop_a_story_and_the_next_shot_is_as_without_damage(tmp_path: Path) -> None:
    """It stopped without a word: the files were read outside of what a failure is caught in."""
    (tmp_path / "plain").mkdir()
    plain = StudioHarness(tmp_path / "plain")
    plain.send_ok("add_shot", shot={"caption": "a owl sleeps"})
    plain.run()
    expected = plain.frame_hashes()
    plain.close()
    (tmp_path / "harmed").mkdir()
    studio = StudioHarness(tmp_path / "harmed")
    studio.run()
    folders = [
        studio.media._take_dir(studio.story_id, record_of(studio, index).take_id) for index in range(3)
    ]
    studio.close()
    flip(folders[0] / "memory.safetensors")
    (folders[1] / "frames.mkv").write_bytes(b"")
    (folders[1] / "memory.safetensors").write_bytes(b"")
    (folders[2] / "memory.safetensors").unlink()
    studio = reopened(tmp_path / "harmed")
    studio.send_ok("add_shot", shot={"caption": "a owl sleeps"})
    studio.run()
    assert studio.statuses == ["done"] * 4
    assert studio.frame_hashes() == expected
    assert len([n for n in studio.outbox.of(Notice) if n.code == "storage"]) == 3
    studio.close()


@pytest.mark.slow
def test_a_take_of_other_weights_that_is_lost_is_said_and_the_shot_waits(tmp_path: Path) -> None:
    studio = StudioHarness(tmp_path)
    studio.run()
    record = record_of(studio, 1)
    folder = studio.media._take_dir(studio.story_id, record.take_id)
    studio.close()
    (folder / "frames.mkv").write_bytes(b"damaged")
    studio = StudioHarness(tmp_path, seed=1)
    studio.send_ok("add_shot", shot={"caption": "a owl walks"})
    studio.run()
    assert studio.statuses == ["done", "done", "done", "failed"]
    failure = studio.story.shots[3].failure
    assert failure is not None and "take of shot 2" in failure and "generate the shot again" in failure
    with pytest.raises(ApiError) as refusal:
        studio.manager.repair_take(studio.story_id, record.take_id)
    assert refusal.value.code == "failed"
    studio.send_ok("retake", shot_id=studio.story.shots[1].shot_id)
    studio.send_ok("make_shot", shot_id=studio.story.shots[3].shot_id)
    studio.run()
    assert [shot.status for shot in studio.story.shots][1::2] == ["done", "done"]
    studio.close()


@pytest.mark.slow
def test_what_comes_out_otherwise_is_not_put_in_a_takes_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = StudioHarness(tmp_path)
    studio.run()
    record = record_of(studio, 1)
    path = studio.media._take_dir(studio.story_id, record.take_id) / "frames.mkv"
    path.write_bytes(b"damaged")
    made = studio.pipeline.decode_levels
    monkeypatch.setattr(
        type(studio.pipeline), "decode_levels", lambda _, *given: _other(made(*given)), raising=True
    )
    studio.manager.repair_take(studio.story_id, record.take_id)
    studio.run()
    assert path.read_bytes() == b"damaged"
    assert "do not come out the same" in studio.outbox.of(Notice)[-1].message
    studio.close()


def _other(decoded: object) -> object:
    levels, state = decoded  # pyright: ignore
    return levels.flip(-1), state  # pyright: ignore


def test_a_cut_of_a_damaged_take_is_refused_until_it_is_made_anew(studio: StudioHarness) -> None:
    studio.run()
    record = record_of(studio, 1)
    flip(studio.media._take_dir(studio.story_id, record.take_id) / "recording.mp4")
    playing = {"take_id": record.take_id, "frame_index": 0}
    assert studio.send_refused("cut", playing=playing).code == "busy"
    studio.run()
    studio.send_ok("cut", playing=playing)
    assert record_of(studio, 1).frame_sha256 == record.frame_sha256[:9]


@pytest.mark.parametrize("num_removed", [1, 2])
def test_a_shot_is_made_after_the_first_ones_are_removed(tmp_path: Path, num_removed: int) -> None:
    """It failed: a take keeps the frames that its place in the film asks for, the first one's the most."""
    studio = StudioHarness(tmp_path)
    studio.run()
    records = [record_of(studio, index) for index in range(num_removed, 3)]
    for shot in studio.story.shots[:num_removed]:
        studio.send_ok("remove_shot", shot_id=shot.shot_id)
    studio.send_ok("add_shot", shot={"caption": "a owl walks", "seed": "11"})
    studio.run()
    assert studio.statuses[-1] == "done"
    # The same with memories that hold what a first shot's do: all that any place may ask for.
    whole = [
        encode_take_memory(studio.app, first(record), studio.media.read_frames(studio.story_id, record))
        for record in records
    ]
    made = record_of(studio, len(records))
    order = ShotRequest(
        global_caption=made.global_caption, caption=made.caption, seed=11,
        num_steps=made.num_steps, num_chunks=2, takes=tuple(whole), pins=(),
    )  # fmt: skip
    chunks = make_shot(studio.pipeline, order)
    assert made.frame_sha256 == tuple(h for chunk in chunks for h in hash_frames(chunk.frames))
    studio.close()


def first(record: TakeRecord) -> TakeRecord:
    return replace(record, before=())


@pytest.mark.slow
def test_a_memory_offers_what_its_place_asks_for_wherever_the_take_was_filmed(studio: StudioHarness) -> None:
    """A take that had moved to the front offered what it was filmed with and what its plan had chosen."""
    studio.run()
    record = record_of(studio, 2)
    cache = ContextCache(studio.app, studio.story_id)
    whole = encode_take_memory(studio.app, first(record), studio.media.read_frames(studio.story_id, record))
    assert len(cache.take(record, 2).candidate_frames) < len(whole.candidate_frames)
    for index in (0, 2, 1, 0):
        take = cache.take(record, index)
        assert take.candidate_frames == kept_frames(record.num_frames, index, studio.pipeline.context_budget)
        for frame_index in {*take.candidate_frames} & {*whole.candidate_frames}:
            assert take.latent_of(frame_index).equal(whole.latent_of(frame_index))


class EveryCandidate(TheatrePolicy):
    """The policy `theatre`, which notes what it is offered; latents too."""

    def __init__(self) -> None:
        self.offered: list[tuple[str, list[tuple[Any, ...]]]] = []

    def choose(
        self,
        candidates: Sequence[ContextCandidate],
        budget: int,
        next_shot: NextShot,
        rng: np.random.Generator,
    ) -> list[ContextCandidate]:
        seen = [
            (one.shot_index, one.frame_index, one.pin_index, one.caption, one.latent().numpy().tobytes())
            for one in candidates
        ]
        self.offered.append((next_shot.caption, seen))
        return super().choose(candidates, budget, next_shot, rng)


@pytest.mark.slow
def test_a_policy_is_offered_the_same_when_a_shot_is_planned_and_when_it_is_made(
    studio: StudioHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.run()
    policy = EveryCandidate()
    monkeypatch.setitem(POLICIES, studio.pipeline.config.context_policy, policy)
    studio.send_ok("pin", frame={"take_id": studio.take_ids()[1], "frame_index": 3})
    studio.send_ok("move_shot", shot_id=studio.story.shots[2].shot_id, index=0)
    studio.send_ok("add_shot", shot={"caption": "a owl walks"})
    studio.run()
    planned, *others = [seen for caption, seen in policy.offered if caption == "a owl walks"]
    assert len(planned) > studio.pipeline.context_budget and others
    assert all(seen == planned for seen in others), "the last of them is what the shot was made of"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_no_order_of_removals_additions_undo_branches_and_pins_makes_a_shot_impossible(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    studio = StudioHarness(tmp_path)
    for _ in range(30):
        shots, film = studio.story.shots, [take_id for take_id in studio.take_ids() if take_id is not None]
        shot_id = rng.choice(shots).shot_id if shots else "f" * 16
        frame = {"take_id": rng.choice(film or ["f" * 16]), "frame_index": rng.randrange(9)}
        control, fields = rng.choice(
            [
                ("remove_shot", {"shot_id": shot_id}),
                ("add_shot", {"shot": {"caption": "a owl walks"}, "index": rng.randrange(len(shots) + 1)}),
                ("move_shot", {"shot_id": shot_id, "index": rng.randrange(3)}),
                ("undo", {}),
                ("redo", {}),
                ("branch", {}),
                ("switch_branch", {"branch_id": rng.choice(studio.story.branches).branch_id}),
                ("pin", {"frame": frame}),
                ("unpin", {"pin_id": studio.story.pins[0].pin_id if studio.story.pins else "f" * 16}),
                ("retake", {"shot_id": shot_id}),
                ("remake_stale", {}),
                ("cut", {"playing": frame}),
                ("stop", {}),
            ]
        )
        answer = studio.send(control, **fields)
        assert answer.type == "done" or answer.code in ("refused", "not_found", "limit"), (control, answer)
        if rng.random() < 0.7:
            studio.send_ok("set_autoplay", on=True)
        studio.run(rng.choice([1, 2, 20]))
        assert "failed" not in studio.statuses, [shot.failure for shot in studio.story.shots]
    studio.send_ok("set_autoplay", on=True)
    studio.run()
    with_stale = studio.send("remake_stale")
    studio.run()
    assert set(studio.statuses) <= {"done"}, (with_stale, studio.statuses)
    told = studio.story
    studio.close()
    again = reopened(tmp_path)
    assert (again.story.shots, again.story.pins, again.story.undo) == (told.shots, told.pins, told.undo)
    again.close()
