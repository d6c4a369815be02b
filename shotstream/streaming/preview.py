"""Previews of a shot by a light decoder while it is generated; stored frames are the codec's.

A viewer sees the frames of the light decoder. Each chunk is also decoded by the codec while the next one is
denoised (`context_encoder.ContextEncoder`), in the same pieces. The shot's own frames, their hashes and the
context of later shots are therefore bit-identical to those without a preview. Only the decoding of the last
chunk remains between two shots: the first pictures come sooner, and the film takes hardly longer.
"""

from pathlib import Path

from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.vae.tiny_decoder import TinyDecoder
from shotstream.weights.tensor_files import lazy_tensors, read_pytorch, read_safetensors


def read_preview(path: Path, pipeline: StreamingPipeline) -> TinyDecoder:
    """Returns TAEHV's decoder from its published file (.pth, or .safetensors with the same names).

    Raises:
        ValueError: The pipeline is not of the Wan family, or the file is not that of the decoder.
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
