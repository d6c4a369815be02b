"""A shot looked at through a light decoder while it is made; what is kept is the model's own codec's.

What is shown live is the light decoder's. What is kept is not: each chunk is decoded once more by the codec
while the next one is denoised (`keeping.Keeping`), in the same pieces, so that its frames, their hashes and
the context of later shots are to the bit those of a film made without. Between two shots there is left the
decoding of the last chunk: the first pictures come sooner, and the film as a whole takes hardly longer.
"""

from pathlib import Path

from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.vae.tiny_decoder import TinyDecoder
from shotstream.weights.tensor_files import lazy_tensors, read_pytorch, read_safetensors


def read_preview(path: Path, pipeline: StreamingPipeline) -> TinyDecoder:
    """TAEHV's decoder from its published file (.pth, or .safetensors with the same names), for a pipeline.

    Raises:
        ValueError: The pipeline is not of the Wan family, or the file does not hold what it should.
    """
    if pipeline.config.family != "wan":
        raise ValueError(
            f"{path}: a light decoder is of Wan's latents; {pipeline.model_id} has others: leave it out"
        )
    is_safe = path.suffix == ".safetensors"
    tensors = read_safetensors(path) if is_safe else lazy_tensors(read_pytorch(path), str(path))
    try:
        loaded = {name: tensor.load() for name, tensor in tensors.items()}
        decoder = TinyDecoder.from_tensors(loaded, device=pipeline.codec_device, dtype=pipeline.dtype)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if decoder.latent_channels != pipeline.codec.latent_channels:
        raise ValueError(
            f"{path}: decodes {decoder.latent_channels} latent channels; the model has "
            f"{pipeline.codec.latent_channels}"
        )
    return decoder
