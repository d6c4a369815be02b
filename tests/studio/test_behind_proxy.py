"""The studio under a path of another site, behind a real nginx where there is one; what a proxy may tell."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx2
import pytest
from starlette.types import Receive, Scope, Send
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from shotstream.studio.proxy import (
    FORWARDED_HOST,
    ForwardedHeadersMiddleware,
    path_in_app,
    validate_root_path,
)
from shotstream.studio.server import bind_socket
from tests.studio.live_server import live_server, wait_until

DOCUMENT = Path(__file__).parents[2] / "docs" / "studio.md"
TOKEN = "a token&+#%/0123456789".replace(" ", "-")
PREFIXES = ("/studio/", "/untold/", "/kept/deep/")
"""Taken away by the proxy, and told; taken away and not told; passed on whole."""


def at(path: str, *, root_path: str = "", client: str = "127.0.0.1", **told: str) -> Any:
    """What a request becomes: its scope within the studio, or where it is sent."""
    import anyio

    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive, send
        seen.append(scope)

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        seen.append(message)

    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in told.items()]
    scope = {"type": "http", "path": path, "root_path": "", "query_string": b"a=1", "scheme": "http"}
    scope |= {"headers": headers, "client": (client, 1)}
    anyio.run(
        ForwardedHeadersMiddleware(app, root_path=root_path, trusted="127.0.0.1,::1"), scope, receive, send
    )
    return seen[0]


@pytest.mark.parametrize("path", ["/api/x", "/", "/studiox", "/a/studio/b"])
@pytest.mark.parametrize("way", ["option", "header", "header with a slash"])
def test_a_prefix_may_be_taken_away_or_passed_on(path: str, way: str) -> None:
    told = {"option": {}, "header": {"x_forwarded_prefix": "/studio"}}.get(
        way, {"x_forwarded_prefix": "/studio/"}
    )
    root_path = "/studio" if way == "option" else ""
    for asked in (path, "/studio" + path):
        scope = at(asked, root_path=root_path, **told)
        assert (scope["root_path"], scope["path"]) == ("/studio", "/studio" + path)
        assert path_in_app(scope) == path
    sent = at("/studio", root_path=root_path, **told)
    assert (sent["status"], dict(sent["headers"])[b"location"]) == (307, b"/studio/?a=1")


@pytest.mark.parametrize(
    "told",
    [
        "//evil.example",
        "https://evil.example",
        "/a/../b",
        "/..",
        "/./a",
        "/a b",
        "/a\r\nb",
        "/<b>",
        "a",
        "/a?b",
        "/a#b",
        "/a\\b",
    ],
)
def test_a_prefix_that_is_no_plain_path_is_not_believed(told: str) -> None:
    scope = at("/api/x", x_forwarded_prefix=told)
    assert (scope["root_path"], scope["path"]) == ("", "/api/x")
    with pytest.raises(ValueError, match="--root-path"):
        validate_root_path(told)


def test_only_trusted_proxies_are_believed() -> None:
    told = {
        "x_forwarded_prefix": "/studio",
        "x_forwarded_host": "films.example",
        "x_forwarded_proto": "https",
    }
    believed, stranger = at("/", **told), at("/", client="203.0.113.9", **told)
    assert (believed["root_path"], believed[FORWARDED_HOST]) == ("/studio", "films.example")
    assert (believed["scheme"], stranger["scheme"]) == ("https", "http")
    assert stranger["root_path"] == "" and FORWARDED_HOST not in stranger
    assert at("/", x_forwarded_host="films.example, inner.example")[FORWARDED_HOST] == "films.example"
    assert at("/", client="127.0.0.1", x_forwarded_for="203.0.113.9")["client"][0] == "203.0.113.9"


def test_a_root_path_is_one_form_of_itself() -> None:
    assert [validate_root_path(path) for path in ("", "/", "/a", "/a/", "/a/b")] == [
        "",
        "",
        "/a",
        "/a",
        "/a/b",
    ]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with live_server(tmp_path_factory.mktemp("studio"), token=TOKEN) as port:
        yield port


def shown(language: str) -> str:
    """The configuration that the document shows."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    return block


