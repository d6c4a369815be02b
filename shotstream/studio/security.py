"""Access control: hosts, origins, the token, the size of bodies, and security headers.

On loopback no token is needed, but only requests that name a loopback host are served: this stops DNS
rebinding and access through a proxy. On any other address a token is required. A browser sends it once, in
the URL, and then keeps a cookie derived from it; a program sends it as a bearer token with each request.
"""

import hashlib
import hmac
import ipaddress
import json
import logging
import re
import time
from collections.abc import Mapping
from html import escape
from urllib.parse import parse_qs, urlencode, urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shotstream.studio.connections import OUT_OF_DESCRIPTORS
from shotstream.studio.limits import Limits
from shotstream.studio.proxy import FORWARDED_HOST, path_in_app
from shotstream.studio.rate_limit import TokenBuckets

SOCKET_REFUSAL = "studio_allowed"
"""Scope key of the reason why a WebSocket is refused; "": it is not."""
_log = logging.getLogger("uvicorn.error")
OPEN_PATHS = ("/healthz",)
MIN_TOKEN_CHARS = 16
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_PORTS = {"http": 80, "https": 443}
_SCHEMES = {"ws": "http", "wss": "https"}
_UPLOADS = re.compile(r"/api/stories/(import|(?P<pictures>[0-9a-f]{16}/pictures))")
_MOST_DRAINED_BYTES = 2**20
_LONGEST_DRAIN_S = 1.0
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
_NO_TOKEN = (
    "this studio asks for its token: open the address with ?token=... that `shotstream serve` printed, once "
    "in each browser; a program sends the header `Authorization: Bearer TOKEN`"
)
_WRONG_TOKEN = (
    "that is not the token of this studio: open the address with ?token=... that `shotstream serve` printed "
    "last"
)
_LOOPBACK_ONLY = (
    "without a token this studio is open only to its own computer, at the address that `shotstream serve` "
    "printed; to reach it under another name, or through a proxy, start it with a token: "
    "`SHOTSTREAM_TOKEN=... shotstream serve`"
)
_OTHER_SITE = (
    "requests from another site are not carried out: the page is of {origin}, the studio is at {own}; "
    "a proxy between them has to pass on Host and X-Forwarded-Proto (docs/studio.md)"
)


