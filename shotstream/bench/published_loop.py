"""The published loop, reimplemented with this project's weights: the baseline of the engine.

It does what the published inference of ShotStream does (arXiv 2603.25746) where that costs time:

- at every cut all captions of the film so far are encoded again, every context frame is encoded again from
  its pixels, one after another, and every cache is allocated again;
- in every pass each layer clones its whole local and its whole context cache, puts the new keys into the
  clone, concatenates both, reads their lengths from the device, and writes back when all layers are done;
- rotations are complex numbers in double precision, with a table computed on the CPU in every pass;
- the captions' keys are gathered frame by frame in every pass;
- nothing is decoded before the whole shot is denoised, and its last chunk is committed without use.

Everything else is the engine's own: weights, dtype, threads, fused attention, norms, sampler, noise, codec.
The results are therefore the same, and only the arrangement differs. It supports shots up to the window, and
inference only. It was written from a description of the behaviour; it contains no line of the published code.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Complex, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from shotstream.diffusion.samplers import few_step
from shotstream.model.attention import SelfAttention, attend_all
from shotstream.model.cross_attention import CaptionKeys, CrossAttention
from shotstream.model.dit import Block, modulated_norm, sigma_embedding
from shotstream.model.positions import FramePositions
from shotstream.streaming.conditioning import (
    Conditioning,
    context_captions,
    first_shot_conditioning,
    planned_conditioning,
)
from shotstream.streaming.context_candidates import ContextCandidate, NextShot, frame_candidates
from shotstream.streaming.context_sampling import choose_context, kept_frames
from shotstream.streaming.noise import KeyedNoise, shot_seed
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.text.text_encoder import TextEncoder, UMT5TextEncoder
from shotstream.text.word_encoder import WordEncoder
from shotstream.theatre.caption_encoder import CaptionEncoder

_ROPE_BASE = 10000.0
_ROPE_TABLE_LENGTH = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedShot:
    """A complete shot of the published loop."""

    latents: Float[Tensor, "1 c f h w"]
    frames: UInt8[np.ndarray, "frames pixel_h pixel_w 3"]


@dataclass(slots=True)
class _LayerCache:
    """The KV cache of one layer; lengths are tensors on the device."""

    keys: Float[Tensor, "1 n heads k"]
    values: Float[Tensor, "1 n heads k"]
    local_end: Int[Tensor, "1"]


@dataclass(slots=True)
class _ShotCaches:
    """The KV caches of all layers for one shot."""

    context: list[_LayerCache]
    local: list[_LayerCache]
    captions: list[CaptionKeys]


class PublishedLoop:
    """Generates complete stories in the published way, with an engine's networks."""

    def __init__(self, pipeline: StreamingPipeline) -> None:
        self._pipeline = pipeline
        self._dit = pipeline.dit
        self._grid = pipeline.codec.geometry.token_grid(pipeline.latent_size)
        self._rope_powers = _rope_powers(pipeline.dit.config.rotary_split)

    @torch.no_grad()
    def film(
        self, global_caption: str, captions: Sequence[str], *, seed: int, num_chunks: int, num_steps: int
    ) -> Iterator[PublishedShot]:
        """Yields the shots of a story as they are finished, with the noise of a session with this seed.

        Raises:
            ValueError: There are more chunks than the window holds.
        """
        if num_chunks > self._dit.config.window_chunks:
            raise ValueError(
                f"{num_chunks} chunks; the published loop makes at most {self._dit.config.window_chunks}"
            )
        shots: list[PublishedShot] = []
        for index in range(len(captions)):
            forget_captions(self._pipeline.text_encoder)
            composed = [
                self._pipeline.compose(global_caption, captions[: shot_index + 1], shot_seed(seed, 0))
                for shot_index in range(index + 1)
            ]
            text = self._pipeline.text_encoder.encode(composed).to(self._pipeline.device).unsqueeze(0)
            conditioning = self._condition(shots)
            noise = KeyedNoise(
                seeds=(shot_seed(seed, index),),
                shape=self._pipeline.chunk_shape,
                device=self._pipeline.device,
            )
            latents = self._shot(text, conditioning, noise, num_chunks, num_steps)
            shots.append(PublishedShot(latents=latents, frames=self._pipeline.decode(latents, None)[0]))
            yield shots[-1]

    def _condition(self, shots: Sequence[PublishedShot]) -> Conditioning:
        pipeline = self._pipeline
        if not shots:
            return first_shot_conditioning(self._dit.config, pipeline.latent_size, device=pipeline.device)
        candidates: list[ContextCandidate] = []
        for index, shot in enumerate(shots):
            kept = kept_frames(len(shot.frames), index, pipeline.context_budget)
            candidates += frame_candidates(index, len(shot.frames), kept, partial(self._encoded, shot))
        plan = choose_context(
            candidates,
            NextShot(index=len(shots), caption=""),
            pipeline.context_budget,
            pipeline.config.context_policy,
        )
        conditioning = planned_conditioning(plan, device=pipeline.device)
        # All captions are given here, so that the index of a caption is that of its shot.
        rows = torch.tensor(
            [*(shot for shot, _ in context_captions(plan)), len(shots)], device=pipeline.device
        )
        positions = conditioning.positions
        return Conditioning(
            context=conditioning.context,
            positions=FramePositions(
                positions.frame_index, positions.shot_phase, rows[positions.caption_index]
            ),
            target_phase=conditioning.target_phase,
            target_caption=rows[conditioning.target_caption],
        )

    def _encoded(self, shot: PublishedShot, frame_index: int) -> Float[Tensor, "z h w"]:
        return self._pipeline.encode_frames(shot.frames[frame_index][None])[0]

    def _shot(
        self, text: Tensor, conditioning: Conditioning, noise: KeyedNoise, num_chunks: int, num_steps: int
    ) -> Float[Tensor, "1 c f h w"]:
        caches = self._allocate(text)
        self._forward(conditioning.context, _clean(conditioning.context), conditioning.positions, caches)
        sigmas = self._pipeline.sigmas(num_steps)
        assert isinstance(sigmas, Tensor), "the published loop is ShotStream's"
        chunks: list[Tensor] = []
        for chunk in range(num_chunks):
            positions = conditioning.chunk(chunk, self._dit.config)
            x0 = few_step(
                lambda noisy, sigma, at=positions: self._forward(noisy, sigma, at, caches),
                noise(chunk, 0),
                sigmas,
                lambda step, at=chunk: noise(at, step + 1),
            )
            self._forward(x0, _clean(x0), positions, caches)
            chunks.append(x0)
        return torch.cat(chunks, dim=2)

    def _allocate(self, text: Float[Tensor, "1 s n d"]) -> _ShotCaches:
        config, tokens = self._dit.config, self._grid.num_tokens
        context_tokens = config.num_context_frames * tokens
        local_tokens = config.window_chunks * config.chunk_latent_frames * tokens
        context = [self._layer_cache(context_tokens) for _ in range(config.num_layers)]
        local = [self._layer_cache(local_tokens) for _ in range(config.num_layers)]
        embedded = self._dit.text_embedding(text.to(self._pipeline.dtype))
        return _ShotCaches(context, local, [block.caption_keys(embedded) for block in self._blocks()])

    def _layer_cache(self, num_tokens: int) -> _LayerCache:
        config, device = self._dit.config, self._pipeline.device
        shape = (1, num_tokens, config.num_heads, config.head_dim)
        keys, values = (torch.zeros(shape, dtype=self._pipeline.dtype, device=device) for _ in range(2))
        return _LayerCache(keys, values, torch.zeros(1, dtype=torch.long, device=device))

    def _forward(
        self, x: Float[Tensor, "1 c f h w"], sigma: Tensor, positions: FramePositions, caches: _ShotCaches
    ) -> Float[Tensor, "1 c f h w"]:
        dit, dtype, patch = self._dit, self._pipeline.dtype, self._dit.config.patch_size
        time = dit.time_embedding(sigma_embedding(sigma, dit.config.freq_dim).to(dtype))
        modulation = dit.time_projection(time).unflatten(-1, (6, -1))
        rope = self._rope(positions)
        patches = rearrange(x.to(dtype), "b c f (h p) (w q) -> b f (h w) (c p q)", p=patch, q=patch)
        tokens = F.linear(patches, dit.patch_embedding.weight.flatten(1), dit.patch_embedding.bias)
        written: list[tuple[_LayerCache, slice, Tensor, Tensor]] = []
        for layer, block in enumerate(self._blocks()):
            shift_sa, scale_sa, gate_sa, shift_ff, scale_ff, gate_ff = (
                part.unsqueeze(2) for part in (block.modulation + modulation).unbind(2)
            )
            normed = modulated_norm(tokens, shift_sa, scale_sa, block.eps).flatten(1, 2)
            attended = self._self_attention(block.self_attn, normed, rope, positions, caches, layer, written)
            tokens = torch.addcmul(tokens, attended.unflatten(1, (x.shape[2], -1)), gate_sa)
            tokens = tokens + _cross_attention(
                block.cross_attn, block.norm3(tokens), caches.captions[layer], positions.caption_index
            )
            fed = block.ffn(modulated_norm(tokens, shift_ff, scale_ff, block.eps))
            tokens = torch.addcmul(tokens, fed, gate_ff)
        for cache, place, keys, values in written:
            cache.keys[:, place], cache.values[:, place] = keys, values
            cache.local_end.fill_(place.stop)
        return rearrange(
            dit.head(tokens, time),
            "b f (h w) (p q c) -> b c f (h p) (w q)",
            h=self._grid.height,
            w=self._grid.width,
            p=patch,
            q=patch,
        ).to(x.dtype)

    def _self_attention(
        self,
        attention: SelfAttention,
        x: Float[Tensor, "1 n d"],
        rope: Complex[Tensor, "n 1 pairs"],
        positions: FramePositions,
        caches: _ShotCaches,
        layer: int,
        written: list[tuple[_LayerCache, slice, Tensor, Tensor]],
    ) -> Float[Tensor, "1 n d"]:
        heads = (attention.num_heads, -1)
        queries = _turn(attention.norm_q(attention.q(x)).unflatten(-1, heads), rope)
        keys = _turn(attention.norm_k(attention.k(x)).unflatten(-1, heads), rope)
        values = attention.v(x).unflatten(-1, heads)
        num_tokens = x.shape[1]
        if positions.chunk_index is None:
            written.append((caches.context[layer], slice(0, num_tokens), keys, values))
            return attention.o(attend_all(queries, keys, values).flatten(2))
        local, context = caches.local[layer], caches.context[layer]
        start = positions.chunk_index * num_tokens
        # A first visit appends, a later one overwrites.
        end = max(int(local.local_end.item()), start + num_tokens)
        place = slice(end - num_tokens, end)
        all_keys, all_values = local.keys.clone(), local.values.clone()
        all_keys[:, place], all_values[:, place] = keys, values
        context_end = int(context.local_end.item())
        context_keys = context.keys.clone()[:, :context_end]
        context_values = context.values.clone()[:, :context_end]
        gathered = attend_all(
            queries,
            torch.cat([context_keys, all_keys[:, :end]], dim=1),
            torch.cat([context_values, all_values[:, :end]], dim=1),
        )
        written.append((local, place, keys, values))
        return attention.o(gathered.flatten(2))

    def _rope(self, positions: FramePositions) -> Complex[Tensor, "n 1 pairs"]:
        temporal, vertical, horizontal = self._rope_powers
        frame_index, phase = positions.frame_index[0].cpu(), positions.shot_phase[0].cpu()
        angle = phase.double()[:, None] * self._dit.config.phase_angle
        jump = torch.polar(torch.ones_like(angle), angle)
        shape = (len(frame_index), self._grid.height, self._grid.width, -1)
        table = torch.cat(
            [
                (temporal[frame_index] * jump)[:, None, None].expand(*shape),
                vertical[: self._grid.height][None, :, None].expand(*shape),
                horizontal[: self._grid.width][None, None].expand(*shape),
            ],
            dim=-1,
        )
        return table.flatten(0, 2).unsqueeze(1).to(self._pipeline.device)

    def _blocks(self) -> list[Block]:
        return [block for block in self._dit.blocks if isinstance(block, Block)]


