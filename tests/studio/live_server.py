"""A studio of a tiny model at an address of its own, as `shotstream serve` serves it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.studio.app import StudioSettings, create_app
from shotstream.studio.limits import Limits
from shotstream.studio.server import StudioServer, bind_socket
from tests.streaming.tiny import tiny_pipeline


@contextmanager
def live_server(
    folder: Path,
    *,
    limits: Limits | None = None,
    max_connections: int | None = None,
    pipeline: StreamingPipeline | None = None,
    **settings: Any,
) -> Iterator[int]:
    """The port of a server that ends with the block."""
    limits = limits or Limits(look_ahead_s=100.0)
    app = create_app(
        StudioSettings(data_dir=folder, scale=2, limits=limits, **settings),
        pipeline or tiny_pipeline(),
    )
    server = StudioServer(app, limits)
    if max_connections is not None:
        server.config.max_connections = max_connections  # pyright: ignore[reportAttributeAccessIssue]
    bound = bind_socket("127.0.0.1", 0)
    port = bound.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield port
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


def wait_until(holds: Any, within_s: float = 30.0) -> None:
    """Waits until something holds; fails when it does not for long."""
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.01)
