"""A codec on a device of its own gets everything there; what it makes goes on where it is needed."""

import numpy as np
import pytest
import torch
from torch import Tensor

from shotstream.geometry import VideoGeometry
from shotstream.streaming import loading
from shotstream.streaming.choice import Choice, Expert
from shotstream.streaming.inference_options import InferenceOptions
from shotstream.streaming.loading import load
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.session import StorySession
from shotstream.vae.codec import Codec, DecodeState
from tests.streaming.tiny import tiny_pipeline


class Elsewhere:
    """A codec whose device computes nothing: it notes where its inputs are and answers with numbers."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.devices: list[str] = []

    @property
    def geometry(self) -> VideoGeometry:
        return self.codec.geometry

    @property
    def latent_channels(self) -> int:
        return self.codec.latent_channels

    def encode(self, pixels: Tensor) -> Tensor:
        self.devices.append(f"encode {pixels.device}")
        return self.codec.encode(torch.zeros(pixels.shape))

    def decode(self, latents: Tensor) -> Tensor:
        raise NotImplementedError

    def decode_stream(self, latents: Tensor, state: DecodeState | None) -> tuple[Tensor, DecodeState]:
        self.devices.append(f"decode {latents.device}")
        return self.codec.decode_stream(torch.zeros(latents.shape), state)


@pytest.mark.parametrize("overlap", [False, True])
def test_latents_and_context_frames_go_to_the_codecs_device(overlap: bool) -> None:
    plain = tiny_pipeline()
    codec = Elsewhere(plain.codec)
    pipeline = StreamingPipeline(
        plain.config,
        plain.dit,
        codec,
        plain.text_encoder,
        choice=Choice(
            dtype=torch.float32,
            inference_options=InferenceOptions(overlap_chunks=overlap, codec_device="meta"),
        ),
    )
    session = StorySession(pipeline, "a forest night")
    for caption in ("a fox walks", "a fox sleeps"):
        assert len(list(session.shot(caption, num_chunks=2, steps=1))) == 2
    assert [place for place in codec.devices if "decode" in place] == ["decode meta"] * 4
    # What it has decoded itself is encoded where that is; any other picture is brought to it.
    codec.devices.clear()
    session.pin(np.zeros((32, 48, 3), np.uint8), 0)
    assert codec.devices == ["encode meta"]


def test_a_models_codec_and_text_encoder_are_loaded_where_they_belong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the transformer's device computes; the other holds tensors without contents."""
    meta = torch.device("meta")
    monkeypatch.setattr(
        loading, "choose_device", lambda name: meta if name == "apart" else torch.device(name)
    )
    pipeline = load("theatre", "cpu", expert=Expert(codec_device="apart"))
    assert pipeline.device.type == "cpu" and pipeline.codec_device == meta
    for part in (pipeline.codec, pipeline.text_encoder):
        assert isinstance(part, torch.nn.Module)
        assert {value.device.type for value in part.state_dict().values()} == {"meta"}


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="cuda:77"):
        load("theatre", "cpu", expert=Expert(codec_device="cuda:77"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("overlap", [False, True])
def test_a_codec_on_the_cpu_makes_the_film_of_a_codec_on_the_gpu(overlap: bool) -> None:
    films: list[np.ndarray] = []
    for codec_device in (None, "cpu", f"cuda:{torch.cuda.device_count() - 1}"):
        expert = Expert(codec_device=codec_device, overlap=overlap)
        session = load("theatre", "cuda:0", expert=expert).session("a meadow. It is day.", seed=1)
        shots = ("A red fox. Wide shot. The red fox walks to the right.", "Close-up. The red fox waves.")
        films.append(np.concatenate([chunk.frames for shot in shots for chunk in session.shot(shot)]))
    for other in films[1:]:
        assert (films[0] == other).mean() > 0.99, "codecs of two devices differ by rounding alone"
