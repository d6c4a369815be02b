"""Modules made without values have the tensors that they have on the meta device, and no others."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from shotstream.configs import config_from_document
from shotstream.empty_weights import init_empty_weights
from shotstream.model.dit import DiT
from shotstream.text.word_encoder import WordEncoder, WordEncoderConfig
from shotstream.theatre.caption_encoder import CaptionEncoder, CaptionEncoderConfig
from shotstream.theatre.questions import QUESTIONS
from shotstream.vae.patch_codec import PatchCodec, PatchCodecConfig
from shotstream.vae.tiny_decoder import TinyDecoder
from shotstream.vae.wan_modules import WanTensors, WanVAEConfig
from shotstream.weights.bundle import read_bundle
from shotstream.weights.hub import resolve
from tests.model.tiny import CONFIG


def _theatres(part: str, kind: type) -> object:
    return config_from_document(kind, read_bundle(resolve("theatre")).config[part], part)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "transformer": lambda: DiT(CONFIG),
    "codec": lambda: PatchCodec(_theatres("codec", PatchCodecConfig)),  # pyright: ignore
    "captions": lambda: CaptionEncoder(_theatres("text_encoder", CaptionEncoderConfig)),  # pyright: ignore
    "words": lambda: WordEncoder(WordEncoderConfig(words=("fox", "owl"), questions=QUESTIONS)),
    "wan": lambda: WanTensors(WanVAEConfig(dim=4, num_res_blocks=1)),
    "tiny": lambda: TinyDecoder(16, (8, 8, 8, 8)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_every_tensor_has_its_name_shape_and_dtype(name: str) -> None:
    def tensors(module: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype, bool]]:
        held = [*module.named_parameters(), *module.named_buffers()]
        return {each: (tensor.shape, tensor.dtype, tensor.is_meta) for each, tensor in held}

    with torch.device("meta"):
        expected = tensors(MODULES[name]())
    with init_empty_weights():
        made = tensors(MODULES[name]())
    assert made == expected
    assert all(is_meta for _, _, is_meta in made.values())