def forget_captions(text_encoder: TextEncoder) -> None:
    """Clears the cache of a text encoder; raises ValueError for an encoder without a known cache."""
    if not isinstance(text_encoder, CaptionEncoder | WordEncoder | UMT5TextEncoder):
        raise ValueError(f"{type(text_encoder).__name__} has no memo of captions that could be emptied")
    text_encoder.memo.reset()


def _cross_attention(
    attention: CrossAttention,
    x: Float[Tensor, "1 f p d"],
    captions: CaptionKeys,
    caption_index: Int[Tensor, "1 f"],
) -> Float[Tensor, "1 f p d"]:
    queries = attention.norm_q(attention.q(x[0])).unflatten(-1, (attention.num_heads, -1))
    keys, values = (part[0][caption_index[0]] for part in captions)
    return attention.o(attend_all(queries, keys, values).flatten(2)).unsqueeze(0)


def _turn(
    x: Float[Tensor, "1 n heads k"], rope: Complex[Tensor, "n 1 pairs"]
) -> Float[Tensor, "1 n heads k"]:
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rope).flatten(-2).to(x.dtype)


def _rope_powers(channels: Sequence[int]) -> list[Complex[Tensor, "position pairs"]]:
    """Returns the rotations of every position on every axis, in double precision."""
    positions = torch.arange(_ROPE_TABLE_LENGTH, dtype=torch.float64)
    powers: list[Tensor] = []
    for count in channels:
        exponents = torch.arange(0, count, 2, dtype=torch.float64) / count
        angles = positions[:, None] * _ROPE_BASE**-exponents
        powers.append(torch.polar(torch.ones_like(angles), angles))
    return powers


def _clean(x: Float[Tensor, "1 c f h w"]) -> Float[Tensor, "1 f"]:
    return torch.zeros(1, x.shape[2], device=x.device)
