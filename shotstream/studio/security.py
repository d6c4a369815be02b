"""Who may come in, and what a page may do: hosts, origins, the token, sizes, and the headers of every answer.

On loopback no token is needed, and only requests that name a loopback host are served, so that a foreign
page cannot reach the studio through a name of its own. Anywhere else a token is.
"""

import hmac
import json
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "shotstream_token"
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
OPEN_PATHS = ("/healthz",)
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
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


class Guard:
    """ASGI middleware.

    Args:
        app: what it guards.
        token: who knows it may come in; None: everybody, who names a loopback host.
        upload_bytes: the most that a request may bring.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, upload_bytes: int) -> None:
        self._app = app
        self._token = token
        self._upload_bytes = upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it."""
        if scope["type"] == "websocket":
            scope["studio_allowed"] = self.allows(Headers(scope=scope))
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self._app(scope, _Bounded(receive, self._upload_bytes), _with_headers(send))

    def allows(self, headers: Headers) -> bool:
        """Whether a WebSocket may be opened: own origin, known host, token."""
        return self._is_own_origin(headers) and self._is_known_host(headers) and self._has_token(headers)

    def _refusal(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        path = scope["path"]
        if not self._is_known_host(headers):
            return _plain(403, "refused", "this studio is served under a loopback name only")
        if scope["method"] not in _SAFE_METHODS and not self._is_own_origin(headers):
            return _plain(403, "refused", "requests from another site are not carried out")
        if self._token is not None and path not in OPEN_PATHS:
            given = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            if path == "/" and self._is_token(given.get("token", [""])[0]):
                rest = urlencode([(k, v) for k, vs in given.items() if k != "token" for v in vs])
                return _enter(self._token, "/" + (f"?{rest}" if rest else ""))
            if not self._has_token(headers):
                return _plain(401, "refused", "open the address with ?token=... that the server printed")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._upload_bytes:
            return _plain(413, "too_large", f"at most {self._upload_bytes} bytes are taken")
        return None

    def _is_known_host(self, headers: Headers) -> bool:
        return self._token is not None or _host_name(headers.get("host", "")) in LOOPBACK

    def _is_own_origin(self, headers: Headers) -> bool:
        # Browsers always name the origin; programs, which no foreign page can steer, need not.
        origin = headers.get("origin")
        return origin is None or urlsplit(origin).netloc == headers.get("host", "")

    def _has_token(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self._is_token(bearer):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and self._is_token(cookie.value)

    def _is_token(self, given: str) -> bool:
        assert self._token is not None
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())


class _Bounded:
    """A body that ends the request when it grows too large, whatever its header said."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._left = most

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                return {"type": "http.disconnect"}
        return message


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sent


def _plain(status: int, code: str, message: str) -> ASGIApp:
    body = json.dumps({"code": code, "message": message}).encode()
    return _answer(status, body, {"content-type": "application/json"})


def _enter(token: str, target: str) -> ASGIApp:
    cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
    return _answer(303, b"", {"location": target, "set-cookie": cookie})


def _answer(status: int, body: bytes, headers: dict[str, str]) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        fields = {**headers, "content-length": str(len(body))}
        raw = [(name.encode(), value.encode()) for name, value in fields.items()]
        await _with_headers(send)({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    return answer


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.rpartition(":")[0] if ":" in host else host
