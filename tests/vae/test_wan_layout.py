"""How Wan's VAE moves through memory: channels last in every convolution, nothing copied without need."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from shotstream.vae.codec import DecodeState
from shotstream.vae.wan_vae import WanDecoding, WanVAE, WanVAEConfig, wan_vae_shapes
from tests.vae.traffic import Traffic
from tests.vae.wan_library import library_of

_TINY = WanVAEConfig(dim=4, num_res_blocks=1)


def _codec(config: WanVAEConfig, device: str = "cpu", dtype: torch.dtype = torch.float32) -> WanVAE:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.empty(shape, device="meta")
        if device == "meta"
        else torch.randn(shape, generator=generator) * 0.2
        for name, shape in wan_vae_shapes(config).items()
    }
    decoding = WanDecoding(latents_per_pass=3)
    return WanVAE.from_tensors(config, weights, device=device, dtype=dtype, decoding=decoding)


def _chunks(codec: WanVAE, latents: Tensor) -> Iterator[tuple[Traffic, DecodeState]]:
    state: DecodeState | None = None
    for chunk in latents.split(3, dim=2):
        with Traffic() as traffic:
            _, state = codec.decode_stream(chunk, state)
        yield traffic, state


def _assert_channels_last(traffic: Traffic) -> None:
    for given, weight, _ in traffic.convolutions:
        for tensor in (given, weight):
            kind = torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
            assert tensor.is_contiguous(memory_format=kind), (tensor.shape, tensor.stride())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(2, 3), (1, 1)])
def test_every_convolution_of_a_decode_is_channels_last(dtype: torch.dtype, size: tuple[int, int]) -> None:
    """Once 21 of 117 were: torch takes a single frame, or a batch of one, for either layout."""
    codec = _codec(_TINY, dtype=dtype)
    for traffic, _ in _chunks(codec, torch.randn(1, 16, 9, *size)):
        _assert_channels_last(traffic)
        assert len(traffic.convolutions) == 2 + 2 * 2 + 2 * 2 * 4 + 3 + 2


@pytest.mark.parametrize("num_frames", [1, 9])
def test_every_convolution_of_an_encoding_is_channels_last(num_frames: int) -> None:
    with Traffic() as traffic:
        _codec(_TINY).encode(torch.zeros(2, 3, num_frames, 16, 24))
    assert traffic.convolutions
    _assert_channels_last(traffic)


@pytest.mark.slow
def test_memory_has_the_same_strides_after_every_chunk() -> None:
    """They changed with the number of frames, and a compiled decoder was compiled for a third time."""
    states = [state for _, state in _chunks(_codec(_TINY), torch.randn(1, 16, 12, 2, 3))]
    # Latents come in any layout, and from others' arithmetic.
    turned = torch.randn(1, 12, 2, 3, 16).permute(0, 4, 1, 2, 3)
    states += [state for _, state in _chunks(_codec(_TINY), turned)]
    strides = [[feature.stride() for feature in state.features] for state in states]
    assert all(feature.is_contiguous() for feature in states[0].features)
    assert strides == [strides[0]] * len(states)


@pytest.mark.parametrize(("chunk", "most", "share"), [(0, 60e9, 19e9), (1, 80e9, 25e9)])
def test_a_chunk_moves_little_more_than_its_convolutions_do(chunk: int, most: float, share: float) -> None:
    """At the published size, in bfloat16. Norms and activations as torch's own operations moved 298 GB."""
    codec = _codec(WanVAEConfig(), "meta", torch.bfloat16)
    traffic, _ = list(_chunks(codec, torch.empty(1, 16, 6, 60, 104, device="meta")))[chunk]
    assert traffic.total < most
    assert traffic.bytes_of["aten.convolution.default"] < share
    # What a layout forces would be a clone of a whole layer.
    assert traffic.bytes_of["aten.clone.default"] < most / 500


@pytest.mark.slow
def test_a_single_frame_takes_little_more_than_a_third_of_the_arithmetic_of_three_taps() -> None:
    """At 832x480 the library takes 2.72 Tflop, as two of three taps meet zeros; here it is 0.99."""
    with torch.device("meta"):
        library = library_of(_TINY)
    frame = torch.empty(1, 3, 1, 64, 96, device="meta")
    assert _flop(lambda: _codec(_TINY, "meta").encode(frame)) < 0.4 * _flop(lambda: library.encode(frame))


def _flop(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_frames_of_a_batch_are_encoded_as_each_alone() -> None:
    codec = _codec(_TINY)
    frames = torch.rand(4, 3, 1, 16, 24) * 2 - 1
    alone = torch.cat([codec.encode(frame[None]) for frame in frames])
    torch.testing.assert_close(codec.encode(frames), alone, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_what_is_held_while_encoding_does_not_grow_with_the_video() -> None:
    """Every piece after the first moves as much as any other: none looks at all of the video."""
    codec = _codec(_TINY, "meta")

    def moved(num_frames: int) -> int:
        with Traffic() as traffic:
            codec.encode(torch.empty(1, 3, num_frames, 16, 24, device="meta"))
        return max(given.numel() for given, _, _ in traffic.convolutions)

    assert moved(9) == moved(41)
