"""What a reverse proxy tells of a request: under which path, name and scheme the browser sees the studio.

The page's own links are relative, so that they follow any path; this is for the server, which has to know
where its paths begin when a proxy passes them on whole, and which origin is its own. X-Forwarded-Proto and
X-Forwarded-For are read by uvicorn's middleware; X-Forwarded-Host and X-Forwarded-Prefix here, from the same
proxies alone (uvicorn's `forwarded_allow_ips`).
"""

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

FORWARDED_HOST = "studio_forwarded_host"
"""Where in a scope the name is that a trusted proxy was asked by."""
_PREFIX = re.compile(r"(/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,;=:@-]+)+")


class ForwardedHeadersMiddleware:
    """ASGI middleware.

    Args:
        app: what is served.
        root_path: the path that the studio is reached under, "" for none; whether the proxy passes it on or
            takes it away makes no difference.
        trusted: addresses of proxies that are believed, as uvicorn's `forwarded_allow_ips`.
    """

    def __init__(self, app: ASGIApp, *, root_path: str, trusted: str) -> None:
        self._app = ProxyHeadersMiddleware(app, trusted)  # pyright: ignore[reportArgumentType]
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on as the browser meant it."""
        if scope["type"] in ("http", "websocket"):
            client = scope.get("client")
            is_trusted = bool(client) and client[0] in self._app.trusted_hosts
            headers = Headers(scope=scope)
            told = headers.get("x-forwarded-prefix", "").rstrip("/") if is_trusted else ""
            root = self._root_path or (told if _PREFIX.fullmatch(told) else "")
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
    """A request's path within the studio."""
    return scope["path"][len(scope["root_path"]) :]


def validate_root_path(given: str) -> str:
    """A path to be served under, as `ForwardedHeadersMiddleware` takes it.

    Raises:
        ValueError: It is no path.
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
