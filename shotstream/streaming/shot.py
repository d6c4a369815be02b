"""The generation of a shot, chunk by chunk: from a request to decoded frames, without changing a session.

A chunk is yielded as soon as it is decoded. Its commit pass runs when the next chunk is requested, or earlier
if the pipeline prefetches chunks.
"""

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import GEN_RUNNING, GEN_SUSPENDED, getgeneratorstate
from itertools import islice
from typing import ParamSpec

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from shotstream.streaming.chunk_prefetcher import CancelToken
from shotstream.streaming.conditioning import ConditionedShot, condition_next_shot
from shotstream.streaming.context_encoder import ContextEncoder
from shotstream.streaming.context_sampling import kept_frames
from shotstream.streaming.inference_group import ShotInputs
from shotstream.streaming.noise import KeyedNoise
from shotstream.streaming.pipeline import StreamingPipeline, to_frames
from shotstream.streaming.rollout import Rollout
from shotstream.streaming.saved_session import Take
from shotstream.streaming.shot_request import ShotRequest
from shotstream.streaming.steering import SteeredCaptions, SwitchFunction
from shotstream.vae.codec import StreamDecoder

P = ParamSpec("P")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkTimings:
    """Seconds for each part of a chunk; see `timing` for their meaning on a GPU.

    If the pipeline prefetches chunks, decoding ran beside the denoising of the next chunk.
    """

    text_s: float
    """Seconds for encoding captions; first chunk of a shot only."""
    context_s: float
    """Seconds for choosing and committing the context; first chunk of a shot only."""
    denoise_s: float
    """Seconds for denoising this chunk."""
    commit_s: float
    """Seconds for committing the previous chunk, which happens after that was yielded; 0 for the first
    chunk.
    """
    decode_s: float
    """Seconds from latents to frames in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A chunk of a shot: its frames, its latents and their timings."""

    frames: UInt8[np.ndarray, "f h w 3"] = field(repr=False)
    """RGB frames, read-only, because they may become context of later shots."""
    latents: Float[Tensor, "1 z latent_f latent_h latent_w"] = field(repr=False)
    """Latents of the frames, on the pipeline's device."""
    shot_index: int
    """Index of the shot in the film, from 0."""
    chunk_index: int
    """Index of the chunk in the shot, from 0."""
    timings: ChunkTimings
    """Seconds for each of its parts."""


_LAST_CHUNK_S = 60.0
"""Maximum seconds that the end of the process waits for a chunk that a thread is generating."""
_process_ends = threading.Event()
_open_shots: "weakref.WeakSet[Generator[Chunk, None, None]]" = weakref.WeakSet()


def closed_at_exit(make: Callable[P, Generator[Chunk]]) -> Callable[P, Generator[Chunk]]:
    """Returns the same function; its generators are closed when the process ends."""

    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Generator[Chunk]:
        shot = make(*args, **kwargs)
        _open_shots.add(shot)
        return shot

    return made


@atexit.register
def _close_shots() -> None:
    """Closes open shots: torch aborts a process whose generators run while the interpreter ends."""
    _process_ends.set()
    last_s = time.monotonic() + _LAST_CHUNK_S
    if threading.active_count() > 1:
        time.sleep(0.1)  # a thread between two chunks continues until the chunk that ends its shot
    for shot in tuple(_open_shots):
        # A shot that a thread is generating ends with its current chunk.
        while getgeneratorstate(shot) == GEN_RUNNING and time.monotonic() < last_s:
            time.sleep(0.01)
        if getgeneratorstate(shot) == GEN_SUSPENDED:
            shot.close()


@closed_at_exit
def make_shot(
    pipeline: StreamingPipeline,
    request: ShotRequest,
    preview: StreamDecoder | None = None,
    context_encoder: ContextEncoder | None = None,
) -> Generator[Chunk]:
    """Yields the chunks of one shot, each generated on request.

    Args:
        pipeline: The pipeline.
        request: The inputs of the shot.
        preview: A decoder for the chunk's frames; `context_encoder` then decodes the shot with the codec.
        context_encoder: Gets each chunk, and encodes its context frames during the next one.
    """
    pipeline.check_shot(request.num_chunks, request.num_steps)
    with _denoising(pipeline, request) as next_chunk:
        decoding, state = pipeline.stopwatch(), None
        for chunk_index in range(request.num_chunks):
            denoised = next_chunk()
            if denoised is None:
                return  # the process ends
            with decoding.part("decode"), pipeline.beside(denoised.latents, denoised.ready):
                levels, state = pipeline.decode_levels(denoised.latents, state, preview)
                frames = to_frames(levels)
            if context_encoder is not None:
                context_encoder.add(denoised.latents, levels, frames)
            yield Chunk(
                frames=frames,
                latents=denoised.latents,
                shot_index=len(request.takes),
                chunk_index=chunk_index,
                timings=_timings({**denoised.parts_s, **decoding.take()}),
            )
            if _process_ends.is_set():
                return
            if context_encoder is not None:
                context_encoder.encode_pending()


@dataclass(frozen=True, slots=True)
class _Denoised:
    latents: Tensor
    parts_s: Mapping[str, float]
    ready: torch.cuda.Event | None
    """CUDA event at which the latents are complete, for readers on other streams; None on a CPU."""


