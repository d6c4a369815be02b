"""H.264 in a thread of its own: one chunk is encoded while the next one is made.

The encoder works outside Python's lock and on other cores than a small network can use. Chunks come out in
the order in which they went in, the same as `FragmentWriter` makes them. It queues no more than it is told
to: whoever makes chunks faster than they can be encoded waits, so that memory stays bounded.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from types import TracebackType

from shotstream.video.video_io import FragmentWriter, Frames


class FragmentThread:
    """Encodes chunks in the background. A context manager: leaving it waits for all that was submitted."""

    def __init__(self, writer: FragmentWriter, *, max_waiting: int = 2) -> None:
        """Takes a writer over.

        Args:
            writer: Not to be used by anybody else meanwhile.
            max_waiting: Chunks submitted and not yet encoded, the one in hand included.

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
        """The future of `FragmentWriter.write` for these frames, errors included; may wait for room.

        The frames are not copied: leave them as they are.
        """
        self._room.acquire()
        try:
            future = self._thread.submit(self._writer.write, frames)
        except RuntimeError:
            self._room.release()
            raise
        future.add_done_callback(lambda _: self._room.release())
        return future
