"""The uvicorn server of the app: limits of connections, and an orderly shutdown."""

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
"""Connections that asyncio accepts before it serves the first of them; the system's queue is longer."""
_QUEUE = 128
_TICKS_PER_LOOK = 5
_log = logging.getLogger("uvicorn.error")


class StudioServer(uvicorn.Server):
    """A uvicorn server for the studio. An interrupt or SIGTERM shuts it down without an error.

    Args:
        app: The app, from `create_app`.
        limits: Limits of connections.
    """

    def __init__(self, app: FastAPI, limits: Limits) -> None:
        self._app = app
        self.shutdown_report: list[str] = []
        """Messages for the user about what was stored at shutdown; empty if the worker had stopped before."""
        config = ServerConfig(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            http=HttpConnection,
            ws=WebSocketConnection,
            ws_max_size=_MAX_MESSAGE_BYTES,
            ws_max_queue=8,
            proxy_headers=False,  # proxy.py reads them.
            backlog=_ACCEPTED_AT_ONCE,
            timeout_graceful_shutdown=5,
        )
        config.limits = limits
        config.max_connections = usable_connections(limits.connections)
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen, and limits repeated log messages about connections."""
        asyncio.get_running_loop().set_exception_handler(_tell_fault)
        _log.addFilter(RepeatedLogFilter())
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(_QUEUE)

    async def on_tick(self, counter: int) -> bool:
        """Closes connections that have timed out; returns whether the server shuts down."""
        if counter % _TICKS_PER_LOOK == 0:
            now_s = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, HttpConnection | WebSocketConnection):
                    connection.close_if_timed_out(now_s)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Notifies viewers, then closes connections; incomplete requests are aborted."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, HttpConnection) and not connection.is_answering:
                connection.transport.abort()
        backend: Backend = self._app.state.backend
        with suppress(ApiError):  # The worker has stopped already.
            self.shutdown_report.append(await backend.worker.call(StoryManager.shutdown_summary))
        await notify_shutdown(self._app)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Starts the shutdown. Unlike uvicorn's, it does not raise the signal again afterwards."""
        del sig, frame
        self.force_exit = self.should_exit
        self.should_exit = True


def bind_socket(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound to an address and does not listen yet.

    Of a host name with several addresses the first IPv4 address is used, as browsers do, else the first IPv6
    one.

    Raises:
        OSError: The address cannot be used.
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
        _log.warning("no file descriptors left for connections: raise `ulimit -n`")
    else:
        loop.default_exception_handler(context)
