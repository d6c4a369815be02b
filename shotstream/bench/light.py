"""A film shown through a light decoder, as in a studio's preview: the parts that benchmarks measure.

The shown frames are the light decoder's. Context frames are decoded by the model's own codec, one chunk
later, which is included. The weights are random, because speed does not depend on them.
"""

from collections.abc import Generator, Iterator
from contextlib import closing

import torch

from shotstream.streaming.context_encoder import ContextEncoder
from shotstream.streaming.noise import shot_seed
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.saved_session import Take
from shotstream.streaming.shot import Chunk, make_shot
from shotstream.streaming.shot_request import ShotRequest
from shotstream.vae.tiny_decoder import TinyDecoder


def random_light_decoder(pipeline: StreamingPipeline) -> TinyDecoder:
    """Returns TAEHV's decoder in its published sizes, on the codec's device, with random weights."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        decoder = TinyDecoder(pipeline.codec.latent_channels)
    return decoder.to(pipeline.codec_device, pipeline.dtype).eval().requires_grad_(False)


class LightSession:
    """The part of a `StorySession` that a measurement needs, with frames of a light decoder."""

    def __init__(self, pipeline: StreamingPipeline, decoder: TinyDecoder, global_caption: str) -> None:
        self._pipeline, self._decoder, self._global_caption = pipeline, decoder, global_caption
        self._open: Generator[Chunk] | None = None
        self.shots: list[Take] = []

    def shot(
        self, caption: str, *, num_chunks: int | None = None, steps: int | None = None
    ) -> Iterator[Chunk]:
        """Yields the chunks of the next shot; an open shot is cut at its last chunk."""
        if self._open is not None:
            self._open.close()
        config = self._pipeline.config
        request = ShotRequest(
            global_caption=self._global_caption,
            caption=caption,
            seed=shot_seed(0, len(self.shots)),
            num_steps=steps or len(config.student_steps),
            num_chunks=num_chunks or config.num_chunks,
            takes=tuple(self.shots),
            pins=(),
        )
        self._open = self._film(request)
        return self._open

    def _film(self, request: ShotRequest) -> Generator[Chunk]:
        encoder = ContextEncoder(self._pipeline, request, has_preview=True)
        try:
            with closing(make_shot(self._pipeline, request, self._decoder, encoder)) as chunks:
                yield from chunks
        finally:
            if encoder.num_chunks:
                self.shots.append(encoder.take())
