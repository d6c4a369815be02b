"""The diffusion transformer: one class for teacher, student and fake score.

They share parameter names and shapes, and differ only in what the caller passes: full attention, a causal
mask or a KV cache; one noise level for all frames or one per frame. It predicts a velocity and nothing else:
it has no schedule, guidance, sampling, input or output. Parameter names are those of the published weights.

Precision: computation is in the dtype of the parameters; normalisations, RoPE and the embedding of sigma are
in float32 or better.

Source: Wan2.1 (arXiv 2503.20314); per-shot captions, phases and caches, arXiv 2603.25746.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from shotstream.geometry import LatentSize, TokenGrid, VideoGeometry
from shotstream.model.attention import Attend, SelfAttention, attend_all, expect_graphs, masked_attend
from shotstream.model.causal_mask import CausalMask
from shotstream.model.config import DiTConfig
from shotstream.model.cross_attention import CaptionKeys, CrossAttention, TextCache
from shotstream.model.key_cache import KeyCache, KeyCachePass, Write
from shotstream.model.positions import FramePositions
from shotstream.model.rope import RopeTable, rope_table
from shotstream.model.token_share import TokenShare

TIMESTEPS_PER_SIGMA = 1000
"""Factor from sigma to the timestep of the published weights; applied only in the embedding of sigma."""

_MAX_GRAPHS = 64
"""Maximum number of shapes that half a block is compiled for in one process."""


class DiT(nn.Module):
    """The diffusion transformer: predicts a velocity from noisy latents, captions, positions and sigma."""

    def __init__(self, config: DiTConfig, *, generator: torch.Generator | None = None) -> None:
        """Creates a transformer with the weights of `init_weights`; None uses torch's default generator."""
        super().__init__()
        dim, patch = config.dim, config.patch_size
        self.config = config
        self.activation_checkpointing = False
        """Whether each block is recomputed in the backward pass instead of storing its activations."""
        self.token_share: TokenShare | None = None
        """Group of processes that compute each pass together; None: this process alone. A group supports no
        mask.
        """
        self.attention: Attend = attend_all
        """Kernel of self-attention without a mask."""
        self.patch_embedding = nn.Conv3d(config.latent_channels, dim, (1, patch, patch), (1, patch, patch))
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head = Head(config)
        self.init_weights(generator)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialises the weights: Xavier linears, normal 0.02 embeddings, and a zero head (velocity 0)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, Block | Head):
                nn.init.normal_(module.modulation, std=self.config.dim**-0.5, generator=generator)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1), generator=generator)
        assert self.patch_embedding.bias is not None
        nn.init.zeros_(self.patch_embedding.bias)
        for embedding in (self.text_embedding, self.time_embedding):
            for module in embedding:
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.head.head.weight)

    def forward(
        self,
        x: Float[Tensor, "b c f h w"],
        sigma: Float[Tensor, "b f"],
        text: Float[Tensor, "b s n d"] | TextCache,
        positions: FramePositions | RopeTable,
        *,
        mask: CausalMask | None = None,
        cache: KeyCache[Any] | None = None,
        write: Write | None = None,
        attention: Attend | None = None,
    ) -> Float[Tensor, "b c f h w"]:
        """Returns the velocity of every frame, in the dtype of `x`.

        Args:
            x: Latents: noisy target frames, clean context frames, or both concatenated.
            sigma: Noise level of each frame, in [0, 1], 1 = noise.
            text: Caption embeddings from the text encoder, `s` of them, or the result of `text_cache`.
                Gradients reach the projections of captions only in the first form.
            positions: Position, shot phase and caption of each frame, or the result of `rope_table`.
            mask: None for full attention among all frames.
            cache: Keys and values to attend to besides the frames' own.
            write: None for a denoise pass, which only reads the cache. "global" commits the frames as the
                context (they attend to themselves only), "local" commits them as their chunk of the shot,
                "recache" computes the keys and values of frames that are committed already once more.
            attention: The kernel of this pass, in every layer; None: `self.attention`. Only without a mask
                and a cache.

        Raises:
            ValueError: Arguments contradict each other, or the cache cannot serve the pass.
        """
        grid = self._token_grid(x)
        rope = positions if isinstance(positions, RopeTable) else rope_table(positions, grid, self.config)
        _check_call(x, sigma, grid, rope, mask, cache, write)
        if mask is not None and self.token_share is not None:
            raise ValueError("a pass shared by processes takes no mask: it orders tokens by process")
        dtype = self.patch_embedding.weight.dtype
        time = self.time_embedding(sigma_embedding(sigma, self.config.freq_dim).to(dtype))  # b f d
        modulation = self.time_projection(time).unflatten(-1, (6, -1))  # b f 6 d
        captions = text if isinstance(text, TextCache) else self.text_embedding(text.to(dtype))
        cache_pass = cache.begin(x.shape[2], rope.positions.chunk_index, write) if cache else None
        tokens = self.embed_tokens(x.to(dtype), rope.positions)
        attends = self._attends(x.device, mask, cache_pass)
        if attention is not None:
            if mask is not None or cache is not None:
                raise ValueError("a kernel of its own is for passes without a mask and a cache")
            attends = [attention] * self.config.num_layers
        if self.token_share is not None:
            tokens, rope = self.token_share.scatter(tokens, rope)
            attends = [self.token_share.over(attend) for attend in attends]
        for layer, (block, attend) in enumerate(zip(self.blocks, attends, strict=True)):
            layer_captions = captions.layers[layer] if isinstance(captions, TextCache) else captions
            arguments = (tokens, modulation, rope, layer_captions, attend)
            if self.activation_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(*arguments)
        if cache is not None and cache_pass is not None:
            cache.finish(cache_pass)
        patches = self.head(tokens, time)
        if self.token_share is not None:
            patches = self.token_share.gather(patches)
        return self._unpatchify(patches, grid).to(x.dtype)

    def text_cache(self, text: Float[Tensor, "b s n d"], captions: tuple[str, ...] = ()) -> TextCache:
        """Returns keys and values of captions in every layer, for all passes of one shot."""
        embedded = self.text_embedding(text.to(self.patch_embedding.weight.dtype))
        layers: list[CaptionKeys] = []
        for block in self.blocks:
            assert isinstance(block, Block)
            layers.append(block.caption_keys(embedded))
        return TextCache(captions, tuple(layers))

    def compile_blocks(self, *, backend: str = "inductor") -> None:
        """Compiles the blocks except their self-attention.

        The keys of attention grow with every chunk, and its kernels do not profit from compilation. It
        therefore stays between two graphs that do not depend on caches. All blocks share the graphs, which
        are compiled at first use: two for the tokens of a chunk, two for those of a context, and one more for
        a context with a single caption. Shapes are static.
        """
        expect_graphs(_MAX_GRAPHS)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.compile_around_attention(backend)

    def _attends(
        self, device: torch.device, mask: CausalMask | None, cache_pass: KeyCachePass | None
    ) -> list[Attend]:
        """Returns the attention function of each layer; layers differ only with a cache."""
        if cache_pass is not None:
            return cache_pass.attends(self.attention)
        return [self.attention if mask is None else masked_attend(mask, device)] * self.config.num_layers

    def _token_grid(self, x: Tensor) -> TokenGrid:
        geometry = VideoGeometry(patch_size=self.config.patch_size)
        return geometry.token_grid(LatentSize(*x.shape[-2:]))

    def embed_tokens(
        self, x: Float[Tensor, "b c f h w"], positions: FramePositions
    ) -> Float[Tensor, "b f p d"]:
        """Returns a token for every patch; `positions` are for subclasses that add a shot embedding."""
        del positions
        # As a matrix product, because the convolution with these parameters is many times slower on a CPU.
        patch = self.config.patch_size
        patches = rearrange(x, "b c f (h p) (w q) -> b f (h w) (c p q)", p=patch, q=patch)
        return F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def _unpatchify(self, patches: Tensor, grid: TokenGrid) -> Tensor:
        patch = self.config.patch_size
        return rearrange(
            patches, "b f (h w) (p q c) -> b c f (h p) (w q)", h=grid.height, w=grid.width, p=patch, q=patch
        )


