"""A shot seen through a light decoder is the same shot; its file is read strictly and never executed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shotstream.streaming.context_encoder import ContextEncoder
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.preview import read_preview
from shotstream.streaming.shot import make_shot
from shotstream.streaming.shot_request import ShotRequest
from tests.streaming.tiny import tiny_pipeline
from tests.vae.test_tiny_decoder import published_tensors

ORDER = ShotRequest(
    global_caption="a forest night",
    caption="a fox walks",
    seed=1,
    num_steps=2,
    num_chunks=3,
    takes=(),
    pins=(),
)


def wan_engine() -> StreamingPipeline:
    """A tiny engine that says it is of the Wan family; its latents have 4 channels."""
    pipeline = tiny_pipeline()
    pipeline.config = replace(pipeline.config, family="wan")
    return pipeline


def test_frames_decoded_behind_are_those_of_a_shot_without_preview(tmp_path: Path) -> None:
    torch.save(published_tensors(4), tmp_path / "taew2_1.pth")
    order = ORDER
    plain_engine = wan_engine()
    plain_encoder = ContextEncoder(plain_engine, order)
    plain = [chunk.frames for chunk in make_shot(plain_engine, order, context_encoder=plain_encoder)]
    pipeline = wan_engine()
    preview = read_preview(tmp_path / "taew2_1.pth", pipeline)
    encoder = ContextEncoder(pipeline, order, has_preview=True, keep_all=True)
    decoded: list[int] = []
    seen = []
    for chunk in make_shot(pipeline, order, preview, encoder):
        seen.append(chunk)
        decoded.append(len(encoder._chunks))
    # When a chunk is seen, those before it are decoded already.
    assert decoded == [0, 1, 2]
    assert [chunk.frames.shape for chunk in seen] == [frames.shape for frames in plain]
    assert not any(np.array_equal(chunk.frames, frames) for chunk, frames in zip(seen, plain, strict=True))
    assert np.array_equal(encoder.frames(3), np.concatenate(plain))
    assert np.array_equal(encoder.frames(2), np.concatenate(plain[:2]))
    assert torch.equal(encoder.take().latents, plain_encoder.take().latents)


def test_a_shot_seen_lightly_and_cut_decodes_no_more_than_it_keeps(tmp_path: Path) -> None:
    torch.save(published_tensors(4), tmp_path / "taew2_1.pth")
    pipeline = wan_engine()
    order = replace(ORDER, num_chunks=5)
    encoder = ContextEncoder(pipeline, order, has_preview=True, keep_all=True)
    shot = make_shot(pipeline, order, read_preview(tmp_path / "taew2_1.pth", pipeline), encoder)
    for _ in range(3):
        next(shot)
    shot.close()
    take = encoder.take(2)
    assert len(encoder._chunks) == 2
    short = wan_engine()
    expected = ContextEncoder(short, replace(order, num_chunks=2))
    list(make_shot(short, replace(order, num_chunks=2), context_encoder=expected))
    assert torch.equal(take.latents, expected.take().latents)


def test_both_kinds_of_file_are_read_and_others_refused(tmp_path: Path) -> None:
    save_file(published_tensors(4), tmp_path / "tiny.safetensors")
    pipeline = wan_engine()
    assert read_preview(tmp_path / "tiny.safetensors", pipeline).latent_channels == 4
    with pytest.raises(ValueError, match="has others"):
        read_preview(tmp_path / "tiny.safetensors", tiny_pipeline())
    torch.save(published_tensors(16), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth: decodes 16 latent channels; the model has 4"):
        read_preview(tmp_path / "other.pth", pipeline)
    torch.save({"decoder.1.weight": torch.zeros(2, 4, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"part.pth: not a TAEHV decoder"):
        read_preview(tmp_path / "part.pth", pipeline)
    with pytest.raises(ValueError, match="no such file"):
        read_preview(tmp_path / "none.pth", pipeline)
