"""The protocol between the transformer and a cache of keys and values.

The network asks the cache for a pass over some frames, lets the pass compute self-attention in every layer,
and tells the cache when it is complete. What a pass attends to is the cache's knowledge alone. There are two
caches: `dual_cache` has a context and a shot, `frame_store` follows the rules of students without a context.
"""

from typing import Literal, Protocol, TypeVar, runtime_checkable

from shotstream.geometry import TokenGrid
from shotstream.model.attention import Attend

Write = Literal["global", "local", "recache"]
"""What a pass writes: the context, the next chunk of the shot, or the newest frames of the shot once more."""


@runtime_checkable
class KeyCachePass(Protocol):
    """One forward pass over a cache, from `KeyCache.begin` to `KeyCache.finish`."""

    def attends(self, attention: Attend) -> list[Attend]:
        """Returns each layer's attention over all keys of the pass, computed by the kernel `attention`."""
        ...


CachePassT = TypeVar("CachePassT", bound=KeyCachePass)


@runtime_checkable
class KeyCache(Protocol[CachePassT]):
    """Keys and values of frames that were generated before."""

    batch: int
    """Number of films that are generated together."""
    token_grid: TokenGrid
    """Size of a latent frame in tokens."""

    def begin(self, num_frames: int, chunk_index: int | None, write: Write | None) -> CachePassT:
        """Returns the pass over `num_frames` latent frames; ValueError if the cache cannot serve it."""
        ...

    def finish(self, done: CachePassT) -> None:
        """Completes a pass after all layers."""
        ...
