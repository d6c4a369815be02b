"""Cross-attention to captions: frame f attends to the caption at its `caption_index`, and to no other.

If there is only one caption, every frame attends to it. Padding rows of a caption are attended to like any
other, as the published weights expect.

Source: Wan2.1 (arXiv 2503.20314); one caption per shot, arXiv 2603.25746.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shotstream.model.attention import RMSNorm, attend_all
from shotstream.model.config import DiTConfig


class CaptionKeys(NamedTuple):
    """Keys and values of every caption in one layer."""

    keys: Float[Tensor, "b s n heads k"]
    values: Float[Tensor, "b s n heads k"]

    def of_frames(self, caption_index: Int[Tensor, "_ f"]) -> "CaptionKeys":
        """Returns keys and values of every frame's own caption, "b f n heads k".

        A single caption is returned as it is, for all frames.
        """
        if self.keys.shape[1] == 1:
            return self
        rows = torch.arange(self.keys.shape[0], device=self.keys.device)[:, None]
        return CaptionKeys(*(part[rows, caption_index] for part in self))


@dataclass(frozen=True, slots=True)
class TextCache:
    """The keys and values of captions in every layer, computed by `DiT.text_cache` once per shot.

    It is immutable: other captions need another cache, so that no outdated captions can be attended to.
    """

    captions: tuple[str, ...]
    """The captions, in the order of `caption_index`, which identify the cache; may be empty."""
    layers: tuple[CaptionKeys, ...]

    def only(self, rows: Int[Tensor, " b"]) -> "TextCache":
        """Returns the cache of one caption per sample, at the indices `rows`, without the captions' texts.

        It serves frames that all attend to one caption: a pass then needs no copy of the caption for every
        frame in every layer. A cache of a single caption is returned as it is, whatever `rows` holds.
        """
        if all(layer.keys.shape[1] == 1 for layer in self.layers):
            return self
        batch = torch.arange(len(rows), device=rows.device)
        return TextCache(
            (),
            tuple(CaptionKeys(*(part[batch, rows].unsqueeze(1) for part in layer)) for layer in self.layers),
        )


class CrossAttention(nn.Module):
    """Attention of tokens to the caption of their frame."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q = nn.Linear(config.dim, config.dim)
        self.k = nn.Linear(config.dim, config.dim)
        self.v = nn.Linear(config.dim, config.dim)
        self.o = nn.Linear(config.dim, config.dim)
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.norm_k = RMSNorm(config.dim, config.eps)

    def caption_keys(self, text: Float[Tensor, "b s n d"]) -> CaptionKeys:
        """Returns keys and values of captions after the text embedding."""
        keys = self.norm_k(self.k(text)).unflatten(-1, (self.num_heads, -1))
        values = self.v(text).unflatten(-1, (self.num_heads, -1))
        return CaptionKeys(keys, values)

    def forward(self, x: Float[Tensor, "b f p d"], captions: CaptionKeys) -> Float[Tensor, "b f p d"]:
        """Returns the attention of every token to its frame's caption: a common one, or one per frame."""
        batch, num_frames = x.shape[:2]
        queries = self.norm_q(self.q(x)).unflatten(-1, (self.num_heads, -1))  # b f p heads k
        if captions.keys.shape[1] == 1:
            gathered = attend_all(queries.flatten(1, 2), captions.keys[:, 0], captions.values[:, 0])
            return self.o(gathered.flatten(2)).unflatten(1, (num_frames, -1))
        keys, values = (part.flatten(0, 1) for part in captions)  # (b f) n heads k
        gathered = attend_all(queries.flatten(0, 1), keys, values)
        return self.o(gathered.flatten(2)).unflatten(0, (batch, num_frames))
