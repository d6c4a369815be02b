"""Reads the published files of the Wan2.1 family under ShotStream's names.

Layouts of Wan2.1-T2V-1.3B: the original one (diffusion_pytorch_model.safetensors, config.json,
Wan2.1_VAE.pth, models_t5_umt5-xxl-enc-bf16.pth, google/umt5-xxl/) and diffusers' (transformer/, vae/,
text_encoder/, tokenizer/). A checkpoint (`checkpoints`) replaces the transformer, LoRAs (`lora`) are merged
into it. Missing and unexpected tensors are both errors. Names, shapes and dtypes are checked before any
tensor is loaded, values when it is. Only text-to-video transformers are read.

Source: the published files of Wan-AI/Wan2.1-T2V-1.3B and KlingTeam/ShotStream (arXiv 2603.25746).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shotstream.configs import ConfigError, ConfigT, config_from_document
from shotstream.documents import json_kind
from shotstream.model.config import DiTConfig
from shotstream.text.text_encoder import UMT5Config, read_tokenizer, umt5_shapes
from shotstream.vae.wan_vae import WanVAEConfig, wan_vae_shapes
from shotstream.weights.checkpoints import read_transformer
from shotstream.weights.file_kinds import CheckpointError
from shotstream.weights.key_names import dit_names_of_diffusers, dit_shapes, umt5_names, vae_names
from shotstream.weights.lora import LoraSource, merge_loras, read_lora
from shotstream.weights.students import Student, find_file
from shotstream.weights.tensor_files import (
    LazyTensors,
    check_tensors,
    lazy_tensors,
    read_json,
    read_pytorch,
    read_safetensors,
    rename,
    sha256_of_file,
    sound,
)

_DIT_FILE = "diffusion_pytorch_model.safetensors"
_VAE_FILE = "Wan2.1_VAE.pth"
_TEXT_FILE = "models_t5_umt5-xxl-enc-bf16.pth"
_TOKENIZER_FILE = "google/umt5-xxl/tokenizer.json"
# The directories that the published ShotStream code expects.
_NESTED_BASE = "wan_models/Wan2.1-T2V-1.3B"
_NESTED_CHECKPOINT = "ckpts/shotstream_merged.pt"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedSource:
    """The published files of one model."""

    directory: Path
    """A directory in either layout of Wan2.1, or the published ShotStream tree that holds one."""
    checkpoint: Path | None = None
    """Checkpoint that replaces the base transformer (see `read_transformer`); None takes that of the
    ShotStream tree, if there is one.
    """
    ema: bool | None = None
    """Whether to take the checkpoint's averaged weights; None takes the weights as trained if it has them."""
    loras: tuple[LoraSource, ...] = ()
    """LoRAs to merge into the transformer."""
    student: Student | None = None
    """Student that the checkpoint must be; None: any."""
    codec_config: WanVAEConfig = field(default_factory=WanVAEConfig)
    """Sizes of the VAE, used if the layout does not give them (the original one)."""
    text_config: UMT5Config = field(default_factory=UMT5Config)
    """Sizes of the text encoder, used if the layout does not give them; the length of captions in both
    layouts.
    """

    def __post_init__(self) -> None:
        given = [lora.path for lora in self.loras]
        if len(set(given)) < len(given):
            raise ValueError("the same LoRA is given twice; give it once, with the sum of the scales")


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedWeights:
    """A published model under ShotStream's names: checked, not yet loaded."""

    dit_config: DiTConfig
    dit: LazyTensors
    codec_config: WanVAEConfig
    codec: LazyTensors
    """Tensors under diffusers' names, as `WanVAE.from_tensors` takes them."""
    text_config: UMT5Config
    text_encoder: LazyTensors
    """Tensors under transformers' names, as `UMT5TextEncoder.from_tensors` takes them."""
    tokenizer: Path
    """Path of a tokenizer.json."""
    student: Student | None = None
    """Student that the transformer is; None: ShotStream's, or any other."""
    notes: tuple[str, ...] = ()
    """Messages for the user: what was chosen, at what strength, and what was left out."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Origin of the transformer, as plain JSON."""


