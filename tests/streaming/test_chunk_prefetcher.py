"""Prefetched chunks are those made in turn: made beside the caller, in order, no more than one."""

from contextlib import contextmanager
from threading import Event, current_thread
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch

from shotstream.streaming.chunk_prefetcher import Cancelled, CancelToken, ChunkPrefetcher
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.session import StorySession
from tests.streaming.tiny import tiny_pipeline


def film(pipeline: StreamingPipeline) -> list[np.ndarray]:
    """Two whole shots, a cut in the second chunk of three, a retake of the second shot, another after it."""
    session = StorySession(pipeline, "a forest night", seed=3)
    frames: list[np.ndarray] = []
    for caption in ("a fox walks", "a owl flies"):
        frames += [chunk.frames for chunk in session.shot(caption, num_chunks=3, steps=2)]
    cut = session.shot("a fox sleeps", num_chunks=3, steps=2)
    frames += [next(cut).frames, next(cut).frames]
    fork = session.fork()  # Sees two shots: the third is still open.
    frames += [chunk.frames for chunk in session.shot("a owl sleeps", steps=2)]
    frames += [chunk.frames for chunk in session.retake(1)]
    frames += [chunk.frames for chunk in session.shot("a fox walks", steps=2)]
    frames += [chunk.frames for chunk in fork.shot("a fox sleeps", steps=2)]
    return frames


@pytest.mark.slow
def test_a_film_with_cuts_retakes_and_forks_is_the_same_to_the_bit() -> None:
    in_turn, ahead = film(tiny_pipeline()), film(tiny_pipeline(overlap=True))
    assert len({chunk.tobytes() for chunk in in_turn}) > 12
    assert all(np.array_equal(a, b) for a, b in zip(in_turn, ahead, strict=True))


def test_sessions_that_take_turns_are_the_same_to_the_bit() -> None:
    films: list[list[np.ndarray]] = []
    for overlap in (False, True):
        pipeline = tiny_pipeline(overlap=overlap)
        one, other = (StorySession(pipeline, "a forest night", seed=seed) for seed in (1, 2))
        shots = one.shot("a fox walks", num_chunks=3), other.shot("a owl flies", num_chunks=3)
        films.append([chunk.frames for pair in zip(*shots, strict=True) for chunk in pair])
    assert all(np.array_equal(a, b) for a, b in zip(*films, strict=True))


def test_the_next_chunk_is_made_while_the_caller_has_the_last_one_and_no_other() -> None:
    pipeline = tiny_pipeline(overlap=True)
    passes: list[str] = []
    second_is_denoised = Event()

    def watch(_module: object, _args: object, kwargs: dict[str, object], _output: object) -> None:
        assert current_thread().name.startswith("denoise")
        passes.append(str(kwargs["write"]))
        if passes == ["global", "None", "None", "local", "None", "None"]:
            second_is_denoised.set()

    pipeline.dit.register_forward_hook(watch, with_kwargs=True)
    shot = StorySession(pipeline, "a forest night").shot("a fox walks", num_chunks=4, steps=2)
    next(shot)
    # Nobody asks for the second chunk; made in turn, it would never come.
    assert second_is_denoised.wait(60)
    next(shot)
    next(shot)
    next(shot)
    assert passes == ["global", *["None", "None", "local"] * 3, "None", "None"]


def test_a_cut_ends_the_chunk_that_nobody_asked_for_after_the_pass_in_hand() -> None:
    pipeline = tiny_pipeline(overlap=True)
    in_pass, go_on = Event(), Event()
    num_passes = 0

    def hold(_module: object, _args: object, kwargs: dict[str, object]) -> None:
        nonlocal num_passes
        num_passes += 1
        if kwargs["write"] == "local":
            in_pass.set()
            assert go_on.wait(60)

    handle = pipeline.dit.register_forward_pre_hook(hold, with_kwargs=True)
    session = StorySession(pipeline, "a forest night")
    shot = session.shot("a fox walks", num_chunks=4, steps=50)
    next(shot)
    assert in_pass.wait(60)
    before = num_passes
    go_on.set()
    shot.close()  # pyright: ignore[reportAttributeAccessIssue]
    handle.remove()
    # The commit in hand and, if cancelled after it, the passes begun meanwhile; never the whole chunk.
    assert before <= num_passes < before + 50
    assert [take.num_chunks for take in session.shots] == [1]
    assert len(pipeline._spare_caches) == 1


