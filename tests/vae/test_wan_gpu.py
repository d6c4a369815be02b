"""Wan's VAE on a GPU: the CPU's results, in the layout that tensor cores take, and without waiting."""

import pytest
import torch

from shotstream.vae.codec import DecodeState
from shotstream.vae.wan_vae import WanDecoding, WanVAE, WanVAEConfig, wan_vae_shapes
from tests.vae.traffic import Traffic

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

_CONFIG = WanVAEConfig(dim=16, num_res_blocks=1)


def _codec(device: str, dtype: torch.dtype) -> WanVAE:
    generator = torch.Generator().manual_seed(0)
    shapes = wan_vae_shapes(_CONFIG)
    # Small enough that forty layers of them stay within what bfloat16 tells apart.
    weights = {name: torch.randn(shape, generator=generator) * 0.05 for name, shape in shapes.items()}
    weights |= {name: torch.ones(shape) for name, shape in shapes.items() if name.endswith("gamma")}
    decoding = WanDecoding(latents_per_pass=3)
    return WanVAE.from_tensors(_CONFIG, weights, device=device, dtype=dtype, decoding=decoding)


@pytest.mark.parametrize("num_frames", [1, 5])
def test_it_encodes_and_decodes_what_a_cpu_does_in_bfloat16(num_frames: int) -> None:
    """Each rounds on its own; both are as far from float32 as bfloat16 is."""
    video = torch.rand(1, 3, num_frames, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    exact = _codec("cpu", torch.float32)
    latents = exact.encode(video)
    pixels = exact.decode(latents)
    for device in ("cpu", "cuda"):
        codec = _codec(device, torch.bfloat16)
        made, decoded = codec.encode(video).cpu(), codec.decode(latents).cpu()
        # 8 bits, and some forty layers.
        assert (made - latents).norm() < 0.05 * latents.norm(), device
        assert (decoded - pixels).norm() < 0.05 * pixels.norm(), device


def test_every_convolution_gets_and_gives_channels_last() -> None:
    codec = _codec("cuda", torch.bfloat16)
    state: DecodeState | None = None
    for chunk in torch.randn(1, 16, 9, 8, 12, device="cuda").split(3, dim=2):
        with Traffic() as traffic:
            _, state = codec.decode_stream(chunk, state)
        assert traffic.convolutions
        for tensors in traffic.convolutions:
            for tensor in tensors:
                kind = torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
                assert tensor.is_contiguous(memory_format=kind), (tensor.shape, tensor.stride())


def test_a_decode_of_latents_on_the_gpu_waits_for_nothing() -> None:
    codec = _codec("cuda", torch.bfloat16)
    latents = torch.randn(1, 16, 6, 8, 12, device="cuda")
    # Kernels are compiled, and memory is found, the first time.
    codec.decode(latents)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        codec.decode(latents)
    finally:
        torch.cuda.set_sync_debug_mode("default")
