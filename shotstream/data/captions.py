"""Stored captions: embeddings in shards, which a model reads instead of running a text encoder.

A batch names a caption by its clip and shot, `00000012.shot3`. The meaning of a name never changes, so a
model with a `StoredText` is a function of its inputs like one with a text encoder.
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
    """Configuration of caption embeddings that were computed in advance."""

    directory: str = field(compare=False)
    """Directory of the shards that hold them; it is ignored when models are compared."""


class StoredText(nn.Module):
    """Stored caption embeddings in place of a text encoder; a module without parameters."""

    def __init__(self, config: StoredTextConfig) -> None:
        """Creates the module; the shards are opened when the first caption is requested."""
        super().__init__()
        self.config = config

    def embed(self, captions: Sequence[str]) -> Float[Tensor, "u n d"]:
        """Returns the embeddings of captions; see `CaptionStore.embed`."""
        return caption_store(self.config.directory).embed(captions)


def stored_caption(key: str, place: int) -> str:
    """Returns the name by which a batch refers to the caption of a clip's shot."""
    return f"{key}.shot{place}"


class CaptionStore:
    """Caption embeddings in shards, by the names that `stored_caption` returns; any thread may read.

    The empty caption has the embedding of the unconditional text of guidance, so that a sample with dropped
    captions is trained on the same text that guidance uses.
    """

    def __init__(self, shards: ShardDirectory, *, memo_captions: int = 256) -> None:
        """Creates a store; raises ShardError if the shards hold captions as text only."""
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
        """Returns embeddings in float32, zero after the end of each caption.

        Raises:
            ShardError: There is no such caption, or it is damaged.
        """
        embedded = torch.zeros(len(captions), *self.shape)
        for row, caption in enumerate(captions):
            stored = self.read(caption) if caption else self._free
            embedded[row, : len(stored)] = stored.float()
        return embedded

    def read(self, caption: str) -> Float[Tensor, "n d"]:
        """Returns the embedding of a stored caption as it is stored; raises ShardError like `embed`."""
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
    """Returns a directory of shards, which is opened once."""
    return ShardDirectory(Path(directory))


@lru_cache(maxsize=4)
def caption_store(directory: str) -> CaptionStore:
    """Returns the captions of a directory; all readers share its cache."""
    return CaptionStore(open_shards(directory))
