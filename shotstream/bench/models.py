"""The model of a benchmark: a real one or one with random weights, at any frame size.

The speed of a network does not depend on the values of its weights, so the speed of the 1.3B model can be
measured without its files. Random weights generate noise: they say nothing about quality.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from shotstream.configs import config_from_document
from shotstream.empty_weights import init_empty_weights
from shotstream.geometry import PixelSize
from shotstream.model.config import DiTConfig, wan_1_3b
from shotstream.model.dit import DiT
from shotstream.streaming.choice import DEFAULT_OPTIONS, Options
from shotstream.streaming.loading import assemble_pipeline, choose_for
from shotstream.streaming.parts import choose_device, theatre_text_encoder
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.text.text_encoder import UMT5Config, umt5_shapes
from shotstream.vae.patch_codec import PatchCodec, PatchCodecConfig
from shotstream.vae.wan_vae import WanVAEConfig, wan_vae_shapes
from shotstream.weights.bundle import Bundle, read_bundle
from shotstream.weights.hub import WAN, WeightsNotFoundError, bundle_config, resolve
from shotstream.weights.official import PublishedWeights
from shotstream.weights.students import STUDENTS

WAN_TINY = "wan-tiny"
"""Name of a model of the Wan family that is small enough for a CPU; always random."""

# One layer and a short vocabulary: for benchmarks that do not run the text encoder.
_SHORT_TEXT = {"num_layers": 1, "vocab_size": 512}


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchModel:
    """The model of a benchmark: its name, device, options and frame size."""

    name: str = "theatre"
    """Name of a model, or a bundle's directory."""
    is_random: bool = False
    """Whether only its sizes are read, and its weights are random."""
    size: PixelSize | None = None
    """Size of its frames; None: the model's own."""
    device: str = "auto"
    """Device that it runs on; "auto" is a GPU if there is one, else the CPU."""
    options: Options = DEFAULT_OPTIONS
    """Options for running it."""


def load_bench_model(model: BenchModel, *, with_text: bool = True) -> StreamingPipeline:
    """Returns the pipeline, loaded so that timings wait for the device.

    Args:
        model: The model.
        with_text: Whether captions are encoded. If not, a random model's text encoder has a single layer.

    Raises:
        ValueError: There is no such model or device, the bundle is damaged, or its strides do not divide the
            size.
    """
    device = choose_device(model.device)
    bundle = None if model.is_random else read_bundle(resolve(model.name))
    settings = random_config(model.name, with_text=with_text) if bundle is None else bundle.config
    if model.size is not None:
        settings = {**settings, "engine": {**settings["engine"], "pixel_size": asdict(model.size)}}
    with tempfile.TemporaryDirectory() as directory:
        is_drawn = bundle is None
        if bundle is None:
            bundle = random_bundle(settings, Path(directory), torch.device("meta"), torch.float32)
        bundle = replace(bundle, config=settings)
        # Before anything is loaded, because the choice depends on the device's free memory.
        choice = choose_for(bundle, device, model.options)
        if is_drawn:
            codec_device = choice.inference_options.codec_device
            apart = None if codec_device is None else choose_device(codec_device)
            bundle = random_bundle(settings, Path(directory), device, choice.dtype, codec_device=apart)
        return assemble_pipeline(bundle, device, choice, synchronize=True)