class Block(nn.Module):
    """A transformer block: self-attention, cross-attention and feed-forward, modulated by sigma."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        dim = config.dim
        self.modulation = nn.Parameter(torch.empty(1, 6, dim))
        self.self_attn = SelfAttention(config)
        self.norm3 = nn.LayerNorm(dim, eps=config.eps)
        self.cross_attn = CrossAttention(config)
        self.ffn = nn.Sequential(
            nn.Linear(dim, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, dim)
        )
        self.eps = config.eps

    def forward(
        self,
        x: Float[Tensor, "b f p d"],
        modulation: Float[Tensor, "b f 6 d"],
        rope: RopeTable,
        captions: CaptionKeys | Float[Tensor, "b s n d"],
        attend: Attend,
    ) -> Float[Tensor, "b f p d"]:
        """Returns the tokens after this block; `captions` are embeddings, or their keys and values."""
        queries, keys, values = self.before_attention(x, modulation, rope)
        gathered = attend(queries, keys, values)
        captions = captions if isinstance(captions, CaptionKeys) else self.caption_keys(captions)
        own_captions = captions.of_frames(rope.positions.caption_index)
        return self.after_attention(x, gathered, modulation, own_captions)

    def before_attention(
        self, x: Float[Tensor, "b f p d"], modulation: Float[Tensor, "b f 6 d"], rope: RopeTable
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, keys and values of self-attention, "b n heads k"."""
        shift, scale, *_ = self._modulations(modulation)
        return self.self_attn.project(modulated_norm(x, shift, scale, self.eps).flatten(1, 2), rope)

    def after_attention(
        self,
        x: Float[Tensor, "b f p d"],
        gathered: Float[Tensor, "b n heads k"],
        modulation: Float[Tensor, "b f 6 d"],
        captions: CaptionKeys,
    ) -> Float[Tensor, "b f p d"]:
        """Returns the tokens after the rest of the block; `captions` come from `CaptionKeys.of_frames`."""
        _, _, gate_sa, shift, scale, gate = self._modulations(modulation)
        x = torch.addcmul(x, self.self_attn(gathered).unflatten(1, (x.shape[1], -1)), gate_sa)
        x = x + self.cross_attn(self.norm3(x), captions)
        return torch.addcmul(x, self.ffn(modulated_norm(x, shift, scale, self.eps)), gate)

    def compile_around_attention(self, backend: str) -> None:
        """Compiles the two parts around self-attention, in graphs shared by all blocks."""
        for half in (self.before_attention, self.after_attention):
            compiled = torch.compile(half, fullgraph=True, dynamic=False, backend=backend)
            self.__dict__[half.__name__] = compiled

    def _modulations(self, modulation: Float[Tensor, "b f 6 d"]) -> list[Tensor]:
        """Returns shift, scale and gate of self-attention, then of the feed-forward layers; each b f 1 d."""
        return [part.unsqueeze(2) for part in (self.modulation + modulation).unbind(2)]

    def caption_keys(self, text: Float[Tensor, "b s n d"]) -> CaptionKeys:
        """Returns keys and values of embedded captions in this block.

        Parameters are used outside `forward` here: a wrapper that gathers them must handle this method too.
        """
        return self.cross_attn.caption_keys(text)


