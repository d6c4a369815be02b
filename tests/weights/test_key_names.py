"""Every name table is a bijection onto the tensors of the network it names."""

import torch

from shotstream.model.config import DiTConfig, wan_1_3b
from shotstream.model.dit import DiT
from shotstream.text.text_encoder import UMT5Config, umt5_shapes
from shotstream.vae.wan_vae import WanVAEConfig, wan_vae_shapes
from shotstream.weights.key_names import dit_names_of_diffusers, dit_shapes, umt5_names, vae_names

_TINY = DiTConfig(
    latent_channels=4, dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_dim=16, text_length=8, freq_dim=8
)


def _is_bijection_onto(names: dict[str, str], ours: set[str]) -> bool:
    return set(names.values()) == ours and len(set(names.values())) == len(names)


def test_the_published_transformer_has_825_tensors_and_1418996800_parameters() -> None:
    shapes = dit_shapes(wan_1_3b())
    assert len(shapes) == 825
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 1_418_996_800


def test_expected_shapes_are_those_of_our_transformer() -> None:
    with torch.device("meta"):
        for config in (_TINY, wan_1_3b()):
            state = DiT(config).state_dict()
            assert {name: tuple(tensor.shape) for name, tensor in state.items()} == dit_shapes(config)


def test_diffusers_transformer_names_map_one_to_one() -> None:
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    names = dit_names_of_diffusers(_TINY.num_layers)
    with torch.device("meta"):
        theirs = WanTransformer3DModel(
            num_attention_heads=_TINY.num_heads,
            attention_head_dim=_TINY.head_dim,
            in_channels=_TINY.latent_channels,
            out_channels=_TINY.latent_channels,
            text_dim=_TINY.text_dim,
            freq_dim=_TINY.freq_dim,
            ffn_dim=_TINY.ffn_dim,
            num_layers=_TINY.num_layers,
        ).state_dict()
    assert names.keys() == theirs.keys()
    assert _is_bijection_onto(names, set(dit_shapes(_TINY)))
    renamed = {names[name]: tuple(tensor.shape) for name, tensor in theirs.items()}
    assert renamed == dit_shapes(_TINY)


def test_published_vae_names_map_one_to_one_at_any_widths() -> None:
    for config in (
        WanVAEConfig(),
        WanVAEConfig(dim=4, num_res_blocks=1),
        WanVAEConfig(dim=4, dim_mult=(1, 1, 2), temporal_downsample=(True, False)),
    ):
        assert _is_bijection_onto(vae_names(config), set(wan_vae_shapes(config)))


def test_published_text_encoder_names_map_one_to_one() -> None:
    assert _is_bijection_onto(umt5_names(UMT5Config().num_layers), set(umt5_shapes(UMT5Config())))
