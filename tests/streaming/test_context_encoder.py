"""What stays of a shot is the same, to the bit, whenever it is encoded; no more is held than is needed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shotstream.streaming.context_encoder import ContextEncoder
from shotstream.streaming.context_sampling import kept_frames
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.saved_session import Take
from shotstream.streaming.shot import finish_shot, make_shot
from shotstream.streaming.shot_request import ShotRequest
from tests.streaming.tiny import tiny_pipeline

BUDGET = 6
ORDER = ShotRequest(
    global_caption="a forest night",
    caption="a fox walks",
    seed=1,
    num_steps=1,
    num_chunks=4,
    takes=(),
    pins=(),
)


@pytest.fixture(params=[pytest.param(False, marks=pytest.mark.slow), True], ids=["in turn", "overlapping"])
def pipeline(request: pytest.FixtureRequest) -> StreamingPipeline:
    return tiny_pipeline(num_context_frames=BUDGET, overlap=request.param)


def film(
    pipeline: StreamingPipeline, order: ShotRequest, num_chunks: int, *, keep_all: bool = False
) -> tuple[ContextEncoder, np.ndarray]:
    """A shot that is cut after `num_chunks`, and its frames."""
    encoder = ContextEncoder(pipeline, order, keep_all=keep_all)
    shot = make_shot(pipeline, order, context_encoder=encoder)
    frames = [next(shot).frames for _ in range(num_chunks)]
    if num_chunks == order.num_chunks:
        assert next(shot, None) is None
    shot.close()
    return encoder, np.concatenate(frames)


def same(one: Take, other: Take) -> bool:
    return (
        torch.equal(one.latents, other.latents)
        and replace(one, latents=other.latents, keep_s=other.keep_s) == other
    )


@pytest.mark.parametrize("num_chunks", [1, 2, 3, 4])
def test_context_frames_encoded_during_a_shot_equal_those_encoded_at_its_end(
    pipeline: StreamingPipeline, num_chunks: int
) -> None:
    earlier: tuple[Take, ...] = ()
    for _ in range(4):
        order = replace(ORDER, takes=earlier)
        encoder, frames = film(pipeline, order, num_chunks)
        take = encoder.take()
        assert same(take, finish_shot(pipeline, order, frames, num_chunks))
        assert take.num_chunks == num_chunks and take.num_frames == len(frames)
        earlier = (*earlier, take)


def test_a_take_may_be_cut_at_an_earlier_chunk_when_all_frames_are_held(pipeline: StreamingPipeline) -> None:
    encoder, frames = film(pipeline, ORDER, 3, keep_all=True)
    for num_chunks in (3, 2, 1):
        part = frames[: pipeline.codec.geometry.shot_num_frames(num_chunks)]
        assert np.array_equal(encoder.frames(num_chunks), part)
        assert same(encoder.take(num_chunks), finish_shot(pipeline, ORDER, part, num_chunks))


def test_a_cut_waits_for_the_last_chunks_frames_alone_and_an_early_one_wastes_few(
    pipeline: StreamingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = pipeline.codec.encode

    def count(pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(pipeline.codec, "encode", count)
    geometry = pipeline.codec.geometry
    encoder = ContextEncoder(pipeline, ORDER)
    for _ in make_shot(pipeline, ORDER, context_encoder=encoder):
        pass
    planned = kept_frames(geometry.shot_num_frames(4), 0, BUDGET)
    assert encoded == [1] * len(planned)
    encoder.take()
    assert len(encoded) == len(planned)

    encoded.clear()
    encoder, _ = film(pipeline, ORDER, 3)
    before = len(encoded)
    last = geometry.shot_num_frames(2)
    assert before == sum(index < last for index in planned)
    take = encoder.take()
    missing = [index for index in take.candidate_frames if index not in planned or index >= last]
    assert len(encoded) - before == len(missing)
    wasted = len(encoded) - len(take.candidate_frames)
    assert 0 <= wasted <= len(planned)


def test_of_a_long_shot_no_more_frames_are_held_than_an_end_may_ask_for(pipeline: StreamingPipeline) -> None:
    order = replace(ORDER, num_chunks=12)
    encoder = ContextEncoder(pipeline, order)
    held: list[int] = []
    lengths = [pipeline.codec.geometry.shot_num_frames(num_chunks) for num_chunks in range(1, 13)]
    for chunk in make_shot(pipeline, order, context_encoder=encoder):
        held.append(len(encoder._held_frames))
        assert not encoder._chunks
        ends = lengths[chunk.chunk_index :]
        assert encoder._held_frames.keys() <= {index for end in ends for index in kept_frames(end, 0, BUDGET)}
        assert not encoder._held_frames.keys() & encoder._latents.keys()
    assert max(held) < 0.6 * pipeline.codec.geometry.shot_num_frames(12)
    assert held[-1] <= 11
    late = replace(order, takes=(encoder.take(),) * BUDGET)
    encoder = ContextEncoder(pipeline, late)
    for _ in make_shot(pipeline, late, context_encoder=encoder):
        assert len(encoder._held_frames) <= 1
    assert encoder.take().candidate_frames == (0,)
