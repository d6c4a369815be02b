"""Wan2.1's VAE agrees with the published implementation, streams exactly, and holds no state."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from shotstream.geometry import VideoGeometry
from shotstream.vae.codec import Codec, DecodeState
from shotstream.vae.wan_vae import WanDecoding, WanVAE, WanVAEConfig, wan_vae_shapes
from shotstream.weights.key_names import vae_names
from tests import forked
from tests.vae.wan_library import library_of

_GOLDEN = Path(__file__).parents[1] / "assets" / "goldens" / "vae.safetensors"
# The tolerance recorded in the golden; measured errors are below 1e-5.
_TOLERANCE = 1e-4
_CONFIG = WanVAEConfig(dim=8)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(_GOLDEN)


@pytest.fixture(scope="module")
def codec(golden: dict[str, Tensor]) -> WanVAE:
    names = vae_names(_CONFIG)
    weights = {name: golden[f"weights.{theirs}"] for theirs, name in names.items()}
    assert len(weights) == sum(name.startswith("weights.") for name in golden)
    return WanVAE.from_tensors(_CONFIG, weights)


def _error(ours: Tensor, expected: Tensor) -> float:
    return float((ours - expected).abs().max() / max(1.0, float(expected.abs().max())))


def test_latents_of_a_clip_equal_the_published_ones(codec: WanVAE, golden: dict[str, Tensor]) -> None:
    assert _error(codec.encode(golden["video"]), golden["latents"]) < _TOLERANCE


def test_latents_of_a_single_frame_equal_the_published_ones(codec: WanVAE, golden: dict[str, Tensor]) -> None:
    assert _error(codec.encode(golden["video"][:, :, 4:5]), golden["image_latents_frame4"]) < _TOLERANCE


def test_pixels_equal_the_published_ones(codec: WanVAE, golden: dict[str, Tensor]) -> None:
    assert _error(codec.decode(golden["latents"]), golden["decoded"]) < _TOLERANCE


def _random_latents(num_latent_frames: int, seed: int = 0) -> Tensor:
    return torch.randn(1, 16, num_latent_frames, 2, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "pieces",
    [
        (1, 5),
        pytest.param((1, 1, 1, 1, 1, 1), marks=pytest.mark.slow),
        pytest.param((3, 3), marks=pytest.mark.slow),
        pytest.param((2, 1, 3), marks=pytest.mark.slow),
    ],
)
def test_decoding_in_pieces_equals_decoding_once(codec: WanVAE, pieces: tuple[int, ...]) -> None:
    latents = _random_latents(6)
    state: DecodeState | None = None
    streamed: list[Tensor] = []
    for piece in latents.split(pieces, dim=2):
        before = 0 if state is None else state.num_latent_frames
        pixels, state = codec.decode_stream(piece, state)
        assert pixels.shape[2] == piece.shape[2] * 4 - (3 if before == 0 else 0)
        assert state.num_latent_frames == before + piece.shape[2]
        streamed.append(pixels)
    assert torch.equal(torch.cat(streamed, dim=2), codec.decode(latents))


def _random_weights(config: WanVAEConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = wan_vae_shapes(config)
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}


def _statistics(config: WanVAEConfig) -> tuple[Tensor, Tensor]:
    """Mean and deviation of latents, in a shape to compute with."""
    mean, std = torch.tensor(config.latents_mean), torch.tensor(config.latents_std)
    return mean.view(-1, 1, 1, 1), std.view(-1, 1, 1, 1)


_SEVERAL = pytest.mark.parametrize(
    "config", [_CONFIG, WanVAEConfig(dim=4, num_res_blocks=1, temporal_downsample=(True, True, False))]
)


@pytest.mark.slow
@_SEVERAL
def test_its_tensors_have_the_names_and_shapes_of_diffusers(config: WanVAEConfig) -> None:
    theirs = library_of(config, _random_weights(config)).state_dict()
    assert wan_vae_shapes(config) == {name: tuple(tensor.shape) for name, tensor in theirs.items()}


@pytest.mark.slow
@_SEVERAL
def test_it_decodes_what_diffusers_own_decoder_does(config: WanVAEConfig) -> None:
    weights = _random_weights(config)
    codec, library = WanVAE.from_tensors(config, weights), library_of(config, weights)
    mean, std = _statistics(config)
    latents = _random_latents(4)
    raw = latents * std + mean
    for num_latent_frames in (1, 4):
        expected = library.decode(raw[:, :, :num_latent_frames]).sample
        assert 0.01 < expected.std() < 0.99
        ours = codec.decode(latents[:, :, :num_latent_frames])
        # Float32 rounding, through some forty layers.
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@_SEVERAL
@pytest.mark.parametrize("num_frames", [1, 5, 13])
def test_it_encodes_what_diffusers_own_encoder_does(config: WanVAEConfig, num_frames: int) -> None:
    """A single frame too: what goes through two axes here goes through three there, on zeros."""
    weights = _random_weights(config)
    codec, library = WanVAE.from_tensors(config, weights), library_of(config, weights)
    video = torch.rand(2, 3, num_frames, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = library.encode(video).latent_dist.mode()
    assert expected.std() > 0.1
    mean, std = _statistics(config)
    torch.testing.assert_close(codec.encode(video), (expected - mean) / std, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [(3, 3), (1, 1, 4), (6,)])
def test_latent_frames_that_go_together_equal_those_that_go_alone(
    golden: dict[str, Tensor], codec: WanVAE, pieces: tuple[int, ...]
) -> None:
    weights = {name: golden[f"weights.{theirs}"].clone() for theirs, name in vae_names(_CONFIG).items()}
    decoding = WanDecoding(latents_per_pass=3)
    together = WanVAE.from_tensors(_CONFIG, weights, decoding=decoding)
    latents = _random_latents(6)
    state: DecodeState | None = None
    streamed: list[Tensor] = []
    for piece in latents.split(pieces, dim=2):
        pixels, state = together.decode_stream(piece, state)
        streamed.append(pixels)
    torch.testing.assert_close(torch.cat(streamed, dim=2), codec.decode(latents), rtol=0, atol=1e-5)
    assert _error(together.decode(golden["latents"]), golden["decoded"]) < _TOLERANCE


def test_a_state_has_the_same_shapes_from_the_first_latent_frame_on(codec: WanVAE) -> None:
    state: DecodeState | None = None
    shapes: list[list[torch.Size]] = []
    for latent_frames in _random_latents(6).split((1, 1, 3, 1), dim=2):
        _, state = codec.decode_stream(latent_frames, state)
        shapes.append([feature.shape for feature in state.features])
    assert all(shape[1] == 2 for shape in shapes[0])
    assert shapes == [shapes[0]] * 4


# In a process of its own: the shape checks that the other tests run under would break the graph.
COMPILED = """
import torch
from torch._dynamo.utils import counters
from shotstream.vae.wan_vae import WanDecoding, WanVAE, WanVAEConfig, wan_vae_shapes

