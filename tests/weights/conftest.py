"""Tiny models in each published layout."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from shotstream.model.config import DiTConfig
from shotstream.text.text_encoder import UMT5Config, umt5_shapes
from shotstream.vae.wan_vae import WanVAEConfig, wan_vae_shapes
from shotstream.weights.key_names import dit_names_of_diffusers, dit_shapes, umt5_names, vae_names
from shotstream.weights.official import PublishedSource


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


class TinyModel:
    """Sizes and weights under our names, and how the published layouts write them."""

    def __init__(self) -> None:
        self.dit_config = DiTConfig(
            latent_channels=4,
            dim=24,
            ffn_dim=32,
            num_heads=2,
            num_layers=2,
            text_dim=16,
            text_length=8,
            freq_dim=8,
        )
        self.codec_config = WanVAEConfig(
            dim=4, latent_channels=4, latents_mean=(0.1, 0.2, 0.3, 0.4), latents_std=(1.0, 2.0, 3.0, 4.0)
        )
        self.text_config = UMT5Config(
            vocab_size=11, dim=16, dim_ffn=24, num_heads=2, num_layers=2, num_buckets=8, text_length=8
        )
        self.dit = random_tensors(dit_shapes(self.dit_config), 0)
        self.codec = random_tensors(wan_vae_shapes(self.codec_config), 1)
        self.text = random_tensors(umt5_shapes(self.text_config), 2)

    def source(self, directory: Path, **options: object) -> PublishedSource:
        return PublishedSource(
            directory=directory,
            codec_config=self.codec_config,
            text_config=self.text_config,
            **options,  # type: ignore[arg-type]
        )

    def write_original(self, directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        config = self.dit_config
        document = {
            "_class_name": "WanModel",
            "model_type": "t2v",
            "dim": config.dim,
            "eps": config.eps,
            "ffn_dim": config.ffn_dim,
            "freq_dim": config.freq_dim,
            "in_dim": config.latent_channels,
            "out_dim": config.latent_channels,
            "num_heads": config.num_heads,
            "num_layers": config.num_layers,
            "text_len": config.text_length,
        }
        (directory / "config.json").write_text(json.dumps(document))
        save_file(self.dit, directory / "diffusion_pytorch_model.safetensors")
        torch.save(backwards(self.codec, vae_names(self.codec_config)), directory / "Wan2.1_VAE.pth")
        text = backwards(self.text, umt5_names(self.text_config.num_layers))
        torch.save(text, directory / "models_t5_umt5-xxl-enc-bf16.pth")
        write_tokenizer(directory / "google" / "umt5-xxl" / "tokenizer.json")
        return directory

    def write_diffusers(self, directory: Path) -> Path:
        for name in ("transformer", "vae", "text_encoder"):
            (directory / name).mkdir(parents=True)
        self._write_diffusers_configs(directory)
        dit = backwards(self.dit, dit_names_of_diffusers(self.dit_config.num_layers))
        write_shards(directory / "transformer", "diffusion_pytorch_model", dit)
        save_file(self.codec, directory / "vae" / "diffusion_pytorch_model.safetensors")
        tied = self.text["shared.weight"].clone()
        write_shards(directory / "text_encoder", "model", self.text | {"encoder.embed_tokens.weight": tied})
        write_tokenizer(directory / "tokenizer" / "tokenizer.json")
        return directory

    def _write_diffusers_configs(self, directory: Path) -> None:
        dit, codec, text = self.dit_config, self.codec_config, self.text_config
        transformer = {
            "num_attention_heads": dit.num_heads,
            "attention_head_dim": dit.head_dim,
            "in_channels": dit.latent_channels,
            "out_channels": dit.latent_channels,
            "text_dim": dit.text_dim,
            "freq_dim": dit.freq_dim,
            "ffn_dim": dit.ffn_dim,
            "num_layers": dit.num_layers,
            "patch_size": [1, 2, 2],
            "eps": dit.eps,
            "image_dim": None,
        }
        vae = {
            "base_dim": codec.dim,
            "z_dim": codec.latent_channels,
            "dim_mult": codec.dim_mult,
            "num_res_blocks": codec.num_res_blocks,
            "temperal_downsample": codec.temporal_downsample,
            "latents_mean": codec.latents_mean,
            "latents_std": codec.latents_std,
            "attn_scales": [],
        }
        text_encoder = {
            "vocab_size": text.vocab_size,
            "d_model": text.dim,
            "d_kv": text.dim // text.num_heads,
            "d_ff": text.dim_ffn,
            "num_heads": text.num_heads,
            "num_layers": text.num_layers,
            "relative_attention_num_buckets": text.num_buckets,
        }
        for name, document in (("transformer", transformer), ("vae", vae), ("text_encoder", text_encoder)):
            (directory / name / "config.json").write_text(json.dumps(document))


def backwards(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Our tensors under the names that `names` maps to ours."""
    return {theirs: tensors[ours] for theirs, ours in names.items()}


def write_shards(directory: Path, stem: str, tensors: Mapping[str, Tensor]) -> None:
    names = sorted(tensors)
    halves = {
        f"{stem}-00001-of-00002.safetensors": names[::2],
        f"{stem}-00002-of-00002.safetensors": names[1::2],
    }
    for file, members in halves.items():
        save_file({name: tensors[name] for name in members}, directory / file)
    index = {"metadata": {}, "weight_map": {name: file for file, half in halves.items() for name in half}}
    (directory / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def write_tokenizer(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    words = ["<pad>", "</s>", "<unk>", "a", "red", "fox", "in", "the", "snow", "&", "runs"]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(path))


@pytest.fixture(scope="session")
def tiny() -> TinyModel:
    return TinyModel()
