"""The HTTP server around the app: bounds on what it buffers, and a farewell to viewers before it ends."""

import socket

import uvicorn
from fastapi import FastAPI

from shotstream.studio.app import say_goodbye

_MAX_MESSAGE_BYTES = 2 * 2**20


class StudioServer(uvicorn.Server):
    """Serves a studio until it is interrupted."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._app = app
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws_max_size=_MAX_MESSAGE_BYTES,
            ws_max_queue=8,
            timeout_graceful_shutdown=5,
        )
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Viewers are told before their connections end."""
        await say_goodbye(self._app)
        await super().shutdown(sockets)
