"""Previews of a theatre model in training: pictures and scores, always from the same held-out stories."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shotstream.data.story_latents import StoryLatents, encode_story
from shotstream.data.story_pool import StoryPool, condition_story_shot, draw_shots
from shotstream.diffusion.samplers import VelocityFunction, euler
from shotstream.evaluation.run import EvaluationConfig, evaluate
from shotstream.streaming.conditioning import Conditioning, stack_conditioning
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.theatre.oracle import joined, judge_film
from shotstream.theatre.palette import to_rgb
from shotstream.theatre.render import render
from shotstream.theatre.world import sample_story
from shotstream.training.stages.teacher import TeacherConfig, TeacherStage
from shotstream.training.text_conditioned_dit import TextConditionedDiT
from shotstream.training.velocity import guided_velocity, shot_velocity
from shotstream.vae.codec import Codec
from shotstream.vae.pixels import to_uint8

_NUM_STORIES, _NUM_SHOTS, _NUM_LATENT_FRAMES = 4, 3, 6


def held_out_stories(codec: Codec, budget: int) -> list[StoryLatents]:
    """Returns the stories of every preview."""
    rng = np.random.default_rng(20_000)
    lengths = [1 + 4 * (_NUM_LATENT_FRAMES - 1)] * _NUM_SHOTS
    return [
        encode_story(codec, sample_story(rng, _NUM_SHOTS, held_out=True), lengths, budget)
        for _ in range(_NUM_STORIES)
    ]


@torch.no_grad()
def preview_teacher(
    stage: TeacherStage, model: TextConditionedDiT, step: int, directory: Path
) -> Mapping[str, float]:
    """Writes a sheet with truth and generated shots of each story; returns scores and held-out losses.

    Each shot has the true earlier shots as context, so memory scores are those of independently generated
    shots.

    Args:
        stage: The teacher's stage.
        model: Its averaged model.
        step: Number of steps done.
        directory: Directory of the sheet.
    """
    pool = stage.source
    assert isinstance(pool, StoryPool)
    codec = pool.codec
    stories = held_out_stories(codec, pool.dit.num_context_frames)
    samples = [(story, index) for story in stories for index in range(_NUM_SHOTS)]
    latents = sample_shots(stage, model, samples, num_steps=12, guidance=1.5)
    decoded = to_uint8(codec.decode(latents.cpu())).permute(0, 2, 3, 4, 1).numpy()
    truth = np.stack([to_rgb(render(story.story.shots[index], decoded.shape[1])) for story, index in samples])
    rows = []
    for start in range(0, len(samples), _NUM_SHOTS):
        for frames in (truth, decoded):
            rows.append(
                np.concatenate(
                    [f[t] for f in frames[start : start + _NUM_SHOTS] for t in (0, 10, 20)], axis=1
                )
            )
    sheet = np.concatenate(rows, axis=0)
    path = directory / f"preview_{step:07d}.png"
    Image.fromarray(sheet).resize((sheet.shape[1] * 2, sheet.shape[0] * 2), Image.Resampling.NEAREST).save(
        path
    )
    return {
        "same_pixels": float((truth == decoded).all(-1).mean()),
        **held_out_losses(stage, model, stories),
        **_judged(stories, decoded),
    }


@torch.no_grad()
def held_out_losses(
    stage: TeacherStage, model: TextConditionedDiT, stories: list[StoryLatents]
) -> Mapping[str, float]:
    """Returns the losses on held-out stories, bidirectional and causal, with the default `TeacherConfig`.

    The recipe's own weights and shares do not enter, so that runs can be compared that differ in them.
    Batches are drawn as its `data` says: seed, size and shares of places, pairs and drops still count.
    """
    pool = stage.source
    assert isinstance(pool, StoryPool)
    # These stories have one length and no references; those of training have several, and some have them.
    config = dataclasses.replace(pool.config, num_latent_frames=(_NUM_LATENT_FRAMES,), reference_share=0.0)
    held_out = StoryPool(config, pool.codec, pool.dit, pool.policy, seed=pool.seed)
    losses: dict[str, float] = {}
    for causal in (False, True):
        total = 0.0
        for index in range(4):
            step = 10**9 + index
            batch = draw_shots(stories, held_out, step, range(stage.batch_size))
            total += stage.loss(model, batch, step, causal=causal, numbers=TeacherConfig()).item() / 4
        losses["held_out_causal" if causal else "held_out_full"] = total
    return losses


def _judged(stories: list[StoryLatents], decoded: np.ndarray) -> dict[str, float]:
    """Returns the oracle's mean score on every axis that could be judged."""
    films = decoded.reshape(len(stories), _NUM_SHOTS, *decoded.shape[1:])
    scores = joined(
        [
            judge_film(story.story.shots, list(takes)).scores
            for story, takes in zip(stories, films, strict=True)
        ]
    )
    return {axis: float(np.mean(values)) for axis, values in scores.items() if values}


@torch.no_grad()
def sample_shots(
    stage: TeacherStage,
    model: TextConditionedDiT,
    samples: list[tuple[StoryLatents, int]],
    *,
    num_steps: int,
    guidance: float,
) -> Tensor:
    """Returns latents of bidirectionally sampled shots, with the true frames of earlier shots as context."""
    model_config = stage.recipe.model
    pairs = [
        condition_story_shot(story, index, model_config.dit, model_config.context_policy)
        for story, index in samples
    ]
    conditioning = stack_conditioning([pair[0] for pair in pairs]).to(stage.device)
    text, uncond = (
        model.embed(rows) for rows in ([rows for _, rows in pairs], [[""] * len(rows) for _, rows in pairs])
    )
    shape = (len(samples), *samples[0][0].shots[0].target.shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(stage.device)

    def velocity_of(cond: Conditioning, text: Tensor) -> VelocityFunction:
        return partial(shot_velocity, model.dit, cond, text)

    velocity = guided_velocity(velocity_of, conditioning, text, uncond, captions=guidance, context=1.0)
    return euler(velocity, noise, stage.schedule.sampling_sigmas(num_steps).to(stage.device))


def preview_student(pipeline: StreamingPipeline, step: int, directory: Path) -> Mapping[str, float]:
    """Writes a sheet of held-out films with their truth, and returns the oracle's scores."""
    config = EvaluationConfig(num_stories=_NUM_STORIES, num_shots=_NUM_SHOTS, num_chunks=2, judge_truth=False)
    report = evaluate(pipeline, config, sheet=directory / f"preview_{step:07d}.png")
    return {row.axis: row.mean for row in report.rows if row.mean is not None}
