import json

import numpy as np
import pytest
import torch
from torch import Tensor

from shotstream.bench.baseline import bench_baseline
from shotstream.bench.generate import BenchConfig
from shotstream.bench.models import WAN_TINY, BenchModel, load_bench_model
from shotstream.bench.published_loop import PublishedLoop
from shotstream.geometry import PixelSize
from shotstream.streaming.pipeline import StreamingPipeline
from tests.streaming.tiny import tiny_pipeline

CAPTIONS = ("a fox walks", "a fox sleeps", "an owl flies", "a fox and an owl", "night")


def pipeline_latents(
    pipeline: StreamingPipeline, num_chunks: int, num_steps: int, monkeypatch: pytest.MonkeyPatch
):
    """Latents and frames of every shot that a session of the engine makes."""
    seen: list[Tensor] = []
    decode = pipeline.decode_levels

    def watched(latents: Tensor, *others):
        seen.append(latents)
        return decode(latents, *others)

    monkeypatch.setattr(pipeline, "decode_levels", watched)
    session = pipeline.session("a forest", seed=3)
    frames = [
        np.concatenate([chunk.frames for chunk in session.shot(text, num_chunks=num_chunks, steps=num_steps)])
        for text in CAPTIONS
    ]
    monkeypatch.undo()
    shots = [torch.cat(seen[i : i + num_chunks], dim=2) for i in range(0, len(seen), num_chunks)]
    return shots, frames


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "num_steps"), [("published", 2), ("theatre", 4)])
def test_the_published_loop_makes_the_engines_latents_and_frames(
    policy: str, num_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float32 differs by rounding alone: double-precision rotations against float32 ones."""
    pipeline = tiny_pipeline(policy)
    ours, frames = pipeline_latents(pipeline, 4, num_steps, monkeypatch)
    loop = PublishedLoop(pipeline)
    theirs = list(loop.film("a forest", CAPTIONS, seed=3, num_chunks=4, num_steps=num_steps))
    assert len(theirs) == len(ours) == len(CAPTIONS)
    for shot, latents, picture in zip(theirs, ours, frames, strict=True):
        assert latents.std() > 0.1
        torch.testing.assert_close(shot.latents, latents, atol=1e-4, rtol=0)
        assert (shot.frames != picture).mean() < 1e-3


@pytest.mark.slow
def test_it_also_does_so_with_wans_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = BenchModel(name=WAN_TINY, is_random=True, size=PixelSize(32, 48), device="cpu")
    pipeline = load_bench_model(model)
    ours, _ = pipeline_latents(pipeline, 2, 2, monkeypatch)
    theirs = PublishedLoop(pipeline).film("a forest", CAPTIONS, seed=3, num_chunks=2, num_steps=2)
    for shot, latents in zip(theirs, ours, strict=True):
        # Random weights make noise of a size in the hundreds; the bound is relative to it.
        scale = latents.abs().max()
        torch.testing.assert_close(shot.latents / scale, latents / scale, atol=1e-4, rtol=0)


def test_every_caption_is_encoded_again_at_every_cut() -> None:
    pipeline = tiny_pipeline()
    encoded: list[str] = []
    encode = pipeline.text_encoder._encode_one  # pyright: ignore

    def watched(caption: str) -> Tensor:
        encoded.append(caption)
        return encode(caption)

    pipeline.text_encoder._encode_one = watched  # pyright: ignore
    list(PublishedLoop(pipeline).film("a forest", CAPTIONS[:3], seed=0, num_chunks=1, num_steps=1))
    assert len(encoded) == 1 + 2 + 3


def test_it_makes_no_shot_beyond_the_window() -> None:
    pipeline = tiny_pipeline()
    with pytest.raises(ValueError, match="at most 4"):
        next(PublishedLoop(pipeline).film("a", ("b",), seed=0, num_chunks=5, num_steps=1))


@pytest.mark.slow
def test_both_film_the_same_stories_and_the_ratio_is_of_their_times() -> None:
    told: list[int] = []
    config = BenchConfig(num_stories=2, num_shots=2, num_chunks=2)
    report = bench_baseline(tiny_pipeline(), config, told.append)
    document = json.loads(report.json_line())
    assert told == [1, 2]
    assert document["different_pixels"] < 1e-3
    assert document["ratio"]["count"] == document["engine_s"]["count"] == 2
    low = document["published_s"]["min"] / document["engine_s"]["max"]
    high = document["published_s"]["max"] / document["engine_s"]["min"]
    assert low * 0.999 <= document["ratio"]["p50"] <= high * 1.001
