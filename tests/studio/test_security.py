"""Who comes in and who does not, at the guard itself, around an app of three doors."""

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from shotstream.studio.limits import Limits
from shotstream.studio.proxy import ForwardedHeadersMiddleware
from shotstream.studio.security import SOCKET_REFUSAL, SecurityMiddleware, is_loopback, validate_token

HOST = "studio.example:8720"
TOKEN = "Right-token-0123456789"
OTHER = "Other-token-0123456789"
WRONG = (
    TOKEN[:-1],
    TOKEN[1:],
    TOKEN + "0",
    TOKEN + "\x00",
    "0" + TOKEN,
    TOKEN.lower(),
    TOKEN.upper(),
    TOKEN * 2,
    OTHER,
    "",
    "*",
)


async def _echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{len(await request.body())} bytes")


async def _live(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(socket.scope[SOCKET_REFUSAL] or "come in")
    await socket.close()


@contextmanager
def guarded(
    *,
    token: str | None = TOKEN,
    host: str = HOST,
    scheme: str = "http",
    root_path: str = "",
    trusted: str = "testclient",
    limits: Limits | None = None,
) -> Iterator[TestClient]:
    doors = [Route(path, _echo, methods=["GET", "POST", "DELETE"]) for path in ("/", "/api/x", "/healthz")]
    app = Starlette(
        routes=[*doors, WebSocketRoute("/live", _live)],
        middleware=[
            Middleware(ForwardedHeadersMiddleware, root_path=root_path, trusted=trusted),
            Middleware(SecurityMiddleware, token=token, limits=limits or Limits()),
        ],
    )
    with TestClient(app, base_url=f"{scheme}://{host}", follow_redirects=False) as client:
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with guarded(limits=Limits(wrong_tokens=10_000)) as client:
        yield client


def socket_says(client: TestClient, headers: dict[str, str]) -> str:
    with client.websocket_connect("/live", headers={"host": HOST, **headers}) as socket:
        return socket.receive_text()


def cookie_of(token: str, **changes: Any) -> tuple[str, str]:
    with guarded(token=token, **changes) as client:
        name, _, value = (
            client.get("/", params={"token": token}).headers["set-cookie"].partition(";")[0].partition("=")
        )
    return name, value


def test_who_knows_the_token_comes_in_by_address_bearer_or_cookie(client: TestClient) -> None:
    name, value = cookie_of(TOKEN)
    for headers in (
        {"authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer {TOKEN}"},
        {"cookie": f"{name}={value}"},
        {"cookie": f'a={{"b": 1}}; broken; {name}={value}; c="'},
        {"cookie": f"{name}=old; {name}={value}"},
    ):
        assert client.get("/api/x", headers=headers).status_code == 200
        assert socket_says(client, headers) == "come in"


@pytest.mark.parametrize("wrong", WRONG)
def test_no_other_text_than_the_token_is_a_token(client: TestClient, wrong: str) -> None:
    bearer = {"authorization": f"Bearer {wrong}"}
    for path in ("/", "/api/x", "/nothing"):
        assert client.get(path, headers=bearer).status_code == 401
    assert client.post("/api/x", headers=bearer).status_code == 401
    assert socket_says(client, bearer) == "no token"
    shown = client.get("/", params={"token": wrong})
    assert shown.status_code == 401 and "set-cookie" not in shown.headers


def test_no_other_cookie_than_the_tokens_own_lets_in(client: TestClient) -> None:
    name, value = cookie_of(TOKEN)
    other_name, other_value = cookie_of(OTHER)
    assert name != other_name and value != other_value
    pairs = [
        (name, wrong) for wrong in ("", TOKEN, other_value, value[:-1], value[1:], value + "0", value.upper())
    ]
    pairs += [(other_name, value), (name.upper(), value), ("token", TOKEN), (name[:-1], value)]
    for key, wrong in pairs:
        cookie = {"cookie": f"{key}={wrong}"}
        assert client.get("/api/x", headers=cookie).status_code == 401, (key, wrong)
        assert socket_says(client, cookie) == "no token"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer{TOKEN}"},
        {"authorization": f"Token {TOKEN}"},
        {"x-token": TOKEN},
        {},
    ],
)
def test_the_token_counts_only_where_it_belongs(client: TestClient, headers: dict[str, str]) -> None:
    for path in ("/", "/api/x", f"/api/x?token={TOKEN}", f"/healthz/../?token={TOKEN}x"):
        assert client.get(path, headers=headers).status_code == 401
    assert client.post(f"/?token={TOKEN}", headers=headers).status_code == 401
    with client.websocket_connect(f"/live?token={TOKEN}", headers={"host": HOST, **headers}) as socket:
        assert socket.receive_text() == "no token"
    assert client.get("/healthz", headers=headers).status_code == 200


