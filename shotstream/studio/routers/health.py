"""Routes for operators: liveness, readiness, and Prometheus metrics."""

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool

from shotstream.studio.dependencies import BackendDep
from shotstream.studio.routers.common import add_head_routes

router = APIRouter()


@router.get("/healthz", include_in_schema=False)
async def healthz() -> PlainTextResponse:
    """Answers 200 as long as the process serves requests."""
    return PlainTextResponse("alive\n")


@router.get("/readyz", include_in_schema=False)
async def readyz(backend: BackendDep) -> PlainTextResponse:
    """Answers 200 if the worker runs and disk and database can be written; else 503, one reason a line."""
    reasons = await run_in_threadpool(backend.app.storage_failures)
    if not backend.worker.is_alive:
        reasons = ("the worker does not run", *reasons)
    if reasons:
        return PlainTextResponse("".join(f"{reason}\n" for reason in reasons), 503)
    return PlainTextResponse("ready\n")


@router.get("/metrics", include_in_schema=False)
async def metrics(backend: BackendDep) -> Response:
    """The metrics in Prometheus' text format."""
    return Response(backend.app.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


add_head_routes(router)
