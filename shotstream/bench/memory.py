"""What fits in how much memory of a GPU? Computed from sizes, on any machine; nothing is measured.

Weights, caches and captions' keys are counted from their shapes. What passes and decoding need meanwhile is
found by running the very code on tensors without contents (torch's "meta" device) and adding up those that
are alive at the same time; fused attention keeps no scores. Not counted, and covered by a reserve that is an
assumption: the driver's context, gaps of the allocator, work space of convolutions and products.
"""

import tempfile
import weakref
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from shotstream.bench.models import part_shapes, random_bundle, random_config
from shotstream.bench.report import Report, Row
from shotstream.geometry import PixelSize
from shotstream.model.dual_cache import DualCache
from shotstream.model.positions import context_positions
from shotstream.streaming.conditioning import Conditioning
from shotstream.streaming.engine import Engine
from shotstream.streaming.pipeline import build_engine
from shotstream.streaming.switches import Switches

CARDS_GIB = (8, 12, 16, 24)
RESERVE_BYTES = 10**9
"""For what is not counted; an assumption."""

_META = torch.device("meta")


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes on the device while a film is made; see the module for what is not in it."""

    transformer: int
    caches: int
    """Keys and values of the context and the shot, and of as many captions as can be in use."""
    text_encoder: int
    """Its weights, or the largest layer that visits."""
    codec: int
    """Its weights, and what it carries from chunk to chunk."""
    transient: int
    """The most that a pass, a decode of a chunk, or the encoding of kept frames needs meanwhile."""

    @property
    def total(self) -> int:
        """All of it and the reserve."""
        parts = self.transformer + self.caches + self.text_encoder + self.codec + self.transient
        return parts + RESERVE_BYTES

    @property
    def least_card_gib(self) -> int | None:
        """The smallest of `CARDS_GIB` that it fits in; None: in none."""
        return next((card for card in CARDS_GIB if self.total <= card * 2**30), None)


def bench_memory(name: str, size: PixelSize | None, dtype: torch.dtype) -> Report:
    """What each combination of switches needs. ValueError for a model or a size that is none."""
    rows: list[Row] = []
    whole = str(dtype).removeprefix("torch.")
    for offload, weights, cache in product((False, True), (None, "float8"), (False, True)):
        switches = Switches(weights=weights, float8_cache=cache, offload_text=offload)
        memory = engine_memory(name, size, dtype, switches)
        key = f"{weights or whole}_{'float8' if cache else whole}_text_{'off' if offload else 'on'}"
        label = f"weights {weights or whole}, cache {'float8' if cache else whole}, text encoder "
        label += "in main memory" if offload else "on the device"
        rows.append(Row(f"{key}_gb", f"{label}: GB", memory.total / 1e9))
        for part in ("transformer", "caches", "text_encoder", "codec", "transient"):
            rows.append(Row(f"{key}_{part}_gb", f"  {part.replace('_', ' ')}", getattr(memory, part) / 1e9))
        rows.append(Row(f"{key}_card_gib", "  fits in GiB (0: in none)", memory.least_card_gib or 0))
    facts: dict[str, object] = {"model": name, "computed": True, "reserve_gb": RESERVE_BYTES / 1e9}
    if size is not None:
        facts["pixel_size"] = [size.height, size.width]
    return Report(bench="memory", facts=facts, rows=tuple(rows))


def engine_memory(name: str, size: PixelSize | None, dtype: torch.dtype, switches: Switches) -> Memory:
    """What one film at a time needs, in a model's sizes."""
    config = random_config(name, with_text=True)
    shapes = part_shapes(config)["text_encoder"]
    engine = _empty_engine(random_config(name, with_text=False), size, dtype, switches)
    dit = engine.dit.config
    keys_of_a_caption = 2 * dit.num_layers * dit.text_length * dit.dim * dtype.itemsize
    # Each context frame may read one, the shot another, which is then held apart for its passes.
    captions = (dit.num_context_frames + 2) * keys_of_a_caption
    encoder = _numbers(shapes) * dtype.itemsize
    if switches.offload_text:
        encoder = max(map(_numbers, _layers(shapes))) * dtype.itemsize
    decoding, encoding = _codec_peaks(name, size, dtype)
    return Memory(
        transformer=_module_bytes(engine.dit),
        caches=_cache_bytes(engine.borrow_cache()) + captions,
        text_encoder=encoder,
        codec=_numbers(part_shapes(random_config(name, with_text=False))["codec"]) * dtype.itemsize
        + decoding.kept,
        transient=max(_passes_peak(name, size, dtype, switches), decoding.peak - decoding.kept, encoding),
    )