def read_published(source: PublishedSource) -> PublishedWeights:
    """Returns the weights of a model from published files.

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
    return _with_checkpoint_and_loras(weights, source, directory, checkpoint)


def _with_checkpoint_and_loras(
    weights: PublishedWeights, source: PublishedSource, directory: Path, checkpoint: Path | None
) -> PublishedWeights:
    student, given = source.student, source.loras
    if student is not None:
        checkpoint = _checkpoint_of(student, source.directory, checkpoint)
        given = (*_loras_of(student, source, checkpoint), *given)
    if source.ema is not None and checkpoint is None:
        raise ValueError(
            "--ema and --no-ema choose between the weights of a checkpoint; give --checkpoint too"
        )
    notes = [*weights.notes]
    provenance: dict[str, Any] = {"base": directory.name}
    dit = sound(weights.dit, f"{directory} (transformer)")
    if checkpoint is not None:
        keys = () if student is None else student.keys
        taken = read_transformer(checkpoint, weights.dit_config, ema=source.ema, keys=keys)
        dit = sound(taken.tensors, str(checkpoint))
        notes += taken.notes
        provenance |= {"checkpoint": checkpoint.name, "part": taken.part, "averaged": taken.is_average}
        provenance |= _hash_of(checkpoint)
    loras = [read_lora(lora, dit) for lora in given]
    if loras:
        # A sum may overflow the weights' dtype, even if none of its terms does.
        dit = sound(merge_loras(dit, loras), "the sum of the weights and the LoRAs")
        notes += [lora.note for lora in loras]
        provenance["loras"] = [
            {
                "file": lora.name,
                **_hash_of(file.path),
                "strengths": list(lora.strengths),
                "scale": file.multiplier,
            }
            for lora, file in zip(loras, given, strict=True)
        ]
    if student is not None:
        provenance["student"] = student.name
        notes += [f"{student.name}: {student.note}"] if student.note else []
    return replace(
        weights,
        dit=dit,
        student=student,
        codec=sound(weights.codec, f"{directory} (VAE)"),
        text_encoder=sound(weights.text_encoder, f"{directory} (text encoder)"),
        notes=tuple(notes),
        provenance=provenance,
    )


def _checkpoint_of(student: Student, directory: Path, checkpoint: Path | None) -> Path:
    if student.support == "no":
        raise ValueError(f"{student.name} makes no film here: {student.note}")
    found = checkpoint or find_file(student, student.files, directory)
    if found is None:
        raise CheckpointError(
            f"{student.name}: no checkpoint; put {student.files[0]} of {student.repository} into "
            f"{directory}, or name it with --checkpoint"
        )
    return found


def _loras_of(student: Student, source: PublishedSource, checkpoint: Path) -> tuple[LoraSource, ...]:
    """Returns the student's own LoRA, unless it is the one that the user named."""
    if student.lora is None:
        return ()
    beside = checkpoint.parent / Path(student.lora.file).name
    found = beside if beside.is_file() else find_file(student, (student.lora.file,), source.directory)
    if found is None and source.loras:
        return ()
    if found is None:
        raise CheckpointError(
            f"{student.name}: its LoRA is missing; put {student.lora.file} of {student.repository} beside "
            f"{checkpoint}, or name it with --lora"
        )
    if any(lora.path.resolve() == found.resolve() for lora in source.loras):
        return ()
    return (LoraSource(path=found, multiplier=student.lora.alpha / student.lora.rank),)


def _hash_of(path: Path) -> dict[str, str]:
    """Returns the hash to compare a file with its publisher's; most formats have no checksums."""
    return {"sha256": sha256_of_file(path)} if path.is_file() else {}


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
        tokenizer=_require_tokenizer(directory / _TOKENIZER_FILE),
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
        tokenizer=_require_tokenizer(directory / "tokenizer" / "tokenizer.json"),
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
    return _config(WanVAEConfig, values, path)


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
    return _config(DiTConfig, values, path)


def _config(cls: type[ConfigT], values: Mapping[str, Any], path: Path) -> ConfigT:
    try:
        return config_from_document(cls, values, str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _int(document: Mapping[str, Any], key: str, path: Path) -> int:
    value = document.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        what = f"{key} is {json_kind(value)}, not a whole number" if key in document else f"{key} is missing"
        raise CheckpointError(f"{path}: {what}; it is not a published config")
    return value


def _find_safetensors(directory: Path, name: str) -> Path | None:
    """Returns the file of this name, or the index of its shards; None without either."""
    return next(
        (path for path in (directory / name, directory / f"{name}.index.json") if path.is_file()), None
    )


def _require_safetensors(directory: Path, name: str) -> Path:
    path = _find_safetensors(directory, name)
    if path is None:
        raise CheckpointError(f"{directory / name}: no such file, nor an index of its shards; fetch it again")
    return path


def _require_tokenizer(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; fetch it again")
    read_json(path)
    try:
        read_tokenizer(path)
    except ValueError as error:
        raise CheckpointError(f"{path}: not a tokenizer.json; fetch it again") from error
    return path
