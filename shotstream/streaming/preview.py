"""A shot looked at through a light decoder while it is made, and decoded by the model's own codec afterwards.

What is shown live is the light decoder's. What is kept is not: when a shot ends, all its latents are decoded
once more by the codec, in the same pieces, so that its frames, their hashes and the context of later shots
are to the bit those of a film made without. That costs a shot's whole decoding between two shots: the first
pictures come sooner, and the film as a whole takes longer.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from shotstream.codec.codec import DecodeState
from shotstream.codec.tiny_decoder import TinyDecoder
from shotstream.streaming.engine import Engine
from shotstream.weights.tensor_files import lazy_tensors, read_pytorch, read_safetensors


def read_preview(path: Path, engine: Engine) -> TinyDecoder:
    """TAEHV's decoder from its published file (.pth, or .safetensors with the same names), for an engine.

    Raises:
        ValueError: The engine is not of the Wan family, or the file does not hold what it should.
    """
    if engine.config.family != "wan":
        raise ValueError(
            f"{path}: a light decoder is of Wan's latents; {engine.config.model_id} has others: leave it out"
        )
    is_safe = path.suffix == ".safetensors"
    tensors = read_safetensors(path) if is_safe else lazy_tensors(read_pytorch(path), str(path))
    try:
        loaded = {name: tensor.load() for name, tensor in tensors.items()}
        decoder = TinyDecoder.from_tensors(loaded, device=engine.codec_device, dtype=engine.dtype)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if decoder.latent_channels != engine.codec.latent_channels:
        raise ValueError(
            f"{path}: decodes {decoder.latent_channels} latent channels; the model has "
            f"{engine.codec.latent_channels}"
        )
    return decoder


def final_frames(
    engine: Engine, latents: Sequence[Float[Tensor, "1 z f h w"]]
) -> UInt8[np.ndarray, "frames pixel_h pixel_w 3"]:
    """The frames of a shot's chunks, from its first on, as the engine's own codec decodes them."""
    state: DecodeState | None = None
    chunks: list[np.ndarray] = []
    for chunk in latents:
        frames, state = engine.decode(chunk, state)
        chunks.append(frames)
    return np.concatenate(chunks)
