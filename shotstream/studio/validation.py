"""Bodies of requests: read as every other document is, and what is wrong with one in words of JSON."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from shotstream.documents import DocumentError, parse_json, to_text
from shotstream.studio.api_error import ApiError

_WORDS = {
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
"""What pydantic says in the words of Python."""


def describe_validation_error(error: Mapping[str, Any]) -> str:
    """What pydantic says of a value, for a person who writes JSON."""
    return _WORDS.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")


class JsonRoute(APIRoute):
    """A route whose bodies `documents.parse_json` reads.

    FastAPI answers what that raises with an HTTPException of which it is the cause.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, for such requests."""
        handle = super().get_route_handler()

        async def read(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return read


class _JsonRequest(Request):
    async def json(self) -> Any:
        try:
            return parse_json(to_text(await self.body()))
        except DocumentError as error:
            raise ApiError("malformed", str(error)) from error