def test_the_token_leaves_the_address_at_once_and_is_in_no_answer(client: TestClient) -> None:
    entered = client.get(f"/?token={TOKEN}&story=1&b=%26")
    assert (entered.status_code, entered.headers["location"]) == (303, "./?story=1&b=%26")
    cookie = entered.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; ")) and "Secure" not in cookie
    assert TOKEN not in cookie and "Path" not in cookie, "it belongs to the path that the browser asked for"
    assert entered.headers["referrer-policy"] == "no-referrer"
    assert entered.headers["cache-control"] == "no-store"
    # Who has the cookie does not keep a token in the address either, right or wrong.
    again = client.get("/?token=old", headers={"cookie": cookie.partition(";")[0]})
    assert (again.status_code, again.headers["location"]) == (303, "./")
    for answer in (client.get(f"/api/x?token={TOKEN}"), client.get("/", headers={"authorization": TOKEN})):
        assert TOKEN not in answer.text and TOKEN not in str(answer.headers)


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_the_cookie_is_for_https_alone_where_the_page_is(scheme: str) -> None:
    with guarded() as client:
        told = {"x-forwarded-proto": scheme}
        cookie = client.get(f"/?token={TOKEN}", headers=told).headers["set-cookie"]
    assert ("; Secure" in cookie) == (scheme == "https")
    with guarded(trusted="10.0.0.1") as client:
        assert "Secure" not in client.get(f"/?token={TOKEN}", headers=told).headers["set-cookie"]


@pytest.mark.parametrize(
    "token", ["a&b+c#d%41=e/f?g;", "%2525252525252525", "++++++++++++++++", "\"'<>\\{}|^`~!@$*()"]
)
def test_a_token_of_any_characters_is_told_and_taken_in_every_way(token: str) -> None:
    assert validate_token(token) == token
    with guarded(token=token) as client:
        entered = client.get(f"/?token={quote(token, safe='')}")
        assert entered.status_code == 303
        cookie = {"cookie": entered.headers["set-cookie"].partition(";")[0]}
        assert client.get("/api/x", headers=cookie).status_code == 200
        assert client.get("/api/x", headers={"authorization": f"Bearer {token}"}).status_code == 200


@pytest.mark.parametrize(
    "token", ["short", "a" * 15, "with a space 0123", "line\nbreak012345678", "gr\u00fc\u00dfe-0123456789"]
)
def test_a_token_that_cannot_be_sent_is_refused_at_the_start(token: str) -> None:
    with pytest.raises(ValueError, match="the token"):
        validate_token(token)


