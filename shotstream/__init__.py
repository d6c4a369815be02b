"""ShotStream: streaming multi-shot video generation, from a story to a film (arXiv 2603.25746).

The public API. Modules that need torch are imported at first use, so that importing the package is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shotstream.story import Shot, Story, read_story

if TYPE_CHECKING:
    from shotstream.streaming.loading import load
    from shotstream.streaming.pipeline import StreamingPipeline
    from shotstream.streaming.session import StorySession
    from shotstream.streaming.shot import Chunk

__version__ = "0.1.0"

__all__ = ["Chunk", "Shot", "Story", "StorySession", "StreamingPipeline", "__version__", "load", "read_story"]

_LAZY = {
    "Chunk": "shotstream.streaming.shot",
    "StorySession": "shotstream.streaming.session",
    "StreamingPipeline": "shotstream.streaming.pipeline",
    "load": "shotstream.streaming.loading",
}
"""Module of each public name that needs torch."""


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'shotstream' has no attribute {name!r}")
