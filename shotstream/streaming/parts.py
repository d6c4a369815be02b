"""Networks from a bundle's tensors: each family's transformer, codec and text encoder.

A bundle's config has four sections: `engine` (a `PipelineConfig`), and the sizes of its parts `dit`, `codec`
and `text_encoder`. The family named in the first decides the classes of the last two: the theatre's patch
codec and word encoder, or Wan's autoencoder and UMT5.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import nn

from shotstream.configs import config_from_document
from shotstream.empty_weights import init_empty_weights
from shotstream.geometry import VideoGeometry
from shotstream.model.attention import attention_kernel
from shotstream.model.config import DiTConfig
from shotstream.model.dit import DiT
from shotstream.model.quantized import check_format, quantize_linears
from shotstream.model.student_rules import StudentRules
from shotstream.process import keep_compiled
from shotstream.streaming.inference_options import InferenceOptions
from shotstream.streaming.pipeline_config import CAPTION_STYLES, PipelineConfig
from shotstream.text.text_encoder import TextEncoder, UMT5Config, UMT5TextEncoder
from shotstream.text.word_encoder import WordEncoder, WordEncoderConfig
from shotstream.theatre.caption_encoder import CaptionEncoder, CaptionEncoderConfig
from shotstream.vae.codec import Codec
from shotstream.vae.patch_codec import PatchCodec, PatchCodecConfig
from shotstream.vae.wan_vae import WanDecoding, WanVAE, WanVAEConfig
from shotstream.weights.bundle import Bundle, BundleError
from shotstream.weights.file_kinds import CheckpointError
from shotstream.weights.hub import home
from shotstream.weights.tensor_files import LazyTensor, check_tensors, dtype_in_words


def theatre_bundle_config(
    config: PipelineConfig,
    dit: DiTConfig,
    codec: PatchCodecConfig,
    text_encoder: CaptionEncoderConfig | WordEncoderConfig,
) -> dict[str, Any]:
    """Returns the config of a theatre bundle, whose parts are dit, codec and text_encoder."""
    return {
        "engine": config.to_document(),
        "dit": dit.to_document(),
        "codec": asdict(codec),
        "text_encoder": asdict(text_encoder),
    }


def choose_device(device: torch.device | str) -> torch.device:
    """Returns the device; "auto" is a GPU if there is one, else the CPU. ValueError if it does not exist."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"no device {device!r}; give auto, cpu or cuda") from error
    if chosen.type == "cuda":
        count = torch.cuda.device_count()
        if (chosen.index or 0) >= count:
            raise ValueError(f"no device {device}: this machine has {count} CUDA devices; give auto or cpu")
    elif chosen.type != "cpu":
        raise ValueError(f"no support for the device {device}; give auto, cpu or cuda")
    return chosen


def load_dit(
    bundle: Bundle, device: torch.device, dtype: torch.dtype, inference_options: InferenceOptions
) -> DiT:
    """Returns the transformer in evaluation mode; the device never holds a complete copy in a larger format.

    Raises:
        ValueError: The device, the dtype or the install does not support an option.
    """
    attention = attention_kernel(inference_options.attention, device, dtype)
    if inference_options.weights is not None:
        check_format(inference_options.weights, device, dtype)
    _section(bundle, "dit")
    config = dit_config(bundle)
    with init_empty_weights():
        dit = DiT(config)
    _check_fits(dit, bundle, "dit")
    if inference_options.weights is None:
        _fill(dit, bundle, "dit", device, dtype)
    else:
        _fill(dit, bundle, "dit", None, None)
        quantize_linears(dit.blocks, inference_options.weights, device)
        dit.to(device, dtype)
    dit.attention = attention
    if inference_options.compile:
        keep_compiled(home() / "compiled")
        dit.compile_blocks()
    return dit


def load_codec(
    bundle: Bundle, device: torch.device, dtype: torch.dtype, inference_options: InferenceOptions
) -> Codec:
    """Returns the codec; the theatre's is always float32: it is small and must predict exact colours."""
    where = f"{bundle.directory}: codec"
    if pipeline_config(bundle).family == "theatre":
        if inference_options.of_wan_decoder:
            raise ValueError("only Wan's decoder can be compiled or given whole chunks")
        patches = config_from_document(PatchCodecConfig, _section(bundle, "codec"), where)
        with init_empty_weights():
            _check_fits(PatchCodec(patches), bundle, "codec")
        codec = PatchCodec(patches)
        _fill(codec, bundle, "codec", device, torch.float32)
        return codec
    config = config_from_document(WanVAEConfig, _section(bundle, "codec"), where)
    chunk, rules = dit_config(bundle).chunk_latent_frames, pipeline_config(bundle).rules
    geometry = VideoGeometry(
        chunk_latent_frames=chunk,
        first_chunk_latent_frames=0 if rules is None else rules.first_chunk_frames,
    )
    if inference_options.compile_decoder:
        keep_compiled(home() / "compiled")
    decoding = WanDecoding(
        latents_per_pass=chunk if inference_options.chunk_decode else 1,
        compile=inference_options.compile_decoder,
    )
    return WanVAE.from_tensors(
        config,
        bundle.tensors["codec"],
        geometry=geometry,
        device=device,
        dtype=dtype,
        decoding=decoding,
    )


