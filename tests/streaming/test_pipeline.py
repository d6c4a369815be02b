"""Loading a bundle: what it needs, what it refuses, and that a loaded model films like the one written."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shotstream.codec.patch_codec import PatchCodec, PatchCodecConfig
from shotstream.streaming.engine import Engine, EngineConfig
from shotstream.streaming.pipeline import (
    WAN_SETTINGS,
    StreamingPipeline,
    fitted_captions,
    load,
    theatre_bundle_config,
)
from shotstream.weights.bundle import BundleError, write_bundle
from shotstream.weights.hub import WeightsNotFoundError
from tests.streaming.tiny import tiny_engine


def write_tiny(directory: Path, engine: Engine, **changes: Any) -> str:
    codec, words = engine.codec, engine.text_encoder
    config = theatre_bundle_config(
        engine.config,
        engine.dit.config,
        codec.config,
        words.config,  # pyright: ignore
    )
    config |= changes
    tensors = {
        "dit": engine.dit.state_dict(),
        "codec": codec.state_dict(),  # pyright: ignore
        "text_encoder": words.state_dict(),  # pyright: ignore
    }
    kept = {key: value for key, value in config.items() if value is not None}
    return write_bundle(directory, kept, tensors)


def frames(pipeline: StreamingPipeline) -> np.ndarray:
    session = pipeline.session("a forest night", seed=3)
    list(session.shot("a fox walks"))
    return np.concatenate([chunk.frames for chunk in session.shot("a owl flies")])


def test_a_loaded_model_films_like_the_one_that_was_written(tmp_path: Path) -> None:
    engine = tiny_engine()
    sha256 = write_tiny(tmp_path / "tiny", engine)
    pipeline = load(tmp_path / "tiny", "cpu")
    assert pipeline.weights_sha256 == sha256
    assert (pipeline.model_id, pipeline.fps, pipeline.num_chunks, pipeline.num_steps) == ("tiny", 12, 2, 4)
    assert pipeline.dtype == torch.float32 and pipeline.device.type == "cpu"
    assert np.array_equal(frames(pipeline), frames(StreamingPipeline(engine)))


def test_a_session_goes_on_in_another_process_like_pipeline(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny", tiny_engine())
    session = load(tmp_path / "tiny", "cpu").session("a forest night")
    list(session.shot("a fox walks"))
    session.save(tmp_path / "session")
    loaded = load(tmp_path / "tiny", "cpu").load_session(tmp_path / "session")
    for a, b in zip(session.shot("a owl"), loaded.shot("a owl"), strict=True):
        assert np.array_equal(a.frames, b.frames)


def test_the_theatre_in_bfloat16_keeps_codec_and_text_in_float32(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny", tiny_engine())
    pipeline = load(tmp_path / "tiny", "cpu", torch.bfloat16)
    assert pipeline.dtype == torch.bfloat16
    assert frames(pipeline).shape == (21, 32, 48, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "opera"}, "of the family 'opera'"),
        ({"fps": None}, "its config lacks fps"),
        ({"pixel_size": [30, 48]}, "not multiples of 8"),
        ({"codec": None}, "holds no 'codec'"),
    ],
)
def test_a_bundle_that_makes_no_model_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_tiny(tmp_path / "tiny", tiny_engine(), **changes)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "tiny", "cpu")


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    engine = tiny_engine()
    write_tiny(tmp_path / "tiny", engine, dit=asdict(engine.dit.config) | {"ffn_dim": 40})
    with pytest.raises(BundleError, match="dit does not fit its config"):
        load(tmp_path / "tiny", "cpu")


def test_devices_that_are_not_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny(tmp_path / "tiny", tiny_engine())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for device, message in (("cuda:3", "1 CUDA devices"), ("abacus", "give auto"), ("meta", "no support")):
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "tiny", device)
    with pytest.raises(WeightsNotFoundError):
        load(tmp_path / "nothing", "cpu")


def test_captions_are_cut_at_the_end_of_the_global_one() -> None:
    engine = tiny_engine()
    compose = fitted_captions(engine.text_encoder, "plain")
    assert compose("a forest night", "a fox", 0) == "a forest night a fox"
    assert compose("a forest night a forest", "a fox walks", 0) == "a forest night a fox walks"


def test_parts_of_different_models_do_not_make_an_engine() -> None:
    engine = tiny_engine()

    codec = PatchCodec(PatchCodecConfig(num_colours=16, latent_channels=16, dim=8))
    with pytest.raises(ValueError, match="16 latent channels"):
        Engine(engine.config, engine.dit, codec, engine.text_encoder, engine.compose)


def test_settings_that_make_no_sense_are_refused() -> None:
    values = {
        "family": "theatre",
        "model_id": "tiny",
        "fps": 12,
        "pixel_size": WAN_SETTINGS.pixel_size,
        "num_chunks": 2,
        "context_policy": "theatre",
    }
    for change in ({"fps": 0}, {"num_chunks": 0}, {"student_steps": (10, 20)}, {"shift": 0.0}):
        with pytest.raises(ValueError, match="must"):
            EngineConfig(**values | change)  # pyright: ignore[reportArgumentType]
