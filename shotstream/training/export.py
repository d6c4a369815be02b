"""From runs to a bundle: the averaged weights of a codec and of a model, in half precision, ready to load.

A theatre model brings its codec's run and its own text encoder. A model that learnt from shards takes codec
and text encoder from the model that it began at, whose they are.
"""

from dataclasses import asdict
from pathlib import Path

import torch

from shotstream.codec.word_encoder import WordEncoder
from shotstream.data.captions import StoredTextConfig
from shotstream.streaming.parts import theatre_bundle_config
from shotstream.training.films import theatre_engine_config
from shotstream.training.run import input_codec, recipe_of_run, teacher_of, trained_model
from shotstream.training.stages.teacher import TeacherTraining, TheatreModel
from shotstream.weights.bundle import read_bundle, write_bundle
from shotstream.weights.hub import resolve


def export_run(name: str, runs: Path, directory: Path) -> str:
    """Writes the bundle of a run, replacing one that is there; returns its sha256.

    Args:
        name: a recipe whose run made a model: the causal teacher can stream too, with more steps.
        runs: folder of all runs.
        directory: the bundle.

    Raises:
        ValueError: the run made no model, or has no checkpoint.
    """
    training, student_steps = teacher_of(recipe_of_run(runs, name))
    model = trained_model(runs, name)
    if isinstance(training.text, StoredTextConfig):
        return _write_successor(training, student_steps, model, directory)
    assert isinstance(model.text, WordEncoder)
    codec = input_codec(runs)
    engine = theatre_engine_config(training, student_steps)
    parts = {"dit": model.dit, "codec": codec, "text_encoder": model.text}
    return write_bundle(
        directory,
        theatre_bundle_config(engine, model.dit.config, codec.config, model.text.config),
        {part_name: part.state_dict() for part_name, part in parts.items()},
        dtype=torch.float16,
        overwrite=True,
    )


def _write_successor(
    training: TeacherTraining, student_steps: tuple[int, ...], model: TheatreModel, directory: Path
) -> str:
    """The bundle that a run began at, with its transformer in the place of the old one."""
    begun = read_bundle(resolve(training.start))
    engine = {
        **begun.config["engine"],
        "shift": training.shift,
        "context_policy": training.context_policy,
        "student_steps": student_steps,
    }
    return write_bundle(
        directory,
        {**begun.config, "engine": engine, "dit": asdict(model.dit.config)},
        {**begun.tensors, "dit": model.dit.state_dict()},
        files=begun.files,
        dtype=torch.bfloat16,
        overwrite=True,
    )
