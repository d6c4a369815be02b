"""The data directory: used by one server at a time, readable by its owner alone, and tied to one database.

The database and the directory hold the same id. If the ids differ, the server does not start and nothing is
deleted, because takes that one database does not know may belong to another. Takes without a record are moved
to set-aside/DATE. Files that the studio did not name are not touched.
"""

import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from shotstream.files import lock_file, remove, write_atomically
from shotstream.studio.database import StorageError
from shotstream.studio.ids import new_id
from shotstream.studio.media_store import MediaStore, make_private_dir
from shotstream.studio.story_store import StoryStore

_log = logging.getLogger(__name__)


class DataDir:
    """A data directory, locked until `close`.

    Args:
        root: The directory; created if it does not exist.

    Raises:
        StorageError: Another server uses it.
        OSError: It cannot be written.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._root = root
        self._lock = lock_data_dir(root)
        self.exports = root / "exports"
        """Directory of export files. Those of an earlier run are deleted."""
        make_private_dir(self.exports)
        for left in self.exports.glob("tmp*"):
            remove(left)

    @property
    def media(self) -> Path:
        """Directory of the takes' files."""
        return self._root / "media"

    def close(self) -> None:
        """Releases the lock."""
        os.close(self._lock)

    def reconcile(self, store: StoryStore, media: MediaStore) -> None:
        """Checks that database and directory belong together, and completes what a crash has interrupted.

        Interrupted deletions are completed, takes without a record go to quarantine, and takes whose record
        is back return from it.

        Raises:
            StorageError: Database and directory do not belong together.
        """
        store.acquire_lock()
        ours, theirs = self._read_id(), store.folder_id()
        known, present = store.take_ids(), media.take_ids()
        if ours is None or ours != theirs:
            if (known or present) and not known & present:
                raise StorageError(self._mismatch_message(theirs, len(known), len(present)))
            # With nothing to lose both get a new id, so that no other database or directory has the same one.
            ours = (theirs or ours or new_id()) if known else new_id()
            store.set_folder_id(ours)
            write_atomically(f"{ours}\n".encode(), self._id_file)
        self._id_file.chmod(0o600)
        for story_id in media.stories_marked_deleted():
            store.delete_story(story_id)
            media.delete_marked_story(story_id)
        # Read again, because interrupted deletions have just been completed.
        known = store.take_ids()
        quarantines = self._root / "set-aside"
        quarantine = quarantines / datetime.now(UTC).strftime("%Y-%m-%d")
        num_moved = media.quarantine_unknown_takes(known, quarantine)
        if num_moved:
            _log.warning(
                "%d takes that are not in the database were moved to %s; "
                "delete them there if nothing is missing",
                num_moved,
                quarantine,
            )
        num_back = media.restore_quarantined_takes(known, quarantines)
        if num_back:
            _log.warning(
                "%d takes that are in the database again were moved back from %s", num_back, quarantines
            )
        num_missing = len(known - media.take_ids())
        if num_missing:
            _log.warning(
                "%d of the %d takes in the database are missing in %s: is it the right directory, and "
                "is its disk mounted? Missing takes are generated again when they are needed",
                num_missing,
                len(known),
                self.media,
            )

    @property
    def _id_file(self) -> Path:
        return self._root / "studio.id"

    def _read_id(self) -> str | None:
        if not self._id_file.exists():
            return None
        return self._id_file.read_text(encoding="ascii", errors="replace").strip() or None

    def _mismatch_message(self, theirs: str | None, num_known: int, num_present: int) -> str:
        root = self._root
        parts = [
            f"this database does not belong to the data directory {root}; nothing was changed or deleted"
        ]
        if num_present:
            parts.append(
                f"the directory holds {num_present} takes that are not in the database: use their database "
                f"(--database, or put it back at {root / 'stories.sqlite'}), or move "
                f"{root / 'media'} away to start empty"
            )
        if num_known:
            lost = f" (if they are lost, write {theirs} into {self._id_file})" if theirs else ""
            parts.append(
                f"the database has {num_known} takes that are not here: give the --data that holds them{lost}"
            )
        return "; ".join(parts)


def lock_data_dir(root: Path) -> int:
    """Locks a data directory, and returns the lock's descriptor; the lock ends with the process.

    Raises:
        StorageError: Another server uses the directory.
    """
    descriptor = lock_file(root / "lock")
    if descriptor is None:
        raise StorageError(f"another server uses {root}; give another --data")
    return descriptor
