"""A viewer as the worker knows one: where it is in the film, and a bounded outbox towards it.

The worker puts, the event loop takes; neither waits for the other. Pictures that do not fit are left out,
and the viewer is told; a viewer for whom even short messages do not fit is given up.
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
    """Messages on their way to one viewer; made in the event loop that will take them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._full = asyncio.Event()
        self._lock = Lock()
        self._items: deque[str | bytes] = deque()
        self._num_bytes = 0
        self._close_code: int | None = None

    def put(self, text: str, picture: bytes | None = None) -> bool:
        """Hands over a message, with a picture or not; False: the picture did not fit, nothing was taken."""
        with self._lock:
            if self._close_code is not None:
                return True
            if picture is not None and self._num_bytes + len(picture) > self._limits.outbox_bytes:
                return False
            self._items.append(text)
            if picture is not None:
                self._items.append(picture)
                self._num_bytes += len(picture)
            is_full = len(self._items) > self._limits.outbox_messages
            if is_full:
                self._close_code = CLOSE_NOT_READING
                self._items.clear()
        self._wake(self._full if is_full else self._ready)
        return True

    def close(self, code: int) -> None:
        """Nothing more will come; what is waiting is still sent."""
        with self._lock:
            if self._close_code is None:
                self._close_code = code
        self._wake(self._ready)

    @property
    def close_code(self) -> int | None:
        """What the connection is to be closed with; None: it stays open."""
        return self._close_code

    async def next_item(self) -> str | bytes | None:
        """The next message; None: there will be no more."""
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
        """Returns when the viewer has not read for too long."""
        await self._full.wait()

    def _wake(self, event: asyncio.Event) -> None:
        # The loop has ended when the server has: nobody is there to be woken.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(event.set)


@dataclass(kw_only=True, slots=True)
class Viewer:
    """A viewer of a story; the worker's alone."""

    viewer_id: str
    outbox: Outbox
    playhead_frame: int
    """The last place in the film that it is known to have been at."""
    reported_s: float
    """When it was last heard of, on the worker's clock."""
    playhead: Place | None = None
    """What it said last."""
    is_playing: bool = False
    num_stalls: int = 0

    def send(self, message: Message) -> None:
        """A message for this viewer."""
        self.outbox.put(message.model_dump_json())

    def send_dropped(self, media: Media) -> None:
        """Word that there was no room for a chunk."""
        self.send(MediaDropped(take_id=media.take_id, chunk_index=media.chunk_index))
