"""The studio's server: puts worker, routes, the viewers' WebSocket and the page's files together.

Handlers never touch the model: what concerns open stories is asked of the worker, files are made in threads
from takes, which never change. Ids are looked up in the database before a path is made from them.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

import shotstream
from shotstream.codec.codec import StreamDecoder
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.studio.api_error import ApiError
from shotstream.studio.connections import OUT_OF_DESCRIPTORS
from shotstream.studio.data_dir import DataDir, lock_data_dir
from shotstream.studio.dependencies import Backend
from shotstream.studio.events import ErrorCode, Problem
from shotstream.studio.limits import Limits
from shotstream.studio.media_store import MediaStore
from shotstream.studio.metrics import Metrics
from shotstream.studio.proxy import ForwardedHeadersMiddleware
from shotstream.studio.routes import answer_head, router
from shotstream.studio.security import SecurityMiddleware
from shotstream.studio.storage_errors import explain_failure
from shotstream.studio.story_manager import StoryManager
from shotstream.studio.story_store import StorageError, StoryStore
from shotstream.studio.take_job import AppContext
from shotstream.studio.validation import describe_validation_error
from shotstream.studio.viewer import CLOSE_NOT_FOUND
from shotstream.studio.viewer_socket import serve_viewer, validation_api_error
from shotstream.studio.worker import Worker

WEB_CLIENT_DIR = Path(__file__).parent / "web"
_STATUS: dict[ErrorCode, int] = {
    "malformed": 400,
    "unknown_event": 400,
    "invalid": 400,
    "too_large": 413,
    "too_fast": 429,
    "not_found": 404,
    "refused": 409,
    "limit": 409,
    "quota": 409,
    "storage": 507,
    "busy": 503,
    "failed": 500,
}
_NO_PAGE = "this server has no page (shotstream/studio/web is missing); the API is at /api/openapi.json"
_FAREWELL_S = 0.2
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudioSettings:
    """How a studio is served."""

    data_dir: Path
    """Where stories are kept: the database, unless `database_url` names another, and the media."""
    database_url: str | None = None
    """SQLAlchemy's; None: SQLite in `data_dir`."""
    token: str | None = None
    """Who knows it may come in; None: loopback names only, without a token."""
    root_path: str = ""
    """The path under which a proxy shows the studio; "": its root, or what X-Forwarded-Prefix says."""
    trusted_proxies: str = "127.0.0.1,::1"
    """Addresses whose X-Forwarded-... headers are believed: uvicorn's `forwarded_allow_ips`."""
    scale: int = 4
    """Nearest-neighbour enlargement of the pictures that are sent."""
    limits: Limits = field(default_factory=Limits)


def create_app(
    settings: StudioSettings, pipeline: StreamingPipeline, preview: StreamDecoder | None = None
) -> FastAPI:
    """The server as an ASGI application; it works from its start-up to its shut-down.

    With `preview` it sends that decoder's pictures; what it keeps and exports is the pipeline's own all the
    same.

    Raises:
        StorageError: The database or the folder cannot be used, another server works in `data_dir`, or it
            holds the takes of another database.
    """
    folder, store, media = _open(settings, pipeline)
    metrics = Metrics()
    context = AppContext(pipeline, store, media, settings.limits, metrics, settings.scale, preview)
    worker = Worker(StoryManager(context))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        worker.start()
        yield
        await run_in_threadpool(worker.stop)
        store.close()
        folder.close()

    app = FastAPI(
        title="ShotStream studio",
        version=shotstream.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # It would lead to an absolute address, past a proxy's prefix.
    )
    app.state.backend = Backend(context, worker, folder.exports)
    app.add_middleware(SecurityMiddleware, token=settings.token, limits=settings.limits)
    # Added last: it comes first.
    app.add_middleware(
        ForwardedHeadersMiddleware, root_path=settings.root_path, trusted=settings.trusted_proxies
    )
    app.include_router(router)
    _add_live(app, worker, settings.limits)
    _add_health(app, worker, context, metrics)
    _add_problems(app)
    _add_page(app)
    return app


def _open(settings: StudioSettings, pipeline: StreamingPipeline) -> tuple[DataDir, StoryStore, MediaStore]:
    try:
        folder = DataDir(settings.data_dir)
    except OSError as error:
        raise StorageError(
            f"the data folder {settings.data_dir} cannot be used: {explain_failure(error)}"
        ) from error
    store = None
    try:
        url = settings.database_url or f"sqlite:///{settings.data_dir.absolute() / 'stories.sqlite'}"
        store = StoryStore(url)
        store.upgrade()
        media = MediaStore(folder.media, pipeline)
        folder.reconcile(store, media)
    except (StorageError, OSError, SQLAlchemyError) as error:
        if store is not None:
            store.close()
        folder.close()
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"the database cannot be used: {explain_failure(error)}") from error
    return folder, store, media


