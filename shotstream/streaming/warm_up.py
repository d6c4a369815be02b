"""Runs every kind of pass that films consist of once, so that what is compiled is compiled before a film.

For a compiler, passes differ by their place in the cache, and a context also by how many captions it reads.
"""

import time

import torch

from shotstream.model.positions import context_positions
from shotstream.streaming.conditioning import Conditioning
from shotstream.streaming.engine import Engine
from shotstream.streaming.noise import KeyedNoise
from shotstream.streaming.rollout import Rollout


@torch.no_grad()
def warm_up(engine: Engine, num_chunks: int | None = None) -> float:
    """Seconds that it took. What it makes is thrown away; films are what they would have been.

    Args:
        engine: Whose transformer to run; with a crew, which compiles nothing, there is nothing to warm up.
        num_chunks: Chunks of the longest shot; later ones are compiled when they are met. None: the model's
            usual number.
    """
    start_s = time.perf_counter()
    config = engine.dit.config
    noise = KeyedNoise(seeds=(0,), shape=engine.chunk_shape, device=engine.device)
    cache = engine.borrow_cache()
    try:
        # Each context frame may read a caption of its own, and the shot reads one more.
        for num_captions in range(1, config.num_context_frames + 2):
            embeddings = torch.zeros(1, num_captions, config.text_length, config.text_dim)
            rollout = Rollout(
                engine.dit,
                _conditioning(engine, num_captions),
                engine.dit.text_cache(embeddings.to(engine.device)),
                cache,
                noise,
                engine.sigmas(1),
            )
            shot = engine.config.num_chunks if num_chunks is None else num_chunks
            list(rollout.chunks(shot if num_captions == 1 else 0))
    finally:
        engine.return_cache(cache)
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)
    return time.perf_counter() - start_s


def _conditioning(engine: Engine, num_captions: int) -> Conditioning:
    config, size = engine.dit.config, engine.latent_size
    rows = torch.arange(config.num_context_frames)[None] % num_captions
    shape = (1, config.latent_channels, config.num_context_frames, size.height, size.width)
    return Conditioning(
        context=torch.zeros(shape),
        positions=context_positions(rows, rows),
        target_phase=torch.tensor([num_captions]),
        target_caption=torch.tensor([num_captions - 1]),
    ).to(engine.device)
