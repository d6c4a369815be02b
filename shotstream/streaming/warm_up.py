"""Runs what a film's first shots consist of once, so that they wait for no compiler and no search.

Compiled are the transformer's blocks, for a chunk and for a context of one caption and of several, and Wan's
decoder for a shot's first chunk and for a later one; cuDNN tries its algorithms for the shapes of both and of
a kept frame, and plans attention for each length of the cache.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from shotstream.model.positions import context_positions
from shotstream.streaming.conditioning import Conditioning, first_shot
from shotstream.streaming.noise import KeyedNoise
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.rollout import Rollout
from shotstream.vae.codec import DecodeState


@torch.no_grad()
def warm_up(
    pipeline: StreamingPipeline, num_chunks: int | None = None, *, tell: Callable[[str], None] | None = None
) -> float:
    """Seconds that it took. What it makes is thrown away; films are what they would have been.

    Args:
        pipeline: What to run, once.
        num_chunks: Chunks of the first shot; lengths met later are compiled then. None: the usual number.
        tell: Given a line before and a line after.
    """

    def say(line: str) -> None:
        if tell is not None:
            tell(line)

    start_s = time.perf_counter()
    say(f"compiling for this {pipeline.device.type.upper()}, about a minute, once: what is compiled is kept")
    shot = pipeline.config.num_chunks if num_chunks is None else num_chunks
    noise = KeyedNoise(seeds=(0,), shape=pipeline.chunk_shape, device=pipeline.device)
    config, cache = pipeline.dit.config, pipeline.borrow_cache()
    try:
        for num_captions in (1, 2):
            shape = (1, num_captions, config.text_length, config.text_dim)
            text = pipeline.dit.text_cache(torch.zeros(shape, device=pipeline.device))
            conditioning = _conditioning(pipeline, num_captions)
            rollout = Rollout(pipeline.dit, conditioning, text, cache, noise, pipeline.sigmas(1))
            _run(pipeline, rollout.chunks(shot if num_captions == 1 else 0))
    finally:
        pipeline.return_cache(cache)
    if pipeline.device.type == "cuda":
        torch.cuda.synchronize(pipeline.device)
    seconds = time.perf_counter() - start_s
    say(f"compiled in {seconds:.0f} s")
    return seconds


def _run(pipeline: StreamingPipeline, chunks: Iterable[Tensor]) -> None:
    """Denoises all and decodes the first two: the third is decoded like the second."""
    state: DecodeState | None = None
    for chunk_index, latents in enumerate(chunks):
        if chunk_index < 2:
            frames, state = pipeline.decode(latents, state)
            pipeline.encode_frames(frames[:1])


def _conditioning(pipeline: StreamingPipeline, num_captions: int) -> Conditioning:
    """Conditioning of a first shot, but for the number of captions that its context reads."""
    conditioning = first_shot(pipeline.dit.config, pipeline.latent_size, device=pipeline.device)
    rows = torch.arange(pipeline.context_budget, device=pipeline.device)[None] % num_captions
    return replace(conditioning, positions=context_positions(rows, rows))