torch.set_num_threads(1)
config = WanVAEConfig(dim=4, num_res_blocks=1)
generator = torch.Generator().manual_seed(0)
shapes = wan_vae_shapes(config)
weights = {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}
latents = torch.randn(1, 16, 12, 2, 3, generator=generator)
expected = WanVAE.from_tensors(config, weights).decode(latents)
decoding = WanDecoding(latents_per_pass=3, compile=True)
codec = WanVAE.from_tensors(config, weights, decoding=decoding)
states, pixels = [None], []
for chunk in latents.split(3, dim=2):
    piece, state = codec.decode_stream(chunk, states[-1])
    pixels.append(piece)
    states.append(state)
again, _ = codec.decode_stream(latents[:, :, 3:6], states[1])
assert torch.equal(pixels[1], again)
torch.testing.assert_close(torch.cat(pixels, dim=2), expected, rtol=0, atol=1e-4)
assert expected.std() > 0.01
assert counters["stats"]["unique_graphs"] == 2, counters["stats"]
assert not counters["graph_break"], counters["graph_break"]
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_it_is_two_graphs_and_decodes_the_same() -> None:
    done = forked.run(["-c", COMPILED])
    assert done.returncode == 0, done.stderr[-4000:]


def test_a_state_can_be_continued_twice_and_between_other_videos(codec: WanVAE) -> None:
    latents = _random_latents(4)
    _, state = codec.decode_stream(latents[:, :, :2], None)
    first, _ = codec.decode_stream(latents[:, :, 2:], state)
    codec.decode(_random_latents(3, seed=1))
    codec.encode(torch.zeros(1, 3, 5, 16, 24))
    second, _ = codec.decode_stream(latents[:, :, 2:], state)
    assert torch.equal(first, second)


