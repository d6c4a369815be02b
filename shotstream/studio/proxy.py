"""Middleware for reverse proxies: the path prefix, host and scheme under which the browser sees the studio.

The web client's links are relative and work under any prefix. The server needs the prefix to match its routes
if the proxy does not remove it, and the host to recognise its own origin. uvicorn's middleware reads
X-Forwarded-Proto and X-Forwarded-For; this one reads X-Forwarded-Host and X-Forwarded-Prefix, from the same
trusted proxies (uvicorn's `forwarded_allow_ips`).
"""

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

FORWARDED_HOST = "studio_forwarded_host"
"""Scope key of the host that a trusted proxy forwarded."""
_PREFIX = re.compile(r"(/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,;=:@-]+)+")


class ForwardedHeadersMiddleware:
    """ASGI middleware that applies X-Forwarded-... headers of trusted proxies.

    Args:
        app: The ASGI app.
        root_path: The path prefix under which a proxy serves the studio, "" for none. It does not matter
            whether the proxy removes it.
        trusted: Addresses of trusted proxies, as uvicorn's `forwarded_allow_ips`.
    """

    def __init__(self, app: ASGIApp, *, root_path: str, trusted: str) -> None:
        self._app = ProxyHeadersMiddleware(app, trusted)  # pyright: ignore[reportArgumentType]
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sets root path, path and host of the scope, then calls the app."""
        if scope["type"] in ("http", "websocket"):
            client = scope.get("client")
            is_trusted = bool(client) and client[0] in self._app.trusted_hosts
            headers = Headers(scope=scope)
            forwarded = headers.get("x-forwarded-prefix", "").rstrip("/") if is_trusted else ""
            root = self._root_path or (forwarded if _PREFIX.fullmatch(forwarded) else "")
            scope = dict(scope)
            scope["root_path"] = root
            if root and scope["path"] == root and scope["type"] == "http":
                await _redirect(root + "/", scope["query_string"], send)
                return
            if not scope["path"].startswith(root + "/"):
                scope["path"] = root + scope["path"]
            if is_trusted and (host := headers.get("x-forwarded-host", "").partition(",")[0].strip()):
                scope[FORWARDED_HOST] = host
        await self._app(scope, receive, send)  # pyright: ignore[reportArgumentType]


def path_in_app(scope: Scope) -> str:
    """Returns a request's path without the prefix."""
    return scope["path"][len(scope["root_path"]) :]


def validate_root_path(given: str) -> str:
    """Returns a path prefix without its trailing slash.

    Raises:
        ValueError: It is not a path.
    """
    path = given.rstrip("/")
    if path and not _PREFIX.fullmatch(path):
        raise ValueError(f"--root-path is {given!r}; give a path as browsers show it, such as /studio")
    return path


async def _redirect(path: str, query: bytes, send: Send) -> None:
    location = path.encode() + (b"?" + query if query else b"")
    headers = [(b"location", location), (b"content-length", b"0"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 307, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
