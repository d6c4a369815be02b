"""The context encoder of a shot: it encodes the frames that later shots may use as context.

Which frames these are depends on the length of the shot. Those for its full length are known from the start.
They are encoded as soon as they are decoded, during the next chunk, so that only the last ones remain when
the next shot is requested. If the shot is cut, the frames for its actual length are encoded then, and those
for its full length are discarded: at most 11 for a film's first shot at a budget of 6, and 1 to 3 for later
ones. A latent does not depend on when it is encoded (`StreamingPipeline.encode_levels`), and so neither does
a film.

Single frames are copied to main memory and dropped as soon as no possible length needs them.
"""

from bisect import bisect_right
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from shotstream.streaming.context_sampling import kept_frames
from shotstream.streaming.pipeline import StreamingPipeline, to_frames
from shotstream.streaming.saved_session import Take
from shotstream.streaming.shot_request import ShotRequest
from shotstream.transfer import fetch
from shotstream.vae.codec import DecodeState


def as_picture(image: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Returns an RGB picture as uint8; floats from 0 to 1 are rounded to the nearest level.

    Raises:
        ValueError: It is not such a picture.
    """
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"a picture of shape {'x'.join(map(str, image.shape))}; give height x width x 3, in RGB"
        )
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"a picture of {image.dtype}; give uint8 of 0 to 255, or floats of 0 to 1")
    if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
        raise ValueError("a picture of floats that are not all within 0 to 1; divide by 255, or give uint8")
    return np.rint(image.astype(np.float64) * 255).astype(np.uint8)


class ContextEncoder:
    """The context encoder of one shot; `make_shot` gives it each chunk."""

    def __init__(
        self,
        pipeline: StreamingPipeline,
        request: ShotRequest,
        *,
        has_preview: bool = False,
        keep_all: bool = False,
    ) -> None:
        """Creates a context encoder; nothing is computed yet.

        Args:
            pipeline: The pipeline that generates the shot.
            request: The inputs of the shot.
            has_preview: The chunk's frames come from a preview decoder; the codec decodes the shot here, one
                chunk behind.
            keep_all: Keep all frames, for `frames`, and for a cut before the last generated chunk.
        """
        self._pipeline = pipeline
        self._request = request
        self._has_preview = has_preview
        self._keep_all = keep_all
        self._planned = frozenset(self._candidates(request.num_chunks))
        self._stopwatch = pipeline.stopwatch()
        self._undecoded: list[Tensor] = []
        self._state: DecodeState | None = None
        self._unencoded: dict[int, Tensor] = {}
        self._latents: dict[int, Tensor] = {}
        self._chunks: list[UInt8[np.ndarray, "f h w 3"]] = []
        self._held_frames: dict[int, UInt8[np.ndarray, "h w 3"]] = {}
        self._num_chunks = self._num_kept = 0

    @property
    def num_chunks(self) -> int:
        """Number of chunks that were added."""
        return self._num_chunks

    def add(
        self,
        latents: Float[Tensor, "1 z latent_f latent_h latent_w"],
        levels: UInt8[Tensor, "f h w 3"],
        frames: UInt8[np.ndarray, "f h w 3"],
    ) -> None:
        """Adds the next chunk: latents and levels on the codec's device, frames in main memory."""
        self._num_chunks += 1
        if self._has_preview:
            self._undecoded.append(latents)
        else:
            self._collect(levels, frames)

    def encode_pending(self) -> None:
        """Decodes and encodes what was added so far; called after the chunk was yielded."""
        self._decode(self._num_chunks)
        self._encode()

    def frames(self, num_chunks: int) -> UInt8[np.ndarray, "f h w 3"]:
        """Returns the codec's frames of the first chunks; requires `keep_all`."""
        assert self._keep_all
        self._decode(num_chunks)
        return np.concatenate(self._chunks[:num_chunks])

    def take(self, num_chunks: int | None = None) -> Take:
        """Returns the take of the first `num_chunks` chunks; None: of all chunks.

        Fewer than all require `keep_all`.
        """
        num_chunks = self._num_chunks if num_chunks is None else num_chunks
        assert self._keep_all or num_chunks == self._num_chunks
        candidates = self._candidates(num_chunks)
        self._decode(num_chunks)
        # Frames that only the full length would need are not encoded.
        self._unencoded = {index: level for index, level in self._unencoded.items() if index in candidates}
        self._encode()
        with self._stopwatch.part("keep"), self._pipeline.beside():
            early = [index for index in candidates if index in self._latents]
            late = [index for index in candidates if index not in self._latents]
            found: dict[int, Tensor] = {}
            if early:
                latents = fetch(torch.stack([self._latents[index] for index in early]))
                found |= zip(early, latents, strict=True)
            if late:
                latents = self._pipeline.encode_frames(np.stack([self._frame(index) for index in late]))
                found |= zip(late, latents, strict=True)
        return self._request.take(
            num_chunks=num_chunks,
            num_frames=self._num_frames(num_chunks),
            candidate_frames=candidates,
            later_captions=self._request.steering.captions(num_chunks, self._num_frames),
            latents=torch.stack([found[index] for index in candidates]),
            keep_s=self._stopwatch.take()["keep"],
        )

    @torch.no_grad()
    def _decode(self, num_chunks: int) -> None:
        """Decodes the first chunks with the codec, if their frames came from a preview decoder."""
        while self._undecoded and self._num_kept < num_chunks:
            with self._stopwatch.part("keep"), self._pipeline.beside():
                levels, self._state = self._pipeline.decode_levels(self._undecoded.pop(0), self._state)
                self._collect(levels, to_frames(levels))

    @torch.no_grad()
    def _encode(self) -> None:
        with self._stopwatch.part("keep"), self._pipeline.beside():
            for index, level in self._unencoded.items():
                self._latents[index] = self._pipeline.encode_levels(level[None])[0]
                self._held_frames.pop(index, None)
            self._unencoded = {}

    def _collect(self, levels: Tensor, frames: np.ndarray) -> None:
        first = self._num_frames(self._num_kept)
        self._num_kept += 1
        wanted = self._possible_candidates()
        self._held_frames = {index: frame for index, frame in self._held_frames.items() if index in wanted}
        if self._keep_all:
            self._chunks.append(frames)
        for offset, frame in enumerate(frames):
            index = first + offset
            if index in self._planned:
                self._unencoded[index] = levels[offset]
            if index in wanted and not self._keep_all:
                self._held_frames[index] = frame.copy()

    def _possible_candidates(self) -> set[int]:
        """Returns the frames that are candidates for some length from here on."""
        ends = range(self._num_kept, self._request.num_chunks + 1)
        return {index for end in ends for index in self._candidates(end)}

    def _frame(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        if not self._keep_all:
            return self._held_frames[index]
        ends = list(accumulate(map(len, self._chunks)))
        chunk = bisect_right(ends, index)
        return self._chunks[chunk][index - ends[chunk]]  # counted from the chunk's end

    def _candidates(self, num_chunks: int) -> tuple[int, ...]:
        return kept_frames(
            self._num_frames(num_chunks), len(self._request.takes), self._pipeline.context_budget
        )

    def _num_frames(self, num_chunks: int) -> int:
        return self._pipeline.codec.geometry.shot_num_frames(num_chunks) if num_chunks else 0
