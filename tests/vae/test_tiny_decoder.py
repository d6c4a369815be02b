"""The light decoder reads the published layout, streams exactly, and is the published arithmetic."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream.vae.codec import DecodeState
from shotstream.vae.tiny_decoder import TinyDecoder

_WIDTHS = (12, 8, 6, 4)


def published_tensors(latent_channels: int = 16, widths: tuple[int, ...] = _WIDTHS) -> dict[str, Tensor]:
    """Random weights under the names of TAEHV's file, written out place by place."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.0.weight": (4, 3, 3, 3),
        "encoder.0.bias": (4,),
        "decoder.1.weight": (widths[0], latent_channels, 3, 3),
        "decoder.1.bias": (widths[0],),
        "decoder.22.weight": (3, widths[3], 3, 3),
        "decoder.22.bias": (3,),
    }
    levels = ((widths[0], (3, 4, 5), 7, 1), (widths[1], (9, 10, 11), 13, 2), (widths[2], (15, 16, 17), 19, 2))
    for (width, blocks, grow, num_frames), next_width in zip(levels, widths[1:], strict=True):
        for block in blocks:
            for place, in_width in ((0, 2 * width), (2, width), (4, width)):
                shapes[f"decoder.{block}.conv.{place}.weight"] = (width, in_width, 3, 3)
                shapes[f"decoder.{block}.conv.{place}.bias"] = (width,)
        shapes[f"decoder.{grow}.conv.weight"] = (num_frames * width, width, 1, 1)
        shapes[f"decoder.{grow + 1}.weight"] = (next_width, width, 3, 3)
    # Of a size at which pixels neither vanish nor leave what can be shown.
    return {
        name: torch.randn(shape, generator=generator) * (1.5 / max(1, math.prod(shape[1:]))) ** 0.5
        for name, shape in shapes.items()
    }


def published_decode(tensors: dict[str, Tensor], latents: Tensor) -> Tensor:
    """Frame by frame and layer by layer, as plainly as it can be written; pixels in [0, 1]."""
    frames = [torch.tanh(frame / 3) * 3 for frame in latents[0].unbind(1)]

    def conv(name: str, x: Tensor) -> Tensor:
        weight = tensors[f"decoder.{name}.weight"]
        return F.conv2d(x[None], weight, tensors.get(f"decoder.{name}.bias"), padding=weight.shape[-1] // 2)[
            0
        ]

    frames = [conv("1", frame).relu() for frame in frames]
    for first_block, num_frames in ((3, 1), (9, 2), (15, 2)):
        for block in range(first_block, first_block + 3):
            past = [torch.zeros_like(frames[0]), *frames[:-1]]
            new: list[Tensor] = []
            for frame, before in zip(frames, past, strict=True):
                x = torch.cat([frame, before])
                x = conv(f"{block}.conv.2", conv(f"{block}.conv.0", x).relu()).relu()
                new.append((conv(f"{block}.conv.4", x) + frame).relu())
            frames = new
        frames = [frame.repeat_interleave(2, 1).repeat_interleave(2, 2) for frame in frames]
        frames = [
            grown for frame in frames for grown in conv(f"{first_block + 4}.conv", frame).chunk(num_frames)
        ]
        frames = [conv(f"{first_block + 5}", frame) for frame in frames]
    return torch.stack([conv("22", frame.relu()) for frame in frames], 1).clamp(0, 1)[None, :, 3:]


def _latents(num_latent_frames: int) -> Tensor:
    return torch.randn(1, 16, num_latent_frames, 2, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def decoder() -> TinyDecoder:
    return TinyDecoder.from_tensors(published_tensors())


def test_it_computes_what_is_published() -> None:
    tensors = {name: tensor.double() for name, tensor in published_tensors().items()}
    pixels = TinyDecoder.from_tensors(tensors, dtype=torch.float64).decode(_latents(4))
    assert pixels.shape == (1, 3, 13, 16, 24) and pixels.std() > 0.1
    expected = published_decode(tensors, _latents(4).double()) * 2 - 1
    # Computed in float64 and handed out in float32.
    torch.testing.assert_close(pixels, expected.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1, 1), (3, 3), (2, 1, 3)])
def test_decoding_in_pieces_equals_decoding_once(decoder: TinyDecoder, pieces: tuple[int, ...]) -> None:
    latents = _latents(6)
    state: DecodeState | None = None
    streamed: list[Tensor] = []
    for piece in latents.split(pieces, dim=2):
        kept = state
        pixels, state = decoder.decode_stream(piece, state)
        again, _ = decoder.decode_stream(piece, kept)
        assert torch.equal(pixels, again)
        streamed.append(pixels)
    # Convolutions of other batch sizes sum in another order; some twenty layers deep.
    torch.testing.assert_close(torch.cat(streamed, dim=2), decoder.decode(latents), rtol=0, atol=2e-4)


def test_the_published_sizes_are_the_default() -> None:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in TinyDecoder().state_dict().items()}
    written = published_tensors(16, (256, 128, 64, 64))
    assert shapes == {name: t.shape for name, t in written.items() if name.startswith("decoder.")}


def test_another_layout_is_refused() -> None:
    tensors = published_tensors()
    for name in ("decoder.7.conv.weight", "decoder.1.weight"):
        with pytest.raises(ValueError, match="not a TAEHV decoder"):
            TinyDecoder.from_tensors({key: t for key, t in tensors.items() if key != name})
    for name, change, told in (
        ("decoder.23.weight", torch.zeros(1), "'decoder.23.weight' is unexpected"),
        ("head.weight", torch.zeros(1), "unexpected 'head.weight'"),
        ("decoder.1.weight", torch.zeros(()), "its weights are not kernels"),
        ("decoder.22.bias", torch.zeros(4), r"'decoder.22.bias' is \[4\] and should be \[3\]"),
    ):
        with pytest.raises(ValueError, match=f"^not a TAEHV decoder.*: {told}; give taew2_1's file$"):
            TinyDecoder.from_tensors({**tensors, name: change})
    with pytest.raises(ValueError, match="no latent frame"):
        TinyDecoder.from_tensors(tensors).decode(torch.zeros(1, 16, 0, 2, 2))
