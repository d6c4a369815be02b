"""From runs to a bundle: the averaged weights of a codec and of a model, in half precision, ready to load."""

from pathlib import Path

import torch

from shotstream.streaming.pipeline import theatre_bundle_config
from shotstream.training.films import theatre_engine_config
from shotstream.training.run import input_codec, recipe_of_run, teacher_of, trained_model
from shotstream.weights.bundle import write_bundle


def export_run(name: str, runs: Path, directory: Path) -> str:
    """Writes the bundle of a theatre run, replacing one that is there; returns its sha256.

    Args:
        name: a recipe whose run made a model: the causal teacher can stream too, with more steps.
        runs: folder of all runs.
        directory: the bundle.

    Raises:
        ValueError: the run made no model, or has no checkpoint.
    """
    training, student_steps = teacher_of(recipe_of_run(runs, name))
    codec, model = input_codec(runs), trained_model(runs, name)
    engine = theatre_engine_config(training, student_steps)
    parts = {"dit": model.dit, "codec": codec, "text_encoder": model.text}
    return write_bundle(
        directory,
        theatre_bundle_config(engine, model.dit.config, codec.config, model.text.config),
        {part_name: part.state_dict() for part_name, part in parts.items()},
        dtype=torch.float16,
        overwrite=True,
    )
