"""An estimate of the device memory that a film needs: computed from sizes, on any machine, in a second.

Weights, caches and captions' keys are counted from their shapes. The memory of passes and decoding is found
by running the actual code on tensors without data (torch's "meta" device) and adding up those that are alive
at the same time; fused attention stores no scores. A reserve, which is an assumption, covers what is not
counted: the driver's context, fragmentation, and the workspace of convolutions and products. The estimate has
not been compared with a GPU.
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

from shotstream.geometry import PixelSize, TokenGrid
from shotstream.model.config import DiTConfig
from shotstream.model.dit import DiT
from shotstream.model.dual_cache import CacheSnapshot, DualCache, KeysValues
from shotstream.model.frame_store import FrameStore
from shotstream.model.key_cache import Write
from shotstream.model.student_rules import StudentRules
from shotstream.streaming.conditioning import first_shot_conditioning
from shotstream.streaming.inference_group import cache_dtype
from shotstream.streaming.inference_options import InferenceOptions
from shotstream.streaming.parts import dit_config, load_codec, load_dit, pipeline_config
from shotstream.vae.codec import Codec
from shotstream.weights.bundle import Bundle

RESERVE_BYTES = 10**9
"""Reserve for what is not counted; an assumption."""

_META = torch.device("meta")
# Layers run one after the other, and together need as much as one.
_ENOUGH_LAYERS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Bytes on the transformer's device while a film is generated; the module says what is left out."""

    transformer: int
    caches: int
    """Bytes of keys and values of the context and the shot, and of the maximum number of captions."""
    text_encoder: int
    """Bytes of its weights, or of its largest layer if offloaded; 0 if it has its own device."""
    codec: int
    """Bytes of its weights, and of its state between chunks; 0 if it has its own device."""
    transient: int
    """Maximum of additional bytes during a pass, the decoding of a chunk or the encoding of a context frame;
    with overlapping chunks, of a pass beside one of the others.
    """

    @property
    def total(self) -> int:
        """Sum of all parts and the reserve."""
        parts = self.transformer + self.caches + self.text_encoder + self.codec + self.transient
        return parts + RESERVE_BYTES


