"""Films of models in training: a student streams, a bidirectional teacher generates whole shots."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from shotstream.data.captions import StoredText
from shotstream.diffusion.samplers import VelocityFunction, euler
from shotstream.diffusion.schedule import FlowSchedule
from shotstream.evaluation.films import FilmSource
from shotstream.streaming.conditioning import Conditioning
from shotstream.streaming.noise import derive_seed, shot_seed
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.pipeline_config import PipelineConfig
from shotstream.streaming.saved_session import Take
from shotstream.streaming.shot import condition_request, finish_shot
from shotstream.streaming.shot_request import ShotRequest
from shotstream.theatre.render import FPS
from shotstream.theatre.sets import STAGE_SIZE
from shotstream.theatre.world import TheatreStory
from shotstream.training.recipe import ModelConfig
from shotstream.training.text_conditioned_dit import TextConditionedDiT
from shotstream.training.velocity import guided_velocity, shot_velocity
from shotstream.vae.patch_codec import PatchCodec


def theatre_pipeline_config(
    model: ModelConfig, student_steps: Sequence[int], *, num_chunks: int = 3
) -> PipelineConfig:
    """Returns the pipeline configuration of a theatre model.

    Args:
        model: Configuration of the model.
        student_steps: Timesteps that it was trained for.
        num_chunks: Default length of a shot in chunks.
    """
    return PipelineConfig(
        family="theatre",
        model_id="theatre",
        fps=FPS,
        pixel_size=STAGE_SIZE,
        num_chunks=num_chunks,
        context_policy=model.context_policy,
        student_steps=tuple(student_steps),
        shift=model.shift,
    )


def theatre_pipeline(
    codec: PatchCodec, model: TextConditionedDiT, config: ModelConfig, student_steps: Sequence[int]
) -> StreamingPipeline:
    """Returns a model in memory as a pipeline, in float32; see `theatre_pipeline_config`.

    Raises:
        ValueError: The model has no text encoder of its own.
    """
    if isinstance(model.text, StoredText):
        raise ValueError("the model reads stored captions and can film no others; export it, then load it")
    return StreamingPipeline(
        theatre_pipeline_config(config, student_steps),
        model.dit.eval(),
        codec.eval(),
        model.text.eval(),
    )


def teacher_films(
    pipeline: StreamingPipeline,
    *,
    context: bool = True,
    num_chunks: int = 3,
    seed: int = 0,
    num_steps: int = 25,
    guidance: float = 1.5,
    context_guidance: float = 1.0,
    policy: str | None = None,
) -> FilmSource:
    """Returns the films of a bidirectional teacher, conditioned on its own earlier shots.

    Whole shots are generated, by Euler steps.

    Args:
        pipeline: Pipeline of the teacher, see `theatre_pipeline`.
        context: False generates each shot as a first one, without context.
        num_chunks: Length of a shot in chunks.
        seed: Seed of the noise; as in `model_films` a shot has the same noise with and without context.
        num_steps: Number of Euler steps.
        guidance: Scale of guidance by captions; 1: none.
        context_guidance: Scale of guidance by context, see `guided_velocity`; 1: none.
        policy: Name of the policy that chooses the context; None: the model's.
    """
    schedule = FlowSchedule(shift=pipeline.config.shift)
    sigmas = schedule.sampling_sigmas(num_steps).to(pipeline.device)

    @torch.no_grad()
    def film(number: int, story: TheatreStory) -> list[np.ndarray]:
        takes: list[Take] = []
        films: list[np.ndarray] = []
        for index, caption in enumerate(story.captions):
            request = ShotRequest(
                global_caption=story.global_caption,
                caption=caption,
                seed=shot_seed(seed + number, index),
                num_steps=num_steps,
                num_chunks=num_chunks,
                takes=tuple(takes) if context else (),
                pins=(),
                policy=policy,
            )
            conditioning, captions = condition_request(pipeline, request)
            noise = _noise(pipeline, request)
            text, uncond = (
                pipeline.text_encoder.encode(texts).to(pipeline.device)[None]
                for texts in (captions, [""] * len(captions))
            )
            latents = _sample(
                pipeline,
                conditioning,
                text,
                uncond,
                noise,
                sigmas,
                captions=guidance,
                context=context_guidance,
            )
            frames, _ = pipeline.decode(latents, None)
            takes.append(finish_shot(pipeline, request, frames, num_chunks))
            films.append(frames)
        return films

    return film


def _sample(
    pipeline: StreamingPipeline,
    conditioning: Conditioning,
    text: Float[Tensor, "1 s n d"],
    uncond: Float[Tensor, "1 s n d"],
    noise: Float[Tensor, "1 c f h w"],
    sigmas: Float[Tensor, " n_plus_1"],
    *,
    captions: float,
    context: float,
) -> Float[Tensor, "1 c f h w"]:
    def velocity_of(cond: Conditioning, text: Tensor) -> VelocityFunction:
        return partial(shot_velocity, pipeline.dit, cond, text)

    velocity = guided_velocity(velocity_of, conditioning, text, uncond, captions=captions, context=context)
    return euler(velocity, noise, sigmas)


def _noise(pipeline: StreamingPipeline, request: ShotRequest) -> Float[Tensor, "1 c f h w"]:
    chunks = [
        torch.randn(
            pipeline.chunk_shape, generator=torch.Generator().manual_seed(derive_seed(request.seed, index, 0))
        )
        for index in range(request.num_chunks)
    ]
    return rearrange(torch.stack(chunks), "n c f h w -> 1 c (n f) h w").to(pipeline.device)
