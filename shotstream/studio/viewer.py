"""A viewer of a story: its playback position, and its outbox, a bounded queue of messages to send.

The worker's thread puts items into the outbox and the event loop takes them; neither waits for the other. A
chunk that does not fit is dropped, and the viewer is told. A viewer whose queue of messages is full is
disconnected.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from threading import Lock

from shotstream.studio.limits import Limits
from shotstream.studio.schemas.base import Message
from shotstream.studio.schemas.server_messages import Media, MediaDropped
from shotstream.studio.schemas.state import Place

CLOSE_NOT_READING, CLOSE_GOING_AWAY, CLOSE_BUSY, CLOSE_TOO_FAST, CLOSE_FORBIDDEN, CLOSE_NOT_FOUND = (
    4408,
    1001,
    4503,
    4429,
    4401,
    4404,
)


class Outbox:
    """The queue of messages to one viewer. It must be created in the event loop that takes from it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._full = asyncio.Event()
        self._lock = Lock()
        self._items: deque[str | bytes] = deque()
        self._num_bytes = 0
        self._close_code: int | None = None

    def put(self, text: str, data: bytes | None = None) -> bool:
        """Queues a message and its binary data, if any; returns False if the data do not fit."""
        with self._lock:
            if self._close_code is not None:
                return True
            if data is not None and self._num_bytes + len(data) > self._limits.outbox_bytes:
                return False
            self._items.append(text)
            if data is not None:
                self._items.append(data)
                self._num_bytes += len(data)
            is_full = len(self._items) > self._limits.outbox_messages
            if is_full:
                self._close_code = CLOSE_NOT_READING
                self._items.clear()
        self._wake(self._full if is_full else self._ready)
        return True

    def close(self, code: int) -> None:
        """Closes the queue. Items that are in it are still sent."""
        with self._lock:
            if self._close_code is None:
                self._close_code = code
        self._wake(self._ready)

    @property
    def close_code(self) -> int | None:
        """The code to close the connection with; None: it stays open."""
        return self._close_code

    async def next_item(self) -> str | bytes | None:
        """Waits for the next item; returns None when the queue is closed and empty."""
        while True:
            with self._lock:
                if self._items:
                    item = self._items.popleft()
                    if isinstance(item, bytes):
                        self._num_bytes -= len(item)
                    return item
                if self._close_code is not None:
                    return None
                self._ready.clear()
            await self._ready.wait()

    async def wait_until_full(self) -> None:
        """Waits until the queue overflows because the viewer does not read."""
        await self._full.wait()

    def _wake(self, event: asyncio.Event) -> None:
        # After shutdown the loop is closed, and nobody waits any more.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(event.set)


@dataclass(kw_only=True, slots=True)
class Viewer:
    """A viewer of a story. Used by the worker's thread alone."""

    viewer_id: str
    outbox: Outbox
    playhead_frame: int
    """Its last known position, as a frame of the film."""
    reported_s: float
    """Time of its last report, `time.monotonic`."""
    playhead: Place | None = None
    """The frame that it reported last."""
    is_playing: bool = False
    num_stalls: int = 0

    def send(self, message: Message) -> None:
        """Queues a message for this viewer."""
        self.outbox.put(message.model_dump_json())

    def send_dropped(self, media: Media) -> None:
        """Tells the viewer that a chunk was dropped."""
        self.send(MediaDropped(take_id=media.take_id, chunk_index=media.chunk_index))
