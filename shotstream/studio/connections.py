"""What one connection may take of the server: time, memory and a descriptor, for HTTP and for WebSockets.

uvicorn's protocols wait for ever for a request that does not come, for one that comes a byte at a time, and
for a peer that does not read. Here each of these ends, and the number of connections stays below what the
system has descriptors for: the one whose request has been waited for longest makes room for a new one, or
else the one that has not read for longest.
"""

import asyncio
import errno
import logging
import os
import time
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from shotstream.studio.limits import Limits

if os.name == "posix":
    import resource

_WANTED_DESCRIPTORS = 4096
_OWN_DESCRIPTORS = 16
"""For the database, takes that are kept, and connections that are accepted before they can be counted."""
_EACH = 2
"""A connection, and the file that it is sent."""
_FEWEST = 4
_QUIET_S = 60.0
OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""What the system says when it has no more connections or files to give."""
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\n"
    b"connection: close\r\ncontent-length: 66\r\n\r\n"
    b'{"code": "busy", "message": "too many connections are open here"}\n'
)


class ServerConfig(uvicorn.Config):
    """uvicorn's, with the bounds of a connection."""

    limits: Limits
    max_connections: int


class _WriteTimeout:
    """A connection whose peer has to take what it is sent."""

    _is_paused = False
    stuck_since_s: float | None = None
    """When it was first seen to take nothing; None: it takes what it is sent."""

    def pause_writing(self) -> None:
        """The peer does not keep up."""
        self._is_paused = True
        super().pause_writing()  # pyright: ignore

    def resume_writing(self) -> None:
        """It has caught up."""
        self._is_paused = False
        self.stuck_since_s = None
        super().resume_writing()  # pyright: ignore

    def close_if_timed_out(self, now_s: float) -> None:
        """Ends the connection when its peer has taken longer than it may; called now and then."""
        transport, limits = self.transport, self.config.limits  # pyright: ignore
        if not (self._is_paused or transport.is_closing()):
            self.stuck_since_s = None
        elif self.stuck_since_s is None:
            self.stuck_since_s = now_s
        elif now_s - self.stuck_since_s > limits.unread_s:
            transport.abort()


class HttpConnection(_WriteTimeout, H11Protocol):
    """One that has to bring its requests in time."""

    config: ServerConfig
    waiting_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A connection came; one that waits makes room when there are too many, or else it is refused."""
        super().connection_made(transport)
        self.waiting_since_s = time.monotonic()
        others = [
            other for other in self.connections if not other.transport.is_closing() and other is not self
        ]
        if len(others) < self.config.max_connections:
            return
        waiting = [other for other in others if isinstance(other, HttpConnection) and not other.is_answering]
        if waiting:
            min(waiting, key=lambda other: other.waiting_since_s).transport.abort()
            return
        stuck = [(other.stuck_since_s, other) for other in others if isinstance(other, HttpConnection)]
        stuck = [(since_s, other) for since_s, other in stuck if since_s is not None]
        if stuck:
            min(stuck, key=lambda pair: pair[0])[1].transport.abort()
            return
        transport.write(_FULL)
        transport.close()

    @property
    def is_waiting(self) -> bool:
        """Whether no request has begun: at most a part of its head is here."""
        # uvicorn's types do not say that there is none at the beginning.
        return self.cycle is None or self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]

    @property
    def is_answering(self) -> bool:
        """Whether a request is here, whole, and is being answered."""
        return not (self.is_waiting or self.cycle.more_body)

    def on_response_complete(self) -> None:
        """The next request is waited for from now on."""
        self.waiting_since_s = time.monotonic()
        super().on_response_complete()

    def close_if_timed_out(self, now_s: float) -> None:
        """Also when its request does not come."""
        if self.is_waiting and now_s - self.waiting_since_s > self.config.limits.request_s:
            self.transport.abort()
        super().close_if_timed_out(now_s)


class WebSocketConnection(_WriteTimeout, WebSocketsSansIOProtocol):
    """A viewer's; whether it is there at all is found out by uvicorn's pings."""


class RepeatedLogFilter(logging.Filter):
    """Lets a line through once a minute, with the number of those that were left out; tracebacks always."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written."""
        if record.exc_info:
            return True
        now_s = time.monotonic()
        since_s, num_left_out = self._told.get(str(record.msg), (-_QUIET_S, 0))
        if now_s - since_s < _QUIET_S:
            self._told[str(record.msg)] = (since_s, num_left_out + 1)
            return False
        self._told[str(record.msg)] = (now_s, 0)
        if num_left_out:
            record.msg = (
                f"{record.getMessage()} (and {num_left_out} times more since the last of these lines)"
            )
            record.args = ()
        return True


def usable_connections(wanted: int) -> int:
    """How many connections there may be at the same time with the descriptors that the system gives.

    Asks for more descriptors first, as far as that is allowed.
    """
    if os.name != "posix":
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = _WANTED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < min(hard, _WANTED_DESCRIPTORS):
        soft = min(hard, _WANTED_DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    if soft == resource.RLIM_INFINITY:
        return wanted
    folder = Path("/dev/fd")
    num_open = sum(1 for _ in folder.iterdir()) if folder.is_dir() else _OWN_DESCRIPTORS
    return max(_FEWEST, min(wanted, (soft - num_open - _OWN_DESCRIPTORS) // _EACH))