def load_text_encoder(
    bundle: Bundle, device: torch.device, dtype: torch.dtype, inference_options: InferenceOptions
) -> TextEncoder:
    """Returns the text encoder; the theatre's is always float32."""
    where = f"{bundle.directory}: text_encoder"
    if pipeline_config(bundle).family == "theatre":
        if inference_options.offload_text:
            raise ValueError("only Wan's text encoder can be kept off the device; the theatre's is tiny")
        section = _section(bundle, "text_encoder")
        with init_empty_weights():
            _check_fits(theatre_text_encoder(section, where), bundle, "text_encoder")
        encoder = theatre_text_encoder(section, where)
        _fill(encoder, bundle, "text_encoder", device, torch.float32)
        return encoder
    config = config_from_document(UMT5Config, _section(bundle, "text_encoder"), where)
    if "tokenizer.json" not in bundle.files:
        raise BundleError(f"{bundle.directory}: no tokenizer.json; import the published files again")
    return UMT5TextEncoder.from_tensors(
        config,
        bundle.tensors["text_encoder"],
        bundle.files["tokenizer.json"],
        device=device,
        dtype=dtype,
        offload=inference_options.offload_text,
    )


def theatre_text_encoder(section: Mapping[str, Any], where: str) -> CaptionEncoder | WordEncoder:
    """Returns the text encoder of a theatre bundle's section: of English, or, in old bundles, of words."""
    if "words" in section:
        return WordEncoder(config_from_document(WordEncoderConfig, section, where))
    return CaptionEncoder(config_from_document(CaptionEncoderConfig, section, where))


def pipeline_config(bundle: Bundle) -> PipelineConfig:
    """Returns the pipeline configuration of a bundle."""
    where = f"{bundle.directory}: engine"
    document = bundle.config.get("engine")
    if not isinstance(document, dict):
        raise BundleError(f"{where}: missing; the bundle does not say how its films are made")
    settings = cast("dict[str, Any]", document)
    family = settings.get("family")
    if family not in CAPTION_STYLES:
        raise BundleError(
            f"{where}: of the family {family!r}; this program knows {', '.join(CAPTION_STYLES)}"
        )
    return config_from_document(PipelineConfig, settings, where, kinds=(StudentRules,))


def dit_config(bundle: Bundle) -> DiTConfig:
    """Returns the sizes of a bundle's transformer."""
    return config_from_document(DiTConfig, bundle.config.get("dit"), f"{bundle.directory}: dit")


def _section(bundle: Bundle, name: str) -> Mapping[str, Any]:
    if name not in bundle.config or name not in bundle.tensors:
        raise BundleError(
            f"{bundle.directory}: it holds no {name!r}; a bundle needs its config and its tensors"
        )
    return bundle.config[name]


def _check_fits(module: nn.Module, bundle: Bundle, part: str) -> None:
    """Raises BundleError unless a part's tensors are those of a module of its config, made without memory."""
    state = module.state_dict()
    tensors = bundle.tensors[part]
    where = f"{bundle.directory}: {part}"
    advice = "its config.json is of other weights; import or fetch the bundle again"
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    try:
        check_tensors(shapes, {name: LazyTensor.of(t) for name, t in tensors.items()}, where, advice)
    except CheckpointError as error:
        raise BundleError(str(error)) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != state[name].is_floating_point() or tensor.is_complex():
            raise BundleError(f"{where}: {name} holds {dtype_in_words(tensor.dtype)}; {advice}")


def _fill(
    module: nn.Module, bundle: Bundle, part: str, device: torch.device | None, dtype: torch.dtype | None
) -> None:
    """Loads a part's tensors into a module; raises BundleError unless they are exactly the module's.

    None keeps the tensors' own device, or their own dtype.
    """
    placed = {
        name: tensor.to(device, dtype if tensor.is_floating_point() else None)
        for name, tensor in bundle.tensors[part].items()
    }
    try:
        module.load_state_dict(placed, strict=True, assign=True)
    except RuntimeError as error:
        raise BundleError(f"{bundle.directory}: {part} does not fit its config: {error}") from error
    module.to(device).eval().requires_grad_(False)