def parse_size(text: str) -> PixelSize:
    """Returns the size in a text HxW, for example 480x832; raises ValueError for any other text."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ValueError(f"no size {text!r}; write height x width, for example 480x832")
    return PixelSize(int(height), int(width))


def random_config(name: str, *, with_text: bool) -> dict[str, Any]:
    """Returns the config of a bundle, which need not exist, as JSON values.

    Without text its text encoder is small.

    Raises:
        WeightsNotFoundError: The name is not that of a model.
    """
    try:
        config = read_bundle(resolve(name), parts=()).config if name != WAN_TINY else _wan_config(WAN_TINY)
    except WeightsNotFoundError:
        if name != WAN and name not in STUDENTS:
            raise
        config = _wan_config(name)
    films = {**config["engine"], "model_id": f"{config['engine']['model_id']} (random weights)"}
    config = {**config, "engine": films}
    if not with_text and films["family"] == "wan":
        config["text_encoder"] = {**config["text_encoder"], **_SHORT_TEXT}
    return config


def wan_tiny_config() -> DiTConfig:
    """Returns the sizes of a transformer of the Wan family that is small enough for a CPU."""
    return replace(wan_1_3b(), dim=48, ffn_dim=96, num_heads=2, num_layers=2, text_dim=32, text_length=16)


def _wan_config(name: str) -> dict[str, Any]:
    dit, codec, text = wan_1_3b(), WanVAEConfig(), UMT5Config()
    student = STUDENTS.get(name)
    if student is not None and student.support == "no":
        raise ValueError(f"{name} makes no film here: {student.note}")
    if name == WAN_TINY:
        dit = wan_tiny_config()
        codec = replace(codec, dim=8, num_res_blocks=1)
        text = replace(
            text, vocab_size=512, dim=32, dim_ffn=64, num_heads=2, num_layers=2, text_length=dit.text_length
        )
    published = PublishedWeights(
        dit_config=dit,
        dit={},
        codec_config=codec,
        codec={},
        text_config=text,
        text_encoder={},
        tokenizer=Path(),
        student=student,
    )
    # Through JSON, so that tuples become lists, as in a bundle.
    return json.loads(json.dumps(bundle_config(published, name)))


def random_bundle(
    config: Mapping[str, Any],
    directory: Path,
    device: torch.device,
    dtype: torch.dtype,
    *,
    codec_device: torch.device | None = None,
) -> Bundle:
    """Returns a bundle of random weights; its tokenizer is written to the directory.

    On the device "meta" the tensors have no data. With a `codec_device` all parts except the transformer are
    created there.
    """
    parts = {
        part: draw_weights(shapes, device if part == "dit" else codec_device or device, dtype)
        for part, shapes in part_shapes(config).items()
    }
    tokenizer = directory / "tokenizer.json"
    _byte_tokenizer().save(str(tokenizer))
    return Bundle(
        directory=directory, config=dict(config), tensors=parts, files={tokenizer.name: tokenizer}, sha256=""
    )


def part_shapes(config: Mapping[str, Any]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Returns the shapes of all tensors by part and name."""

    def read(cls: type[Any], part: str) -> Any:
        return config_from_document(cls, config[part], part)

    with init_empty_weights():
        shapes = {"dit": _module_shapes(DiT(read(DiTConfig, "dit")))}
        if config["engine"]["family"] == "theatre":
            shapes["codec"] = _module_shapes(PatchCodec(read(PatchCodecConfig, "codec")))
            shapes["text_encoder"] = _module_shapes(theatre_text_encoder(config["text_encoder"], "bundle"))
            return shapes
    shapes["codec"] = wan_vae_shapes(read(WanVAEConfig, "codec"))
    shapes["text_encoder"] = umt5_shapes(read(UMT5Config, "text_encoder"))
    return shapes


def _module_shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def draw_weights(
    shapes: Mapping[str, tuple[int, ...]], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Returns random matrices that keep the size of their inputs, scales of one and biases of zero.

    Nothing overflows, and no value is denormal, which would slow down a processor.
    """
    if device.type == "meta":
        return {name: torch.empty(shape, dtype=dtype, device=device) for name, shape in shapes.items()}
    generator = torch.Generator(device).manual_seed(0)
    drawn: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        fan_in = 1
        for extent in shape[1:]:
            fan_in *= extent
        if name == "palette":
            levels = torch.randint(0, 256, shape, generator=generator, device=device)
            drawn[name] = levels.to(torch.uint8)
        elif name.endswith("num_batches_tracked"):
            drawn[name] = torch.zeros(shape, dtype=torch.long, device=device)
        elif fan_in > 1:
            tensor = torch.empty(shape, dtype=dtype, device=device)
            drawn[name] = tensor.normal_(std=fan_in**-0.5, generator=generator)
        else:
            fill = torch.zeros if name.endswith(("bias", "running_mean")) else torch.ones
            drawn[name] = fill(shape, dtype=dtype, device=device)
    return drawn


def _byte_tokenizer() -> Tokenizer:
    """Returns a tokenizer with a token per byte, enough for a text encoder that pads to full length."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {letter: index for index, letter in enumerate(sorted(alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer
