"""The data folder: one server's at a time, its owner's alone, and bound to one database.

The database and the folder hold the same id. Where they do not, nothing is opened and nothing is deleted:
takes that a database does not know may be another's. What is in doubt is set aside, in a folder named by
date. Files that are not the studio's are left alone.
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
    """An open data folder, from its making to `close`.

    Args:
        root: made if it is not there.

    Raises:
        StorageError: another server works in it.
        OSError: it cannot be written.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._root = root
        self._lock = lock_data_dir(root)
        self.exports = root / "exports"
        """For files on their way out; those of an earlier run are deleted."""
        make_private_dir(self.exports)
        for left in self.exports.glob("tmp*"):
            remove(left)

    @property
    def media(self) -> Path:
        """Where takes are kept."""
        return self._root / "media"

    def close(self) -> None:
        """Lets other servers in."""
        os.close(self._lock)

    def reconcile(self, store: StoryStore, media: MediaStore) -> None:
        """Makes sure that database and folder belong together, and makes both agree with what is finished.

        Raises:
            StorageError: They do not, which a person has to settle.
        """
        store.acquire_lock()
        ours, theirs = self._read_id(), store.folder_id()
        known, present = store.take_ids(), media.take_ids()
        if ours is None or ours != theirs:
            if (known or present) and not known & present:
                raise StorageError(self._disagreement(theirs, len(known), len(present)))
            # Two that have nothing to lose begin anew: no other folder or database is left with the same id.
            ours = (theirs or ours or new_id()) if known else new_id()
            store.set_folder_id(ours)
            write_atomically(f"{ours}\n".encode(), self._id_file)
        self._id_file.chmod(0o600)
        for story_id in media.stories_marked_deleted():
            store.delete_story(story_id)
            media.delete_marked_story(story_id)
        # Asked again: a deletion that was interrupted has just been finished.
        known = store.take_ids()
        asides = self._root / "set-aside"
        aside = asides / datetime.now(UTC).strftime("%Y-%m-%d")
        num_aside = media.quarantine_unknown_takes(known, aside)
        if num_aside:
            _log.warning(
                "%d takes that the database does not know were set aside in %s; nothing looks at them there, "
                "delete them if you miss nothing",
                num_aside,
                aside,
            )
        num_back = media.restore_quarantined_takes(known, asides)
        if num_back:
            _log.warning("%d takes that the database knows again were taken back from %s", num_back, asides)
        num_missing = len(known - media.take_ids())
        if num_missing:
            _log.warning(
                "%d of the %d takes that the database knows are not in %s: is that the folder, and its disk "
                "there? What is asked for of them is made anew",
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

    def _disagreement(self, theirs: str | None, num_known: int, num_present: int) -> str:
        root = self._root
        parts = [f"this database does not belong to the data folder {root}; nothing was opened or deleted"]
        if num_present:
            parts.append(
                f"the folder holds {num_present} takes that it does not know: start with their database "
                f"(--database; or put it back at {root / 'stories.sqlite'}, its own place), or move "
                f"{root / 'media'} elsewhere to begin anew"
            )
        if num_known:
            lost = f" (if they are lost, write {theirs} into {self._id_file})" if theirs else ""
            parts.append(
                f"it knows {num_known} takes that are not here: give the --data that holds them{lost}"
            )
        return "; ".join(parts)


def lock_data_dir(root: Path) -> int:
    """A descriptor that keeps other servers out; the system lets go of it when this process dies.

    Raises:
        StorageError: Another one works in the folder.
    """
    descriptor = lock_file(root / "lock")
    if descriptor is None:
        raise StorageError(f"another server keeps its stories in {root}; give another --data")
    return descriptor
