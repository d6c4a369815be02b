"""Loads a model from its bundle: chooses how it is run on this machine and puts its parts together."""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from shotstream.codec.codec import Codec
from shotstream.codec.text import TextEncoder
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
    check_words,
    choose,
)
from shotstream.streaming.crew import Crew
from shotstream.streaming.memory import film_memory
from shotstream.streaming.parts import (
    CAPTION_STYLES,
    choose_device,
    dit_config,
    fitted_captions,
    load_codec,
    load_dit,
    load_text_encoder,
    pipeline_config,
)
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.pipeline_config import Compose, PipelineConfig
from shotstream.streaming.switches import DEFAULT_SWITCHES, Switches
from shotstream.weights.bundle import Bundle, read_bundle
from shotstream.weights.hub import resolve


def load(
    name: str | Path = "theatre",
    device: torch.device | str = "auto",
    *,
    precision: Precision = "auto",
    memory: MemoryLevel = "auto",
    expert: Expert = NO_EXPERT,
    crew: Crew | None = None,
    synchronize: bool = False,
) -> StreamingPipeline:
    """A model, ready to film.

    On a CPU the theatre computes with one thread, a setting of the whole process, unless `OMP_NUM_THREADS` is
    set.

    Args:
        name: A name that `weights.hub.resolve` knows, or a bundle's directory.
        device: "auto" takes a GPU when there is one, else the CPU.
        precision: "auto" is float32, and bfloat16 for the Wan family on a GPU. Films made with "float8" are
            those of another model.
        memory: "auto" keeps everything on the device where it fits; "low" gives up time, "lowest" a little of
            the pictures too: its films are those of another model.
        expert: Answers that take the place of the table's in `choice`.
        crew: The processes that make films together, led by this one, on the crew's device.
        synchronize: Wait for the device after each part of a chunk, so that its timings hold its own work.

    Raises:
        ValueError: No such model or device, a damaged or foreign bundle, or an option that cannot be.
    """
    check_words(precision, memory, expert.attention)
    options = Options(precision=precision, memory=memory, expert=expert)
    chosen = choose_device(device) if crew is None else crew.device
    return build_pipeline(read_bundle(resolve(name)), chosen, options, crew=crew, synchronize=synchronize)


def follow(name: str | Path, crew: Crew, options: Options = DEFAULT_OPTIONS) -> None:
    """Help the crew's leader to make films until it dismisses this process; the leader's name and options.

    Reads the transformer and nothing else.
    """
    bundle = read_bundle(resolve(name), parts=("dit",))
    choice = choose_for(bundle, crew.device, options, crew=crew)
    _check_crew(choice.switches)
    crew.follow(load_dit(bundle, crew.device, choice.dtype, choice.switches))


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoders:
    """What turns clips into training data: a model without its transformer."""

    config: PipelineConfig
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
    """The codec and the text encoder of a model; None as dtype is what films are made in."""
    chosen = choose_device(device)
    bundle = read_bundle(resolve(name), parts=("codec", "text_encoder"))
    config = pipeline_config(bundle)
    if dtype is None:
        is_half = config.family == "wan" and chosen.type == "cuda"
        dtype = torch.bfloat16 if is_half else torch.float32
    text_encoder = load_text_encoder(bundle, chosen, dtype, DEFAULT_SWITCHES)
    return Encoders(
        config=config,
        dit=dit_config(bundle),
        codec=load_codec(bundle, chosen, dtype, DEFAULT_SWITCHES),
        text_encoder=text_encoder,
        compose=fitted_captions(text_encoder, CAPTION_STYLES[config.family]),
        weights_sha256=bundle.sha256,
    )


def build_pipeline(
    bundle: Bundle,
    device: torch.device,
    options: Options = DEFAULT_OPTIONS,
    *,
    crew: Crew | None = None,
    synchronize: bool = False,
) -> StreamingPipeline:
    """The pipeline of a bundle that was read, run as the table in `choice` says; errors as of `load`."""
    choice = choose_for(bundle, device, options, crew=crew)
    return assemble_pipeline(bundle, device, choice, crew=crew, synchronize=synchronize)


def choose_for(bundle: Bundle, device: torch.device, options: Options, *, crew: Crew | None = None) -> Choice:
    """How to run a bundle's model on a device as it is now. ValueError for what cannot be."""
    machine = Machine(
        device_type=device.type,
        num_processes=1 if crew is None else crew.size,
        num_cores=num_cores(),
        num_threads=torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else None,
    )
    if device.type == "cuda":
        machine = replace(
            machine,
            capability=torch.cuda.get_device_capability(device),
            # A crew's processes must choose alike, and each sees another GPU.
            free_bytes=torch.cuda.mem_get_info(device)[0] if crew is None else None,
            num_gpus=torch.cuda.device_count(),
        )
    return choose(
        options,
        pipeline_config(bundle).family,
        machine,
        lambda dtype, switches: film_memory(bundle, dtype, switches).total,
    )


def assemble_pipeline(
    bundle: Bundle,
    device: torch.device,
    choice: Choice,
    *,
    crew: Crew | None = None,
    synchronize: bool = False,
) -> StreamingPipeline:
    """The pipeline of a bundle that was read, run just so; BundleError when its parts do not make one."""
    dtype, switches = choice.dtype, choice.switches
    config = pipeline_config(bundle)
    if crew is not None:
        _check_crew(switches)
    dit = load_dit(bundle, device, dtype, switches)
    codec_device = device
    if switches.codec_device is not None:
        codec_device = choose_device(switches.codec_device)
        choice = replace(choice, switches=replace(switches, codec_device=str(codec_device)))
    codec = load_codec(bundle, codec_device, dtype, switches)
    text_encoder = load_text_encoder(bundle, codec_device, dtype, switches)
    if switches.cudnn_benchmark:
        torch.backends.cudnn.benchmark = True
    if switches.num_threads is not None:
        torch.set_num_threads(switches.num_threads)
    sha256 = bundle.sha256
    if switches.suffix:
        # A film, a session or a replay made with other numbers belongs to them alone.
        config = replace(config, model_id=config.model_id + switches.suffix)
        # Weights that were drawn have no hash.
        sha256 = sha256 and hashlib.sha256((sha256 + switches.suffix).encode()).hexdigest()
    return StreamingPipeline(
        config,
        dit,
        codec,
        text_encoder,
        fitted_captions(text_encoder, CAPTION_STYLES[config.family]),
        weights_sha256=sha256,
        choice=choice,
        crew=crew,
        synchronize=synchronize,
    )


def _check_crew(switches: Switches) -> None:
    if switches.overlap_chunks:
        raise ValueError("several processes make each chunk together, when it is asked for; do not overlap")
    if switches.compile:
        raise ValueError("several processes exchange tensors within each block, which cannot be compiled")