@pytest.mark.parametrize(
    ("host", "origin", "is_own"),
    [
        ("studio.example:8720", "http://studio.example:8720", True),
        ("studio.example:8720", "HTTP://Studio.Example:8720", True),
        ("studio.example", "http://studio.example", True),
        ("studio.example", "http://studio.example:80", True),
        ("studio.example:80", "http://studio.example", True),
        ("[::1]:8720", "http://[::1]:8720", True),
        ("studio.example:8720", "http://studio.example:8721", False),
        ("studio.example:8720", "http://studio.example", False),
        ("studio.example", "http://studio.example:8720", False),
        ("studio.example:8720", "https://studio.example:8720", False),
        ("studio.example", "https://studio.example", False),
        ("studio.example:8720", "http://evil.example:8720", False),
        ("studio.example:8720", "http://studio.example.evil.example:8720", False),
        ("studio.example:8720", "http://xstudio.example:8720", False),
        ("studio.example:8720", "http://studio.example:8720@evil.example", False),
        ("studio.example:8720", "http://evil.example@studio.example:8720", False),
        ("studio.example:8720", "http://studio.example:8720/path", False),
        ("studio.example:8720", "http://studio.example:99999", False),
        ("studio.example:8720", "ftp://studio.example:8720", False),
        ("studio.example:8720", "studio.example:8720", False),
        ("studio.example:8720", "null", False),
        ("studio.example:8720", "", False),
        ("", "http://", False),
    ],
)
def test_only_a_page_of_the_same_scheme_host_and_port_may_change_anything(
    client: TestClient, host: str, origin: str, is_own: bool
) -> None:
    headers = {"host": host, "origin": origin, "authorization": f"Bearer {TOKEN}"}
    for method in ("POST", "DELETE"):
        answer = client.request(method, "/api/x", headers=headers)
        assert answer.status_code == (200 if is_own else 403), answer.text
    assert (socket_says(client, headers) == "come in") == is_own


def test_behind_a_proxy_the_browsers_origin_is_what_counts() -> None:
    bearer = {"authorization": f"Bearer {TOKEN}"}
    proxied = {**bearer, "x-forwarded-proto": "https", "x-forwarded-host": "films.example"}
    mine, foreign = {"origin": "https://films.example"}, {"origin": "https://evil.example"}
    with guarded(host="127.0.0.1:8720") as client:
        assert client.post("/api/x", headers={**proxied, **mine}).status_code == 200
        assert (
            client.post("/api/x", headers={**proxied, "origin": mine["origin"] + ":443"}).status_code == 200
        )
        assert (
            client.post("/api/x", headers={**proxied, "origin": mine["origin"] + ":444"}).status_code == 403
        )
        assert client.post("/api/x", headers={**proxied, **foreign}).status_code == 403
        refused = client.post("/api/x", headers={**bearer, **mine})
        assert refused.status_code == 403
        assert all(
            word in refused.json()["message"] for word in ("https://films.example", "X-Forwarded-Proto")
        )
    with guarded(host="127.0.0.1:8720", trusted="10.0.0.0/8") as client:
        assert client.post("/api/x", headers={**proxied, **mine}).status_code == 403, (
            "no proxy that is believed"
        )


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [
        ("cross-site", "no-cors", 403),
        ("cross-site", "cors", 403),
        ("same-site", "no-cors", 403),
        ("cross-site", "navigate", 200),
        ("same-origin", "cors", 200),
        ("none", "navigate", 200),
    ],
)
def test_other_sites_may_link_here_but_not_make_us_work(
    client: TestClient, site: str, mode: str, status: int
) -> None:
    headers = {"sec-fetch-site": site, "sec-fetch-mode": mode, "authorization": f"Bearer {TOKEN}"}
    assert client.get("/api/x", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("host", "is_served"),
    [
        ("127.0.0.1:8720", True),
        ("127.0.0.2:8720", True),
        ("127.255.255.254", True),
        ("localhost:1", True),
        ("LOCALHOST", True),
        ("[::1]:8720", True),
        ("[::ffff:127.0.0.1]", True),
        ("128.0.0.1", False),
        ("0.0.0.0:8720", False),
        ("10.0.0.1", False),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("evil.example@127.0.0.1", False),
        ("127.0.0.1@evil.example", False),
        ("evil.example/127.0.0.1", False),
        ("[::2]", False),
        ("", False),
    ],
)
def test_without_a_token_only_loopback_names_are_served(host: str, is_served: bool) -> None:
    with guarded(token=None) as client:
        for path in ("/", "/api/x", "/healthz"):
            answer = client.get(path, headers={"host": host})
            assert answer.status_code == (200 if is_served else 403)
        with client.websocket_connect("/live", headers={"host": host}) as socket:
            assert (socket.receive_text() == "come in") == is_served


