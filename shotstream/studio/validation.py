"""Parsing of request bodies, and descriptions of validation errors in terms of JSON."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError

from shotstream.documents import DocumentError, parse_json, to_text
from shotstream.studio.api_error import ApiError

_MAX_MESSAGE_CHARS = 300
_DESCRIPTIONS = {
    "missing": "it is missing",
    "extra_forbidden": "there is no such field",
    "string_type": "write text, in quotes",
    "int_type": "write a whole number",
    "int_from_float": "write a whole number",
    "int_parsing": "write a whole number",
    "float_type": "write a number",
    "bool_type": "write true or false",
    "tuple_type": "write a list",
    "list_type": "write a list",
    "model_type": "write an object",
    "model_attributes_type": "write an object",
    "string_pattern_mismatch": "it is no id of this server",
}
"""Descriptions of pydantic's error types that pydantic itself describes in terms of Python."""


def describe_validation_error(error: Mapping[str, Any]) -> str:
    """Returns a description of one of pydantic's errors for someone who writes JSON."""
    return _DESCRIPTIONS.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")


def validation_api_error(error: ValidationError) -> ApiError:
    """Returns the API error of a message that a schema refused, in one line."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "union_tag_invalid":
        return ApiError("unknown_event", "no such type of event")
    if first["type"] == "union_tag_not_found":
        return ApiError("invalid", "type: it is missing")
    # The location begins with the message's type, which the sender knows.
    field = ".".join(str(part) for part in first["loc"][1:] or first["loc"])
    return ApiError("invalid", f"{field}: {describe_validation_error(first)}"[:_MAX_MESSAGE_CHARS])


class JsonRoute(APIRoute):
    """A route that parses request bodies with `documents.parse_json`.

    FastAPI turns the error that a bad body raises into an HTTPException with that error as its cause.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns FastAPI's handler, with requests that parse their bodies strictly."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_strictly


class _JsonRequest(Request):
    async def json(self) -> Any:
        try:
            return parse_json(to_text(await self.body()))
        except DocumentError as error:
            raise ApiError("malformed", str(error)) from error
