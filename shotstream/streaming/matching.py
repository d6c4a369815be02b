"""Matching: how earlier shots match the next one, for policies that choose by content.

Captions are compared as the text encoder understands them:

- Of the theatre's captions the reading is compared: characters (species and colour), place and framing. The
  score is what two shots have in common of what either has, by weight; a framing weighs little, so that it
  decides between equals. Shots without a common character or place do not match. A close-up hides the set
  and therefore does not show the place.
- Of other captions the embeddings are averaged over tokens; the score is their cosine. Whether that chooses
  well is untested.

A frame of a steered shot has the caption that it was generated under. A reference that a caption cites is
read as its caption; references themselves are in every context, and are not compared.

Queries and keys are the transformer's own, without training: a frame's descriptor is the mean over its
tokens of the keys before RoPE, in a pass over the kept frames of its shot and caption at level 0. The
next shot's is the mean of the queries of a first chunk of noise under its caption, without context. The score
is their product, summed over layers, heads and channels, per channel.

Everything here is a pure function of captions and latents, and remembered.

Source of the descriptors: CausalCine (arXiv 2605.12496).
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from shotstream.model.attention import attend_all
from shotstream.model.positions import FramePositions, chunk_positions, context_positions
from shotstream.model.rope import RopeTable, apply_rope, rope_table
from shotstream.story import Reference, ShotCaptions
from shotstream.streaming.context_candidates import (
    Comparison,
    ContextCandidate,
    Match,
    MatchCandidates,
)
from shotstream.streaming.pipeline_config import read_and_settled
from shotstream.streaming.references import cite, cite_all
from shotstream.theatre.caption_encoder import CaptionEncoder
from shotstream.theatre.reading.reader import ShotReading

if TYPE_CHECKING:
    from shotstream.streaming.pipeline import StreamingPipeline

_FRAMING_WEIGHT: Final = 0.1
_MAX_CAPTIONS: Final = 4096
_MAX_SHOTS: Final = 2048
"""Number of shots whose descriptors are remembered: 28 kB each for the theatre, 1 MB for Wan, at 6 frames."""
_QUERY_SEED: Final = 0

_Told = tuple[ShotCaptions, ...]
"""The captions of a film up to one of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a caption of the theatre says that is compared."""

    things: tuple[str, ...]
    """Characters, then the place, in words."""
    framing: str
    hides: frozenset[str] = frozenset()
    """The things that cannot be seen well enough to be remembered."""


def facts_of(reading: ShotReading) -> Facts:
    """Returns what is compared of a settled reading."""
    place, framing = reading.place or "", reading.framing or ""
    return Facts(
        things=(*(f"{actor.colour} {actor.species}" for actor in reading.actors), place),
        framing=framing,
        hides=frozenset({place} if framing == "close-up" else ()),
    )


def match_facts(earlier: Facts, following: Facts) -> Match | None:
    """Returns how an earlier shot matches the next one; None without a common character or place."""
    mine, other = set(following.things), set(earlier.things)
    if not mine & other:
        return None
    is_same = earlier.framing == following.framing
    common = len(mine & other) + _FRAMING_WEIGHT * is_same
    either = len(mine | other) + _FRAMING_WEIGHT * (2 - is_same)
    shared = tuple(thing for thing in following.things if thing in other and thing not in earlier.hides)
    return Match(score=common / either, shared=shared)


class Matcher:
    """The matcher of a pipeline; it remembers what it has computed."""

    def __init__(self, pipeline: "StreamingPipeline") -> None:
        self._pipeline = pipeline
        self._features: Callable[[str, _Told, int], Facts | Tensor] = lru_cache(_MAX_CAPTIONS)(
            self._features_of
        )
        self._text: Callable[[str, _Told, int], str] = lru_cache(_MAX_CAPTIONS)(pipeline.compose)
        self._keys: OrderedDict[tuple[str, str], Tensor] = OrderedDict()
        self._query: Callable[[str], Tensor] = lru_cache(_MAX_CAPTIONS)(self._query_of)

    def match_function(
        self,
        global_caption: str,
        captions: Sequence[ShotCaptions],
        references: Sequence[Reference],
        seed: int,
    ) -> MatchCandidates:
        """Returns the function that compares candidates with the last of a film's captions; see `match`.

        The captions may cite `references`.
        """
        told = [cite_all(one, references) for one in captions]
        return partial(self.match, cite(global_caption, references), told, seed)

    def match(
        self,
        global_caption: str,
        captions: Sequence[ShotCaptions],
        seed: int,
        compares: Comparison,
        candidates: Sequence[ContextCandidate],
    ) -> list[Match | None]:
        """Returns how each candidate matches the last of a film's captions.

        Args:
            global_caption: The caption of all shots.
            captions: The captions of the shots before it, then its own; none cites a reference.
            seed: Seed of the film, see `StreamingPipeline.compose`.
            compares: What is compared.
            candidates: Frames of the shots before it, those of a shot together.
        """
        told = tuple(captions)
        if compares == "captions":
            return self._match_captions(global_caption, told, seed, candidates)
        found: list[Match | None] = []
        query = self._query(self._text(global_caption, told, seed))
        for captions_of_frames, group in groupby(candidates, key=partial(_told_of, told)):
            frames = [candidate.latent() for candidate in group]
            text = self._text(global_caption, captions_of_frames, seed)
            scores = (self._keys_of(torch.stack(frames), text) * query).flatten(1).mean(1)
            found += [Match(score=score) for score in scores.tolist()]
        return found

    def _match_captions(
        self,
        global_caption: str,
        told: _Told,
        seed: int,
        candidates: Sequence[ContextCandidate],
    ) -> list[Match | None]:
        following = self._features(global_caption, told, seed)
        told_of = [_told_of(told, candidate) for candidate in candidates]
        matches: Mapping[_Told, Match | None] = {
            earlier: _compare(self._features(global_caption, earlier, seed), following)
            for earlier in set(told_of)
        }
        return [matches[earlier] for earlier in told_of]

    def _features_of(self, global_caption: str, captions: _Told, seed: int) -> Facts | Tensor:
        encoder = self._pipeline.text_encoder
        if isinstance(encoder, CaptionEncoder):
            return facts_of(read_and_settled(global_caption, captions, seed).reading)
        text = self._text(global_caption, captions, seed)
        num_tokens = min(encoder.count_tokens(text), encoder.text_length)
        return encoder.encode([text])[0, :num_tokens].float().mean(0).cpu()

    def _keys_of(self, latents: Float[Tensor, "k z h w"], text: str) -> Float[Tensor, "k l d"]:
        """Returns the descriptors of the frames of a shot; float32, on the CPU."""
        stored = latents.contiguous().numpy().tobytes()
        key = (hashlib.sha256(stored).hexdigest(), text)
        if key not in self._keys:
            zeros = torch.zeros(1, len(latents), dtype=torch.long)
            frames = latents.movedim(0, 1)[None]
            positions = context_positions(zeros, zeros)
            self._keys[key] = self._means(frames, torch.zeros(1, len(latents)), text, positions)[1]
        self._keys.move_to_end(key)
        if len(self._keys) > _MAX_SHOTS:
            self._keys.popitem(last=False)
        return self._keys[key]

    def _query_of(self, text: str) -> Float[Tensor, "l d"]:
        """Returns the descriptor of a shot that is not generated yet; float32, on the CPU."""
        pipeline = self._pipeline
        zeros = torch.zeros(1, dtype=torch.long)
        positions = chunk_positions(zeros, zeros, 0, pipeline.dit.config)
        # The same noise for all shots, so that only captions make a difference.
        generator = torch.Generator().manual_seed(_QUERY_SEED)
        noise = torch.randn(1, *pipeline.chunk_shape, generator=generator)
        return self._means(noise, torch.ones(1, noise.shape[2]), text, positions)[0].mean(0)

    @torch.no_grad()
    def _means(
        self,
        latents: Float[Tensor, "1 z k h w"],
        sigma: Float[Tensor, "1 k"],
        text: str,
        positions: FramePositions,
    ) -> tuple[Float[Tensor, "k l d"], Float[Tensor, "k l d"]]:
        """Returns the means over each frame's tokens of queries and keys before RoPE, in every layer."""
        pipeline = self._pipeline
        dit, device = pipeline.dit, pipeline.device
        grid = pipeline.geometry.token_grid(pipeline.latent_size)
        rope = rope_table(positions.to(device), grid, dit.config)
        back = RopeTable(rope.positions, rope.cos, -rope.sin)
        means: list[tuple[Tensor, Tensor]] = []

        def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            means.append((_mean(queries, back, grid.num_tokens), _mean(keys, back, grid.num_tokens)))
            return attend_all(queries, keys, values)

        text_cache = pipeline.text_cache([text])
        dit(latents.to(device), sigma.to(device), text_cache, rope, attention=attend)
        queries, keys = (torch.stack(part, dim=1).cpu() for part in zip(*means, strict=True))
        return queries, keys


def _told_of(told: _Told, candidate: ContextCandidate) -> _Told:
    """Returns the captions of a film up to that of a frame of it."""
    own = told[candidate.shot_index]
    if not isinstance(own, str):
        own = own[: candidate.caption_index + 1] if candidate.caption_index else own[0]
    return (*told[: candidate.shot_index], own)


def _compare(earlier: Facts | Tensor, following: Facts | Tensor) -> Match | None:
    if isinstance(earlier, Facts):
        assert isinstance(following, Facts)
        return match_facts(earlier, following)
    assert isinstance(following, Tensor)
    return Match(score=F.cosine_similarity(earlier, following, dim=0).item())


def _mean(x: Float[Tensor, "1 n heads k"], back: RopeTable, num_tokens: int) -> Float[Tensor, "f d"]:
    """Returns the mean over each frame's tokens, before RoPE; float32."""
    return apply_rope(x, back)[0].flatten(1).unflatten(0, (-1, num_tokens)).float().mean(1)