class SecurityMiddleware:
    """ASGI middleware that refuses requests without access. It must run after `ForwardedHeadersMiddleware`.

    Args:
        app: The ASGI app.
        token: The access token; None: every request that names a loopback host has access.
        limits: Limits of bodies and of wrong tokens.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, limits: Limits) -> None:
        self._app = app
        self._token = token
        self._limits = limits
        self._num_uploads = 0
        self._wrong = TokenBuckets(limits.wrong_tokens / 60, float(limits.wrong_tokens))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Calls the app, or answers a request that has no access."""
        if scope["type"] == "websocket":
            scope[SOCKET_REFUSAL] = self._check_socket(scope, Headers(scope=scope))
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._check_request(scope, Headers(scope=scope))
        if refusal is None:
            body = await self._read_body(scope, receive)
            if isinstance(body, bytes):
                try:
                    await self._app(scope, _replay_body(body, receive), _with_headers(send))
                except RuntimeError as error:
                    # The status was sent already, so the answer can only be broken off.
                    if getattr(error.__cause__, "errno", None) not in OUT_OF_DESCRIPTORS:
                        raise
                    _log.warning("an answer was broken off: no file descriptors left; raise `ulimit -n`")
                return
            refusal = body
        await refusal(scope, receive, send)

    def _check_socket(self, scope: Scope, headers: Headers) -> str:
        if not self._is_known_host(headers):
            return "open the studio by the address that it printed, or start it with a token"
        if not _is_own_origin(scope, headers):
            return "a page of another site, or a proxy that hides host or scheme"
        if self._token is not None and not self._has_token(headers):
            return "no token"
        return ""

    def _check_request(self, scope: Scope, headers: Headers) -> "ASGIApp | None":
        path = path_in_app(scope)
        if not self._is_known_host(headers):
            return _refused(403, "refused", _LOOPBACK_ONLY, headers)
        is_safe = scope["method"] in _SAFE_METHODS
        if _is_foreign_fetch(headers) or not (is_safe or _is_own_origin(scope, headers)):
            own = f"{_scheme(scope)}://{headers.get('host', '')}"
            message = _OTHER_SITE.format(origin=headers.get("origin", "another site")[:200], own=own[:200])
            return _refused(403, "refused", message, headers)
        if self._token is not None and path not in OPEN_PATHS:
            refusal = self._check_token(scope, headers, path)
            if refusal is not None:
                return refusal
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return _refused(400, "malformed", "Content-Length is not a number", headers)
        most = _max_bytes(scope, self._limits)
        if int(length) > most:
            return _drain_and_refuse(most)
        return None

    async def _read_body(self, scope: Scope, receive: Receive) -> "bytes | ASGIApp":
        """Returns the complete body of a request, or the answer to one that is not taken.

        Few large ones are read at the same time, because they are held in memory.
        """
        most = _max_bytes(scope, self._limits)
        if most <= self._limits.upload_bytes:
            return await _read_body(receive, most, self._limits.body_s)
        if self._num_uploads >= self._limits.uploads:
            return _plain(503, "busy", "other files are being received; try again", {"retry-after": "2"})
        self._num_uploads += 1
        try:
            return await _read_body(receive, most, self._limits.upload_s)
        finally:
            self._num_uploads -= 1

    def _check_token(self, scope: Scope, headers: Headers, path: str) -> "ASGIApp | None":
        """Returns the redirect after a login, or the refusal; None: the request has token or cookie."""
        assert self._token is not None
        given: dict[str, list[str]] = {}
        if path == "/" and scope["method"] in ("GET", "HEAD"):
            given = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        shown = given.pop("token", [])
        knows = self._has_token(headers)
        if shown and (knows or any(self._is_token(token.encode()) for token in shown)):
            rest = urlencode([(key, value) for key, values in given.items() for value in values])
            # A relative location and a cookie without Path work under any prefix.
            is_https = _scheme(scope) == "https"
            cookie = f"{self._cookie_name()}={self._cookie_value()}; HttpOnly; SameSite=Strict"
            return _answer(
                303,
                b"",
                {
                    "location": "./" + (f"?{rest}" if rest else ""),
                    "set-cookie": cookie + ("; Secure" if is_https else ""),
                },
            )
        if knows:
            return None
        if not shown and "authorization" not in headers:
            return _refused(401, "refused", _NO_TOKEN, headers)
        tries = self._wrong.for_key((scope.get("client") or ("",))[0])
        if not tries.try_take():
            wait = {"retry-after": str(tries.wait_s)}
            return _refused(429, "too_fast", "too many wrong tokens from your address", headers, wait)
        return _refused(401, "refused", _WRONG_TOKEN, headers)

    def _is_known_host(self, headers: Headers) -> bool:
        """Returns whether all hosts that a request names are loopback; with a token any host is allowed."""
        if self._token is not None:
            return True
        hosts = [headers.get("host", ""), *headers.getlist("x-forwarded-host")]
        clients = [*headers.getlist("x-forwarded-for"), *headers.getlist("x-real-ip")]
        names = [part.strip() for value in [*hosts, *clients] for part in value.split(",")]
        return all(is_loopback(_host_name(name)) for name in names)

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(bearer.strip().encode("latin-1", "replace")):
            return True
        wanted = self._cookie_value().encode()
        given = (part.partition("=") for line in headers.getlist("cookie") for part in line.split(";"))
        return any(
            name.strip() == self._cookie_name()
            and hmac.compare_digest(value.strip().encode("latin-1", "replace"), wanted)
            for name, _, value in given
        )

    def _is_token(self, given: bytes) -> bool:
        assert self._token is not None
        return hmac.compare_digest(given, self._token.encode())

    def _cookie_name(self) -> str:
        """Returns a name that depends on the token: browsers share cookies between ports of a host."""
        return f"shotstream_{self._digest('name')[:8]}"

    def _cookie_value(self) -> str:
        """Returns a digest of the token, in characters that cookies allow; it does not reveal the token."""
        return self._digest("value")

    def _digest(self, purpose: str) -> str:
        assert self._token is not None
        return hmac.new(self._token.encode(), f"cookie {purpose}".encode(), hashlib.sha256).hexdigest()


def is_loopback(name: str) -> bool:
    """Returns whether a host name or address is a loopback one."""
    if name.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def validate_token(token: str) -> str:
    """Returns a token that is safe in a URL, a header and a shell.

    Raises:
        ValueError: It is too short, or holds a character that is not allowed.
    """
    if not all("!" <= character <= "~" for character in token):
        raise ValueError("the token may hold ASCII characters without spaces only; remove the others")
    if len(token) < MIN_TOKEN_CHARS:
        raise ValueError(f"the token is too short; give at least {MIN_TOKEN_CHARS} characters")
    return token


