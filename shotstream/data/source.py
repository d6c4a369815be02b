"""Shots out of shards, for training: read by threads ahead of time, in an order that is new every epoch.

What a step gets is a function of (seed, step) and of what is readable, so a run that resumes at a step goes
on as if it had never stopped: there is no position to save. A rank reads its rows of the batch, and the
ranks' rows together are what one process alone would read.

A clip that is damaged is named, counted and replaced by another drawn for the same place, up to a stated
number; then training ends. Memory is bounded by the shots read ahead and by a table of a few bytes a shot.

Captions stay where they are: a batch names each by its place, and `CaptionStore` reads its embedding.
"""

import json
import logging
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shotstream.data.checks import bad_allowed, require_within
from shotstream.data.order import ShotOrder
from shotstream.data.shards import CONTEXT, TEXT, UNCONDITIONAL_NAME, ShardDirectory, ShardError
from shotstream.weights.tensor_files import CheckpointError, read_safetensors

_log = logging.getLogger(__name__)

_MAX_SUBSTITUTES = 16


class TooManyBadSamples(ValueError):
    """More clips than allowed cannot be read from the shards; the message names the last of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardsConfig:
    """Shards to train on."""

    directory: str
    """What `shotstream data encode` made, relative to the working directory."""
    seed: int = 0
    """Of the order."""
    max_latent_frames: int = 21
    """Longer shots are cut at the end; all are cut to whole chunks."""
    num_workers: int = 2
    """Threads that read; 0: the step reads itself."""
    read_ahead: int = 2
    """Batches that they are ahead."""
    max_bad: str = "1%"
    """Clips that may be replaced in a run: a number, or a share of all, rounded down."""

    def __post_init__(self) -> None:
        require_within(self, 0, inf, ("seed", "num_workers", "read_ahead"))
        require_within(self, 1, inf, ("max_latent_frames",))
        bad_allowed(self.max_bad, 1)
        if not self.directory:
            raise ValueError("directory is empty; name a directory of shards")


@dataclass(frozen=True, kw_only=True, slots=True)
class PastShot:
    """An earlier shot, as later ones look back at it."""

    num_frames: int
    frames: tuple[int, ...]
    """Which of its frames were encoded alone."""
    latents: Float[Tensor, "k z h w"]
    """Those frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShotSample:
    """A shot to learn from and what came before it."""

    latents: Float[Tensor, "z f h w"]
    """As they are stored, in half precision."""
    past: tuple[PastShot, ...]
    captions: tuple[str, ...]
    """Where the captions of the earlier shots and its own are stored, see `CaptionStore`."""


class ShardSource:
    """The batches of a training run. One thread at a time may read from it."""

    def __init__(self, config: ShardsConfig, batch_size: int) -> None:
        """Opens the shards and lists their shots.

        Args:
            config: which shards, and how they are read.
            batch_size: shots per step, over all ranks.

        Raises:
            ShardError: the directory is not complete.
            TooManyBadSamples: more shards are damaged than allowed.
        """
        self.config = config
        self.shards = open_shards(config.directory)
        self.form = self.shards.form
        self.captions = caption_store(config.directory) if self.form.text_shape else None
        total = sum(summary["num_samples"] for summary in self.shards.shards)
        self._allowed = bad_allowed(config.max_bad, total)
        self._bad: set[tuple[int, int]] = set()
        self._lock = threading.Lock()
        self._shots, lengths = self._table()
        self.order = ShotOrder(lengths, batch_size, config.seed)
        self.batch_size = batch_size
        self._pool = ThreadPoolExecutor(config.num_workers) if config.num_workers else None
        self._ahead: dict[tuple[int, int], Future[ShotSample]] = {}

    @property
    def num_bad(self) -> int:
        """Clips found damaged by this process since it began."""
        return len(self._bad)

    def read(self, step: int, rows: range | None = None) -> list[ShotSample]:
        """The shots of a step, all of one length, those of `rows` of the batch alone; None: all of them.

        Raises:
            TooManyBadSamples: more clips are damaged than allowed.
        """
        rows = range(self.batch_size) if rows is None else rows
        if self._pool is None:
            return [self._sample(step, row) for row in rows]
        wanted = [(ahead, row) for ahead in range(step, step + 1 + self.config.read_ahead) for row in rows]
        for key in self._ahead.keys() - set(wanted):
            self._ahead.pop(key).cancel()
        for key in wanted:
            if key not in self._ahead:
                self._ahead[key] = self._pool.submit(self._sample, *key)
        return [self._ahead.pop((step, row)).result() for row in rows]

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Shard, sample and place of every shot, and its length in whole chunks."""
        shots: list[np.ndarray] = []
        lengths: list[np.ndarray] = []
        chunk = self.form.chunk_latent_frames
        most = min(self.config.max_latent_frames, self.form.max_latent_frames) // chunk * chunk
        if not most:
            raise ValueError(f"max_latent_frames is {self.config.max_latent_frames}; a chunk has {chunk}")
        for shard, summary in enumerate(self.shards.shards):
            try:
                samples = self.shards.record(shard).samples
            except ShardError as error:
                for sample in range(summary["num_samples"]):
                    self._found_bad(shard, sample, error)
                continue
            places = [
                (i, place) for i, one in enumerate(samples) for place in range(len(one.num_latent_frames))
            ]
            shots.append(np.array([(shard, *place) for place in places], np.int32).reshape(-1, 3))
            stored = [length for one in samples for length in one.num_latent_frames]
            lengths.append(np.minimum(np.array(stored, np.int32) // chunk * chunk, most))
        if not shots:
            raise ShardError(f"{self.shards.directory}: holds no clip")
        return np.concatenate(shots), np.concatenate(lengths)

    def _sample(self, step: int, row: int) -> ShotSample:
        length, items = self.order.batch(step)
        item = int(items[row])
        for attempt in range(_MAX_SUBSTITUTES):
            shard, sample, place = (int(part) for part in self._shots[item])
            try:
                return self._load(shard, sample, place, length)
            except ShardError as error:
                self._found_bad(shard, sample, error)
            item = self.order.substitute(step, row, attempt, length)
        raise TooManyBadSamples(f"{self.shards.directory}: {_MAX_SUBSTITUTES} damaged clips in a row")

    def _load(self, shard: int, sample: int, place: int, length: int) -> ShotSample:
        shards, key = self.shards, self.shards.record(shard).samples[sample].key
        try:
            told = json.loads(shards.read(shard, sample, "json"))["shots"][: place + 1]
            context = shards.tensors(shard, sample, CONTEXT) if place else {}
            latents = shards.tensors(shard, sample, f"shot{place}.safetensors")["latents"][:, :length]
            past = tuple(
                PastShot(
                    num_frames=one["num_frames"],
                    frames=tuple(one["context_frames"]),
                    latents=context[f"shot{index}"],
                )
                for index, one in enumerate(told[:-1])
            )
        except (KeyError, TypeError) as error:
            raise ShardError(f"{shards.directory}: clip {key} lacks {error}") from error
        captions = tuple(stored_caption(key, index) for index in range(len(told)))
        if self.captions is not None:
            for caption in captions:
                self.captions.read(caption)  # so that it is there when the step asks
        return ShotSample(latents=latents, past=past, captions=captions)

    def _found_bad(self, shard: int, sample: int, error: ShardError) -> None:
        with self._lock:
            if (shard, sample) in self._bad:
                return
            self._bad.add((shard, sample))
            _log.warning(
                "replaced by another clip: %s (%d of %d allowed)", error, len(self._bad), self._allowed
            )
            if len(self._bad) > self._allowed:
                raise TooManyBadSamples(
                    f"{error}; {len(self._bad)} damaged clips, and max_bad allows {self._allowed}"
                ) from error


def stored_caption(key: str, place: int) -> str:
    """The name under which a batch passes on the caption of a clip's shot."""
    return f"{key}.shot{place}"


