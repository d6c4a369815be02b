"""Loads a model from its bundle and opens sessions on it: the front door of the package.

A bundle's config has four sections: `engine` (an `EngineConfig`), and the sizes of its parts `dit`,
`codec` and `text_encoder`. The family named in the first decides the classes of the last two: the
theatre's patch codec and word encoder, or Wan's autoencoder and UMT5.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from shotstream.codec.codec import Codec
from shotstream.codec.patch_codec import PatchCodec, PatchCodecConfig
from shotstream.codec.text import TextEncoder, UMT5Config, UMT5TextEncoder
from shotstream.codec.wan_vae import WanDecoding, WanVAE, WanVAEConfig
from shotstream.codec.word_encoder import WordEncoder, WordEncoderConfig
from shotstream.geometry import PixelSize, VideoGeometry
from shotstream.model.attention import attention_kernel
from shotstream.model.config import DiTConfig
from shotstream.model.dit import DiT
from shotstream.model.quantized import check_format, quantize_linears
from shotstream.process import keep_compiled
from shotstream.story import CaptionStyle, fit_caption
from shotstream.streaming.crew import Crew
from shotstream.streaming.engine import Compose, Engine, EngineConfig, Family
from shotstream.streaming.session import StorySession
from shotstream.streaming.switches import DEFAULT_SWITCHES, Switches
from shotstream.weights.bundle import Bundle, BundleError, config_from_document, read_bundle
from shotstream.weights.hub import home, resolve

CAPTION_STYLES: dict[Family, CaptionStyle] = {"theatre": "plain", "wan": "published"}
"""How each family's captions are composed."""


class StreamingPipeline:
    """A loaded model. Opens any number of sessions; one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def engine(self) -> Engine:
        """What its films are made with."""
        return self._engine

    @property
    def model_id(self) -> str:
        """Name of the model."""
        return self._engine.config.model_id

    @property
    def weights_sha256(self) -> str:
        """Identifies weights and configs together."""
        return self._engine.weights_sha256

    @property
    def family(self) -> Family:
        """Which family of models it is of."""
        return self._engine.config.family

    @property
    def caption_style(self) -> CaptionStyle:
        """How a global caption and a shot's become one text."""
        return CAPTION_STYLES[self.family]

    @property
    def fps(self) -> int:
        """Frames per second of its films."""
        return self._engine.config.fps

    @property
    def pixel_size(self) -> PixelSize:
        """Size of its frames."""
        return self._engine.config.pixel_size

    @property
    def geometry(self) -> VideoGeometry:
        """Strides between pixels, latents and tokens."""
        return self._engine.codec.geometry

    @property
    def num_chunks(self) -> int:
        """Usual length of a shot."""
        return self._engine.config.num_chunks

    @property
    def num_steps(self) -> int:
        """Denoising steps per chunk that it was trained for."""
        return len(self._engine.config.student_steps)

    @property
    def context_policy(self) -> str:
        """How context frames are chosen."""
        return self._engine.config.context_policy

    @property
    def text_encoder(self) -> TextEncoder:
        """Tells what it does not understand of a caption, and how much of it it takes."""
        return self._engine.text_encoder

    @property
    def codec(self) -> Codec:
        """Between frames and latents."""
        return self._engine.codec

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._engine.device

    @property
    def dtype(self) -> torch.dtype:
        """What its transformer computes in."""
        return self._engine.dtype

    def session(self, global_caption: str, *, seed: int = 0) -> StorySession:
        """A new film; see `StorySession`."""
        return StorySession(self._engine, global_caption, seed=seed)

    def load_session(self, path: Path) -> StorySession:
        """The session that `StorySession.save` wrote; SessionError when it is of another model or damaged."""
        return StorySession.load(path, self._engine)


def load(
    name: str | Path = "theatre",
    device: torch.device | str = "auto",
    dtype: torch.dtype | None = None,
    *,
    switches: Switches = DEFAULT_SWITCHES,
    crew: Crew | None = None,
    synchronize: bool = False,
) -> StreamingPipeline:
    """A model, ready to film.

    Args:
        name: A name that `weights.hub.resolve` knows, or a bundle's directory.
        device: "auto" takes a GPU when there is one, else the CPU.
        dtype: What to compute in; None is float32, and bfloat16 for the Wan family on a GPU.
        switches: How it is run. Films made with less than all bits are those of another model.
        crew: The processes that make films together, led by this one, on the crew's device.
        synchronize: Wait for the device after each part of a chunk, so that its timings hold its own work.

    Raises:
        ValueError: No such model or device, or a damaged or foreign bundle.
    """
    directory = resolve(name)
    chosen = choose_device(device) if crew is None else crew.device
    bundle = read_bundle(directory)
    dtype = dtype or _default_dtype(bundle, chosen)
    engine = build_engine(bundle, chosen, dtype, switches=switches, crew=crew, synchronize=synchronize)
    return StreamingPipeline(engine)