def _is_own_origin(scope: Scope, headers: Headers) -> bool:
    # Browsers always send Origin. A program need not: no foreign page can control it.
    scheme = _scheme(scope)
    hosts = (headers.get("host", ""), scope.get(FORWARDED_HOST, ""))
    own = {_origin(f"{scheme}://{host}") for host in hosts} - {None}
    return all(_origin(origin) in own for origin in headers.getlist("origin"))


def _scheme(scope: Scope) -> str:
    scheme: str = scope.get("scheme", "http")
    return _SCHEMES.get(scheme, scheme)


def _origin(text: str) -> tuple[str, str, int] | None:
    """Returns scheme, host and port of an origin; None if it is not one, such as "null"."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    is_bare = text.lower() == f"{parts.scheme}://{parts.netloc}".lower() and "@" not in text
    if parts.scheme not in _PORTS or not parts.hostname or not is_bare:
        return None
    return parts.scheme, parts.hostname, _PORTS[parts.scheme] if port is None else port


def _is_foreign_fetch(headers: Headers) -> bool:
    """Returns whether another site's page loads this as a resource; following a link is allowed."""
    is_foreign = headers.get("sec-fetch-site", "none") in ("cross-site", "same-site")
    return is_foreign and headers.get("sec-fetch-mode") != "navigate"


def _host_name(host: str) -> str:
    """Returns the host of a Host or X-Forwarded-For value, without its port."""
    if host.count(":") > 1 and not host.startswith("["):
        return host  # An IPv6 address without brackets, as in X-Forwarded-For.
    if any(character in host for character in "@/?#\\"):
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _max_bytes(scope: Scope, limits: Limits) -> int:
    """Returns the number of bytes that the body of a request may have."""
    if scope["method"] == "POST" and (found := _UPLOADS.fullmatch(path_in_app(scope))):
        return limits.picture_bytes if found["pictures"] else limits.story_bytes
    return limits.upload_bytes


async def _read_body(receive: Receive, most: int, limit_s: float) -> "bytes | ASGIApp":
    """Returns the complete body of a request, or the answer to one that is too large, slow or broken off."""
    body = bytearray()
    end_s = time.monotonic() + limit_s
    while True:
        message: Message | None = None
        with anyio.move_on_after(end_s - time.monotonic()):
            message = await receive()
        if message is None:
            reason = f"the body did not arrive within {limit_s:g} s"
            return _plain(408, "refused", reason, {"connection": "close"})
        if message["type"] == "http.disconnect":
            return _plain(400, "malformed", "the body was broken off")
        body += message.get("body", b"")
        if len(body) > most:
            return _drain_and_refuse(most) if message.get("more_body", False) else _too_large_answer(most)
        if not message.get("more_body", False):
            return bytes(body)


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that gives a body that was read already, then later messages."""
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return parts.pop() if parts else await receive()

    return received


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sent


def _too_large_answer(most: int) -> ASGIApp:
    return _plain(413, "too_large", f"at most {most} bytes are taken")


def _drain_and_refuse(most: int) -> ASGIApp:
    """Returns the answer to a body that is too large and still arriving: reads up to 1 MiB of it first.

    If a connection is closed while bytes are unread, the client gets a reset and loses the answer.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        left = _MOST_DRAINED_BYTES
        with anyio.move_on_after(_LONGEST_DRAIN_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    break
        await _too_large_answer(most)(scope, receive, send)

    return answer


def _refused(
    status: int, code: str, message: str, headers: Headers, more: Mapping[str, str] | None = None
) -> ASGIApp:
    """Returns the refusal of a request: a page for a browser, one line of JSON for a program."""
    more = dict(more or {}) | ({"www-authenticate": "Bearer"} if status == 401 else {})
    if "text/html" not in headers.get("accept", ""):
        return _plain(status, code, message, more)
    body = _PAGE.format(message=escape(message[:1].upper() + message[1:]).replace("`", "")).encode()
    return _answer(status, body, {"content-type": "text/html; charset=utf-8", **more})


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


def _plain(status: int, code: str, message: str, more: Mapping[str, str] | None = None) -> ASGIApp:
    body = json.dumps({"code": code, "message": message}).encode()
    return _answer(status, body, {"content-type": "application/json", **(more or {})})


def _answer(status: int, body: bytes, headers: Mapping[str, str]) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        fields = {**headers, "content-length": str(len(body))}
        raw = [(name.encode(), value.encode()) for name, value in fields.items()]
        await _with_headers(send)({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    return answer
