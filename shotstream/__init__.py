"""Streaming multi-shot video generation: a story in, a film out (arXiv 2603.25746).

The public API, resolved on first use so that importing the package costs nothing: torch loads only when a
model does.
"""

from typing import TYPE_CHECKING, Any

from shotstream.story import Shot, Story

if TYPE_CHECKING:
    from shotstream.streaming.pipeline import StreamingPipeline, load

__version__ = "0.1.0"

__all__ = ["Shot", "Story", "StreamingPipeline", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name in ("StreamingPipeline", "load"):
        from shotstream.streaming import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'shotstream' has no attribute {name!r}")
