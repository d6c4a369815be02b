"""An estimate of the device memory that a film needs: computed from sizes, on any machine, in a second.

Weights, caches and captions' keys are counted from their shapes. What passes and decoding need meanwhile is
found by running the very code on tensors without contents (torch's "meta" device) and adding up those that
are alive at the same time; fused attention keeps no scores. Not counted, and covered by a reserve that is an
assumption: the driver's context, gaps of the allocator, work space of convolutions and products. Whether it
is what a GPU then takes has not been measured.
"""

import re
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from shotstream.geometry import PixelSize
from shotstream.model.dit import DiT
from shotstream.model.dual_cache import CacheSnapshot, DualCache, KeysValues
from shotstream.streaming.conditioning import first_shot
from shotstream.streaming.inference_options import InferenceOptions
from shotstream.streaming.parts import dit_config, load_codec, load_dit, pipeline_config
from shotstream.vae.codec import Codec
from shotstream.weights.bundle import Bundle

RESERVE_BYTES = 10**9
"""For what is not counted; an assumption."""

_META = torch.device("meta")
# Layers come one after the other, and need together what one needs.
_ENOUGH_LAYERS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Bytes on the transformer's device while a film is made; see the module for what is not in it."""

    transformer: int
    caches: int
    """Keys and values of the context and the shot, and of as many captions as can be in use."""
    text_encoder: int
    """Its weights, or the largest layer that visits; 0 when it has a device of its own."""
    codec: int
    """Its weights, and what it carries from chunk to chunk; 0 when it has a device of its own."""
    transient: int
    """The most that a pass, a decode of a chunk and the encoding of a kept frame need meanwhile: one of
    them, or a pass beside one of the others where chunks are made ahead."""

    @property
    def total(self) -> int:
        """The sum of all parts and the reserve."""
        parts = self.transformer + self.caches + self.text_encoder + self.codec + self.transient
        return parts + RESERVE_BYTES


def estimate_film_memory(
    bundle: Bundle, dtype: torch.dtype, inference_options: InferenceOptions
) -> MemoryEstimate:
    """The memory that one film at a time needs with a bundle's model; only shapes of tensors are read."""
    bundle = replace(bundle, tensors=_emptied(bundle.tensors))
    size, config = pipeline_config(bundle).pixel_size, dit_config(bundle)
    apart = inference_options.codec_device is not None
    # What computes attention, and what is compiled, needs no more.
    plain = replace(
        inference_options,
        weights="float8" if inference_options.weights == "float8-products" else inference_options.weights,
        attention="sdpa",
        compile=False,
        compile_decoder=False,
    )
    codec = load_codec(bundle, _META, dtype, plain)
    cache_dtype = inference_options.cache_dtype or dtype
    grid = codec.geometry.token_grid(codec.geometry.latent_size(size))
    cache = DualCache(config, 1, grid, cache_dtype, _META)
    few = load_dit(_of_few_layers(bundle), _META, dtype, plain)
    # Attention in eight bits reads its cache as it is: nothing is widened for a pass, as with every bit.
    read_dtype = dtype if cache_dtype == torch.int8 else cache_dtype
    passes = pass_peak(few, DualCache(few.config, 1, grid, read_dtype, _META), codec, size)
    decoding, encoding = decode_peak(codec, config.chunk_latent_frames, size), encode_peak(codec, size)
    coding = max(decoding.peak - decoding.kept, encoding)
    # Each context frame may read a caption, the shot another, which is then held apart for its passes.
    keys_of_a_caption = 2 * config.num_layers * config.text_length * config.dim * dtype.itemsize
    captions = (config.num_context_frames + 2) * keys_of_a_caption
    beside = passes + coding if inference_options.overlap_chunks else max(passes, coding)
    return MemoryEstimate(
        transformer=_module_bytes(few) + (config.num_layers - len(few.blocks)) * _module_bytes(few.blocks[0]),
        caches=sum(stored.nbytes for layer in cache.layers for stored in layer) + captions,
        text_encoder=0 if apart else _text_bytes(bundle.tensors["text_encoder"], dtype, inference_options),
        codec=0 if apart else _num_bytes(bundle.tensors["codec"], dtype) + decoding.kept,
        transient=passes if apart else beside,
    )


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes alive during some work, beside what was alive before."""

    peak: int
    """At most."""
    kept: int
    """At the end."""


def peak_of(work: Callable[[], Any]) -> Peak:
    """The peak of `work`; what it returns is alive to the end. Attention is taken for fused on "meta"."""
    live = _Live()
    with torch.no_grad(), live, _FusedAttention():
        result = work()
        kept = live.now
    del result
    return Peak(live.most, kept)


def pass_peak(dit: DiT, cache: DualCache, codec: Codec, size: PixelSize) -> int:
    """The most of a shot's passes: its context, and a chunk that sees a full window."""
    config, latent_size = dit.config, codec.geometry.latent_size(size)
    device = dit.patch_embedding.weight.device
    conditioning = first_shot(config, latent_size, device=device)
    last, frames = config.window_chunks - 1, config.chunk_latent_frames
    shape = (1, config.latent_channels, frames, latent_size.height, latent_size.width)
    before = (config.num_context_frames + last * frames) * cache.token_grid.num_tokens
    with torch.no_grad():
        captions = dit.text_cache(torch.zeros(1, 1, config.text_length, config.text_dim, device=device))
    filled = CacheSnapshot(
        config.num_context_frames,
        last,
        tuple(KeysValues(*(stored[:, :before] for stored in layer)) for layer in cache.layers),
    )

    def context() -> None:
        levels = torch.zeros(1, config.num_context_frames, device=device)
        dit(conditioning.context, levels, captions, conditioning.positions, cache=cache, write="global")

    def chunk() -> None:
        latents, levels = torch.zeros(shape, device=device), torch.zeros(1, frames, device=device)
        positions = conditioning.chunk(last, config)
        dit(latents, levels, captions, positions, cache=cache, write="local")

    context_peak = peak_of(context).peak
    cache.restore(filled)
    return max(context_peak, peak_of(chunk).peak)


