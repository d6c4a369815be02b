"""The FastAPI app of the studio: `create_app` builds it from settings and a pipeline.

Routes never touch the model. They ask the worker's thread for everything about open stories, and read takes,
which never change, in threads of their own. An id is looked up in the database before a path is built from
it.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, PlainTextResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

import shotstream
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.studio.api_error import ApiError
from shotstream.studio.app_context import AppContext
from shotstream.studio.data_dir import DataDir, lock_data_dir
from shotstream.studio.database import StorageError
from shotstream.studio.dependencies import Backend
from shotstream.studio.error_handlers import EXCEPTION_HANDLERS
from shotstream.studio.limits import Limits
from shotstream.studio.media_store import MediaStore
from shotstream.studio.metrics import Metrics
from shotstream.studio.proxy import ForwardedHeadersMiddleware
from shotstream.studio.routers import exports, health, model, pictures, stories, takes, viewer_socket
from shotstream.studio.security import SecurityMiddleware
from shotstream.studio.storage_errors import explain_failure
from shotstream.studio.story_manager import StoryManager
from shotstream.studio.story_store import StoryStore
from shotstream.studio.viewer import CLOSE_NOT_FOUND
from shotstream.studio.worker import Worker
from shotstream.vae.codec import StreamDecoder

WEB_CLIENT_DIR = Path(__file__).parent / "web"
_NO_WEB_CLIENT = "this server has no page (shotstream/studio/web is missing); the API is at /api/openapi.json"
_NOTIFY_WAIT_S = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class StudioSettings:
    """Settings of a studio server."""

    data_dir: Path
    """Directory of the media and, unless `database_url` is given, of the SQLite database."""
    database_url: str | None = None
    """SQLAlchemy URL; None: SQLite in `data_dir`."""
    token: str | None = None
    """Access token; None: no token, and only requests to loopback names are served."""
    root_path: str = ""
    """Path prefix under which a proxy serves the studio; "": none, or that of X-Forwarded-Prefix."""
    trusted_proxies: str = "127.0.0.1,::1"
    """Addresses whose X-Forwarded-... headers are trusted: uvicorn's `forwarded_allow_ips`."""
    scale: int = 4
    """Factor by which the frames that viewers are sent are enlarged (nearest neighbour)."""
    limits: Limits = field(default_factory=Limits)
    """Limits of the server."""


def create_app(
    settings: StudioSettings, pipeline: StreamingPipeline, preview: StreamDecoder | None = None
) -> FastAPI:
    """Returns the ASGI app. Its worker thread runs from startup to shutdown.

    With a `preview` decoder, viewers are sent its frames. Stored and exported frames are always the
    pipeline's own.

    Raises:
        StorageError: The database or the data directory cannot be used, another server uses it, or it holds
            the takes of another database.
    """
    data_dir, store, media = _open_storage(settings, pipeline)
    context = AppContext(pipeline, store, media, settings.limits, Metrics(), settings.scale, preview)
    worker = Worker(StoryManager(context))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        worker.start()
        yield
        await run_in_threadpool(worker.stop)
        store.close()
        data_dir.close()

    app = FastAPI(
        title="ShotStream studio",
        version=shotstream.__version__,
        lifespan=lifespan,
        exception_handlers=EXCEPTION_HANDLERS,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # A redirect would name an absolute path, without a proxy's prefix.
    )
    app.state.backend = Backend(context, worker, data_dir.exports)
    app.add_middleware(SecurityMiddleware, token=settings.token, limits=settings.limits)
    # The middleware that is added last runs first.
    app.add_middleware(
        ForwardedHeadersMiddleware, root_path=settings.root_path, trusted=settings.trusted_proxies
    )
    for routes in (model, stories, pictures, takes, exports, viewer_socket, health):
        app.include_router(routes.router)
    _add_web_client(app)
    return app


def _open_storage(
    settings: StudioSettings, pipeline: StreamingPipeline
) -> tuple[DataDir, StoryStore, MediaStore]:
    try:
        data_dir = DataDir(settings.data_dir)
    except OSError as error:
        raise StorageError(
            f"the data directory {settings.data_dir} cannot be used: {explain_failure(error)}"
        ) from error
    store = None
    try:
        url = settings.database_url or f"sqlite:///{settings.data_dir.absolute() / 'stories.sqlite'}"
        store = StoryStore(url)
        store.upgrade()
        media = MediaStore(data_dir.media, pipeline)
        data_dir.reconcile(store, media)
    except (StorageError, OSError, SQLAlchemyError) as error:
        if store is not None:
            store.close()
        data_dir.close()
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"the database cannot be used: {explain_failure(error)}") from error
    return data_dir, store, media


async def notify_shutdown(app: FastAPI) -> None:
    """Tells all viewers that the server shuts down, and closes all stories."""
    backend: Backend = app.state.backend
    try:
        await backend.worker.call(lambda manager: manager.close())
    except ApiError:
        return  # The worker has stopped already.
    await asyncio.sleep(_NOTIFY_WAIT_S)


def check_data_dir(data_dir: Path) -> None:
    """Checks that a server can use a data directory, before a large model is loaded.

    Raises:
        StorageError: The directory cannot be created or written, or another server uses it.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(lock_data_dir(data_dir))
    except OSError as error:
        raise StorageError(
            f"stories cannot be kept in {data_dir}: {explain_failure(error)}; give another --data"
        ) from error


def _add_web_client(app: FastAPI) -> None:
    if (WEB_CLIENT_DIR / "index.html").is_file():
        app.add_api_route("/api/docs", _docs_page, methods=["GET", "HEAD"], include_in_schema=False)
        # Mounted last, because it matches every path.
        app.mount("/", _WebClientFiles(directory=WEB_CLIENT_DIR, html=True), name="page")
    else:
        app.add_api_route("/", _no_web_client, methods=["GET", "HEAD"], include_in_schema=False)


async def _docs_page() -> FileResponse:
    return FileResponse(WEB_CLIENT_DIR / "api.html", media_type="text/html; charset=utf-8")


async def _no_web_client() -> PlainTextResponse:
    return PlainTextResponse(_NO_WEB_CLIENT + "\n", 404)


class _WebClientFiles(StaticFiles):
    """The files of the web client. A WebSocket to an unknown path is closed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": CLOSE_NOT_FOUND})
            return
        await super().__call__(scope, receive, send)
