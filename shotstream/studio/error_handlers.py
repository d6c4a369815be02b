"""Exception handlers of the FastAPI app: every failed request is answered with a `Problem`."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from shotstream.studio.api_error import ApiError
from shotstream.studio.connections import OUT_OF_DESCRIPTORS
from shotstream.studio.schemas.base import ErrorCode
from shotstream.studio.schemas.rest import Problem
from shotstream.studio.storage_errors import explain_failure
from shotstream.studio.validation import describe_validation_error, validation_api_error

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
_RETRY_AFTER_S = 2
_MAX_MESSAGE_CHARS = 300
_log = logging.getLogger(__name__)


async def handle_api_error(_: Request, error: ApiError) -> JSONResponse:
    """Answers with the error's own code and message."""
    return _problem(_STATUS[error.code], error.code, str(error))


async def handle_invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
    """Answers 404 for an invalid path parameter, 400 for an invalid body."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    if first["loc"][0] == "path":
        return _problem(404, "not_found", "not found")
    message = f"{field}: {describe_validation_error(first)}"
    return _problem(400, "invalid", message[:_MAX_MESSAGE_CHARS])


async def handle_validation_error(_: Request, error: ValidationError) -> JSONResponse:
    """Answers 400 for a value that a schema refused after the request was parsed."""
    api_error = validation_api_error(error)
    return _problem(400, api_error.code, str(api_error))


async def handle_http_exception(_: Request, error: HTTPException) -> JSONResponse:
    """Answers with the exception's status; an `ApiError` that caused it is answered as itself."""
    if isinstance(error.__cause__, ApiError):
        cause = error.__cause__
        return _problem(_STATUS[cause.code], cause.code, str(cause))
    code: ErrorCode = "not_found" if error.status_code == HTTPStatus.NOT_FOUND else "refused"
    answer = _problem(error.status_code, code, str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


async def handle_database_error(_: Request, error: SQLAlchemyError) -> JSONResponse:
    """Answers 507: the database failed."""
    _log.error("a request failed: %s", explain_failure(error))
    return _problem(_STATUS["storage"], "storage", explain_failure(error))


async def handle_os_error(_: Request, error: OSError) -> JSONResponse:
    """Answers 503 if the process has no file descriptor left, else 507: the disk failed."""
    if error.errno not in OUT_OF_DESCRIPTORS:
        _log.error("a request failed", exc_info=error)
        return _problem(_STATUS["storage"], "storage", explain_failure(error))
    logging.getLogger("uvicorn.error").warning("no file descriptors left: raise `ulimit -n`")
    return _problem(_STATUS["busy"], "busy", "too many files are open here; try again")


async def handle_unexpected_error(_: Request, error: Exception) -> JSONResponse:
    """Answers 500: a bug in the server. The log holds the traceback."""
    _log.error("a request failed", exc_info=error)
    return _problem(500, "failed", "internal server error; see the server's log")


# Any: Starlette's type does not know that each handler is called with its own exception.
EXCEPTION_HANDLERS: dict[Any, Any] = {
    ApiError: handle_api_error,
    RequestValidationError: handle_invalid_request,
    ValidationError: handle_validation_error,
    HTTPException: handle_http_exception,
    SQLAlchemyError: handle_database_error,
    OSError: handle_os_error,
    Exception: handle_unexpected_error,
}
"""The handler of each exception, as `FastAPI(exception_handlers=...)` takes them."""


def _problem(status: int, code: ErrorCode, message: str) -> JSONResponse:
    answer = JSONResponse(Problem(code=code, message=" ".join(message.split())).model_dump(), status)
    if code == "busy":
        answer.headers["Retry-After"] = str(_RETRY_AFTER_S)
    return answer