def test_an_error_is_raised_where_its_chunk_is_asked_for_and_forgotten_when_nobody_asks() -> None:
    pipeline = tiny_pipeline(overlap=True)

    def fail(_module: object, _args: object, kwargs: dict[str, object]) -> None:
        if kwargs["write"] == "local":
            raise KeyError("out of luck")

    handle = pipeline.dit.register_forward_pre_hook(fail, with_kwargs=True)
    session = StorySession(pipeline, "a forest night")
    shot = session.shot("a fox walks")
    next(shot)
    with pytest.raises(KeyError, match="out of luck"):
        next(shot)
    assert session.shots == ()
    cut = session.shot("a fox walks")
    next(cut)
    cut.close()  # pyright: ignore[reportAttributeAccessIssue]
    handle.remove()
    assert len(session.shots) == 1
    assert len(list(session.shot("a fox sleeps"))) == 2


def test_the_thread_computes_with_as_many_threads_as_the_caller() -> None:
    pipeline = tiny_pipeline(overlap=True)
    seen: list[int] = []
    pipeline.dit.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    list(StorySession(pipeline, "a forest night").shot("a fox walks", num_chunks=1, steps=1))
    assert set(seen) == {torch.get_num_threads()}


def test_on_two_gpus_decoding_waits_for_its_latents_alone_and_holds_their_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GPUs on paper: what is asked of torch, in order."""
    asked: list[tuple[Any, ...]] = []
    first, second = torch.device("cuda:0"), torch.device("cuda:1")

    class Stream:
        def __init__(self, device: torch.device, priority: int) -> None:
            assert priority < 0  # before the denoising of what nobody has asked for yet
            self.device = device

        def wait_event(self, event: object) -> None:
            asked.append(("wait", self.device, event))

    @contextmanager
    def within(stream: Stream) -> Any:
        asked.append(("in", stream.device))
        yield
        asked.append(("out", stream.device))

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: asked.append(("thread", device, current_thread().name[:7]))
    )
    latents, ready = (
        create_autospec(torch.Tensor, instance=True),
        create_autospec(torch.cuda.Event, instance=True),
    )
    latents.device = first
    latents.record_stream = lambda stream: asked.append(("hold", stream.device))
    prefetcher = ChunkPrefetcher(first, second)
    assert asked == [("thread", first, "denoise")]
    for given, waits in (((latents, ready), True), ((latents, None), False), ((), False)):
        asked.clear()
        with prefetcher.decoding(*given):
            asked.append(("work",))
        on_first = [("wait", first, ready), ("hold", first)] if waits else []
        assert asked.index(("work",)) == len(on_first) + 2
        assert [one for one in asked if one[0] in ("wait", "hold")] == on_first
        assert {one for one in asked if one[0] in ("in", "out")} == {
            (way, device) for way in ("in", "out") for device in (first, second)
        }
        if waits:
            assert asked.index(on_first[0]) < asked.index(on_first[1]) < asked.index(("in", first))
    assert (
        len(ChunkPrefetcher(first, first)._streams) == 1
        and len(ChunkPrefetcher(first, torch.device("cpu"))._streams) == 1
    )


def test_on_a_gpu_two_passes_at_most_are_queued_and_none_once_it_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, int]] = []

    class Passed:
        num_made = 0

        def __init__(self, *, blocking: bool) -> None:
            assert blocking  # the thread sleeps meanwhile
            Passed.num_made += 1
            self.number = Passed.num_made

        def record(self) -> None:
            asked.append(("queued", self.number))

        def synchronize(self) -> None:
            asked.append(("waited for", self.number))

    monkeypatch.setattr(torch.cuda, "Event", Passed)
    velocity = create_autospec(torch.Tensor, instance=True)
    velocity.is_cuda = True
    token = CancelToken()
    for _ in range(3):
        token.check(velocity)
    assert asked == [("queued", 1), ("queued", 2), ("waited for", 1), ("queued", 3), ("waited for", 2)]
    token.cancel()
    with pytest.raises(Cancelled):
        token.check(velocity)
    assert len(asked) == 5
