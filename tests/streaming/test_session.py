"""Sessions: streamed chunks, cuts, replay, forks, undo, retakes, pins, saved state; none disturbs another."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from shotstream.streaming.context_encoder import ContextEncoder, as_picture
from shotstream.streaming.noise import derive_seed, shot_seed
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.saved_session import Pin, SessionError, Take, read_session, write_session
from shotstream.streaming.session import CaptionWarning, StorySession
from shotstream.streaming.shot import Chunk
from shotstream.streaming.shot_request import ShotRequest
from tests.params import first
from tests.streaming.tiny import tiny_pipeline

PICTURE = np.full((32, 48, 3), 200, np.uint8)
CAPTIONS = ("a fox walks", "a fox sleeps", "a owl flies", "a owl sleeps")


@pytest.fixture(params=first(1, [False, True]), ids=["in turn", "overlapping"])
def pipeline(request: pytest.FixtureRequest) -> StreamingPipeline:
    return tiny_pipeline(overlap=request.param)


def start(pipeline: StreamingPipeline, seed: int = 7) -> StorySession:
    return StorySession(pipeline, "a forest night", seed=seed)


def frames_of(chunks: Iterator[Chunk]) -> np.ndarray:
    return np.concatenate([chunk.frames for chunk in chunks])


def film(session: StorySession, num_shots: int = 4) -> list[np.ndarray]:
    return [frames_of(session.shot(CAPTIONS[index % 4])) for index in range(num_shots)]


def equal(film_a: list[np.ndarray], film_b: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(film_a, film_b, strict=True))


def test_chunks_come_in_order_with_the_frames_of_their_place(pipeline: StreamingPipeline) -> None:
    session = start(pipeline)
    for shot_index in range(2):
        chunks = list(session.shot("a fox walks", num_chunks=3))
        assert [chunk.frames.shape for chunk in chunks] == [
            (9, 32, 48, 3),
            (12, 32, 48, 3),
            (12, 32, 48, 3),
        ]
        assert [(chunk.shot_index, chunk.chunk_index) for chunk in chunks] == [
            (shot_index, c) for c in range(3)
        ]
        assert all(chunk.frames.dtype == np.uint8 for chunk in chunks)
    assert [take.num_frames for take in session.shots] == [33, 33]


def test_streamed_frames_are_those_of_the_whole_shot_decoded_at_once(pipeline: StreamingPipeline) -> None:
    latents: list[torch.Tensor] = []
    decode = pipeline.codec.decode_stream

    def remember(chunk: torch.Tensor, state: object) -> object:
        latents.append(chunk)
        return decode(chunk, state)  # pyright: ignore[reportArgumentType]

    pipeline.codec.decode_stream = remember  # pyright: ignore[reportAttributeAccessIssue]
    streamed = frames_of(start(pipeline).shot("a fox walks", num_chunks=3))
    del pipeline.codec.decode_stream
    whole, _ = pipeline.decode(torch.cat(latents, dim=2), None)
    assert np.array_equal(streamed, whole)


def test_a_chunk_is_handed_out_before_its_commit_and_the_last_one_is_never_committed() -> None:
    pipeline = tiny_pipeline()
    events: list[str] = []

    def watch(_module: object, _args: object, kwargs: dict[str, object]) -> None:
        events.append(str(kwargs["write"]))

    pipeline.dit.register_forward_pre_hook(watch, with_kwargs=True)
    for chunk in start(pipeline).shot("a fox walks", num_chunks=2, steps=2):
        events.append(f"chunk {chunk.chunk_index}")
    assert events == ["global", "None", "None", "chunk 0", "local", "None", "None", "chunk 1"]


def test_nothing_is_computed_before_the_first_chunk_is_asked_for(pipeline: StreamingPipeline) -> None:
    session = start(pipeline)
    session.shot("a fox walks")
    assert pipeline.text_encoder.memo.__len__() == 0  # pyright: ignore[reportAttributeAccessIssue]
    assert session.shots == ()


def test_replay_gives_identical_frames_and_every_seed_another_film(pipeline: StreamingPipeline) -> None:
    first = film(start(pipeline))
    assert equal(film(start(pipeline)), first)
    assert not any(np.array_equal(a, b) for a, b in zip(film(start(pipeline, seed=8)), first, strict=True))
    assert len({shot.tobytes() for shot in first}) == 4


def test_a_shot_depends_on_its_own_seed_not_on_the_sessions(pipeline: StreamingPipeline) -> None:
    by_default = frames_of(start(pipeline, seed=3).shot("a fox walks"))
    named = frames_of(start(pipeline, seed=4).shot("a fox walks", seed=shot_seed(3, 0)))
    assert np.array_equal(by_default, named)


def test_a_shot_depends_on_earlier_shots_and_on_captions(pipeline: StreamingPipeline) -> None:
    long, short = start(pipeline), start(pipeline)
    film(long, 2)
    film(short, 1)
    assert not np.array_equal(
        frames_of(long.shot("a owl flies", seed=1)), frames_of(short.shot("a owl flies", seed=1))
    )
    again = short.fork()
    assert not np.array_equal(frames_of(short.shot("a fox", seed=1)), frames_of(again.shot("a owl", seed=1)))


@pytest.mark.parametrize("how", ["close", "let go", "next shot"])
def test_a_shot_ended_early_is_a_shot_of_that_length(pipeline: StreamingPipeline, how: str) -> None:
    planned = start(pipeline)
    expected = frames_of(planned.shot("a fox walks", num_chunks=2))
    after = frames_of(planned.shot("a fox sleeps"))

    session = start(pipeline)
    chunks = session.shot("a fox walks", num_chunks=1000)
    frames = [next(chunks).frames, next(chunks).frames]
    if how == "close":
        chunks.close()  # pyright: ignore[reportAttributeAccessIssue]
        assert [take.num_chunks for take in session.shots] == [2]
    elif how == "let go":
        del chunks
        assert [take.num_chunks for take in session.shots] == [2]
    following = frames_of(session.shot("a fox sleeps"))
    assert np.array_equal(np.concatenate(frames), expected)
    assert np.array_equal(following, after)
    assert [take.num_chunks for take in session.shots] == [2, 2]


def test_a_shot_of_which_nothing_was_handed_out_is_no_shot(pipeline: StreamingPipeline) -> None:
    session = start(pipeline)
    unused = session.shot("a fox walks")
    frames_of(session.shot("a fox sleeps"))
    assert len(session.shots) == 1
    assert list(unused) == []


def test_two_interleaved_sessions_equal_two_separate_ones(pipeline: StreamingPipeline) -> None:
    separate = [film(start(pipeline, seed), 3) for seed in (1, 2)]
    sessions = [start(pipeline, seed) for seed in (1, 2)]
    together: list[list[np.ndarray]] = [[], []]
    for shot_index in range(3):
        streams = [session.shot(CAPTIONS[shot_index]) for session in sessions]
        parts: list[list[np.ndarray]] = [[], []]
        for _ in range(2):
            for part, stream in zip(parts, streams, strict=True):
                part.append(next(stream).frames)
        for shots, part, stream in zip(together, parts, streams, strict=True):
            assert list(stream) == []
            shots.append(np.concatenate(part))
    assert equal(together[0], separate[0]) and equal(together[1], separate[1])


def test_a_fork_that_films_and_undoes_equals_never_having_filmed(pipeline: StreamingPipeline) -> None:
    session = start(pipeline)
    film(session, 2)
    fork = session.fork()
    frames_of(fork.shot("a owl flies"))
    dropped = fork.undo()
    assert dropped.caption == "a owl flies"
    assert fork.shots == session.shots
    assert equal(film(fork), film(session))


def test_undo_takes_back_a_shot_that_is_still_open(pipeline: StreamingPipeline) -> None:
    session = start(pipeline)
    film(session, 1)
    chunks = session.shot("a owl flies")
    next(chunks)
    assert session.undo().caption == "a owl flies"
    assert len(session.shots) == 1 and list(chunks) == []
    session.undo()
    with pytest.raises(ValueError, match="no shot to undo"):
        session.undo()


def test_retake_replaces_the_last_shot(pipeline: StreamingPipeline) -> None:
    session, expected = start(pipeline), start(pipeline)
    film(session, 2)
    film(expected, 1)
    old = session.shots[1]
    again = frames_of(session.retake(1, seed=old.seed))
    assert np.array_equal(again, frames_of(expected.shot(CAPTIONS[1])))
    other = frames_of(session.retake(-1))
    assert not np.array_equal(other, again)
    assert len(session.shots) == 2 and session.shots[1].seed != old.seed
    frames_of(session.retake(1, caption="a owl"))
    assert session.shots[1].caption == "a owl" and session.shots[1].num_chunks == old.num_chunks


def test_retake_of_an_earlier_shot_drops_what_was_made_from_it_and_leaves_a_fork_alone(
    pipeline: StreamingPipeline,
) -> None:
    session = start(pipeline)
    film(session, 3)
    fork = session.fork()
    old = session.shots
    chunks = session.retake(1, seed=5)
    next(chunks)
    assert session.shots == old
    list(chunks)
    assert session.shots[0] is old[0] and session.shots[1].seed == 5 and len(session.shots) == 2
    assert fork.shots == old
    with pytest.raises(ValueError, match="no shot 2"):
        session.retake(2)


def test_an_error_in_a_shot_keeps_nothing_of_it_and_the_session_goes_on(pipeline: StreamingPipeline) -> None:
    expected = film(start(pipeline), 2)
    session = start(pipeline)
    first = film(session, 1)
    kept = pipeline.codec.decode_stream
    chunks = session.shot(CAPTIONS[1])
    next(chunks)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    pipeline.codec.decode_stream = fail  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(RuntimeError, match="out of memory"):
        next(chunks)
    pipeline.codec.decode_stream = kept  # pyright: ignore[reportAttributeAccessIssue]
    assert len(session.shots) == 1
    assert equal([*first, frames_of(session.shot(CAPTIONS[1]))], expected)


def test_pins_hold_a_picture_in_the_context_until_they_are_taken_out(pipeline: StreamingPipeline) -> None:
    session = start(pipeline)
    film(session, 2)
    plain, pinned, unpinned = session.fork(), session.fork(), session.fork()
    picture = next(session.shot("a owl")).frames[3]
    for fork in (pinned, unpinned):
        fork.pin(picture, 0)
    unpinned.unpin(0)
    assert pinned.pinned_shots == (0,) and unpinned.pinned_shots == ()
    expected = frames_of(plain.shot("a fox"))
    assert not np.array_equal(frames_of(pinned.shot("a fox")), expected)
    assert np.array_equal(frames_of(unpinned.shot("a fox")), expected)
    pinned.pin(picture, -1)
    assert pinned.pinned_shots == (0, 2)
    with pytest.raises(ValueError, match="3 pinned pictures, and 2 places"):
        pinned.pin(picture, 1)
    pinned.undo()
    assert pinned.pinned_shots == (0,)
    pinned.unpin()
    assert pinned.pinned_shots == ()


@pytest.mark.slow
def test_a_picture_pinned_to_a_shot_that_is_not_before_the_ordered_one_is_refused() -> None:
    pin = Pin(shot_index=1, latent=torch.zeros(4, 4, 6))
    with pytest.raises(ValueError, match="pinned to shot 1; there are 0"):
        ShotRequest(
            global_caption="a forest",
            caption="a fox",
            seed=0,
            num_steps=1,
            num_chunks=1,
            takes=(),
            pins=(pin,),
        )


def test_a_fork_has_the_pins_and_makes_the_same_film_with_them() -> None:
    session = start(tiny_pipeline())
    film(session, 3)
    pinned, other = PICTURE, 255 - PICTURE
    session.pin(pinned, 1)
    fork = session.fork()
    assert fork.pinned_shots == (1,)
    fork_without = session.fork()
    fork_without.unpin()
    session.pin(other, 2)
    assert (fork.pinned_shots, fork_without.pinned_shots, session.pinned_shots) == ((1,), (), (1, 2))
    again = start(tiny_pipeline())
    film(again, 3)
    again.pin(pinned, 1)
    made = frames_of(fork.shot("a fox", seed=1))
    assert np.array_equal(made, frames_of(again.shot("a fox", seed=1)))
    for differently_pinned in (fork_without, session):
        assert not np.array_equal(made, frames_of(differently_pinned.shot("a fox", seed=1)))


@pytest.mark.slow
def test_a_retake_looks_at_the_pins_of_earlier_shots_alone_and_keeps_no_others() -> None:
    pipeline = tiny_pipeline()
    session = start(pipeline)
    film(session, 4)
    session.pin(PICTURE, 2)
    session.pin(255 - PICTURE, 0)
    expected = start(pipeline)
    film(expected, 2)
    expected.pin(255 - PICTURE, 0)
    chunks = session.retake(2, seed=5)
    first = next(chunks).frames
    assert session.pinned_shots == (2, 0)  # until the take is there nothing has changed
    frames = np.concatenate([first, *(chunk.frames for chunk in chunks)])
    assert np.array_equal(frames, frames_of(expected.shot(CAPTIONS[2], seed=5)))
    assert session.pinned_shots == (0,) and len(session.shots) == 3
    assert np.array_equal(frames_of(session.shot("a owl", seed=6)), frames_of(expected.shot("a owl", seed=6)))


def test_undo_forgets_the_pins_of_the_dropped_shot_alone() -> None:
    session = start(tiny_pipeline())
    film(session, 3)
    session.pin(PICTURE, 2)
    session.pin(PICTURE, 1)
    session.undo()
    assert session.pinned_shots == (1,)


def test_a_retake_draws_new_noise_only_when_nothing_else_is_changed() -> None:
    session = start(tiny_pipeline())
    film(session, 1)
    old = session.shots[0]
    for changes in ({"caption": "a owl"}, {"num_chunks": 1}, {"steps": 2}, {"caption": "a owl", "steps": 1}):
        fork = session.fork()
        frames_of(fork.retake(0, **changes))
        assert fork.shots[0].seed == old.seed, changes
    frames_of(session.retake(0))
    assert session.shots[0].seed == derive_seed(old.seed, "retake") != old.seed
    frames_of(session.retake(0, seed=9, steps=2))
    assert session.shots[0].seed == 9


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_picture_of_floats_is_the_same_picture(dtype: type[np.floating]) -> None:
    levels = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)
    assert np.array_equal(as_picture((levels / 255).astype(dtype)), levels)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.full((32, 48, 3), 200.0), "not all within 0 to 1"),
        (np.full((32, 48, 3), -0.1), "not all within 0 to 1"),
        (np.full((32, 48, 3), np.nan), "not all within 0 to 1"),
        (np.zeros((32, 48, 3), np.int64), "a picture of int64; give uint8"),
        (np.zeros((32, 48, 3), bool), "a picture of bool; give uint8"),
        (np.zeros((32, 48, 4), np.uint8), "of shape 32x48x4; give height x width x 3"),
        (np.zeros((3, 32, 48), np.uint8), "of shape 3x32x48"),
        (np.zeros((32, 48), np.uint8), "of shape 32x48;"),
        (np.zeros((0, 48, 3), np.float32), "of shape 0x48x3"),
        (np.zeros((48, 32, 3), np.uint8), "48x32 pixels; this model's are 32x48"),
    ],
)
def test_what_is_no_picture_of_the_model_is_not_pinned(picture: np.ndarray, message: str) -> None:
    session = start(tiny_pipeline())
    list(session.shot("a fox", num_chunks=1))
    with pytest.raises(ValueError, match=message):
        session.pin(picture, 0)
    assert session.pinned_shots == ()


def test_objects_that_hold_latents_and_frames_are_shown_in_one_line() -> None:
    session = start(tiny_pipeline())
    chunk = next(session.shot("a fox"))
    session.undo()
    film(session, 1)
    for shown in (session.shots, chunk):
        assert len(repr(shown)) < 400 and "tensor" not in repr(shown) and "array" not in repr(shown)
    assert "a fox walks" in repr(session.shots)


def test_a_pin_that_makes_no_sense_is_refused(pipeline: StreamingPipeline) -> None:
    session = start(pipeline)
    picture = np.zeros((32, 48, 3), np.uint8)
    with pytest.raises(ValueError, match="no finished shot 0"):
        session.pin(picture, 0)
    film(session, 1)
    with pytest.raises(ValueError, match="resize"):
        session.pin(picture[:16], 0)


@pytest.mark.parametrize("policy", ["theatre", "published", "prompt", "keys"])
def test_more_shots_than_context_frames(policy: str) -> None:
    session = tiny_pipeline().session("a forest night", policy=policy)
    shots = film(session, 7)
    assert len({shot.tobytes() for shot in shots}) == 7
    assert [len(take.candidate_frames) for take in session.shots] == [3, 2, 1, 1, 1, 1, 1]


def test_a_shot_longer_than_the_window_goes_on(pipeline: StreamingPipeline) -> None:
    frames = frames_of(start(pipeline).shot("a fox walks", num_chunks=7))
    assert len(frames) == 9 + 6 * 12


@pytest.mark.parametrize("num_before", [0, 1, 4])
def test_a_saved_session_goes_on_as_if_it_had_never_ended(
    pipeline: StreamingPipeline, tmp_path: Path, num_before: int
) -> None:
    session = start(pipeline)
    film(session, num_before)
    if num_before:
        session.pin(np.full((32, 48, 3), 200, np.uint8), 0)
    session.save(tmp_path / "session")
    loaded = StorySession.load(tmp_path / "session", tiny_pipeline())
    (tmp_path / "session").unlink()
    assert equal(film(loaded, 2), film(session, 2))
    assert loaded.pinned_shots == session.pinned_shots
    assert [(t.caption, t.seed, t.num_chunks) for t in loaded.shots] == [
        (t.caption, t.seed, t.num_chunks) for t in session.shots
    ]


@pytest.mark.slow
def test_a_film_of_uneven_shots_and_pins_saved_after_every_shot_is_the_same_film(tmp_path: Path) -> None:
    """More shots than the context of two chunks has room for, other lengths, pins, a retake and an undo."""
    pipeline = tiny_pipeline(num_context_frames=6)

    def step(session: StorySession, number: int) -> list[np.ndarray]:
        if number in (1, 4):
            session.pin(PICTURE + number, number - 1)
        if number == 6:
            return [frames_of(session.retake(4, num_chunks=1))]
        if number == 8:
            session.undo()
        shot = session.shot(CAPTIONS[number % 4], num_chunks=1 + number % 2, steps=1 + number % 3)
        return [frames_of(shot)]

    whole, resumed = start(pipeline), start(pipeline)
    for number in range(9):
        expected = step(whole, number)
        resumed.save(tmp_path / "session")
        resumed = StorySession.load(tmp_path / "session", pipeline)
        assert equal(step(resumed, number), expected), number
        fork = whole.fork()
    assert [take.num_chunks for take in whole.shots] == [1, 2, 1, 2, 1, 1]
    assert [len(take.candidate_frames) for take in whole.shots] == [7, 3, 2, 2, 2, 1]
    assert resumed.pinned_shots == fork.pinned_shots == whole.pinned_shots == (0, 3)
    for before, after in zip(whole.shots, resumed.shots, strict=True):
        assert torch.equal(before.latents, after.latents)


def test_what_is_no_session_of_this_model_is_refused(pipeline: StreamingPipeline, tmp_path: Path) -> None:
    session = start(pipeline)
    film(session, 1)
    path = tmp_path / "session"
    session.save(path)
    content = path.read_bytes()
    with pytest.raises(SessionError, match="made with tiny"):
        StorySession.load(path, tiny_pipeline(seed=1))
    path.write_bytes(content[:-10])
    with pytest.raises(SessionError, match="damaged"):
        StorySession.load(path, pipeline)
    path.write_bytes(content.replace(b"shotstream-session/1", b"shotstream-session/9"))
    with pytest.raises(SessionError, match="session/9"):
        StorySession.load(path, pipeline)
    save_file({"take.0": torch.zeros(1)}, path)
    with pytest.raises(SessionError, match="not a saved session"):
        StorySession.load(path, pipeline)
    with pytest.raises(SessionError, match="no such"):
        StorySession.load(tmp_path / "none", pipeline)
    session.save(path)
    write_session(path, replace(read_session(path), context_policy="latest"))
    with pytest.raises(SessionError, match=r"session: unknown context policy 'latest'; known: keys, "):
        StorySession.load(path, pipeline)


def test_a_session_in_which_one_bit_has_changed_is_refused(tmp_path: Path) -> None:
    session = start(tiny_pipeline())
    for caption in CAPTIONS[:3]:
        list(session.shot(caption, num_chunks=1))
    session.pin(PICTURE, 1)
    path = tmp_path / "session"
    session.save(path)
    content = path.read_bytes()
    header_end = 8 + int.from_bytes(content[:8], "little")
    places = [*range(8, header_end, 5), *range(header_end, len(content), 61), len(content) - 1]
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(SessionError, match=r"^\S+: \w[\w ,:;'/-]+$"):
            read_session(path)
    path.write_bytes(content)
    assert len(read_session(path).takes) == 3


def test_latents_of_another_kind_or_shape_than_were_written_are_refused_though_their_bytes_are_the_same(
    tmp_path: Path,
) -> None:
    session = start(tiny_pipeline())
    frames_of(session.shot("a fox", num_chunks=1, steps=1))
    path = tmp_path / "session"
    session.save(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    latents = load_file(path)["take.0"]
    for other in (latents.view(torch.int32), latents.flatten(2)):
        save_file({"take.0": other}, path, metadata=metadata)
        with pytest.raises(SessionError, match="not what was written"):
            read_session(path)
    save_file({"take.0": latents}, path, metadata=metadata)
    assert torch.equal(read_session(path).takes[0].latents, latents)


def test_a_session_saved_without_a_sum_by_an_earlier_version_is_read(tmp_path: Path) -> None:
    session = start(tiny_pipeline())
    film(session, 2)
    path = tmp_path / "session"
    session.save(path)
    with safe_open(path, "pt") as file:
        text = file.metadata()["session"]
    save_file(load_file(path), path, metadata={"session": text})
    loaded = StorySession.load(path, tiny_pipeline())
    assert equal(film(loaded, 1), film(session, 1))
    save_file(load_file(path), path, metadata={"session": text, "sha257": "0"})
    with pytest.raises(SessionError, match="damaged"):
        read_session(path)


def test_a_session_is_saved_and_loaded_by_a_path_in_words(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    session = pipeline.session("a forest night")
    film(session, 1)
    session.save(str(tmp_path / "session"))
    for path in (str(tmp_path / "session"), tmp_path / "session"):
        assert [take.caption for take in pipeline.load_session(path).shots] == ["a fox walks"]
    with pytest.raises(SessionError, match="no such"):
        pipeline.load_session(str(tmp_path / "none"))


def test_a_saved_session_holds_a_few_latents_and_no_shot(pipeline: StreamingPipeline, tmp_path: Path) -> None:
    session = start(pipeline)
    film(session, 4)
    session.save(tmp_path / "session")
    tensors = load_file(tmp_path / "session")
    assert {name: tuple(value.shape) for name, value in tensors.items()} == {
        "take.0": (3, 4, 4, 6),
        "take.1": (2, 4, 4, 6),
        "take.2": (1, 4, 4, 6),
        "take.3": (1, 4, 4, 6),
    }


def test_captions_and_context_frames_are_encoded_once(
    pipeline: StreamingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions: list[str] = []
    batches: list[int] = []
    embed, encode = pipeline.text_encoder._encode_one, pipeline.codec.encode  # pyright: ignore

    def count_caption(caption: str) -> torch.Tensor:
        captions.append(caption)
        return embed(caption)

    def count_frames(pixels: torch.Tensor) -> torch.Tensor:
        batches.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(pipeline.text_encoder, "_encode_one", count_caption)
    monkeypatch.setattr(pipeline.codec, "encode", count_frames)
    session = start(pipeline)
    num_encoded: list[int] = []
    for index in range(6):
        batches.clear()
        frames_of(session.shot("a fox " + "walks " * index))
        assert set(batches) == {1}
        num_encoded.append(len(batches))
    assert len(captions) == len(set(captions)) == 6
    assert num_encoded == [3, 2, 1, 1, 1, 1]


def test_a_long_film_allocates_one_cache_and_interleaved_shots_one_each(pipeline: StreamingPipeline) -> None:
    film(start(pipeline))
    assert len(pipeline._spare_caches) == 1  # pyright: ignore[reportPrivateUsage]
    streams = [start(pipeline).shot("a fox") for _ in range(3)]
    for stream in streams:
        next(stream)
    assert len(pipeline._spare_caches) == 0  # pyright: ignore[reportPrivateUsage]
    del stream, streams
    assert len(pipeline._spare_caches) == 3  # pyright: ignore[reportPrivateUsage]


def test_timings_name_the_parts_of_each_chunk(pipeline: StreamingPipeline) -> None:
    first, second = (chunk.timings for chunk in start(pipeline).shot("a fox"))
    assert first.text_s > 0 and first.context_s > 0 and first.denoise_s > 0 and first.decode_s > 0
    assert first.commit_s == 0 and second.commit_s > 0
    assert second.text_s == 0 and second.context_s == 0


def test_frames_handed_out_cannot_be_changed_under_the_sessions_feet(pipeline: StreamingPipeline) -> None:
    chunk = next(start(pipeline).shot("a fox"))
    with pytest.raises(ValueError, match="read-only"):
        chunk.frames[0] = 0


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_any_number_of_steps(pipeline: StreamingPipeline, steps: int) -> None:
    session = start(pipeline)
    frames_of(session.shot("a fox", steps=steps))
    assert session.shots[0].num_steps == steps
    assert len(pipeline.sigmas(steps)) == steps and pipeline.sigmas(steps)[0] == 1


def test_bad_orders_are_refused_at_once(pipeline: StreamingPipeline) -> None:
    session = start(pipeline)
    for arguments in ({"num_chunks": 0}, {"steps": 0}, {"seed": -1}, {"seed": 2**63}):
        with pytest.raises(ValueError, match=r"chunks of|allowed are"):
            session.shot("a fox", **arguments)
    with pytest.raises(ValueError, match="empty"):
        session.shot("  ")
    with pytest.raises(ValueError, match="empty"):
        StorySession(pipeline, "")


def test_a_call_that_cannot_be_followed_cuts_nothing(pipeline: StreamingPipeline) -> None:
    session = StorySession(pipeline, "a wood")
    open_shot = session.shot("a fox", num_chunks=2)
    next(open_shot)
    for call in (
        lambda: session.shot(" "),
        lambda: session.shot("an owl", num_chunks=0),
        lambda: session.retake(1),
        lambda: session.retake(0, seed=-1),
        lambda: session.retake(0, caption=""),
    ):
        with pytest.raises(ValueError):
            call()
    assert len(list(open_shot)) == 1 and len(session.shots) == 1


def test_a_shot_that_is_being_made_can_be_taken_again(pipeline: StreamingPipeline) -> None:
    session = StorySession(pipeline, "a wood")
    first = session.shot("a fox", num_chunks=2)
    next(first)
    again = list(session.retake(-1, caption="an owl"))
    assert len(again) == 1 and [take.caption for take in session.shots] == ["an owl"]
    second = session.shot("a fox", num_chunks=2)
    next(second)
    for nowhere in (2, -3):
        with pytest.raises(ValueError, match=f"no shot {nowhere} to take again; there are 2,"):
            session.retake(nowhere)
    assert len(list(second)) == 1 and len(session.shots) == 2  # refused, it cut nothing


def test_a_film_without_a_seed_is_the_film_of_seed_0() -> None:
    pipeline = tiny_pipeline()
    sessions = (
        StorySession(pipeline, "a wood"),
        pipeline.session("a wood"),
        StorySession(pipeline, "a wood", seed=0),
    )
    films = [frames_of(session.shot("a fox", num_chunks=1, steps=1)) for session in sessions]
    assert np.array_equal(films[0], films[2]) and np.array_equal(films[1], films[2])
    assert {session.shots[0].seed for session in sessions} == {shot_seed(0, 0)}


def test_a_cut_shot_is_no_longer_made_while_what_stays_of_it_is_encoded(
    pipeline: StreamingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare: list[int] = []
    take = ContextEncoder.take

    def watched(encoder: ContextEncoder) -> Take:
        spare.append(len(pipeline._spare_caches))  # pyright: ignore[reportPrivateUsage]
        return take(encoder)

    monkeypatch.setattr(ContextEncoder, "take", watched)
    shot = start(pipeline).shot("a fox", num_chunks=3, steps=1)
    next(shot)
    shot.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert spare == [1]  # the shot has given its cache back


def test_a_session_warns_of_what_its_film_will_not_show_and_a_quiet_one_does_not() -> None:
    pipeline = tiny_pipeline(reads=True)
    caption = "A red fox waves to a dragon, by day."
    with pytest.warns(
        CaptionWarning, match=r"^shot 1: not in this world: dragon: frog\?; no caption says where"
    ):
        list(pipeline.session("a story").shot(caption, num_chunks=1, steps=1))
    list(pipeline.session("a story", quiet=True).shot(caption, num_chunks=1, steps=1))


def test_what_the_captions_leave_open_is_chosen_with_the_first_shot_and_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = tiny_pipeline(reads=True)
    told: list[list[str]] = []
    encode = pipeline.text_encoder.encode
    monkeypatch.setattr(
        pipeline.text_encoder, "encode", lambda texts: (told.append(list(texts)), encode(texts))[1]
    )
    places: set[str] = set()
    for seed in range(12):
        session = pipeline.session("A film.", seed=seed, quiet=True)
        for caption in ("Zed, a red robot, waves.", "He sleeps.", "He jumps."):
            list(session.shot(caption, num_chunks=1, steps=1))
        setting = {text.split(":")[0] for texts in told for text in texts}
        assert len(setting) == 1, "each shot, and each shot that it looks back at, is read alike"
        assert all("red robot" in text for texts in told for text in texts)
        assert session.shots[0].seed == shot_seed(seed, 0)
        places |= setting
        told.clear()
    assert len(places) > 3
