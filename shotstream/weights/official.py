"""The published files of the Wan2.1 family, read into our names: layouts, checkpoints, LoRA.

Layouts of Wan2.1-T2V-1.3B: the original one (diffusion_pytorch_model.safetensors, config.json,
Wan2.1_VAE.pth, models_t5_umt5-xxl-enc-bf16.pth, google/umt5-xxl/) and diffusers' (transformer/, vae/,
text_encoder/, tokenizer/). Checkpoints of ShotStream and its relatives: a PyTorch file whose `generator` (or
`generator_ema`) holds the transformer's tensors behind `model.`. Reading is strict in both directions and
lazy: names and shapes are checked before any tensor is loaded. Only text-to-video transformers are read.

Source: the published files of Wan-AI/Wan2.1-T2V-1.3B and KlingTeam/ShotStream (arXiv 2603.25746).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from shotstream.codec.text import UMT5Config, umt5_shapes
from shotstream.codec.wan_vae import WanVAEConfig, wan_vae_shapes
from shotstream.model.config import DiTConfig
from shotstream.weights.bundle import config_from_document
from shotstream.weights.key_names import dit_names_of_diffusers, dit_shapes, umt5_names, vae_names
from shotstream.weights.tensor_files import (
    CheckpointError,
    LazyTensor,
    LazyTensors,
    check_tensors,
    lazy_tensors,
    read_json,
    read_pytorch,
    read_safetensors,
    rename,
)

_DIT_FILE = "diffusion_pytorch_model.safetensors"
_VAE_FILE = "Wan2.1_VAE.pth"
_TEXT_FILE = "models_t5_umt5-xxl-enc-bf16.pth"
_TOKENIZER_FILE = "google/umt5-xxl/tokenizer.json"
# The tree that the published ShotStream code expects around both kinds of files.
_NESTED_BASE = "wan_models/Wan2.1-T2V-1.3B"
_NESTED_CHECKPOINT = "ckpts/shotstream_merged.pt"
# Left in names by the wrappers of distributed training and of torch.compile.
_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
_LORA_KEY = re.compile(r"base_model\.model\.(?:model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedSource:
    """Which published files make one model."""

    directory: Path
    """A directory in either layout of Wan2.1, or the published ShotStream tree that holds one."""
    checkpoint: Path | None = None
    """A PyTorch file whose transformer replaces the base one; None takes the tree's own, if it has one."""
    use_ema: bool = False
    """Take the checkpoint's `generator_ema`."""
    lora: Path | None = None
    """A PyTorch file of LoRA tensors, merged into the transformer."""
    lora_scale: float = 1.0
    """alpha / rank of the LoRA; 1 for the published recipe."""
    codec_config: WanVAEConfig = field(default_factory=WanVAEConfig)
    """Sizes of the VAE where the layout does not state them (the original one)."""
    text_config: UMT5Config = field(default_factory=UMT5Config)
    """Sizes of the text encoder where the layout does not state them; the length of captions in both."""

    def __post_init__(self) -> None:
        if self.use_ema and self.checkpoint is None:
            raise ValueError(
                "use_ema chooses between the transformers of a checkpoint; give the checkpoint too"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedWeights:
    """One model under our names: checked, not yet loaded."""

    dit_config: DiTConfig
    dit: LazyTensors
    codec_config: WanVAEConfig
    codec: LazyTensors
    """Under diffusers' names, as `WanVAE.from_tensors` takes them."""
    text_config: UMT5Config
    text_encoder: LazyTensors
    """Under transformers' names, as `UMT5TextEncoder.from_tensors` takes them."""
    tokenizer: Path
    """A tokenizer.json."""


def read_published(source: PublishedSource) -> PublishedWeights:
    """Everything a model needs, from published files.

    Raises:
        CheckpointError: The layout is unknown, a file is missing or damaged, or keys or shapes differ.
        ValueError: transformers is not installed.
    """
    directory, checkpoint = source.directory, source.checkpoint
    if (directory / _NESTED_BASE).is_dir():
        if checkpoint is None and (directory / _NESTED_CHECKPOINT).is_file():
            checkpoint = directory / _NESTED_CHECKPOINT
        directory = directory / _NESTED_BASE
    if (directory / "transformer").is_dir():
        weights = _read_diffusers(directory, source.text_config)
    elif (directory / _VAE_FILE).exists() or _find_safetensors(directory, _DIT_FILE) is not None:
        weights = _read_original(directory, source.codec_config, source.text_config)
    else:
        raise CheckpointError(
            f"{directory}: no published layout of Wan2.1; it should hold {_DIT_FILE} and {_VAE_FILE}, "
            "or transformer/ and vae/ (shotstream weights download Wan-AI/Wan2.1-T2V-1.3B fetches the first)"
        )
    if checkpoint is not None:
        weights = replace(weights, dit=read_generator(checkpoint, weights.dit_config, use_ema=source.use_ema))
    if source.lora is not None:
        lora = read_lora(source.lora)
        weights = replace(
            weights, dit=merge_lora(weights.dit, lora, str(source.lora), scale=source.lora_scale)
        )
    return weights


def read_generator(path: Path, config: DiTConfig, *, use_ema: bool = False) -> LazyTensors:
    """The transformer of a published training checkpoint, under our names.

    Args:
        path: A PyTorch file with `generator` or `generator_ema`; its optimiser states are not read.
        config: The sizes the transformer must have.
        use_ema: Take `generator_ema`. Otherwise `generator`, or the average where the file has nothing else.

    Raises:
        CheckpointError: The file is unreadable or unsafe, holds no generator, or keys or shapes differ.
    """
    content = read_pytorch(path)
    wanted = ("generator_ema",) if use_ema else ("generator", "generator_ema")
    part = next((name for name in wanted if isinstance(content.get(name), dict)), None)
    if part is None:
        raise CheckpointError(
            f"{path}: no {wanted[0]!r} inside, but {sorted(map(str, content))[:6]}; "
            "give a ShotStream, Self-Forcing, LongLive or CausVid training checkpoint"
        )
    where = f"{path}[{part}]"
    tensors: LazyTensors = {}
    for name, tensor in lazy_tensors(content[part], where).items():
        plain = name
        for wrapper in _WRAPPERS:
            plain = plain.replace(wrapper, "")
        plain = plain.removeprefix("model.")
        if plain in tensors:
            raise CheckpointError(f"{where}: two tensors are named {plain}; the checkpoint is damaged")
        tensors[plain] = tensor
    check_tensors(dit_shapes(config), tensors, where, "it belongs to a transformer of other sizes")
    return tensors


def read_lora(path: Path) -> LazyTensors:
    """The LoRA tensors of a PyTorch file, bare or under `generator_lora`; CheckpointError without any."""
    content = read_pytorch(path)
    nested = content.get("generator_lora")
    tensors = lazy_tensors(nested if isinstance(nested, dict) else content, str(path))
    if not tensors:
        raise CheckpointError(f"{path}: no LoRA tensor inside")
    return tensors


def merge_lora(weights: LazyTensors, lora: LazyTensors, where: str, *, scale: float = 1.0) -> LazyTensors:
    """The weights with `W + scale * B @ A` for each W that `lora` adapts; float32 inside, W's dtype out.

    Args:
        weights: A transformer's tensors under our names.
        lora: PEFT's names, `base_model.model.<module>.lora_A.weight` (rank x in) and `lora_B` (out x rank).
        where: What to call the LoRA in an error.
        scale: alpha / rank.

    Raises:
        CheckpointError: A key is no LoRA key, lacks its other half, adapts no weight, or does not fit it.
    """
    halves: dict[str, dict[str, LazyTensor]] = {}
    for name, tensor in lora.items():
        match = _LORA_KEY.fullmatch(name)
        if match is None:
            raise CheckpointError(
                f"{where}: {name} is no LoRA key; expected base_model.model.<module>.lora_A.weight"
            )
        halves.setdefault(f"{match[1]}.weight", {})[match[2]] = tensor
    merged = dict(weights)
    for name, pair in halves.items():
        if pair.keys() != {"A", "B"}:
            raise CheckpointError(f"{where}: {name} has only lora_{next(iter(pair))}; the file is incomplete")
        if name not in weights:
            raise CheckpointError(
                f"{where}: adapts {name}, which the transformer lacks; it is for another model"
            )
        base, down, up = weights[name], pair["A"], pair["B"]
        fits = len(base.shape) == len(down.shape) == len(up.shape) == 2 and down.shape[0] == up.shape[1]
        if not fits or (up.shape[0], down.shape[1]) != base.shape:
            raise CheckpointError(
                f"{where}: {list(up.shape)} x {list(down.shape)} does not fit {name} {list(base.shape)}; "
                "it is for another model"
            )
        merged[name] = _merged(base, down, up, scale)
    return merged


def _merged(base: LazyTensor, down: LazyTensor, up: LazyTensor, scale: float) -> LazyTensor:
    def load() -> torch.Tensor:
        return (base.load().float() + scale * (up.load().float() @ down.load().float())).to(base.dtype)

    return replace(base, load=load)


def _read_original(directory: Path, codec_config: WanVAEConfig, text_config: UMT5Config) -> PublishedWeights:
    dit_path = _require_safetensors(directory, _DIT_FILE)
    dit = read_safetensors(dit_path)
    dit_config = _original_dit_config(directory / "config.json", text_config)
    check_tensors(
        dit_shapes(dit_config), dit, str(dit_path), "it is not the transformer its config.json describes"
    )
    codec = rename(lazy_tensors(read_pytorch(directory / _VAE_FILE), _VAE_FILE), vae_names(codec_config))
    advice = "it is not the Wan2.1 VAE (names are given as diffusers has them)"
    check_tensors(wan_vae_shapes(codec_config), codec, str(directory / _VAE_FILE), advice)
    text = lazy_tensors(read_pytorch(directory / _TEXT_FILE), _TEXT_FILE)
    text = rename(text, umt5_names(text_config.num_layers))
    advice = "it is not the umT5-XXL encoder (names are given as transformers has them)"
    check_tensors(umt5_shapes(text_config), text, str(directory / _TEXT_FILE), advice)
    return PublishedWeights(
        dit_config=dit_config,
        dit=dit,
        codec_config=codec_config,
        codec=codec,
        text_config=text_config,
        text_encoder=text,
        tokenizer=_require_file(directory / _TOKENIZER_FILE),
    )


def _original_dit_config(path: Path, text_config: UMT5Config) -> DiTConfig:
    document = read_json(path)
    if document.get("model_type", "t2v") != "t2v":
        raise CheckpointError(f"{path}: model_type {document['model_type']!r}; only 't2v' is read")
    channels = _int(document, "in_dim", path)
    if document.get("out_dim", channels) != channels:
        raise CheckpointError(f"{path}: in_dim and out_dim differ; only text-to-video transformers are read")
    # This layout leaves the width of the captions to its code; the text encoder decides it.
    return _dit_config(
        path,
        latent_channels=channels,
        dim=_int(document, "dim", path),
        ffn_dim=_int(document, "ffn_dim", path),
        num_heads=_int(document, "num_heads", path),
        num_layers=_int(document, "num_layers", path),
        freq_dim=_int(document, "freq_dim", path),
        text_dim=text_config.dim,
        text_length=document.get("text_len", text_config.text_length),
        eps=document.get("eps", 1e-6),
    )


def _read_diffusers(directory: Path, text_config: UMT5Config) -> PublishedWeights:
    codec_config = _diffusers_codec_config(directory / "vae" / "config.json")
    text_config = _diffusers_text_config(directory / "text_encoder" / "config.json", text_config.text_length)
    dit_config = _diffusers_dit_config(directory / "transformer" / "config.json", text_config.text_length)
    advice = "it is not what the config.json beside it describes"
    dit_path = _require_safetensors(directory / "transformer", _DIT_FILE)
    dit = rename(read_safetensors(dit_path), dit_names_of_diffusers(dit_config.num_layers))
    check_tensors(dit_shapes(dit_config), dit, str(dit_path), f"{advice} (names are given as ours)")
    codec_path = _require_safetensors(directory / "vae", _DIT_FILE)
    codec = read_safetensors(codec_path)
    check_tensors(wan_vae_shapes(codec_config), codec, str(codec_path), advice)
    text_path = _require_safetensors(directory / "text_encoder", "model.safetensors")
    text = read_safetensors(text_path)
    # transformers ties this name to `shared.weight`, and some files hold both.
    text.pop("encoder.embed_tokens.weight", None)
    check_tensors(umt5_shapes(text_config), text, str(text_path), advice)
    return PublishedWeights(
        dit_config=dit_config,
        dit=dit,
        codec_config=codec_config,
        codec=codec,
        text_config=text_config,
        text_encoder=text,
        tokenizer=_require_file(directory / "tokenizer" / "tokenizer.json"),
    )


def _diffusers_dit_config(path: Path, text_length: int) -> DiTConfig:
    document = read_json(path)
    channels = _int(document, "in_channels", path)
    patch = document.get("patch_size")
    if document.get("out_channels", channels) != channels or document.get("image_dim") is not None:
        raise CheckpointError(f"{path}: takes or gives more than video latents; only text-to-video is read")
    if not isinstance(patch, list) or len(patch) != 3 or patch[0] != 1 or patch[1] != patch[2]:
        raise CheckpointError(f"{path}: patch_size is {patch}; only [1, n, n] is read")
    heads = _int(document, "num_attention_heads", path)
    return _dit_config(
        path,
        latent_channels=channels,
        dim=heads * _int(document, "attention_head_dim", path),
        ffn_dim=_int(document, "ffn_dim", path),
        num_heads=heads,
        num_layers=_int(document, "num_layers", path),
        freq_dim=_int(document, "freq_dim", path),
        text_dim=_int(document, "text_dim", path),
        text_length=text_length,
        patch_size=patch[1],
        eps=document.get("eps", 1e-6),
    )


def _diffusers_codec_config(path: Path) -> WanVAEConfig:
    document = read_json(path)
    if document.get("is_residual") or document.get("attn_scales") or document.get("patch_size"):
        raise CheckpointError(f"{path}: of another generation of the VAE; only Wan2.1's is read")
    names = {
        "base_dim": "dim",
        "z_dim": "latent_channels",
        "dim_mult": "dim_mult",
        "num_res_blocks": "num_res_blocks",
        "temperal_downsample": "temporal_downsample",
        "latents_mean": "latents_mean",
        "latents_std": "latents_std",
    }
    values: dict[str, Any] = {ours: document[theirs] for theirs, ours in names.items() if theirs in document}
    try:
        return config_from_document(WanVAEConfig, values, str(path))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _diffusers_text_config(path: Path, text_length: int) -> UMT5Config:
    document = read_json(path)
    dim, heads = _int(document, "d_model", path), _int(document, "num_heads", path)
    if _int(document, "d_kv", path) * heads != dim:
        raise CheckpointError(f"{path}: d_kv times num_heads is not d_model; only umT5-XXL's form is read")
    try:
        return UMT5Config(
            vocab_size=_int(document, "vocab_size", path),
            dim=dim,
            dim_ffn=_int(document, "d_ff", path),
            num_heads=heads,
            num_layers=_int(document, "num_layers", path),
            num_buckets=_int(document, "relative_attention_num_buckets", path),
            text_length=text_length,
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _dit_config(path: Path, **values: Any) -> DiTConfig:
    try:
        return DiTConfig(**values)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _int(document: Mapping[str, Any], key: str, path: Path) -> int:
    value = document.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"{path}: {key} is {value!r}, not an integer; it is not a published config")
    return value


def _find_safetensors(directory: Path, name: str) -> Path | None:
    """The file of this name, or the index of its shards."""
    return next(
        (path for path in (directory / name, directory / f"{name}.index.json") if path.is_file()), None
    )


def _require_safetensors(directory: Path, name: str) -> Path:
    path = _find_safetensors(directory, name)
    if path is None:
        raise CheckpointError(f"{directory / name}: no such file, nor an index of its shards; fetch it again")
    return path


def _require_file(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; fetch it again")
    return path