def follow(
    name: str | Path, crew: Crew, dtype: torch.dtype | None = None, *, switches: Switches = DEFAULT_SWITCHES
) -> None:
    """Help the crew's leader to make films until it dismisses this process; the leader's arguments of `load`.

    Reads the transformer and nothing else.
    """
    _check_crew(switches)
    bundle = read_bundle(resolve(name), parts=("dit",))
    crew.follow(_load_dit(bundle, crew.device, dtype or _default_dtype(bundle, crew.device), switches))


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoders:
    """What turns clips into training data: a model without its transformer."""

    engine: EngineConfig
    """How the model's films are made."""
    dit: DiTConfig
    """Sizes of its transformer."""
    codec: Codec
    text_encoder: TextEncoder
    compose: Compose
    """From global and shot caption to what the text encoder is given."""
    weights_sha256: str
    """Identifies the bundle."""


def load_encoders(
    name: str | Path, device: torch.device | str = "auto", dtype: torch.dtype | None = None
) -> Encoders:
    """The codec and the text encoder of a model; arguments and errors as of `load`."""
    chosen = choose_device(device)
    bundle = read_bundle(resolve(name), parts=("codec", "text_encoder"))
    config = _engine_config(bundle)
    dtype = dtype or _default_dtype(bundle, chosen)
    codec, text_encoder = _coders(config.family)(bundle, chosen, dtype, DEFAULT_SWITCHES)
    dit = config_from_document(DiTConfig, bundle.config.get("dit"), f"{bundle.directory}: dit")
    return Encoders(
        engine=config,
        dit=dit,
        codec=codec,
        text_encoder=text_encoder,
        compose=fitted_captions(text_encoder, CAPTION_STYLES[config.family]),
        weights_sha256=bundle.sha256,
    )


def build_engine(
    bundle: Bundle,
    device: torch.device,
    dtype: torch.dtype,
    *,
    switches: Switches = DEFAULT_SWITCHES,
    crew: Crew | None = None,
    synchronize: bool = False,
) -> Engine:
    """The engine of a bundle that was read; BundleError when its parts do not make one."""
    config = _engine_config(bundle)
    if crew is not None:
        _check_crew(switches)
    dit = _load_dit(bundle, device, dtype, switches)
    codec_device = None if switches.codec_device is None else choose_device(switches.codec_device)
    codec, text_encoder = _coders(config.family)(bundle, codec_device or device, dtype, switches)
    sha256 = bundle.sha256
    if switches.suffix:
        # A film, a session or a replay made with other numbers belongs to them alone.
        config = replace(config, model_id=config.model_id + switches.suffix)
        # Weights that were drawn have no hash.
        sha256 = sha256 and hashlib.sha256((sha256 + switches.suffix).encode()).hexdigest()
    return Engine(
        config,
        dit,
        codec,
        text_encoder,
        fitted_captions(text_encoder, CAPTION_STYLES[config.family]),
        weights_sha256=sha256,
        synchronize=synchronize,
        crew=crew,
        cache_dtype=switches.cache_dtype,
        overlap=switches.overlap_chunks,
        codec_device=codec_device,
    )


def theatre_bundle_config(
    config: EngineConfig, dit: DiTConfig, codec: PatchCodecConfig, text_encoder: WordEncoderConfig
) -> dict[str, Any]:
    """The config to write a theatre bundle with; its parts are dit, codec and text_encoder."""
    return {
        "engine": asdict(config),
        "dit": asdict(dit),
        "codec": asdict(codec),
        "text_encoder": asdict(text_encoder),
    }


def fitted_captions(text_encoder: TextEncoder, style: CaptionStyle) -> Compose:
    """Captions composed in a style and cut, at the end of the global one, to what the encoder takes."""

    def compose(global_caption: str, caption: str, shot_index: int) -> str:
        fitted = fit_caption(
            global_caption,
            caption,
            text_encoder.text_length,
            text_encoder.count_tokens,
            shot_index=shot_index,
            style=style,
        )
        return fitted.text

    return compose


def choose_device(device: torch.device | str) -> torch.device:
    """The device; "auto" is a GPU when there is one, else the CPU. ValueError when it is not there."""
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


