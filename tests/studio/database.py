"""A database of this version's schema, made once for all tests: making one takes longer than most of them."""

import functools
import tempfile
from pathlib import Path

from shotstream.studio.story_store import StoryStore


def write_empty_database(path: Path) -> None:
    """Where none is, one without stories, as `Store.upgrade` makes it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_empty())


@functools.cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stories.sqlite"
        store = StoryStore(f"sqlite:///{path}")
        store.upgrade()
        store.close()
        assert [file.name for file in path.parent.iterdir()] == [path.name], "nothing is left beside it"
        return path.read_bytes()
