"""Generates a shot, chunk by chunk: from a request to decoded frames, without changing a session.

A chunk is handed out as soon as it is decoded; its commit pass runs when the next one is asked for, or
before, in a pipeline that overlaps.
"""

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import GEN_RUNNING, GEN_SUSPENDED, getgeneratorstate
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
from shotstream.vae.codec import StreamDecoder

P = ParamSpec("P")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkTimings:
    """Seconds on the way to a chunk; see `timing` for what they mean on a GPU.

    In a pipeline that overlaps, decoding ran beside the rest of the next chunk's.
    """

    text_s: float
    """Encoding captions; first chunk of a shot only."""
    context_s: float
    """Sampling and committing the context; first chunk of a shot only."""
    denoise_s: float
    """Denoising this chunk."""
    commit_s: float
    """Committing the chunk before it, which runs after that one was handed out; not in the first chunk."""
    decode_s: float
    """From latents to frames in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Frames of a shot, as they are done."""

    frames: UInt8[np.ndarray, "f h w 3"] = field(repr=False)
    """RGB, read-only: later shots look back at this very memory."""
    latents: Float[Tensor, "1 z latent_f latent_h latent_w"] = field(repr=False)
    """What they were decoded from, on the pipeline's device."""
    shot_index: int
    """0-based, in the film."""
    chunk_index: int
    """0-based, in the shot."""
    timings: ChunkTimings
    """How long its parts took."""


_LAST_CHUNK_S = 60.0
"""How long the end of the process waits for a chunk that a thread is making."""
_process_ends = threading.Event()
_open_shots: "weakref.WeakSet[Generator[Chunk, None, None]]" = weakref.WeakSet()


def closed_at_exit(make: Callable[P, Generator[Chunk]]) -> Callable[P, Generator[Chunk]]:
    """The same function; its generators are closed when the process ends, if someone still holds them."""

    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Generator[Chunk]:
        shot = make(*args, **kwargs)
        _open_shots.add(shot)
        return shot

    return made


@atexit.register
def _close_shots() -> None:
    """Closes open shots: torch aborts a process whose generators go on while the interpreter ends."""
    _process_ends.set()
    last_s = time.monotonic() + _LAST_CHUNK_S
    if threading.active_count() > 1:
        time.sleep(0.1)  # a thread that is between two chunks goes on to the one that ends its shot
    for shot in tuple(_open_shots):
        # One that a thread is making ends with its chunk.
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
    """Generates the chunks of one shot, each on request.

    Args:
        pipeline: The pipeline.
        request: The inputs of the shot.
        preview: A decoder for the chunk's frames; `context_encoder` then decodes the shot with the codec.
        context_encoder: Gets each chunk, and encodes its context frames during the next one.
    """
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
    """When the latents are there; for whoever reads them on another stream."""


@contextmanager
def _denoising(
    pipeline: StreamingPipeline, request: ShotRequest
) -> Generator[Callable[[], _Denoised | None]]:
    """Gives a function that denoises the next chunk of a shot; it commits the one before first.

    With an inference group all processes do so together; with a prefetcher a thread does, one chunk ahead.
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
        sigmas = pipeline.sigmas(request.num_steps)
        token = None if pipeline.prefetcher is None else CancelToken()
        rollout = Rollout(pipeline.dit, conditioning, text, cache, noise, sigmas, stopwatch=stopwatch)
        chunks = ended.enter_context(closing(rollout.chunks(request.num_chunks, cancel_token=token)))
        next_latents = partial(next, chunks, None)
        if pipeline.group is not None:
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


def condition_request(pipeline: StreamingPipeline, request: ShotRequest) -> ConditionedShot:
    """The conditioning of a shot, a batch of one on the pipeline's device, and its caption rows."""
    return condition_next_shot(
        request.memories,
        request.caption,
        pipeline.dit.config,
        pipeline.latent_size,
        pipeline.config.context_policy,
        text_of=partial(pipeline.compose, request.global_caption),
        device=pipeline.device,
    )


def finish_shot(
    pipeline: StreamingPipeline, request: ShotRequest, frames: UInt8[np.ndarray, "f h w 3"], num_chunks: int
) -> Take:
    """The take of a shot whose frames are there: what later shots may look at of them is encoded now.

    Args:
        pipeline: What it was made with.
        request: What it was made from.
        frames: All of them.
        num_chunks: Those that were made, which may be fewer than were ordered.
    """
    stopwatch = pipeline.stopwatch()
    with stopwatch.part("keep"):
        candidates = kept_frames(len(frames), len(request.takes), pipeline.context_budget)
        latents = pipeline.encode_frames(frames[list(candidates)])
    return request.take(
        num_chunks=num_chunks,
        num_frames=len(frames),
        candidate_frames=candidates,
        latents=latents,
        keep_s=stopwatch.take()["keep"],
    )


def _timings(parts_s: Mapping[str, float]) -> ChunkTimings:
    return ChunkTimings(
        **{f"{part}_s": parts_s.get(part, 0.0) for part in ("text", "context", "denoise", "commit", "decode")}
    )