def _passes_peak(name: str, size: PixelSize | None, dtype: torch.dtype, switches: Switches) -> int:
    """Layers come one after the other, and need together what one needs: two are enough to find it."""
    config = random_config(name, with_text=False)
    config = {**config, "dit": {**config["dit"], "num_layers": min(2, config["dit"]["num_layers"])}}
    return pass_peak(_empty_engine(config, size, dtype, switches))


@lru_cache(maxsize=8)
def _codec_peaks(name: str, size: PixelSize | None, dtype: torch.dtype) -> "tuple[Peak, int]":
    engine = _empty_engine(random_config(name, with_text=False), size, dtype, Switches())
    return decode_peak(engine), encode_peak(engine)


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes alive during some work, beside what was alive before."""

    peak: int
    """At most."""
    kept: int
    """At the end."""


def peak_of(work: Callable[[], Any]) -> Peak:
    """What `work` needs; what it returns is alive to the end. Attention is taken for fused on "meta"."""
    live = _Live()
    with torch.no_grad(), live, _FusedAttention():
        result = work()
        kept = live.now
    del result
    return Peak(live.most, kept)


def pass_peak(engine: Engine) -> int:
    """The most of a shot's passes: its context, and a chunk that sees a full window."""
    config, size, device = engine.dit.config, engine.latent_size, engine.device
    flags = torch.zeros(1, config.num_context_frames, dtype=torch.long, device=device)
    text = torch.zeros(1, 1, config.text_length, config.text_dim, device=device)
    shape = (1, config.latent_channels, config.num_context_frames, size.height, size.width)
    conditioning = Conditioning(
        context=torch.zeros(shape, device=device),
        positions=context_positions(flags, flags),
        target_phase=flags[:, 0],
        target_caption=flags[:, 0],
    )
    cache = engine.borrow_cache()
    with torch.no_grad():
        captions = engine.dit.text_cache(text)

    def run() -> None:
        levels = torch.zeros(1, config.num_context_frames, device=device)
        engine.dit(
            conditioning.context, levels, captions, conditioning.positions, cache=cache, write="global"
        )
        for chunk in range(config.window_chunks):
            latents = torch.zeros(1, *engine.chunk_shape, device=device)
            positions = conditioning.chunk(chunk, config)
            levels = torch.zeros(1, config.chunk_latent_frames, device=device)
            engine.dit(latents, levels, captions, positions, cache=cache, write="local")

    return peak_of(run).peak


def decode_peak(engine: Engine) -> Peak:
    """A shot's first and second chunk; kept is what the codec carries on."""

    def run() -> object:
        latents = torch.zeros(1, *engine.chunk_shape, device=engine.device)
        _, state = engine.codec.decode_stream(latents, None)
        return engine.codec.decode_stream(latents, state)[1]

    return peak_of(run)


def encode_peak(engine: Engine) -> int:
    """The frames that a film's first shot keeps, encoded together: no shot keeps more."""
    size = engine.config.pixel_size
    shape = (engine.context_budget, 3, 1, size.height, size.width)
    return peak_of(lambda: engine.codec.encode(torch.zeros(shape, device=engine.device))).peak


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


def _empty_engine(
    config: dict[str, Any], size: PixelSize | None, dtype: torch.dtype, switches: Switches
) -> Engine:
    if size is not None:
        config = {**config, "engine": {**config["engine"], "pixel_size": asdict(size)}}
    with tempfile.TemporaryDirectory() as directory:
        bundle = random_bundle(config, Path(directory), _META, dtype)
        return build_engine(bundle, _META, dtype, switches=switches)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def _numbers(shapes: dict[str, tuple[int, ...]]) -> int:
    """Numbers in tensors of these shapes."""
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def _layers(shapes: dict[str, tuple[int, ...]]) -> Iterable[dict[str, tuple[int, ...]]]:
    """The shapes of each block of a text encoder, which visit the device together."""
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if ".block." in name:
            layers.setdefault(name.partition(".block.")[2].partition(".")[0], {})[name] = shape
    return layers.values()


def _module_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _cache_bytes(cache: DualCache) -> int:
    return sum(stored.nbytes for layer in cache.layers for stored in layer)
