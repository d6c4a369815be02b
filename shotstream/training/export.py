"""Export of a run to a bundle: the averaged weights of a codec and of a model, in half precision.

A theatre model is exported with its codec's run and its own text encoder. A model trained on shards takes
codec and text encoder from the model that it started from. The finish of a codec's decoder is put into the
model of the package, which has the same latents.
"""

from dataclasses import asdict
from pathlib import Path

import torch

from shotstream.data.captions import StoredTextConfig
from shotstream.model.dit import DiT
from shotstream.streaming.parts import theatre_bundle_config
from shotstream.theatre.caption_encoder import CaptionEncoder
from shotstream.training.films import theatre_pipeline_config
from shotstream.training.inputs import codec_from_run, input_codec, model_of, trained_model
from shotstream.training.recipe import ModelConfig
from shotstream.training.saved_recipes import recipe_of_run
from shotstream.training.stages.decoder import DecoderConfig
from shotstream.training.text_conditioned_dit import TextConditionedDiT
from shotstream.vae.patch_codec import PatchCodec
from shotstream.weights.bundle import read_bundle, write_bundle
from shotstream.weights.hub import resolve

_SHIPPED = "theatre"


def export_run(name: str, runs: Path, directory: Path) -> str:
    """Writes the bundle of a run, replacing an existing one; returns its SHA-256.

    Args:
        name: A recipe that trains a model (the causal teacher can stream as well, with more steps) or the
            finish of a decoder.
        runs: Directory of all runs.
        directory: The bundle.

    Raises:
        ValueError: The run trains neither, has no checkpoint, or latents differ.
    """
    found = recipe_of_run(runs, name)
    if isinstance(found.stage, DecoderConfig):
        return _write_finished(codec_from_run(runs, name), directory)
    config, student_steps = model_of(found)
    model = trained_model(runs, name)
    if type(model.dit) is not DiT:
        raise ValueError(
            f"{name} trained a {type(model.dit).__name__}, and a bundle holds a DiT; score the run itself"
        )
    if isinstance(config.text, StoredTextConfig):
        return _write_successor(config, student_steps, model, directory)
    assert isinstance(model.text, CaptionEncoder)
    codec = input_codec(runs, found.inputs.codec)
    engine = theatre_pipeline_config(config, student_steps)
    parts = {"dit": model.dit, "codec": codec, "text_encoder": model.text}
    return write_bundle(
        directory,
        theatre_bundle_config(engine, model.dit.config, codec.config, model.text.config),
        {part_name: part.state_dict() for part_name, part in parts.items()},
        dtype=torch.float16,
        overwrite=True,
    )


def _write_finished(codec: PatchCodec, directory: Path) -> str:
    """Writes the bundle of the package with a finished codec; returns its SHA-256."""
    begun = read_bundle(resolve(_SHIPPED))
    own = {name: value.half() for name, value in codec.state_dict().items() if value.is_floating_point()}
    encoder = [name for name in own if name.startswith(("embed.", "encoder.", "to_latent.", "normalise."))]
    differing = [name for name in encoder if not torch.equal(own[name], begun.tensors["codec"][name].half())]
    if differing:
        raise ValueError(
            f"{begun.directory} has another encoder ({differing[0]} differs), so its transformer knows other "
            "latents; finish that model's codec"
        )
    return write_bundle(
        directory,
        {**begun.config, "codec": asdict(codec.config)},
        {**begun.tensors, "codec": codec.state_dict()},
        files=begun.files,
        dtype=torch.float16,
        overwrite=True,
    )


def _write_successor(
    config: ModelConfig, student_steps: tuple[int, ...], model: TextConditionedDiT, directory: Path
) -> str:
    """Writes the bundle that a run started from with the new transformer; returns its SHA-256."""
    begun = read_bundle(resolve(config.start))
    engine = {
        **begun.config["engine"],
        "shift": config.shift,
        "context_policy": config.context_policy,
        "student_steps": student_steps,
    }
    return write_bundle(
        directory,
        {**begun.config, "engine": engine, "dit": model.dit.config.to_document()},
        {**begun.tensors, "dit": model.dit.state_dict()},
        files=begun.files,
        dtype=torch.bfloat16,
        overwrite=True,
    )
