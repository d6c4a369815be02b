"""Loading a bundle: what it needs, what it refuses, and that a loaded model films like the one written."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from shotstream.geometry import PixelSize
from shotstream.streaming.choice import Choice, Expert
from shotstream.streaming.inference_options import InferenceOptions
from shotstream.streaming.loading import assemble_pipeline, load
from shotstream.streaming.parts import theatre_bundle_config
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.pipeline_config import PipelineConfig
from shotstream.text.text_encoder import UMT5Config, umt5_shapes
from shotstream.vae.patch_codec import PatchCodec, PatchCodecConfig
from shotstream.vae.wan_vae import WanVAEConfig, wan_vae_shapes
from shotstream.weights.bundle import BundleError, read_bundle, write_bundle
from shotstream.weights.hub import WeightsNotFoundError
from tests.streaming.tiny import tiny_config, tiny_dit, tiny_pipeline


def write_tiny(directory: Path, pipeline: StreamingPipeline, /, **changes: Any) -> str:
    codec, words = pipeline.codec, pipeline.text_encoder
    config = theatre_bundle_config(
        pipeline.config,
        pipeline.dit.config,
        codec.config,
        words.config,  # pyright: ignore
    )
    config["engine"] |= {key: value for key, value in changes.items() if key in config["engine"]}
    config |= {key: value for key, value in changes.items() if key not in config["engine"]}
    tensors = {
        "dit": pipeline.dit.state_dict(),
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
    pipeline = tiny_pipeline()
    sha256 = write_tiny(tmp_path / "tiny", pipeline)
    pipeline = load(tmp_path / "tiny", "cpu")
    assert pipeline.weights_sha256 == sha256
    assert (pipeline.model_id, pipeline.fps, pipeline.num_chunks, pipeline.num_steps) == ("tiny", 12, 2, 4)
    assert pipeline.dtype == torch.float32 and pipeline.device.type == "cpu"
    assert np.array_equal(frames(pipeline), frames(pipeline))


def test_a_session_goes_on_in_another_process_like_pipeline(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny", tiny_pipeline())
    session = load(tmp_path / "tiny", "cpu").session("a forest night")
    list(session.shot("a fox walks"))
    session.save(tmp_path / "session")
    loaded = load(tmp_path / "tiny", "cpu").load_session(tmp_path / "session")
    for a, b in zip(session.shot("a owl"), loaded.shot("a owl"), strict=True):
        assert np.array_equal(a.frames, b.frames)


def test_the_theatre_computes_with_one_thread_unless_the_environment_has_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny(tmp_path / "tiny", tiny_pipeline())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        load(tmp_path / "tiny", device="cpu")
        assert torch.get_num_threads() == 2
        monkeypatch.delenv("OMP_NUM_THREADS")
        load(tmp_path / "tiny", device="cpu")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_the_theatre_in_bfloat16_keeps_codec_and_text_in_float32(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny", tiny_pipeline())
    pipeline = load(tmp_path / "tiny", "cpu", precision="bfloat16")
    assert pipeline.dtype == torch.bfloat16
    assert frames(pipeline).shape == (21, 32, 48, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "opera"}, "of the family 'opera'"),
        ({"engine": None}, "engine: missing"),
        ({"speed": 3, "engine": {"family": "theatre", "fps": 12}}, "'pixel_size' is missing"),
        ({"pixel_size": {"height": 30, "width": 48}}, "not multiples of 8"),
        ({"codec": None}, "holds no 'codec'"),
    ],
)
def test_a_bundle_that_makes_no_model_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_tiny(tmp_path / "tiny", tiny_pipeline(), **changes)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "tiny", "cpu")


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    write_tiny(tmp_path / "tiny", pipeline, dit=asdict(pipeline.dit.config) | {"ffn_dim": 40})
    with pytest.raises(BundleError, match=r"dit: 6 wrong shapes .*; its config\.json is of other weights"):
        load(tmp_path / "tiny", "cpu")


def test_devices_that_are_not_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny(tmp_path / "tiny", tiny_pipeline())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for device, message in (("cuda:3", "1 CUDA devices"), ("abacus", "give auto"), ("meta", "no support")):
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "tiny", device)
    with pytest.raises(WeightsNotFoundError):
        load(tmp_path / "nothing", "cpu")


def test_captions_are_cut_at_the_end_of_the_global_one() -> None:
    pipeline = tiny_pipeline()
    assert pipeline.compose("a forest night", ["a fox"]) == "a forest night a fox"
    assert pipeline.compose("a forest night a forest", ["a fox walks"]) == "a forest night a fox walks"


def test_parts_of_different_models_do_not_make_an_engine() -> None:
    pipeline = tiny_pipeline()

    codec = PatchCodec(PatchCodecConfig(num_colours=16, latent_channels=16, dim=8))
    with pytest.raises(ValueError, match="16 latent channels"):
        StreamingPipeline(pipeline.config, pipeline.dit, codec, pipeline.text_encoder)


def test_settings_that_make_no_sense_are_refused() -> None:
    values = {
        "family": "theatre",
        "model_id": "tiny",
        "fps": 12,
        "pixel_size": PixelSize(32, 48),
        "num_chunks": 2,
        "context_policy": "theatre",
    }
    for change in ({"fps": 0}, {"num_chunks": 0}, {"student_steps": (10, 20)}, {"shift": 0.0}):
        with pytest.raises(ValueError, match="must"):
            PipelineConfig(**values | change)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_a_bundle_of_the_wan_family_films_too(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    vae = WanVAEConfig(dim=4, latent_channels=4, latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4)
    umt5 = UMT5Config(vocab_size=4, dim=8, dim_ffn=8, num_heads=2, num_layers=1, num_buckets=4, text_length=6)
    dit = tiny_dit(tiny_config(text_dim=8, text_length=6))
    settings = PipelineConfig(
        family="wan",
        model_id="tiny-wan",
        fps=16,
        pixel_size=PixelSize(32, 48),
        num_chunks=2,
        context_policy="published",
    )
    generator = torch.Generator().manual_seed(0)
    shapes = {"codec": wan_vae_shapes(vae), "text_encoder": umt5_shapes(umt5)}
    tensors = {
        part: {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in named.items()}
        for part, named in shapes.items()
    }
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "<unk>": 2, "fox": 3}, unk_token="<unk>"))
    write_bundle(
        tmp_path / "wan",
        {
            "engine": asdict(settings),
            "dit": asdict(dit.config),
            "codec": asdict(vae),
            "text_encoder": asdict(umt5),
        },
        {"dit": dit.state_dict(), **tensors},
        files={"tokenizer.json": tokenizer.to_str().encode()},
    )

    def run(**inference_options: Any) -> np.ndarray:
        bundle = read_bundle(tmp_path / "wan")
        choice = Choice(dtype=torch.float32, inference_options=InferenceOptions(**inference_options))
        return frames(assemble_pipeline(bundle, torch.device("cpu"), choice))

    pipeline = load(tmp_path / "wan", "cpu", expert=Expert(overlap=False))
    assert (pipeline.family, pipeline.fps) == ("wan", 16)
    assert pipeline.compose("A fox. ", ["It runs.", " It sits."]) == "A fox. shot1: It sits."
    assert pipeline.choice.inference_options == InferenceOptions(chunk_decode=True)
    shot = frames(pipeline)
    assert shot.shape == (21, 32, 48, 3)
    overlapping = load(tmp_path / "wan", "cpu", expert=Expert(overlap=True))
    assert overlapping.prefetcher is not None
    assert np.array_equal(shot, frames(overlapping))
    assert np.array_equal(shot, run(chunk_decode=True))
    # Rounding may move a pixel by a level.
    assert np.abs(shot.astype(int) - run().astype(int)).max() <= 1
    low = load(tmp_path / "wan", "cpu", memory="low")
    assert (low.model_id, low.weights_sha256) == ("tiny-wan", pipeline.weights_sha256)
    assert np.abs(shot.astype(int) - frames(low).astype(int)).max() <= 1
    lowest = load(tmp_path / "wan", "cpu", memory="lowest")
    assert lowest.model_id == "tiny-wan (float8 weights, float8 cache)"
    assert lowest.weights_sha256 != pipeline.weights_sha256


def test_switches_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny", tiny_pipeline())
    bundle = read_bundle(tmp_path / "tiny")
    with pytest.raises(ValueError, match="only Wan's decoder"):
        choice = Choice(dtype=torch.float32, inference_options=InferenceOptions(chunk_decode=True))
        assemble_pipeline(bundle, torch.device("cpu"), choice)
    with pytest.raises(ValueError, match="leave float8_cache out"):
        InferenceOptions(attention="eight-bit", float8_cache=True)