class Head(nn.Module):
    """The output layer, from tokens to the latents of their patches."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.empty(1, 2, config.dim))
        self.head = nn.Linear(config.dim, config.latent_channels * config.patch_size**2)
        self.eps = config.eps

    def forward(
        self, x: Float[Tensor, "b f p d"], time: Float[Tensor, "b f d"]
    ) -> Float[Tensor, "b f p patch"]:
        """Returns the velocity of each patch: one value per latent, channels fastest."""
        shift, scale = (self.modulation + time.unsqueeze(2)).chunk(2, dim=2)  # each b f 1 d
        return self.head(modulated_norm(x, shift, scale, self.eps))


def modulated_norm(
    x: Float[Tensor, "b f p d"], shift: Float[Tensor, "b f 1 d"], scale: Float[Tensor, "b f 1 d"], eps: float
) -> Float[Tensor, "b f p d"]:
    """Returns LN(x) (1 + scale) + shift, with a shift and a scale per frame."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=eps), 1 + scale)


def sigma_embedding(sigma: Float[Tensor, "b f"], freq_dim: int) -> Float[Tensor, "b f k"]:
    """Returns cosines, then sines, of the timestep at frequencies from 1 down to 1/10000; in float64."""
    half = freq_dim // 2
    exponents = torch.arange(half, device=sigma.device, dtype=torch.float64) / half
    angles = (TIMESTEPS_PER_SIGMA * sigma.double())[..., None] * 10000.0**-exponents
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _check_call(
    x: Tensor,
    sigma: Tensor,
    grid: TokenGrid,
    rope: RopeTable,
    mask: CausalMask | None,
    cache: KeyCache[Any] | None,
    write: Write | None,
) -> None:
    batch, num_frames = x.shape[0], x.shape[2]
    if sigma.dtype not in (torch.float32, torch.float64):
        # Mixed-precision wrappers cast every input: the network would get another level than was used.
        raise ValueError(f"sigma is {sigma.dtype}; keep levels in float32 (exclude them from input casts)")
    given: Int[Tensor, "b f"] = rope.positions.frame_index
    if given.shape[0] not in (1, batch) or given.shape[1] != num_frames:
        raise ValueError(f"positions for {tuple(given.shape)} frames, latents for {(batch, num_frames)}")
    if rope.cos.shape[1] != num_frames * grid.num_tokens:
        raise ValueError("the rope table was made for another token grid")
    if mask is not None and cache is not None:
        raise ValueError("a cached pass takes no mask: the cache holds exactly what it may attend to")
    if mask is not None and mask.num_tokens != num_frames * grid.num_tokens:
        raise ValueError(f"a mask over {mask.num_tokens} tokens for {num_frames * grid.num_tokens} tokens")
    if cache is None and write is not None:
        raise ValueError(f"write={write!r} needs a cache to write to")
    if cache is not None and (cache.batch, cache.token_grid) != (batch, grid):
        raise ValueError(
            f"a cache for batch {cache.batch} of {cache.token_grid}, latents for {batch} of {grid}"
        )