@contextmanager
def _denoising(
    pipeline: StreamingPipeline, request: ShotRequest
) -> Generator[Callable[[], _Denoised | None]]:
    """Yields a function that denoises the next chunk of a shot, after it has committed the previous one.

    With an inference group all processes do this together; with a prefetcher a thread does, one chunk ahead.
    """
    stopwatch = pipeline.stopwatch()
    with ExitStack() as ended:
        cache = pipeline.borrow_cache()
        ended.callback(pipeline.return_cache, cache)
        with stopwatch.part("context"):
            conditioning, captions = condition_request(pipeline, request)
        with stopwatch.part("text"):
            text = pipeline.text_cache(captions)
        noise = KeyedNoise(seeds=(request.seed,), shape=pipeline.chunk_shape, device=pipeline.device)
        sigmas, given = pipeline.sigmas(request.num_steps), conditioning.given
        token = None if pipeline.prefetcher is None else CancelToken()
        rollout = Rollout(
            pipeline.dit,
            conditioning,
            text,
            cache,
            noise if given is None else partial(_noise_after, noise, 1),
            sigmas,
            first_sigmas=pipeline.first_sigmas(request.num_steps),
            stopwatch=stopwatch,
            switches=_switches(pipeline, request, num_given=0 if given is None else 1),
        )
        rules = pipeline.config.rules
        num_chunks = request.num_chunks if given is None else request.num_chunks - 1
        # Without an end, so that chunks that are denoised together do not depend on where the shot ends.
        endless = rules is not None and rules.rolling
        generated = rollout.chunks(None if endless else num_chunks, cancel_token=token)
        chunks = ended.enter_context(closing(generated if given is None else _after(given, generated)))
        next_latents = partial(next, islice(chunks, request.num_chunks), None)
        if pipeline.group is not None:
            assert isinstance(sigmas, Tensor)
            inputs = ShotInputs(
                conditioning=conditioning.to("cpu"),
                embeddings=pipeline.embeddings(captions).cpu(),
                sigmas=sigmas.cpu(),
                seed=request.seed,
                num_chunks=request.num_chunks,
                cache_dtype=pipeline.cache_dtype,
            )
            next_latents = ended.enter_context(pipeline.group.leading(inputs, next_latents))

        def next_chunk() -> _Denoised | None:
            latents = next_latents()
            if latents is None:
                return None
            ready = torch.cuda.Event() if latents.is_cuda else None
            if ready is not None:
                ready.record()
            return _Denoised(latents, stopwatch.take(), ready)

        if pipeline.prefetcher is None or token is None:
            yield next_chunk
        else:
            yield ended.enter_context(pipeline.prefetcher.prefetching(next_chunk, token))


def _switches(pipeline: StreamingPipeline, request: ShotRequest, *, num_given: int) -> SwitchFunction | None:
    """Returns the captions that a shot gets while it runs; None where processes share its passes.

    A rollout does not count the chunks that it is given.
    """
    if pipeline.group is not None:
        return None
    compose = request.text_function(pipeline.compose)
    earlier = [take.told for take in request.takes]

    def embed(captions: Sequence[str]) -> Tensor:
        return pipeline.embeddings([compose([*earlier, tuple(captions)])])

    steered = SteeredCaptions(pipeline.dit, request.steering, embed, request.caption)
    return lambda chunk_index: steered(chunk_index + num_given)


def _after(given: Tensor, generated: Generator[Tensor]) -> Generator[Tensor]:
    """Yields a given frame as a shot's first chunk, then the generated ones."""
    yield given
    yield from generated


def _noise_after(noise: KeyedNoise, num_given: int, chunk_index: int, step_index: int) -> Tensor:
    """Returns the noise of a generated chunk, whose index in the shot counts the given ones too."""
    return noise(chunk_index + num_given, step_index)


def condition_request(pipeline: StreamingPipeline, request: ShotRequest) -> ConditionedShot:
    """Returns the conditioning of a shot, a batch of one on the pipeline's device, and its caption rows."""
    captions = [*(take.told for take in request.takes), request.caption]
    return condition_next_shot(
        request.memories,
        request.caption,
        pipeline.dit.config,
        pipeline.latent_size,
        request.policy or pipeline.context_policy,
        references=[one.memory for one in request.references_here],
        text_of=request.text_function(pipeline.compose),
        match=pipeline.matcher.match_function(
            request.global_caption, captions, request.told_references, request.film_seed
        ),
        device=pipeline.device,
    )


def finish_shot(
    pipeline: StreamingPipeline, request: ShotRequest, frames: UInt8[np.ndarray, "f h w 3"], num_chunks: int
) -> Take:
    """Returns the take of a shot with given frames; its memory is encoded now.

    Args:
        pipeline: The pipeline that generated it.
        request: The request of the shot.
        frames: All its frames.
        num_chunks: Number of generated chunks, which may be fewer than requested.
    """
    stopwatch = pipeline.stopwatch()
    with stopwatch.part("keep"):
        candidates = kept_frames(len(frames), len(request.takes), pipeline.context_budget)
        latents = pipeline.encode_frames(frames[list(candidates)])
    return request.take(
        num_chunks=num_chunks,
        num_frames=len(frames),
        candidate_frames=candidates,
        later_captions=request.steering.captions(num_chunks, pipeline.geometry.shot_num_frames),
        latents=latents,
        keep_s=stopwatch.take()["keep"],
    )


def _timings(parts_s: Mapping[str, float]) -> ChunkTimings:
    return ChunkTimings(
        **{f"{part}_s": parts_s.get(part, 0.0) for part in ("text", "context", "denoise", "commit", "decode")}
    )
