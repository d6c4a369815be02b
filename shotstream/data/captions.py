"""Captions in shards, as a model that trains on them reads them: by the place where an embedding is stored.

A batch names a caption by its clip and shot, `00000012.shot3`. What a name means never changes, so that a
model with a `StoredText` is a function of its inputs as one with a text encoder is, without the encoder.
"""

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shotstream.data.shards import TEXT, UNCONDITIONAL_NAME, ShardDirectory, ShardError
from shotstream.weights.tensor_files import CheckpointError, read_safetensors


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTextConfig:
    """Captions that were embedded beforehand."""

    directory: str = field(compare=False)
    """The shards that hold them. A model is no other because its captions lie elsewhere."""


class StoredText(nn.Module):
    """Stored caption embeddings in the place of a text encoder; has no parameters."""

    def __init__(self, config: StoredTextConfig) -> None:
        """The shards are opened when the first caption is asked for."""
        super().__init__()
        self.config = config

    def embed(self, captions: Sequence[str]) -> Float[Tensor, "u n d"]:
        """See `CaptionStore.embed`."""
        return caption_store(self.config.directory).embed(captions)


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
        shards.require_sum(UNCONDITIONAL_NAME)
        try:
            self._free = read_safetensors(path)["unconditional"].load()
        except CheckpointError as error:
            raise ShardError(f"{error}; encode again into a new directory") from error
        except KeyError as error:
            raise ShardError(
                f"{path}: holds no text to turn away from; encode again into a new directory"
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