def test_videos_of_a_batch_do_not_mix(codec: WanVAE) -> None:
    latents = torch.cat([_random_latents(3), _random_latents(3, seed=1)])
    # Batched convolutions sum in another order; the error is float32 rounding.
    assert torch.allclose(codec.decode(latents)[1:], codec.decode(latents[1:]), atol=1e-5)


def test_no_pixel_depends_on_a_later_latent_frame(codec: WanVAE) -> None:
    latents = _random_latents(4)
    changed = latents.clone()
    changed[:, :, 2:] += 1
    before, after = codec.decode(latents), codec.decode(changed)
    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert not torch.equal(before[:, :, 5:], after[:, :, 5:])


@pytest.mark.slow
def test_it_is_a_codec_and_half_precision_gives_float32(codec: WanVAE, golden: dict[str, Tensor]) -> None:
    assert isinstance(codec, Codec)
    weights = {name: golden[f"weights.{theirs}"] for theirs, name in vae_names(_CONFIG).items()}
    half = WanVAE.from_tensors(_CONFIG, weights, dtype=torch.bfloat16)
    pixels, latents = half.decode(golden["latents"]), half.encode(golden["video"])
    assert pixels.dtype == latents.dtype == torch.float32
    relative = (latents - golden["latents"]).norm() / golden["latents"].norm()
    # bfloat16 keeps 8 bits; about twenty convolutions deep, a few percent are its rounding.
    assert relative < 0.05


def test_sizes_that_do_not_fit_are_refused(codec: WanVAE, golden: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="8 frames do not fill"):
        codec.encode(torch.zeros(1, 3, 8, 16, 16))
    with pytest.raises(ValueError, match="20x16 pixels"):
        codec.encode(torch.zeros(1, 3, 1, 20, 16))
    with pytest.raises(ValueError, match="no latent frame"):
        codec.decode(torch.zeros(1, 16, 0, 2, 2))
    weights = {name: golden[f"weights.{theirs}"] for theirs, name in vae_names(_CONFIG).items()}
    with pytest.raises(ValueError, match="strides"):
        WanVAE.from_tensors(_CONFIG, weights, geometry=VideoGeometry(temporal_stride=2))
    with pytest.raises(ValueError, match="latents_mean has 16 entries"):
        WanVAEConfig(latent_channels=4)


def test_tensors_that_are_no_such_vae_are_refused_in_a_line() -> None:
    weights = _random_weights(_CONFIG)
    weights["encoder.conv_in.weight"] = torch.zeros(2)
    weights["stray"] = weights.pop("decoder.norm_out.gamma")
    for part in ("weight", "bias"):
        del weights[f"quant_conv.{part}"]
    message = (
        "3 missing (decoder.norm_out.gamma, quant_conv.bias, quant_conv.weight); 1 unexpected (stray); "
        "1 of another shape (encoder.conv_in.weight)"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        WanVAE.from_tensors(_CONFIG, weights)


WITHOUT_LIBRARIES = """
import sys
for name in ("diffusers", "accelerate", "transformers", "av", "triton"):
    sys.modules[name] = None
import torch
from shotstream.vae.wan_vae import WanVAE, WanVAEConfig, wan_vae_shapes
config = WanVAEConfig(dim=4, num_res_blocks=1)
weights = {name: torch.ones(shape) for name, shape in wan_vae_shapes(config).items()}
codec = WanVAE.from_tensors(config, weights)
latents = codec.encode(torch.zeros(1, 3, 5, 16, 16))
assert codec.decode(latents).shape == (1, 3, 5, 16, 16)
"""


@pytest.mark.slow
def test_it_needs_no_library_but_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIBRARIES], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_on_the_meta_device_shapes_come_out() -> None:
    weights = {name: torch.empty(shape, device="meta") for name, shape in wan_vae_shapes(_CONFIG).items()}
    codec = WanVAE.from_tensors(_CONFIG, weights, device="meta", dtype=torch.bfloat16)
    latents = codec.encode(torch.empty(2, 3, 5, 32, 48, device="meta"))
    assert (latents.shape, latents.dtype) == ((2, 16, 2, 4, 6), torch.float32)
    assert codec.decode(latents).shape == (2, 3, 5, 32, 48)