def decode_peak(codec: Codec, num_latent_frames: int, size: PixelSize, device: torch.device = _META) -> Peak:
    """A shot's first and second chunk; kept is what the codec carries on."""
    latent_size = codec.geometry.latent_size(size)
    shape = (1, codec.latent_channels, num_latent_frames, latent_size.height, latent_size.width)

    def run() -> object:
        latents = torch.zeros(shape, device=device)
        _, state = codec.decode_stream(latents, None)
        return codec.decode_stream(latents, state)[1]

    return peak_of(run)


def encode_peak(codec: Codec, size: PixelSize, device: torch.device = _META) -> int:
    """A kept frame; they are encoded one after the other."""
    return peak_of(lambda: codec.encode(torch.zeros(1, 3, 1, size.height, size.width, device=device))).peak


class _Live(TorchDispatchMode):
    """Adds up the storages that operations make, for as long as they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        given = {_address(x) for x in _pytree.tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)}
        result = func(*args, **(kwargs or {}))
        for made in _pytree.tree_leaves(result):
            if isinstance(made, Tensor) and (address := _address(made)) not in given | self._known:
                storage = made.untyped_storage()
                self._known.add(address)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, address, storage.nbytes())
        self.most = max(self.most, self.now)
        return result

    def _free(self, address: int, num_bytes: int) -> None:
        self._known.discard(address)
        self.now -= num_bytes


class _FusedAttention(TorchFunctionMode):
    """Without a device torch computes attention by the formula, with all scores; no device does."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if func is F.scaled_dot_product_attention and args[0].is_meta:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def _emptied(tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    return {
        part: {name: torch.empty_like(tensor, device=_META) for name, tensor in named.items()}
        for part, named in tensors.items()
    }


def _of_few_layers(bundle: Bundle) -> Bundle:
    num_layers = min(_ENOUGH_LAYERS, dit_config(bundle).num_layers)
    kept = {
        name: tensor
        for name, tensor in bundle.tensors["dit"].items()
        if not (block := re.match(r"blocks\.(\d+)\.", name)) or int(block[1]) < num_layers
    }
    config = {**bundle.config, "dit": {**bundle.config["dit"], "num_layers": num_layers}}
    return replace(bundle, config=config, tensors={**bundle.tensors, "dit": kept})


def _module_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _num_bytes(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> int:
    return sum(tensor.numel() for tensor in tensors.values()) * dtype.itemsize


def _text_bytes(
    tensors: Mapping[str, Tensor], dtype: torch.dtype, inference_options: InferenceOptions
) -> int:
    if not inference_options.offload_text:
        return _num_bytes(tensors, dtype)
    return max((_num_bytes(layer, dtype) for layer in _layers(tensors)), default=0)


def _layers(tensors: Mapping[str, Tensor]) -> Iterable[Mapping[str, Tensor]]:
    """The tensors of each block of a text encoder, which visit the device together."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if ".block." in name:
            layers.setdefault(name.partition(".block.")[2].partition(".")[0], {})[name] = tensor
    return layers.values()
