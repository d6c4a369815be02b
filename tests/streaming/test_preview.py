"""A shot seen through a light decoder is the same shot; its file is read strictly and never executed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shotstream.streaming.engine import Engine
from shotstream.streaming.preview import final_frames, read_preview
from shotstream.streaming.shot import ShotOrder, make_shot
from tests.codec.test_tiny_decoder import published_tensors
from tests.streaming.tiny import tiny_engine


def wan_engine() -> Engine:
    """A tiny engine that says it is of the Wan family; its latents have 4 channels."""
    engine = tiny_engine()
    engine.config = replace(engine.config, family="wan")
    return engine


def test_frames_decoded_afterwards_are_those_of_a_shot_without_preview(tmp_path: Path) -> None:
    torch.save(published_tensors(4), tmp_path / "taew2_1.pth")
    order = ShotOrder(
        global_caption="a forest night",
        caption="a fox walks",
        seed=1,
        num_steps=2,
        num_chunks=3,
        takes=(),
        pins=(),
    )
    plain = [chunk.frames for chunk in make_shot(wan_engine(), order)]
    engine = wan_engine()
    seen = list(make_shot(engine, order, read_preview(tmp_path / "taew2_1.pth", engine)))
    assert [chunk.frames.shape for chunk in seen] == [frames.shape for frames in plain]
    assert not any(np.array_equal(chunk.frames, frames) for chunk, frames in zip(seen, plain, strict=True))
    assert np.array_equal(final_frames(engine, [chunk.latents for chunk in seen]), np.concatenate(plain))


def test_both_kinds_of_file_are_read_and_others_refused(tmp_path: Path) -> None:
    save_file(published_tensors(4), tmp_path / "tiny.safetensors")
    engine = wan_engine()
    assert read_preview(tmp_path / "tiny.safetensors", engine).latent_channels == 4
    with pytest.raises(ValueError, match="has others"):
        read_preview(tmp_path / "tiny.safetensors", tiny_engine())
    torch.save(published_tensors(16), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth: decodes 16 latent channels; the model has 4"):
        read_preview(tmp_path / "other.pth", engine)
    torch.save({"decoder.1.weight": torch.zeros(2, 4, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"part.pth: no TAEHV decoder"):
        read_preview(tmp_path / "part.pth", engine)
    with pytest.raises(ValueError, match="no such file"):
        read_preview(tmp_path / "none.pth", engine)
