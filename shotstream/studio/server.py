"""The HTTP server around the app: bounds on connections and buffers, and a farewell to viewers."""

import asyncio
import logging
import socket
import time
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from shotstream.studio.api_error import ApiError
from shotstream.studio.app import notify_shutdown
from shotstream.studio.connections import (
    OUT_OF_DESCRIPTORS,
    HttpConnection,
    RepeatedLogFilter,
    ServerConfig,
    WebSocketConnection,
    usable_connections,
)
from shotstream.studio.dependencies import Backend
from shotstream.studio.limits import Limits
from shotstream.studio.story_manager import StoryManager

_MAX_MESSAGE_BYTES = 2 * 2**20
_ACCEPTED_AT_ONCE = 2
"""asyncio accepts so many before it looks at the first; the system's own queue is longer."""
_QUEUE = 128
_TICKS_PER_LOOK = 5
_log = logging.getLogger("uvicorn.error")


class StudioServer(uvicorn.Server):
    """Serves a studio until it is interrupted or told to end; either is a good end.

    Args:
        app: the studio.
        limits: of its connections.
    """

    def __init__(self, app: FastAPI, limits: Limits) -> None:
        self._app = app
        self.shutdown_report: list[str] = []
        """What was safe when it ended, if that is known."""
        config = ServerConfig(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            http=HttpConnection,
            ws=WebSocketConnection,
            ws_max_size=_MAX_MESSAGE_BYTES,
            ws_max_queue=8,
            proxy_headers=False,  # The app reads them itself: proxy.py.
            backlog=_ACCEPTED_AT_ONCE,
            timeout_graceful_shutdown=5,
        )
        config.limits = limits
        config.max_connections = usable_connections(limits.connections)
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen; what is wrong with connections is told in one line, and not too often."""
        asyncio.get_running_loop().set_exception_handler(_tell_fault)
        _log.addFilter(RepeatedLogFilter())
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(_QUEUE)

    async def on_tick(self, counter: int) -> bool:
        """Ends the connections that take too long; whether the server is to end."""
        if counter % _TICKS_PER_LOOK == 0:
            now_s = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, HttpConnection | WebSocketConnection):
                    connection.close_if_timed_out(now_s)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Viewers are told before their connections end; requests that are not whole are not waited for."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, HttpConnection) and not connection.is_answering:
                connection.transport.abort()
        backend: Backend = self._app.state.backend
        with suppress(ApiError):  # It has ended already.
            self.shutdown_report.append(await backend.worker.call(StoryManager.shutdown_summary))
        await notify_shutdown(self._app)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ends the server; uvicorn's own would raise the signal again when all is tidied."""
        del sig, frame
        self.force_exit = self.should_exit
        self.should_exit = True


def bind_socket(host: str, port: int) -> socket.socket:
    """A socket that has an address and does not listen yet; OSError says why it cannot have it.

    Of a name with several addresses it has the first of version 4, as a browser finds it, or else of 6.
    """
    found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)
    family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    bound = socket.socket(family)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _tell_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in OUT_OF_DESCRIPTORS:
        _log.warning("the system has no more descriptors for connections: raise `ulimit -n`")
    else:
        loop.default_exception_handler(context)
