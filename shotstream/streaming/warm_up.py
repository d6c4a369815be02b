"""The warm-up of a pipeline: compiles and tunes everything that a film's first shots need.

It compiles the transformer's blocks, for a chunk and for contexts of one and of several captions, and Wan's
decoder for a shot's first chunk and for a later one. cuDNN tries its algorithms for the shapes of both and of
a context frame, and plans attention for each length of the cache.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from shotstream.model.positions import context_positions
from shotstream.streaming.conditioning import Conditioning, first_shot_conditioning
from shotstream.streaming.noise import KeyedNoise
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.rollout import Rollout
from shotstream.vae.codec import DecodeState


@torch.no_grad()
def warm_up(
    pipeline: StreamingPipeline, num_chunks: int | None = None, *, tell: Callable[[str], None] | None = None
) -> float:
    """Runs the pipeline once and returns the seconds that it took; films do not depend on it.

    Args:
        pipeline: The pipeline.
        num_chunks: Number of chunks of the first shot; other lengths are compiled later. None: the default
            length.
        tell: Called with a line before and a line after.
    """

    def say(line: str) -> None:
        if tell is not None:
            tell(line)

    start_s = time.perf_counter()
    say(f"compiling for this {pipeline.device.type.upper()}, about a minute, once: what is compiled is kept")
    shot = pipeline.config.num_chunks if num_chunks is None else num_chunks
    noise = KeyedNoise(seeds=(0,), shape=pipeline.chunk_shape, device=pipeline.device)
    config, cache = pipeline.dit.config, pipeline.borrow_cache()
    rules = pipeline.config.rules
    # Chunks that are denoised together have a shape for each number of them.
    sigmas = pipeline.sigmas(pipeline.num_steps if rules is not None and rules.rolling else 1)
    try:
        for num_captions in (1, 2):
            shape = (1, num_captions, config.text_length, config.text_dim)
            text = pipeline.dit.text_cache(torch.zeros(shape, device=pipeline.device))
            conditioning = _conditioning(pipeline, num_captions)
            rollout = Rollout(pipeline.dit, conditioning, text, cache, noise, sigmas)
            _run(pipeline, rollout.chunks(shot if num_captions == 1 else 0))
    finally:
        pipeline.return_cache(cache)
    if pipeline.device.type == "cuda":
        torch.cuda.synchronize(pipeline.device)
    seconds = time.perf_counter() - start_s
    say(f"compiled in {seconds:.0f} s")
    return seconds


def _run(pipeline: StreamingPipeline, chunks: Iterable[Tensor]) -> None:
    """Denoises all chunks and decodes the first two: later ones are decoded like the second."""
    state: DecodeState | None = None
    for chunk_index, latents in enumerate(chunks):
        if chunk_index < 2:
            frames, state = pipeline.decode(latents, state)
            pipeline.encode_frames(frames[:1])


def _conditioning(pipeline: StreamingPipeline, num_captions: int) -> Conditioning:
    """Returns the conditioning of a first shot, except for the number of captions in its context."""
    conditioning = first_shot_conditioning(pipeline.dit.config, pipeline.latent_size, device=pipeline.device)
    rows = torch.arange(pipeline.context_budget, device=pipeline.device)[None] % num_captions
    return replace(conditioning, positions=context_positions(rows, rows))
