"""No network is begun whose sizes no network has."""

from collections.abc import Callable
from typing import Any

import pytest

from shotstream.geometry import PixelSize
from shotstream.model.config import DiTConfig
from shotstream.streaming.pipeline_config import PipelineConfig
from shotstream.text.text_encoder import UMT5Config
from shotstream.text.word_encoder import WordEncoderConfig
from shotstream.vae.patch_codec import PatchCodecConfig
from shotstream.vae.wan_vae import WanVAEConfig


def _dit(**changes: Any) -> DiTConfig:
    sizes = {
        "latent_channels": 16, "dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30,
        "text_dim": 4096, "text_length": 512,
    }  # fmt: skip
    return DiTConfig(**{**sizes, **changes})


def _pipeline(**changes: Any) -> PipelineConfig:
    values = {
        "family": "wan", "model_id": "m", "fps": 16, "pixel_size": PixelSize(480, 832), "num_chunks": 7,
        "context_policy": "published",
    }  # fmt: skip
    return PipelineConfig(**{**values, **changes})


def _words(**changes: Any) -> WordEncoderConfig:
    return WordEncoderConfig(**{"words": ("a",), **changes})


def _patches(**changes: Any) -> PatchCodecConfig:
    return PatchCodecConfig(**{"num_colours": 8, **changes})


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (_dit, "num_layers", 10**9),
        (_dit, "num_layers", 513),
        (_dit, "dim", 12 * 10**8),
        (_dit, "ffn_dim", 2**40),
        (_dit, "num_heads", 1536),
        (_dit, "text_length", 10**12),
        (_dit, "window_chunks", 10**9),
        (_dit, "num_context_frames", 10**9),
        (_dit, "patch_size", 10**9),
        (_dit, "num_layers", True),
        (UMT5Config, "vocab_size", 10**9),
        (UMT5Config, "num_layers", 10**6),
        (WanVAEConfig, "dim", 10**9),
        (WanVAEConfig, "num_res_blocks", 10**9),
        (WanVAEConfig, "dim_mult", (1, 2, 4, 4 * 10**9)),
        (WanVAEConfig, "dim_mult", (1,) * 100),
        (_patches, "num_decoder_layers", 10**9),
        (_patches, "num_finish_layers", 10**9),
        (_patches, "num_past", 10**9),
        (_words, "num_layers", 10**9),
        (_words, "text_length", 10**10),
        (_pipeline, "fps", 10**9),
        (_pipeline, "fps", 0),
        (_pipeline, "num_chunks", 10**9),
        (_pipeline, "pixel_size", PixelSize(10**6, 832)),
        (_pipeline, "student_steps", (10**18, 500)),
        (_pipeline, "student_steps", (-5,)),
    ],
)
def test_a_size_that_no_network_has_is_refused_by_its_name(
    make: Callable[..., Any], name: str, value: Any
) -> None:
    make()
    with pytest.raises(ValueError, match=rf"{name.removesuffix('_size')}|pixels|steps"):
        make(**{name: value})
