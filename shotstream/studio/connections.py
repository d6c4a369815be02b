"""Connections with timeouts and a maximum number, for HTTP and WebSocket.

uvicorn's protocols wait without limit for a request that does not come or comes a byte at a time, and for a
peer that does not read. Here each of these waits has a timeout. The number of connections stays below the
number of file descriptors: a new connection replaces the one that has waited longest for its request, or else
the one that has not read for longest.
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
"""File descriptors for the database, for writing takes, and for connections accepted but not yet counted."""
_PER_CONNECTION = 2
"""Descriptors of one connection: its socket, and the file that it is sent."""
_MIN_CONNECTIONS = 4
_REPEAT_S = 60.0
OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Values of `errno` for a process or system that cannot open more connections or files."""
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\n"
    b"connection: close\r\ncontent-length: 66\r\n\r\n"
    b'{"code": "busy", "message": "too many connections are open here"}\n'
)


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration, with limits of connections."""

    limits: Limits
    max_connections: int


class _WriteTimeout:
    """Mixin of a uvicorn protocol: closes the connection if the peer does not read."""

    _is_paused = False
    stuck_since_s: float | None = None
    """Time at which the peer was first seen not to read; None: it reads."""

    def pause_writing(self) -> None:
        """Called when the write buffer is full."""
        self._is_paused = True
        super().pause_writing()  # pyright: ignore

    def resume_writing(self) -> None:
        """Called when the write buffer has space again."""
        self._is_paused = False
        self.stuck_since_s = None
        super().resume_writing()  # pyright: ignore

    def close_if_timed_out(self, now_s: float) -> None:
        """Aborts the connection if the peer has not read for too long. Called about twice a second."""
        transport, limits = self.transport, self.config.limits  # pyright: ignore
        if not (self._is_paused or transport.is_closing()):
            self.stuck_since_s = None
        elif self.stuck_since_s is None:
            self.stuck_since_s = now_s
        elif now_s - self.stuck_since_s > limits.unread_s:
            transport.abort()


class HttpConnection(_WriteTimeout, H11Protocol):
    """An HTTP connection: its requests must arrive in time."""

    config: ServerConfig
    waiting_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Accepts the connection; beyond the maximum, closes another one or answers 503."""
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
        """Whether it waits for a request: nothing, or only part of the headers, has arrived."""
        # uvicorn's types do not say that `cycle` is None before the first request.
        return self.cycle is None or self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]

    @property
    def is_answering(self) -> bool:
        """Whether a complete request has arrived and is being answered."""
        return not (self.is_waiting or self.cycle.more_body)

    def on_response_complete(self) -> None:
        """Starts the timeout of the next request."""
        self.waiting_since_s = time.monotonic()
        super().on_response_complete()

    def close_if_timed_out(self, now_s: float) -> None:
        """Aborts the connection also if its request does not arrive in time."""
        if self.is_waiting and now_s - self.waiting_since_s > self.config.limits.request_s:
            self.transport.abort()
        super().close_if_timed_out(now_s)


class WebSocketConnection(_WriteTimeout, WebSocketsSansIOProtocol):
    """The WebSocket connection of a viewer. uvicorn's pings detect a dead peer."""


class RepeatedLogFilter(logging.Filter):
    """A log filter: passes each message once a minute with a count of repeats, and all tracebacks."""

    def __init__(self) -> None:
        super().__init__()
        self._logged: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether a record is logged."""
        if record.exc_info:
            return True
        now_s = time.monotonic()
        since_s, num_suppressed = self._logged.get(str(record.msg), (-_REPEAT_S, 0))
        if now_s - since_s < _REPEAT_S:
            self._logged[str(record.msg)] = (since_s, num_suppressed + 1)
            return False
        self._logged[str(record.msg)] = (now_s, 0)
        if num_suppressed:
            record.msg = f"{record.getMessage()} ({num_suppressed} more times since the last such line)"
            record.args = ()
        return True


def usable_connections(wanted: int) -> int:
    """Returns how many of `wanted` connections the process has file descriptors for.

    Raises the soft limit of descriptors first, as far as the hard limit allows.
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
    return max(_MIN_CONNECTIONS, min(wanted, (soft - num_open - _OWN_DESCRIPTORS) // _PER_CONNECTION))