@contextmanager
def running(command: list[str], address: str) -> Iterator[str]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        assert process.poll() is None, f"{command[0]} has ended"
        try:
            return httpx2.get(f"{address}/studio/healthz").status_code == 200
        except httpx2.TransportError:
            return False

    try:
        wait_until(answers)
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def nginx(studio: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an nginx as the document has it, but without TLS, and with the other two prefixes."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed (Debian: apt-get install nginx-light)")
    folder = tmp_path_factory.mktemp("nginx")
    with bind_socket("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    block = re.sub(r" *ssl_certificate.*\n", "", shown("nginx")).replace(
        "listen 443 ssl", f"listen 127.0.0.1:{port}"
    )
    assert "127.0.0.1:8720" in block
    block = block.replace("127.0.0.1:8720", f"127.0.0.1:{studio}")
    (location,) = re.findall(r" *location .*?\n    }\n", block, re.DOTALL)
    untold = re.sub(r".*X-Forwarded-Prefix.*\n", "", location).replace(
        "location /studio/", f"location {PREFIXES[1]}"
    )
    kept = location.replace(f":{studio}/;", f":{studio};").replace(
        "location /studio/", f"location {PREFIXES[2]}"
    )
    kept = kept.replace("Prefix /studio;", f"Prefix {PREFIXES[2]};")
    block = block.replace(location, location + untold + kept)
    paths = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{ worker_connections 64; }}\nhttp {{\naccess_log off;\n{paths}{block}}}\n"
    )
    command = [program, "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with running(command, f"http://127.0.0.1:{port}") as address:
        yield address


@pytest.fixture(scope="module")
def caddy(studio: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Caddy as the document has it, but without TLS."""
    program = shutil.which("caddy")
    if program is None:
        pytest.skip("Caddy is not installed (Debian: apt-get install caddy)")
    folder = tmp_path_factory.mktemp("caddy")
    with bind_socket("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    block = shown("caddyfile").replace("films.example {", f"http://127.0.0.1:{port} {{")
    assert "127.0.0.1:8720" in block
    block = block.replace("127.0.0.1:8720", f"127.0.0.1:{studio}")
    (folder / "Caddyfile").write_text(f"{{\n\tadmin off\n\tstorage file_system {folder}/kept\n}}\n{block}")
    command = [program, "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    with running(command, f"http://127.0.0.1:{port}") as address:
        yield address


@pytest.mark.parametrize(
    ("proxy", "prefix"),
    [
        ("nginx", PREFIXES[0]),
        pytest.param("nginx", PREFIXES[1], marks=pytest.mark.slow),
        pytest.param("nginx", PREFIXES[2], marks=pytest.mark.slow),
        pytest.param("caddy", PREFIXES[0], marks=pytest.mark.slow),
    ],
)
def test_everything_follows_the_path_that_the_browser_sees(
    request: pytest.FixtureRequest, proxy: str, prefix: str
) -> None:
    proxied = request.getfixturevalue(proxy)
    root = proxied + prefix
    with httpx2.Client(base_url=root, follow_redirects=True) as browser:
        assert httpx2.get(root + "api/stories").status_code == 401
        page = browser.get(root, params={"token": TOKEN})
        assert str(page.url) == root and page.status_code == 200
        (cookie,) = browser.cookies.jar
        assert cookie.path.rstrip("/") == prefix.rstrip("/"), "other sites of this host are not sent it"
        for name in ("", "api/docs"):
            links = re.findall(r'(?:href|src)="([^"]*)"', browser.get(root + name).text)
            assert len(links) > 5
            for link in links:
                seen = urljoin(root + name, link)
                assert seen.startswith(root) and browser.get(seen).status_code == 200
        assert browser.get(proxied + prefix.rstrip("/")).url == root
        servers = browser.get(root + "api/openapi.json").json().get("servers")
        assert servers == (None if prefix == "/untold/" else [{"url": prefix.rstrip("/")}])
        origin = {"origin": proxied}
        story = {"global_caption": "a forest night", "shots": [{"caption": "a fox walks"}]}
        made = browser.post(root + "api/stories", json=story, headers=origin)
        assert made.status_code == 201
        evil = browser.post(root + "api/stories", json=story, headers={"origin": "http://evil.example"})
        assert evil.status_code == 403
        base = f"{root}api/stories/{made.json()['story_id']}"
        live = base.replace("http", "ws", 1) + "/live"
        with connect(
            live, origin=proxied, additional_headers={"cookie": f"{cookie.name}={cookie.value}"}
        ) as socket:
            picture = b""
            while True:
                message = socket.recv(timeout=60)
                if isinstance(message, bytes):
                    picture += message
                elif (told := json.loads(message))["type"] == "story" and told["story"]["num_frames"]:
                    break
        with pytest.raises(ConnectionClosed) as closed, connect(live, origin=proxied) as socket:
            socket.recv(timeout=60)
        assert closed.value.rcvd.code == 4401
        recording = f"{base}/takes/{told['story']['shots'][0]['take_id']}/media.mp4"
        assert browser.get(recording).content == picture
        part = browser.get(recording, headers={"range": "bytes=100-199"})
        assert (part.status_code, part.content) == (206, picture[100:200])
        assert part.headers["content-range"] == f"bytes 100-199/{len(picture)}"
        assert browser.head(recording).headers["content-length"] == str(len(picture))
        assert browser.get(f"{base}/export/film.mp4").content[4:8] == b"ftyp"
        large = browser.post(root + "api/stories/import", content=b"a" * 70_000, headers=origin)
        assert (large.status_code, large.json()["code"]) == (413, "too_large")
        assert browser.get(root + "api/stories/").status_code == 404, "no redirect that leaves the prefix"
