"""Scores of a training run: the oracle judges films of its averaged weights, without an export."""

from pathlib import Path

from shotstream.evaluation.films import model_films
from shotstream.evaluation.report import Report
from shotstream.evaluation.run import EvaluationConfig, Progress, score_films
from shotstream.training.films import teacher_films, theatre_pipeline
from shotstream.training.inputs import input_codec, model_of, newest_checkpoint, trained_model
from shotstream.training.saved_recipes import recipe_of_run
from shotstream.training.stages.teacher import TeacherConfig


def evaluate_run(
    name: str,
    runs: Path,
    config: EvaluationConfig,
    *,
    context: bool = True,
    sampler_steps: int = 25,
    guidance: float = 1.5,
    context_guidance: float = 1.0,
    sheet: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Returns the scores of a run's newest checkpoint: a teacher generates whole shots, a student streams.

    Args:
        name: Name of the run.
        runs: Directory of all runs.
        config: Configuration of the evaluation; `steps` is for a student.
        context: False generates each shot as a first one, without context.
        sampler_steps: Number of Euler steps of a teacher.
        guidance: Scale of a teacher's guidance by captions; 1: none.
        context_guidance: Scale of a teacher's guidance by context; 1: none.
        sheet: Path of a PNG; None writes none.
        progress: Called after each story.

    Raises:
        ValueError: There is no such run, or it trains no model.
    """
    found = recipe_of_run(runs, name)
    model, student_steps = model_of(found)
    if isinstance(found.stage, TeacherConfig) and config.steps is not None:
        raise ValueError(f"{name} is a teacher's run: give --sampler-steps in the place of --steps")
    codec = input_codec(runs, found.inputs.codec)
    pipeline = theatre_pipeline(codec, trained_model(runs, name), model, student_steps)
    facts = {"run": name, "checkpoint": newest_checkpoint(runs, name).name, "context": context}
    facts["context_policy"] = config.policy or pipeline.context_policy
    if isinstance(found.stage, TeacherConfig):
        source = teacher_films(
            pipeline,
            context=context,
            num_chunks=config.num_chunks,
            seed=config.seed,
            num_steps=sampler_steps,
            guidance=guidance,
            context_guidance=context_guidance,
            policy=config.policy,
        )
        facts |= {
            "sampler_steps": sampler_steps,
            "guidance": guidance,
            "context_guidance": context_guidance,
        }
    else:
        source = model_films(
            pipeline,
            context=context,
            num_chunks=config.num_chunks,
            seed=config.seed,
            steps=config.steps,
            policy=config.policy,
        )
        facts |= {"num_steps": config.steps or pipeline.num_steps}
    return score_films(source, config, facts=facts, sheet=sheet, progress=progress)
