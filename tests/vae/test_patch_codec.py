"""The patch codec: streamed equals whole, causal, and only colours of its palette."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from shotstream.theatre.palette import NAMES, RGB
from shotstream.vae.codec import Codec
from shotstream.vae.patch_codec import PatchCodec, PatchCodecConfig

_PLAIN = PatchCodecConfig(
    num_colours=len(NAMES), dim=16, latent_channels=4, num_encoder_layers=1, num_decoder_layers=2
)
_FINISHED = replace(_PLAIN, num_past=2, num_finish_layers=2, finish_dim=24, num_pictures=2)


@pytest.fixture(params=[_PLAIN, _FINISHED], ids=["plain", "finished"])
def codec(request: pytest.FixtureRequest) -> PatchCodec:
    torch.manual_seed(0)
    return PatchCodec(request.param, torch.from_numpy(RGB)).eval()


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
    last = codec.config.num_pictures - 1
    chosen = torch.tensor([0, 9, 64 * last + 8])  # (t, i, j) = (0, 0, 0), (0, 1, 1), (last, 1, 0)
    part = codec.decode_cell_logits(latents, codec.before(latents), chosen)
    whole = codec.decode_logits(latents, codec.before(latents))
    torch.testing.assert_close(part[:, :, :, :, 0], whole[:, :, 0, ::8, ::8])
    torch.testing.assert_close(part[:, :, :, :, 1], whole[:, :, 0, 1::8, 1::8])
    torch.testing.assert_close(part[:, :, :, :, 2], whole[:, :, last, 1::8, ::8])


def test_cells_by_themselves_are_decoded_as_in_their_picture(codec: PatchCodec) -> None:
    latents = codec.encode(clip(9))
    around = codec.surroundings(latents, codec.before(latents))
    chosen = torch.tensor([3, 70])
    alone = codec.finished_logits(around[1, 2, 1], chosen)
    torch.testing.assert_close(
        alone, codec.decode_cell_logits(latents, codec.before(latents), chosen)[1, 2, 1]
    )


def test_pictures_are_held(codec: PatchCodec) -> None:
    frames = codec.decode(codec.encode(clip(9)))[:, :, 1:]
    held = 4 // codec.config.num_pictures
    groups = frames.unflatten(2, (-1, held))
    assert torch.equal(groups, groups[:, :, :, :1].expand_as(groups))
    assert not torch.equal(groups[:, :, 0], groups[:, :, 1])


def test_the_finish_sees_the_latents_around_and_before() -> None:
    torch.manual_seed(0)
    codec = PatchCodec(_FINISHED, torch.from_numpy(RGB)).eval()
    latents = codec.encode(clip(13))
    around = codec.surroundings(latents, codec.before(latents))[..., :-16].unflatten(-1, (3, 3, 3, 4))
    there = latents.movedim(1, -1)
    for age in range(3):
        torch.testing.assert_close(around[:, 3, 1, 1, age, 0, 2], there[:, 3 - age, 0, 2])
        torch.testing.assert_close(around[:, 0, 1, 1, age, 1, 1], there[:, 0, 1, 1])
    assert not around[:, :, 0, :, :, 0].any(), "beyond the picture there is nothing"


@pytest.mark.parametrize("shape", [(1, 3, 4, 16, 16), (1, 3, 5, 16, 20)])
def test_frames_and_sizes_that_do_not_fit_are_refused(codec: PatchCodec, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiple"):
        codec.encode(torch.zeros(shape))


@pytest.mark.parametrize("wrong", [{"num_finish_layers": -1}, {"num_pictures": 3}, {"num_past": 0}])
def test_sizes_that_make_no_codec_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(_PLAIN, **wrong)