class CaptionStore:
    """Embeddings of captions in shards, by the names that `stored_caption` gives; any thread may read.

    The empty caption is the text that guidance turns away from, so that a sample whose captions are dropped
    in training is what guidance will ask for.
    """

    def __init__(self, shards: ShardDirectory, *, memo_captions: int = 256) -> None:
        """ShardError when the shards hold captions as text alone."""
        if shards.form.text_shape is None:
            raise ShardError(f"{shards.directory}: holds no embeddings; encode it without --no-text")
        self.shards = shards
        self.shape = shards.form.text_shape
        path = shards.directory / UNCONDITIONAL_NAME
        try:
            self._free = read_safetensors(path)["unconditional"].load()
        except (CheckpointError, KeyError) as error:
            raise ShardError(
                f"{path}: cannot be read ({error}); encode again into a new directory"
            ) from error
        self._memo: OrderedDict[str, Tensor] = OrderedDict()
        self._memo_captions = memo_captions
        self._lock = threading.Lock()

    def embed(self, captions: Sequence[str]) -> Float[Tensor, "u n d"]:
        """Embeddings in float32, zero past the end of each caption.

        Raises:
            ShardError: no such caption, or it is damaged.
        """
        embedded = torch.zeros(len(captions), *self.shape)
        for row, caption in enumerate(captions):
            stored = self.read(caption) if caption else self._free
            embedded[row, : len(stored)] = stored.float()
        return embedded

    def read(self, caption: str) -> Float[Tensor, "n d"]:
        """A stored caption's embedding, as it is stored; ShardError as `embed`."""
        with self._lock:
            if caption in self._memo:
                self._memo.move_to_end(caption)
                return self._memo[caption]
        key, _, member = caption.partition(".")
        if not key.isdecimal():
            raise ShardError(f"{self.shards.directory}: {caption!r} names no stored caption")
        shard = int(key) // self.shards.form.clips_per_shard
        samples = self.shards.record(shard).samples if shard < len(self.shards.shards) else ()
        sample = bisect_left([one.key for one in samples], key)
        if sample == len(samples) or samples[sample].key != key:
            raise ShardError(f"{self.shards.directory}: holds no clip {key}")
        found = self.shards.tensors(shard, sample, TEXT)
        if member not in found:
            raise ShardError(f"{self.shards.directory}: clip {key} has no caption of {member}")
        with self._lock:
            self._memo[caption] = found[member]
            while len(self._memo) > self._memo_captions:
                self._memo.popitem(last=False)
        return found[member]


@lru_cache(maxsize=4)
def open_shards(directory: str) -> ShardDirectory:
    """A directory of shards, opened once."""
    return ShardDirectory(Path(directory))


@lru_cache(maxsize=4)
def caption_store(directory: str) -> CaptionStore:
    """The captions of a directory, whose memo all readers share."""
    return CaptionStore(open_shards(directory))