@pytest.mark.parametrize(
    "told",
    [
        {"x-forwarded-host": "films.example"},
        {"x-forwarded-host": "localhost, films.example"},
        {"x-forwarded-for": "203.0.113.9"},
        {"x-forwarded-for": "127.0.0.1, 203.0.113.9"},
        {"x-forwarded-for": "2001:db8::1"},
        {"x-forwarded-for": "unknown"},
        {"x-real-ip": "203.0.113.9"},
    ],
)
@pytest.mark.parametrize("trusted", ["testclient", "10.0.0.1"])
def test_without_a_token_nobody_comes_through_a_proxy(told: dict[str, str], trusted: str) -> None:
    with guarded(token=None, host="127.0.0.1:8720", trusted=trusted) as client:
        refused = client.get("/api/x", headers=told)
        assert refused.status_code == 403 and "SHOTSTREAM_TOKEN" in refused.json()["message"]
        own = {"x-forwarded-host": "localhost:8720", "x-forwarded-for": "127.0.0.1, ::1"}
        assert client.get("/api/x", headers=own).status_code == 200
    with guarded(host="127.0.0.1:8720", trusted=trusted) as client:
        assert client.get("/api/x", headers={**told, "authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(("token", "status"), [(TOKEN, 401), (None, 403)])
def test_who_is_kept_out_is_told_what_to_do(token: str | None, status: int) -> None:
    with guarded(token=token) as client:
        program = client.get("/api/x", headers={"accept": "*/*"})
        browser = client.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert program.status_code == browser.status_code == status
    assert program.headers["content-type"] == "application/json"
    assert program.json()["code"] == "refused" and "\n" not in program.text
    assert browser.headers["content-type"] == "text/html; charset=utf-8"
    for text in (program.text, browser.text):
        assert "shotstream serve" in text and ("?token=" in text or "SHOTSTREAM_TOKEN" in text)
    assert program.headers.get("www-authenticate") == ("Bearer" if token else None)
    assert "<script" not in browser.text and "style=" not in browser.text, "the policy would stop them"
    told = program.json()["message"].replace("`", "")
    assert f"<p>{escape(told[0].upper() + told[1:])}.</p>" in browser.text, "the same, as a sentence"


def test_what_a_page_is_told_of_its_origin_is_text_and_no_markup(client: TestClient) -> None:
    headers = {"origin": "http://<script>alert(1)</script>", "accept": "text/html"}
    told = client.post("/api/x", headers=headers).text
    assert "&lt;script&gt;" in told and "<script" not in told


def test_many_wrong_tokens_have_to_wait_and_the_right_one_has_not() -> None:
    wrong, right = ({"authorization": f"Bearer {token}"} for token in (OTHER, TOKEN))
    with guarded(limits=Limits(wrong_tokens=3)) as client:
        assert [client.get("/api/x", headers=wrong).status_code for _ in range(3)] == [401] * 3
        waits = client.get("/api/x", headers=wrong)
        assert (waits.status_code, waits.json()["code"]) == (429, "too_fast")
        assert 15 <= int(waits.headers["retry-after"]) <= 20, "three a minute: one in 20 s"
        assert client.get("/", params={"token": OTHER}).status_code == 429
        assert client.get("/api/x", headers=right).status_code == 200
        assert client.get("/api/x").status_code == 401, "who tries none is not counted"
        other_address = {**wrong, "x-forwarded-for": "203.0.113.7"}
        assert client.get("/api/x", headers=other_address).status_code == 401


def test_a_body_is_taken_up_to_its_bound_whatever_its_header_says(client: TestClient) -> None:
    right = {"authorization": f"Bearer {TOKEN}"}
    most = Limits().upload_bytes

    def pieces(size: int) -> Iterator[bytes]:
        for start in range(0, size, 1000):
            yield b"a" * min(1000, size - start)

    assert client.post("/api/x", headers=right, content=b"a" * most).text == f"{most} bytes"
    assert client.post("/api/x", headers=right, content=pieces(most)).text == f"{most} bytes"
    for content in (b"a" * (most + 1), pieces(most + 1)):
        answer = client.post("/api/x", headers=right, content=content)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    for length in (b"-1", b"1.5", b"\xb2", b"", b"0x10"):
        headers = {b"authorization": right["authorization"].encode(), b"content-length": length}
        answer = client.post("/api/x", headers=headers, content=pieces(10))
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed"), length


@pytest.mark.parametrize(("ending", "status"), [("waits", 408), ("drips", 408), ("breaks off", 400)])
def test_a_body_that_does_not_come_is_given_up(ending: str, status: int) -> None:
    sent: list[Any] = []

    async def app(*_: Any) -> None:
        raise AssertionError("nothing is done before the body is whole")

    async def receive() -> Any:
        if ending == "breaks off" and sent == []:
            return {"type": "http.disconnect"}
        if ending == "waits":
            await anyio.sleep_forever()
        await anyio.sleep(0.002)
        return {"type": "http.request", "body": b"a", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    with anyio.from_thread.start_blocking_portal() as portal:
        portal.call(SecurityMiddleware(app, token=None, limits=Limits(body_s=0.05)), scope, receive, send)
    assert sent[0]["status"] == status
    if status == 408:
        assert (b"connection", b"close") in sent[0]["headers"]


def test_every_answer_is_private_and_under_the_policy(client: TestClient) -> None:
    right = {"authorization": f"Bearer {TOKEN}"}
    for answer in (
        client.get("/api/x", headers=right),
        client.get("/api/x"),
        client.get("/nothing", headers=right),
        client.post("/api/x", headers={**right, "origin": "null"}),
        client.get(f"/?token={TOKEN}"),
    ):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        policy = answer.headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy)


@pytest.mark.parametrize("name", ["127.0.0.1", "127.0.0.2", "localhost", "Localhost", "::1", "[::1]"])
def test_an_address_of_this_machine_alone_needs_no_token(name: str) -> None:
    assert is_loopback(name)


@pytest.mark.parametrize(
    "name", ["0.0.0.0", "::", "", "192.168.0.1", "studio.example", "127.0.0.1.example", "127.1"]
)
def test_any_other_address_needs_one(name: str) -> None:
    assert not is_loopback(name)


@pytest.mark.parametrize(("num_pieces", "taken"), [(3, 3), (1000, 105)])
def test_what_still_comes_of_a_body_that_is_too_large_is_taken_before_it_is_refused_up_to_a_mebibyte(
    num_pieces: int, taken: int
) -> None:
    """A connection that is closed on unread bytes takes the answer back."""
    order: list[Any] = []

    async def receive() -> dict[str, Any]:
        order.append("piece")
        more = order.count("piece") < num_pieces
        return {"type": "http.request", "body": b"a" * 10_000, "more_body": more}

    async def send(message: Any) -> None:
        order.append(message.get("status", "end"))

    async def app(*_: Any) -> None:
        raise AssertionError("the body reached the routes")

    length = str(num_pieces * 10_000).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/stories/import",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"host", b"127.0.0.1"), (b"content-length", length)],
        "query_string": b"",
    }
    with anyio.from_thread.start_blocking_portal() as portal:
        portal.call(
            SecurityMiddleware(app, token=None, limits=Limits(story_bytes=20_000)), scope, receive, send
        )
    assert order == ["piece"] * taken + [413, "end"]
