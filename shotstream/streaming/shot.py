"""One shot, chunk by chunk: from an order to decoded frames, as a function that changes no session.

A chunk is handed out as soon as it is decoded; its commit pass runs when the next one is asked for, or
before, in an engine that overlaps.
"""

import atexit
import threading
import time
import weakref
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from inspect import GEN_RUNNING, GEN_SUSPENDED, getgeneratorstate

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from shotstream.codec.codec import DecodeState, StreamDecoder
from shotstream.streaming.ahead import Ahead, Halt
from shotstream.streaming.conditioning import ConditionedShot, condition_next_shot
from shotstream.streaming.context_sampling import kept_frames
from shotstream.streaming.crew import ShotScript
from shotstream.streaming.engine import Engine, to_frames
from shotstream.streaming.keeping import Keeping
from shotstream.streaming.noise import KeyedNoise
from shotstream.streaming.order import ShotOrder
from shotstream.streaming.rollout import Rollout
from shotstream.streaming.saved_session import Take
from shotstream.streaming.timing import Stopwatch


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkTimings:
    """Seconds on the way to a chunk; see `timing` for what they mean on a GPU.

    In an engine that overlaps, decoding ran beside the rest of the next chunk's.
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
    """What they were decoded from, on the engine's device."""
    shot_index: int
    """0-based, in the film."""
    chunk_index: int
    """0-based, in the shot."""
    timings: ChunkTimings
    """How long its parts took."""


def make_shot(
    engine: Engine,
    order: ShotOrder,
    preview: StreamDecoder | None = None,
    keeping: Keeping | None = None,
) -> Generator[Chunk, None, None]:
    """The chunks of one shot, each computed when it is asked for.

    Args:
        engine: What it is made with.
        order: What it is made from.
        preview: Makes frames to look at in the codec's place; a shot's own are then those that `keeping`
            decodes behind them.
        keeping: Is given each chunk, and works on it once it was handed out, beside the next.
    """
    return closed_at_exit(_make_shot(engine, order, preview, keeping))


_LAST_CHUNK_S = 60.0
"""How long the end of the process waits for a chunk that a thread is making."""
_process_ends = threading.Event()
_open_shots: "weakref.WeakSet[Generator[Chunk, None, None]]" = weakref.WeakSet()


def closed_at_exit(shot: Generator[Chunk, None, None]) -> Generator[Chunk, None, None]:
    """The same generator, which is closed when the process ends, if someone still holds it."""
    _open_shots.add(shot)
    return shot


@atexit.register
def _close_shots() -> None:
    """What a generator does in the ruins of the interpreter, torch answers by aborting the process."""
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


def _make_shot(
    engine: Engine, order: ShotOrder, preview: StreamDecoder | None, keeping: Keeping | None
) -> Generator[Chunk, None, None]:
    stopwatch = engine.stopwatch()
    cache = engine.borrow_cache()
    try:
        with stopwatch.part("context"):
            conditioning, captions = condition_shot(engine, order)
        with stopwatch.part("text"):
            text = engine.text_cache(captions)
        noise = KeyedNoise(seeds=(order.seed,), shape=engine.chunk_shape, device=engine.device)
        sigmas = engine.sigmas(order.num_steps)
        halt = None if engine.ahead is None else Halt()
        rollout = Rollout(
            engine.dit, conditioning, text, cache, noise, sigmas, stopwatch=stopwatch, observe=halt
        )
        chunks = rollout.chunks(order.num_chunks)
        if engine.crew is not None:
            script = ShotScript(
                conditioning=conditioning.to("cpu"),
                embeddings=engine.embeddings(captions).cpu(),
                sigmas=sigmas.cpu(),
                seed=order.seed,
                num_chunks=order.num_chunks,
                cache_dtype=engine.cache_dtype,
            )
            chunks = engine.crew.lead(script, chunks)
        made = _denoised(chunks, stopwatch)
        ahead = engine.ahead
        if ahead is not None and halt is not None:
            made = ahead.items(made, halt)
        decoding = engine.stopwatch()
        state: DecodeState | None = None
        with closing(made):
            for chunk_index, denoised in enumerate(made):
                with decoding.part("decode"), _stream_of(ahead, denoised):
                    levels, state = engine.decode_levels(denoised.latents, state, preview)
                    frames = to_frames(levels)
                if keeping is not None:
                    keeping.add(denoised.latents, levels, frames)
                yield Chunk(
                    frames=frames,
                    latents=denoised.latents,
                    shot_index=len(order.takes),
                    chunk_index=chunk_index,
                    timings=_timings({**denoised.parts_s, **decoding.take()}),
                )
                if _process_ends.is_set():
                    return
                if keeping is not None:
                    keeping.work()
    finally:
        engine.return_cache(cache)


def condition_shot(engine: Engine, order: ShotOrder) -> ConditionedShot:
    """The conditioning of a shot, a batch of one on the engine's device, and its caption rows."""
    return condition_next_shot(
        order.memories,
        order.caption,
        engine.dit.config,
        engine.latent_size,
        engine.config.context_policy,
        compose=partial(engine.compose, order.global_caption),
        device=engine.device,
    )


def finish_shot(
    engine: Engine, order: ShotOrder, frames: UInt8[np.ndarray, "f h w 3"], num_chunks: int
) -> Take:
    """The take of a shot whose frames are there: what later shots may look at of them is encoded now.

    Args:
        engine: What it was made with.
        order: What it was made from.
        frames: All of them.
        num_chunks: Those that were made, which may be fewer than were ordered.
    """
    stopwatch = engine.stopwatch()
    with stopwatch.part("keep"):
        candidates = kept_frames(len(frames), len(order.takes), engine.context_budget)
        latents = engine.encode_frames(frames[list(candidates)])
    return order.take(
        num_chunks=num_chunks,
        num_frames=len(frames),
        candidate_frames=candidates,
        latents=latents,
        keep_s=stopwatch.take()["keep"],
    )


@dataclass(frozen=True, slots=True)
class _Denoised:
    latents: Tensor
    parts_s: Mapping[str, float]
    ready: torch.cuda.Event | None
    """When the latents are there; for whoever reads them on another stream."""


def _denoised(chunks: Generator[Tensor], stopwatch: Stopwatch) -> Generator[_Denoised]:
    with closing(chunks):
        for latents in chunks:
            ready = torch.cuda.Event() if latents.is_cuda else None
            if ready is not None:
                ready.record()
            yield _Denoised(latents, stopwatch.take(), ready)


def _stream_of(ahead: Ahead | None, denoised: _Denoised) -> AbstractContextManager[object]:
    return nullcontext() if ahead is None else ahead.decoding(denoised.latents, denoised.ready)


def _timings(parts_s: Mapping[str, float]) -> ChunkTimings:
    return ChunkTimings(
        **{f"{part}_s": parts_s.get(part, 0.0) for part in ("text", "context", "denoise", "commit", "decode")}
    )