async def notify_shutdown(app: FastAPI) -> None:
    """Tells every viewer that the server ends, and lets go of the open stories."""
    backend: Backend = app.state.backend
    try:
        await backend.worker.call(lambda manager: manager.close())
    except ApiError:
        return  # It has ended already.
    await asyncio.sleep(_FAREWELL_S)


def _add_live(app: FastAPI, worker: Worker, limits: Limits) -> None:
    @app.websocket("/api/stories/{story_id}/live")
    async def live(socket: WebSocket, story_id: str) -> None:  # pyright: ignore[reportUnusedFunction]
        await serve_viewer(socket, story_id, worker, limits)


def _add_health(app: FastAPI, worker: Worker, context: AppContext, metrics: Metrics) -> None:
    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> PlainTextResponse:  # pyright: ignore[reportUnusedFunction]
        return PlainTextResponse("alive\n")

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> PlainTextResponse:  # pyright: ignore[reportUnusedFunction]
        reasons = await run_in_threadpool(context.storage_failures)
        if not worker.is_alive:
            reasons = ("the worker does not run", *reasons)
        if reasons:
            return PlainTextResponse("".join(f"{reason}\n" for reason in reasons), 503)
        return PlainTextResponse("ready\n")

    @app.get("/metrics", include_in_schema=False)
    async def show_metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_problems(app: FastAPI) -> None:
    """Every failure becomes a `Problem`."""

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        if error.code == "busy":
            return _busy(str(error))
        return _problem(_STATUS[error.code], error.code, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(  # pyright: ignore[reportUnusedFunction]
        _: Request, error: RequestValidationError
    ) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        if first["loc"][0] == "path":
            return _problem(404, "not_found", "there is no such thing here")
        return _problem(400, "invalid", f"{where}: {describe_validation_error(first)}"[:300])

    @app.exception_handler(ValidationError)
    async def unreadable(_: Request, error: ValidationError) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        refusal = validation_api_error(error)
        return _problem(400, refusal.code, str(refusal))

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: HTTPException) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        if isinstance(error.__cause__, ApiError):
            return _problem(_STATUS[error.__cause__.code], error.__cause__.code, str(error.__cause__))
        code: ErrorCode = "not_found" if error.status_code == HTTPStatus.NOT_FOUND else "refused"
        told = _problem(error.status_code, code, str(error.detail))
        told.headers.update(error.headers or {})
        return told

    @app.exception_handler(SQLAlchemyError)
    async def not_kept(_: Request, error: SQLAlchemyError) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        _log.error("a request failed: %s", explain_failure(error))
        return _problem(_STATUS["storage"], "storage", explain_failure(error))

    @app.exception_handler(OSError)
    async def no_file(_: Request, error: OSError) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        if error.errno not in OUT_OF_DESCRIPTORS:
            _log.error("a request failed", exc_info=error)
            return _problem(_STATUS["storage"], "storage", explain_failure(error))
        logging.getLogger("uvicorn.error").warning("no more descriptors for files: raise `ulimit -n`")
        return _busy("too many files are open here; try again")

    @app.exception_handler(Exception)
    async def fault(_: Request, error: Exception) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        _log.error("a request failed", exc_info=error)
        return _problem(500, "failed", "a fault of the server; its log tells more")


def _add_page(app: FastAPI) -> None:
    if (WEB_CLIENT_DIR / "index.html").is_file():

        @app.get("/api/docs", include_in_schema=False)
        async def docs() -> FileResponse:  # pyright: ignore[reportUnusedFunction]
            return FileResponse(WEB_CLIENT_DIR / "api.html", media_type="text/html; charset=utf-8")

        answer_head(app.router)
        app.mount(
            "/", _WebClientFiles(directory=WEB_CLIENT_DIR, html=True), name="page"
        )  # The last: it matches every path.
    else:

        @app.get("/", include_in_schema=False)
        async def no_page() -> PlainTextResponse:  # pyright: ignore[reportUnusedFunction]
            return PlainTextResponse(_NO_PAGE + "\n", 404)


class _WebClientFiles(StaticFiles):
    """The page's files; a WebSocket to none of our addresses is closed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": CLOSE_NOT_FOUND})
            return
        await super().__call__(scope, receive, send)


def _busy(message: str) -> JSONResponse:
    told = _problem(_STATUS["busy"], "busy", message)
    told.headers["Retry-After"] = "2"
    return told


def _problem(status: int, code: ErrorCode, message: str) -> JSONResponse:
    return JSONResponse(Problem(code=code, message=" ".join(message.split())).model_dump(), status)


def check_data_dir(data_dir: Path) -> None:
    """Whether a studio can keep its stories in a folder, found out before anything large is loaded.

    Raises:
        StorageError: It cannot be made or written to, or another server works in it.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(lock_data_dir(data_dir))
    except OSError as error:
        raise StorageError(
            f"stories cannot be kept in {data_dir}: {explain_failure(error)}; give another --data"
        ) from error