def _load_dit(bundle: Bundle, device: torch.device, dtype: torch.dtype, switches: Switches) -> DiT:
    """The transformer, in evaluation mode; on the device it is never whole in more bits than asked for.

    Raises:
        ValueError: A switch that this device, this dtype or this install does not know.
    """
    attention = attention_kernel(switches.attention, device, dtype)
    if switches.weights is not None:
        check_format(switches.weights, device, dtype)
    if switches.cuda_graphs and device.type != "cuda":
        raise ValueError("CUDA graphs need a CUDA device")
    with torch.device("meta"):
        dit = DiT(config_from_document(DiTConfig, _section(bundle, "dit"), f"{bundle.directory}: dit"))
    if switches.weights is None:
        _fill(dit, bundle, "dit", device, dtype)
    else:
        _fill(dit, bundle, "dit", None, None)
        quantize_linears(dit.blocks, switches.weights, device)
        dit.to(device, dtype)
    dit.attention = attention
    if switches.compile:
        keep_compiled(home() / "compiled")
        dit.compile_blocks(cuda_graphs=switches.cuda_graphs)
    return dit


def _check_crew(switches: Switches) -> None:
    if switches.overlap_chunks:
        raise ValueError("several processes make each chunk together, when it is asked for; do not overlap")
    if switches.compile:
        raise ValueError("several processes exchange tensors within each block, which cannot be compiled")


def _default_dtype(bundle: Bundle, device: torch.device) -> torch.dtype:
    is_wan = _engine_config(bundle).family == "wan"
    return torch.bfloat16 if is_wan and device.type == "cuda" else torch.float32


_Coders = Callable[[Bundle, torch.device, torch.dtype, Switches], tuple[Codec, TextEncoder]]


def _coders(family: Family) -> _Coders:
    """What makes a family's codec and text encoder of a bundle."""
    return _theatre if family == "theatre" else _wan


def _theatre(
    bundle: Bundle, device: torch.device, dtype: torch.dtype, switches: Switches
) -> tuple[Codec, TextEncoder]:
    del dtype  # Both are small, and the codec names colours: they stay in float32.
    if switches.offload_text:
        raise ValueError("only Wan's text encoder can be kept off the device; the theatre's is tiny")
    if switches.of_wan_decoder:
        raise ValueError("only Wan's decoder can be compiled, laid out otherwise or given whole chunks")
    where = f"{bundle.directory}: codec"
    codec = PatchCodec(config_from_document(PatchCodecConfig, _section(bundle, "codec"), where))
    _fill(codec, bundle, "codec", device, torch.float32)
    where = f"{bundle.directory}: text_encoder"
    words = WordEncoder(config_from_document(WordEncoderConfig, _section(bundle, "text_encoder"), where))
    _fill(words, bundle, "text_encoder", device, torch.float32)
    return codec, words


def _wan(
    bundle: Bundle, device: torch.device, dtype: torch.dtype, switches: Switches
) -> tuple[Codec, TextEncoder]:
    tensors, where = bundle.tensors, bundle.directory
    vae_config = config_from_document(WanVAEConfig, _section(bundle, "codec"), f"{where}: codec")
    text_config = config_from_document(UMT5Config, _section(bundle, "text_encoder"), f"{where}: text_encoder")
    if "tokenizer.json" not in bundle.files:
        raise BundleError(f"{where}: no tokenizer.json; import the published files again")
    chunk = config_from_document(DiTConfig, bundle.config.get("dit"), f"{where}: dit").chunk_latent_frames
    if switches.compile_decoder:
        keep_compiled(home() / "compiled")
    decoding = WanDecoding(
        latents_per_pass=chunk if switches.chunk_decode else 1,
        compile=switches.compile_decoder,
    )
    codec = WanVAE.from_tensors(vae_config, tensors["codec"], device=device, dtype=dtype, decoding=decoding)
    text_encoder = UMT5TextEncoder.from_tensors(
        text_config,
        tensors["text_encoder"],
        bundle.files["tokenizer.json"],
        device=device,
        dtype=dtype,
        offload=switches.offload_text,
    )
    return codec, text_encoder


def _engine_config(bundle: Bundle) -> EngineConfig:
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
    return config_from_document(EngineConfig, settings, where)


def _section(bundle: Bundle, name: str) -> Mapping[str, Any]:
    if name not in bundle.config or name not in bundle.tensors:
        raise BundleError(
            f"{bundle.directory}: it holds no {name!r}; a bundle needs its config and its tensors"
        )
    return bundle.config[name]


def _fill(
    module: nn.Module, bundle: Bundle, part: str, device: torch.device | None, dtype: torch.dtype | None
) -> None:
    """Put a part's tensors into a module, which needs exactly these; BundleError otherwise.

    None leaves the tensors' own device, or their own dtype.
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
