"""A memory bank: keys and values of a few single frames of a shot, attended to besides its window.

The first frame of a committed chunk is a candidate. Before the next chunk it fills a place of the bank; when
all are filled, the frames that the captions match best stay, in each layer separately, and the candidate
takes the last place. Keys keep their positions.

Source: MemFlow (arXiv 2512.14699). Unlike in its published code, captions that have just changed are matched
too.
"""

import math

import torch
from torch import Tensor

from shotstream.model.cross_attention import TextCache


class MemoryBank:
    """The bank of one shot; its places are the last tokens of a range of each layer's buffers."""

    def __init__(self, layers: tuple[tuple[Tensor, Tensor], ...], frame_tokens: int, interval: int) -> None:
        """Creates an empty bank.

        Args:
            layers: Views of the keys and values of the bank in each layer, "b n heads k".
            frame_tokens: Number of tokens of a frame.
            interval: Number of chunks for which a place is filled again, before the next one.
        """
        self._layers = layers
        self._frame_tokens = frame_tokens
        self._interval = interval
        self._size = layers[0][0].shape[1] // frame_tokens if layers else 0
        self.reset()

    @property
    def num_frames(self) -> int:
        """Number of frames in the bank; they are in its last places."""
        return self._num_frames

    def reset(self) -> None:
        """Removes all frames and the candidate."""
        self._num_frames = 0
        self._candidate: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def offer(self, frame: tuple[tuple[Tensor, Tensor], ...]) -> None:
        """Takes a copy of a frame's keys and values in each layer as the candidate."""
        self._candidate = [(keys.clone(), values.clone()) for keys, values in frame]

    @torch.no_grad()
    def record(self, num_chunks: int, text: TextCache) -> None:
        """Puts the candidate into the bank, before the chunk that follows `num_chunks` committed ones.

        Args:
            num_chunks: Number of committed chunks.
            text: Keys of the caption, which a full bank keeps the best frames for.
        """
        if not self._candidate:
            return
        place = (num_chunks - 1) // self._interval
        for layer, (held, candidate) in enumerate(zip(self._layers, self._candidate, strict=True)):
            if place >= self._size:
                self._keep_best(held, text.layers[layer].keys[:, 0])
            at = self._place(min(place, self._size - 1))
            for stored, new in zip(held, candidate, strict=True):
                stored[:, at] = new
        self._num_frames = max(self._num_frames, min(place + 1, self._size))

    def _keep_best(self, held: tuple[Tensor, Tensor], caption_keys: Tensor) -> None:
        """Puts all but the worst frame into the first places, the best first."""
        keys = self._frames(held[0])  # b frames n heads k
        width = keys.shape[-1]
        # The mean of all products of keys is the product of their means.
        mean_keys, mean_caption = keys.float().mean(2), caption_keys.float().mean(1)[:, None]
        scores = (mean_keys * mean_caption).sum(-1).mean(-1) / math.sqrt(width)  # b frames
        best = scores.topk(self._size - 1, dim=1).indices
        samples = torch.arange(len(best), device=best.device)[:, None]
        for stored in held:
            kept = self._frames(stored)[samples, best]  # b frames n heads k
            for place, frame in enumerate(kept.unbind(1)):
                stored[:, self._place(place)] = frame

    def _frames(self, stored: Tensor) -> Tensor:
        """Returns a view by frames; the first place comes last."""
        return stored.unflatten(1, (self._size, self._frame_tokens))

    def _place(self, place: int) -> slice:
        end = (self._size - place) * self._frame_tokens
        return slice(end - self._frame_tokens, end)
