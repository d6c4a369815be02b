"""Runs what a film's first shot consists of once, so that it waits for no compiler and no search.

Compiled are the transformer's blocks, for each length of the cache that the shot meets, and Wan's decoder for
a shot's first chunk and for a later one; cuDNN tries its algorithms for the shapes of both and of a kept
frame. What only later shots need (a context that reads several captions) is compiled when it is met.
"""

import time
from collections.abc import Callable

import torch

from shotstream.streaming.conditioning import first_shot
from shotstream.streaming.engine import Engine
from shotstream.streaming.noise import KeyedNoise
from shotstream.streaming.rollout import Rollout


@torch.no_grad()
def warm_up(
    engine: Engine, num_chunks: int | None = None, *, tell: Callable[[str], None] | None = None
) -> float:
    """Seconds that it took. What it makes is thrown away; films are what they would have been.

    Args:
        engine: What to run, once.
        num_chunks: Chunks of the first shot; lengths met later are compiled then. None: the usual number.
        tell: Given a line before and a line after.
    """

    def say(line: str) -> None:
        if tell is not None:
            tell(line)

    start_s = time.perf_counter()
    say(f"compiling for this {engine.device.type.upper()}, about a minute, once: what is compiled is kept")
    config = engine.dit.config
    shot = engine.config.num_chunks if num_chunks is None else num_chunks
    cache = engine.borrow_cache()
    state = None
    try:
        embeddings = torch.zeros(1, 1, config.text_length, config.text_dim, device=engine.device)
        rollout = Rollout(
            engine.dit,
            first_shot(config, engine.latent_size, device=engine.device),
            engine.dit.text_cache(embeddings),
            cache,
            KeyedNoise(seeds=(0,), shape=engine.chunk_shape, device=engine.device),
            engine.sigmas(1),
        )
        for chunk_index, latents in enumerate(rollout.chunks(shot)):
            if chunk_index < 2:
                frames, state = engine.decode(latents, state)
                engine.encode_frames(frames[:1])
    finally:
        engine.return_cache(cache)
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)
    seconds = time.perf_counter() - start_s
    say(f"compiled in {seconds:.0f} s")
    return seconds