def estimate_film_memory(
    bundle: Bundle, dtype: torch.dtype, inference_options: InferenceOptions
) -> MemoryEstimate:
    """Returns the memory for one film at a time with a bundle's model; only shapes of tensors are read."""
    bundle = replace(bundle, tensors=_emptied(bundle.tensors))
    size, config = pipeline_config(bundle).pixel_size, dit_config(bundle)
    apart = inference_options.codec_device is not None
    # The attention kernel and compilation do not change the estimate.
    plain = replace(
        inference_options,
        weights="float8" if inference_options.weights == "float8-products" else inference_options.weights,
        attention="sdpa",
        compile=False,
        compile_decoder=False,
    )
    codec = load_codec(bundle, _META, dtype, plain)
    grid = codec.geometry.token_grid(codec.geometry.latent_size(size))
    rules = pipeline_config(bundle).rules
    stored_dtype = cache_dtype(inference_options, rules, dtype)
    cache = _cache(config, rules, grid, stored_dtype)
    few = load_dit(_of_few_layers(bundle), _META, dtype, plain)
    # 8-bit attention reads its cache directly: nothing is converted for a pass.
    read_dtype = dtype if stored_dtype == torch.int8 else stored_dtype
    passes = pass_peak(few, _cache(few.config, rules, grid, read_dtype), codec, size)
    decoding, encoding = decode_peak(codec, config.chunk_latent_frames, size), encode_peak(codec, size)
    coding = max(decoding.peak - decoding.kept, encoding)
    # Each context frame may have its own caption; the shot's is also stored separately for its passes.
    keys_of_a_caption = 2 * config.num_layers * config.text_length * config.dim * dtype.itemsize
    captions = (config.num_context_frames + 2) * keys_of_a_caption
    beside = passes + coding if inference_options.overlap_chunks else max(passes, coding)
    return MemoryEstimate(
        transformer=_module_bytes(few) + (config.num_layers - len(few.blocks)) * _module_bytes(few.blocks[0]),
        caches=cache.num_bytes + captions,
        text_encoder=0 if apart else _text_bytes(bundle.tensors["text_encoder"], dtype, inference_options),
        codec=0 if apart else _num_bytes(bundle.tensors["codec"], dtype) + decoding.kept,
        transient=passes if apart else beside,
    )


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes alive during some work, in addition to those before it."""

    peak: int
    """Maximum during the work."""
    kept: int
    """Bytes still alive at its end."""


def peak_of(work: Callable[[], Any]) -> Peak:
    """Returns the peak of `work`, whose result stays alive; attention on "meta" counts as fused."""
    live = _Live()
    with torch.no_grad(), live, _FusedAttention():
        result = work()
        kept = live.now
    del result
    return Peak(live.most, kept)


def _cache(
    config: DiTConfig, rules: StudentRules | None, grid: TokenGrid, dtype: torch.dtype
) -> DualCache | FrameStore:
    if rules is not None:
        return FrameStore(config, rules, 1, grid, dtype, _META)
    return DualCache(config, 1, grid, dtype, _META)


def pass_peak(dit: DiT, cache: DualCache | FrameStore, codec: Codec, size: PixelSize) -> int:
    """Returns the maximum of a shot's passes: the context, and a chunk with a full window."""
    if isinstance(cache, FrameStore):
        return _store_pass_peak(dit, cache, codec, size)
    config, latent_size = dit.config, codec.geometry.latent_size(size)
    device = dit.patch_embedding.weight.device
    conditioning = first_shot_conditioning(config, latent_size, device=device)
    last, frames = config.window_chunks - 1, config.chunk_latent_frames
    shape = (1, config.latent_channels, frames, latent_size.height, latent_size.width)
    before = (config.num_context_frames + last * frames) * cache.token_grid.num_tokens
    with torch.no_grad():
        captions = dit.text_cache(torch.zeros(1, 1, config.text_length, config.text_dim, device=device))
    filled = CacheSnapshot(
        config.num_context_frames,
        0,
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


def _store_pass_peak(dit: DiT, store: FrameStore, codec: Codec, size: PixelSize) -> int:
    """Returns the maximum of a student's passes once its window is full, with as many frames as any has."""
    config, latent_size = dit.config, codec.geometry.latent_size(size)
    device, rules = dit.patch_embedding.weight.device, store.rules
    chunk = config.chunk_latent_frames

    def run(num_frames: int, write: Write | None) -> None:
        shape = (1, config.latent_channels, num_frames, latent_size.height, latent_size.width)
        latents, levels = torch.zeros(shape, device=device), torch.zeros(1, num_frames, device=device)
        dit(latents, levels, captions, store.rope(num_frames, write), cache=store, write=write)

    with torch.no_grad():
        captions = dit.text_cache(torch.zeros(1, 1, config.text_length, config.text_dim, device=device))
        for _ in range(-(-rules.window // chunk)):
            run(chunk, "local")
    most = chunk * len(rules.steps) if rules.rolling else chunk
    peaks = [peak_of(lambda: run(most, None)).peak]
    if store.num_recached:
        peaks.append(peak_of(lambda: run(store.num_recached, "recache")).peak)
    return max(peaks)


def decode_peak(codec: Codec, num_latent_frames: int, size: PixelSize, device: torch.device = _META) -> Peak:
    """Returns the peak of a shot's first and second chunk; `kept` is the codec's state."""
    latent_size = codec.geometry.latent_size(size)
    shape = (1, codec.latent_channels, num_latent_frames, latent_size.height, latent_size.width)

    def run() -> object:
        latents = torch.zeros(shape, device=device)
        _, state = codec.decode_stream(latents, None)
        return codec.decode_stream(latents, state)[1]

    return peak_of(run)


def encode_peak(codec: Codec, size: PixelSize, device: torch.device = _META) -> int:
    """Returns the peak for a context frame; they are encoded one after the other."""
    return peak_of(lambda: codec.encode(torch.zeros(1, 3, 1, size.height, size.width, device=device))).peak


class _Live(TorchDispatchMode):
    """Adds up the storages that operations allocate, while they are alive."""

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
    """Counts attention as fused: on "meta" torch would allocate all scores, which no device does."""

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
    """Yields the tensors of each block of a text encoder, which are on the device together."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if ".block." in name:
            layers.setdefault(name.partition(".block.")[2].partition(".")[0], {})[name] = tensor
    return layers.values()
