"""The patch codec: streamed equals whole, causal, and only colours of its palette."""

import pytest
import torch
from torch import Tensor

from shotstream.codec.codec import Codec
from shotstream.codec.patch_codec import PatchCodec, PatchCodecConfig
from shotstream.theatre.palette import NAMES, RGB


@pytest.fixture
def codec() -> PatchCodec:
    torch.manual_seed(0)
    config = PatchCodecConfig(
        num_colours=len(NAMES), dim=16, latent_channels=4, num_encoder_layers=1, num_decoder_layers=2
    )
    return PatchCodec(config, torch.from_numpy(RGB)).eval()


def clip(num_frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, num_frames, 16, 24, generator=generator) * 2 - 1


def test_it_is_a_codec(codec: PatchCodec) -> None:
    assert isinstance(codec, Codec)


def test_decoding_in_pieces_equals_decoding_once(codec: PatchCodec) -> None:
    latents = codec.encode(clip(25))
    whole = codec.decode(latents)
    first, state = codec.decode_stream(latents[:, :, :3], None)
    second, state = codec.decode_stream(latents[:, :, 3:4], state)
    third, state = codec.decode_stream(latents[:, :, 4:], state)
    assert state.num_latent_frames == 7
    assert (first.shape[2], second.shape[2], third.shape[2]) == (9, 4, 12)
    assert torch.equal(torch.cat([first, second, third], dim=2), whole)


def test_a_latent_frame_does_not_depend_on_later_frames(codec: PatchCodec) -> None:
    pixels = clip(13)
    changed = pixels.clone()
    changed[:, :, 9:] = -changed[:, :, 9:]
    before, after = codec.encode(pixels), codec.encode(changed)
    assert torch.equal(before[:, :, :3], after[:, :, :3])
    assert not torch.equal(before[:, :, 3:], after[:, :, 3:])
    assert torch.equal(
        codec.decode(before)[:, :, :9],
        codec.decode(torch.cat([before[:, :, :3], after[:, :, 3:]], 2))[:, :, :9],
    )


def test_every_pixel_is_a_colour_of_the_palette(codec: PatchCodec) -> None:
    decoded = codec.decode(torch.randn(1, 4, 2, 2, 3, generator=torch.Generator().manual_seed(2)))
    colours = {tuple(colour) for colour in RGB.tolist()}
    pixels = ((decoded + 1) * 127.5).round().int().permute(0, 2, 3, 4, 1).reshape(-1, 3)
    assert {tuple(colour) for colour in pixels.tolist()} <= colours


def test_logits_of_chosen_pixels_are_those_of_the_whole_picture(codec: PatchCodec) -> None:
    latents = codec.encode(clip(5))
    chosen = torch.tensor([0, 9, 200])  # (t, i, j) = (0, 0, 0), (0, 1, 1), (3, 1, 0)
    part = codec.decode_cell_logits(latents, latents[:, :, :1], chosen)
    whole = codec.decode_logits(latents, latents[:, :, :1])
    torch.testing.assert_close(part[:, :, :, :, 0], whole[:, :, 0, ::8, ::8])
    torch.testing.assert_close(part[:, :, :, :, 1], whole[:, :, 0, 1::8, 1::8])
    torch.testing.assert_close(part[:, :, :, :, 2], whole[:, :, 3, 1::8, ::8])


@pytest.mark.parametrize("shape", [(1, 3, 4, 16, 16), (1, 3, 5, 16, 20)])
def test_frames_and_sizes_that_do_not_fit_are_refused(codec: PatchCodec, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiple"):
        codec.encode(torch.zeros(shape))
