"""H.264 encoding in its own thread: one chunk is encoded while the next one is generated.

The encoder runs outside Python's GIL, and on cores that a small network does not use. Chunks come out in the
order in which they were submitted, with the same bytes as from `FragmentWriter`. The queue is bounded:
`submit` waits while it is full, so that memory use stays bounded.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from types import TracebackType

from shotstream.video.video_io import FragmentWriter, Frames


class FragmentThread:
    """Encodes chunks in the background; a context manager.

    Leaving it waits for all submitted chunks.
    """

    def __init__(self, writer: FragmentWriter, *, max_waiting: int = 2) -> None:
        """Starts the thread.

        Args:
            writer: The encoder; nobody else may use it meanwhile.
            max_waiting: Maximum number of chunks that are submitted and not yet encoded, with the one being
                encoded.

        Raises:
            ValueError: `max_waiting` is below 1.
        """
        if max_waiting < 1:
            raise ValueError(f"max_waiting is {max_waiting}; at least the chunk in hand must have room")
        self._writer = writer
        self._room = BoundedSemaphore(max_waiting)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="h264")

    def __enter__(self) -> "FragmentThread":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=kind is not None)

    def submit(self, frames: Frames) -> Future[tuple[bytes, bytes]]:
        """Returns a future of `FragmentWriter.write` for these frames; waits while the queue is full.

        The future also raises the errors of `write`. The frames are not copied and must not be changed.
        """
        self._room.acquire()
        try:
            future = self._thread.submit(self._writer.write, frames)
        except RuntimeError:
            self._room.release()
            raise
        future.add_done_callback(lambda _: self._room.release())
        return future
