"""Loading of a model from its bundle: chooses the inference options and assembles the networks."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from shotstream.model.config import DiTConfig
from shotstream.process import num_cores
from shotstream.streaming.choice import (
    DEFAULT_OPTIONS,
    NO_EXPERT,
    Choice,
    Expert,
    Machine,
    MemoryLevel,
    Options,
    Precision,
    choose,
)
from shotstream.streaming.inference_group import InferenceGroup
from shotstream.streaming.inference_options import DEFAULT_INFERENCE_OPTIONS
from shotstream.streaming.memory_estimate import estimate_film_memory
from shotstream.streaming.parts import (
    choose_device,
    dit_config,
    load_codec,
    load_dit,
    load_text_encoder,
    pipeline_config,
)
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.pipeline_config import PipelineConfig, fitted_family_caption
from shotstream.text.text_encoder import TextEncoder
from shotstream.vae.codec import Codec
from shotstream.weights.bundle import Bundle, read_bundle
from shotstream.weights.hub import resolve


def load(
    name: str | Path = "theatre",
    device: torch.device | str = "auto",
    *,
    precision: Precision = "auto",
    memory: MemoryLevel = "auto",
    expert: Expert = NO_EXPERT,
    group: InferenceGroup | None = None,
    synchronize: bool = False,
) -> StreamingPipeline:
    """Returns a model, ready to generate films.

    On a CPU the theatre computes with one thread, a setting of the whole process, unless `OMP_NUM_THREADS` is
    set.

    Args:
        name: A name that `weights.hub.resolve` knows, or a bundle's directory.
        device: "auto" takes a GPU if there is one, else the CPU.
        precision: "auto" is float32, and bfloat16 for the Wan family on a GPU. Films generated with "float8"
            are those of another model.
        memory: "auto" keeps everything on the device if it fits; "low" gives up speed; "lowest" also some
            quality: its films are those of another model.
        expert: Options that override the table in `choice`.
        group: The processes that generate films together, led by this one, on the group's device.
        synchronize: Wait for the device after each part of a chunk, so that its timings measure its own work.

    Raises:
        ValueError: There is no such model or device, the bundle is damaged or of another kind, or an option
            is impossible.
    """
    options = Options(precision=precision, memory=memory, expert=expert)
    chosen = choose_device(device) if group is None else group.device
    return build_pipeline(read_bundle(resolve(name)), chosen, options, group=group, synchronize=synchronize)


def follow(name: str | Path, group: InferenceGroup, options: Options = DEFAULT_OPTIONS) -> None:
    """Works for the group's leader until it is dismissed; `name` and `options` must be the leader's.

    It reads the transformer only.
    """
    bundle = read_bundle(resolve(name), parts=("dit",))
    choice = choose_for(bundle, group.device, options, group=group)
    choice.inference_options.check_for_group()
    group.follow(load_dit(bundle, group.device, choice.dtype, choice.inference_options))


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoders:
    """The encoders that turn clips into training data: a model without its transformer."""

    config: PipelineConfig
    """Configuration of the model's pipeline."""
    dit: DiTConfig
    """Sizes of its transformer."""
    codec: Codec
    text_encoder: TextEncoder
    weights_sha256: str
    """SHA-256 that identifies the bundle."""

    def compose(self, global_caption: str, captions: Sequence[str]) -> str:
        """Returns the text for the last of a story's captions, as in a session of the model."""
        config = self.config
        return fitted_family_caption(
            config.family, self.text_encoder, global_caption, captions, style=config.caption_style
        ).text


def load_encoders(
    name: str | Path, device: torch.device | str = "auto", dtype: torch.dtype | None = None
) -> Encoders:
    """Returns the codec and the text encoder of a model; `dtype` None takes the dtype of generation."""
    chosen = choose_device(device)
    bundle = read_bundle(resolve(name), parts=("codec", "text_encoder"))
    config = pipeline_config(bundle)
    if dtype is None:
        is_half = config.family == "wan" and chosen.type == "cuda"
        dtype = torch.bfloat16 if is_half else torch.float32
    return Encoders(
        config=config,
        dit=dit_config(bundle),
        codec=load_codec(bundle, chosen, dtype, DEFAULT_INFERENCE_OPTIONS),
        text_encoder=load_text_encoder(bundle, chosen, dtype, DEFAULT_INFERENCE_OPTIONS),
        weights_sha256=bundle.sha256,
    )


def build_pipeline(
    bundle: Bundle,
    device: torch.device,
    options: Options = DEFAULT_OPTIONS,
    *,
    group: InferenceGroup | None = None,
    synchronize: bool = False,
) -> StreamingPipeline:
    """Returns the pipeline of a loaded bundle, with options chosen by `choice`; errors as in `load`."""
    choice = choose_for(bundle, device, options, group=group)
    return assemble_pipeline(bundle, device, choice, group=group, synchronize=synchronize)


def choose_for(
    bundle: Bundle, device: torch.device, options: Options, *, group: InferenceGroup | None = None
) -> Choice:
    """Returns the choice for a bundle's model on a device in its current state; ValueError if impossible."""
    machine = Machine(
        device_type=device.type,
        num_processes=1 if group is None else group.size,
        num_cores=num_cores(),
        num_threads=torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else None,
    )
    if device.type == "cuda":
        machine = replace(
            machine,
            capability=torch.cuda.get_device_capability(device),
            # All processes of a group must make the same choice, and each sees another GPU.
            free_bytes=torch.cuda.mem_get_info(device)[0] if group is None else None,
            num_gpus=torch.cuda.device_count(),
        )
    return choose(
        options,
        pipeline_config(bundle).family,
        machine,
        lambda dtype, inference_options: estimate_film_memory(bundle, dtype, inference_options).total,
    )


def assemble_pipeline(
    bundle: Bundle,
    device: torch.device,
    choice: Choice,
    *,
    group: InferenceGroup | None = None,
    synchronize: bool = False,
) -> StreamingPipeline:
    """Returns the pipeline of a loaded bundle with given options; BundleError if its parts do not fit."""
    dtype, inference_options = choice.dtype, choice.inference_options
    config = pipeline_config(bundle)
    if group is not None:
        inference_options.check_for_group()
    dit = load_dit(bundle, device, dtype, inference_options)
    codec_device = device
    if inference_options.codec_device is not None:
        codec_device = choose_device(inference_options.codec_device)
        choice = replace(choice, inference_options=replace(inference_options, codec_device=str(codec_device)))
    codec = load_codec(bundle, codec_device, dtype, inference_options)
    text_encoder = load_text_encoder(bundle, codec_device, dtype, inference_options)
    if inference_options.cudnn_benchmark:
        torch.backends.cudnn.benchmark = True
    if inference_options.num_threads is not None:
        torch.set_num_threads(inference_options.num_threads)
    sha256 = bundle.sha256
    if inference_options.suffix:
        # Films, sessions and replays depend on these options.
        config = replace(config, model_id=config.model_id + inference_options.suffix)
        # Random weights have no hash.
        sha256 = sha256 and hashlib.sha256((sha256 + inference_options.suffix).encode()).hexdigest()
    return StreamingPipeline(
        config,
        dit,
        codec,
        text_encoder,
        weights_sha256=sha256,
        choice=choice,
        group=group,
        synchronize=synchronize,
    )
