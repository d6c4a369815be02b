"""Access control: hosts, origins, the token, the size of bodies, and security headers.

On loopback no token is needed, but only requests that name a loopback host are served: this stops DNS
rebinding and access through a proxy. On any other address a token is required. A browser sends it once, in
the URL, and then keeps a cookie derived from it; a program sends it as a bearer token with each request.
"""

import hashlib
import hmac
import ipaddress
import logging
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from shotstream.studio.answers import answer, plain, refused, with_headers
from shotstream.studio.bodies import drain_and_refuse, is_upload, max_bytes, read_body, replay_body
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
        uploads = is_upload(scope)
        if refusal is None and uploads and self._num_uploads >= self._limits.uploads:
            refusal = plain(503, "busy", "other files are being received; try again", {"retry-after": "2"})
        if refusal is None:
            # Few large bodies at a time, until they are answered: they are held in memory, and decoded.
            self._num_uploads += uploads
            try:
                refusal = await self._serve(scope, receive, send)
            finally:
                self._num_uploads -= uploads
        if refusal is not None:
            await refusal(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> "ASGIApp | None":
        """Calls the app with the complete body of a request, or returns the answer to one not taken."""
        limit_s = self._limits.upload_s if is_upload(scope) else self._limits.body_s
        body = await read_body(receive, max_bytes(scope, self._limits), limit_s)
        if not isinstance(body, bytes):
            return body
        try:
            await self._app(scope, replay_body(body, receive), with_headers(send))
        except RuntimeError as error:
            # The status was sent already, so the answer can only be broken off.
            if getattr(error.__cause__, "errno", None) not in OUT_OF_DESCRIPTORS:
                raise
            _log.warning("an answer was broken off: no file descriptors left; raise `ulimit -n`")
        return None

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
            return refused(403, "refused", _LOOPBACK_ONLY, headers)
        is_safe = scope["method"] in _SAFE_METHODS
        if _is_foreign_fetch(headers) or not (is_safe or _is_own_origin(scope, headers)):
            own = f"{_scheme(scope)}://{headers.get('host', '')}"
            message = _OTHER_SITE.format(origin=headers.get("origin", "another site")[:200], own=own[:200])
            return refused(403, "refused", message, headers)
        if self._token is not None and path not in OPEN_PATHS:
            refusal = self._check_token(scope, headers, path)
            if refusal is not None:
                return refusal
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return refused(400, "malformed", "Content-Length is not a number", headers)
        most = max_bytes(scope, self._limits)
        if int(length) > most:
            return drain_and_refuse(most)
        return None

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
            return answer(
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
            return refused(401, "refused", _NO_TOKEN, headers)
        tries = self._wrong.for_key((scope.get("client") or ("",))[0])
        if not tries.try_take():
            wait = {"retry-after": str(tries.wait_s)}
            return refused(429, "too_fast", "too many wrong tokens from your address", headers, wait)
        return refused(401, "refused", _WRONG_TOKEN, headers)

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
