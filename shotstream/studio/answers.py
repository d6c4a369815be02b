"""Answers that need no route: refusals, as a page or as one line of JSON, and the headers of all answers."""

import json
from collections.abc import Mapping
from html import escape

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; connect-src 'self'; font-src 'self'; manifest-src 'self'; "
        "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def with_headers(send: Send) -> Send:
    """Returns a `send` that adds the headers of all answers."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sent


def refused(
    status: int, code: str, message: str, headers: Headers, more: Mapping[str, str] | None = None
) -> ASGIApp:
    """Returns the refusal of a request: a page for a browser, one line of JSON for a program."""
    more = dict(more or {}) | ({"www-authenticate": "Bearer"} if status == 401 else {})
    if "text/html" not in headers.get("accept", ""):
        return plain(status, code, message, more)
    body = _PAGE.format(message=escape(message[:1].upper() + message[1:]).replace("`", "")).encode()
    return answer(status, body, {"content-type": "text/html; charset=utf-8", **more})


_PAGE = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="dark light">
    <title>ShotStream</title>
  </head>
  <body>
    <h1>ShotStream's studio</h1>
    <p>{message}.</p>
  </body>
</html>
"""


def plain(status: int, code: str, message: str, more: Mapping[str, str] | None = None) -> ASGIApp:
    """Returns an answer with a `Problem`."""
    body = json.dumps({"code": code, "message": message}).encode()
    return answer(status, body, {"content-type": "application/json", **(more or {})})


def answer(status: int, body: bytes, headers: Mapping[str, str]) -> ASGIApp:
    """Returns an answer."""

    async def send_it(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        fields = {**headers, "content-length": str(len(body))}
        raw = [(name.encode(), value.encode()) for name, value in fields.items()]
        await with_headers(send)({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    return send_it
