"""Parts that several routers share: path parameters, cache headers, and the base of API routers."""

from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.routing import APIRoute

from shotstream.studio.schemas.rest import Problem
from shotstream.studio.validation import JsonRoute

IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable"}
"""Headers of files that never change: all files of a take."""

StoryId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
TakeId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
ShotId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
FrameNumber = Annotated[int, Path(ge=0, le=10**9)]

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (400, 401, 404, 409, 413, 503)
}


def api_router() -> APIRouter:
    """Returns an empty router under /api whose errors are `Problem`s and whose bodies are strict JSON."""
    return APIRouter(prefix="/api", responses=_PROBLEMS, route_class=JsonRoute)


def add_head_routes(router: APIRouter) -> None:
    """Adds a HEAD route for every GET route of a router, as HTTP requires.

    Routes that were added before keep priority, so that a path may have a HEAD route of its own.
    """
    for route in list(router.routes):
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            router.add_api_route(
                route.path.removeprefix(router.prefix),
                route.endpoint,
                methods=["HEAD"],
                include_in_schema=False,
                response_class=route.response_class,
                response_model=route.response_model,
            )
