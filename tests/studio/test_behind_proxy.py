"""The studio under a path of another site, behind a real nginx where there is one; what a proxy may tell."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urljoin

import httpx2
import pytest
from starlette.types import Receive, Scope, Send
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from shotstream.studio.proxy import FORWARDED_HOST, FromProxy, checked_root_path, inside_path
from shotstream.studio.server import bind
from tests.studio.served import served, until

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
    anyio.run(FromProxy(app, root_path=root_path, trusted="127.0.0.1,::1"), scope, receive, send)
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
        assert inside_path(scope) == path
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
        checked_root_path(told)


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
    assert [checked_root_path(path) for path in ("", "/", "/a", "/a/", "/a/b")] == [
        "",
        "",
        "/a",
        "/a",
        "/a/b",
    ]


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an nginx with a studio under each prefix."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed (Debian: apt-get install nginx-light)")
    folder = tmp_path_factory.mktemp("nginx")
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    with served(folder / "studio", token=TOKEN) as studio:
        told = """proxy_http_version 1.1;
          proxy_set_header Host $http_host;
          proxy_set_header Upgrade $http_upgrade;
          proxy_set_header Connection $upgrade;"""
        (folder / "nginx.conf").write_text(f"""
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  map $http_upgrade $upgrade {{ default upgrade; '' close; }}
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port};
    location {PREFIXES[0]} {{ proxy_pass http://127.0.0.1:{studio}/; {told}
      proxy_set_header X-Forwarded-Prefix {PREFIXES[0]}; }}
    location {PREFIXES[1]} {{ proxy_pass http://127.0.0.1:{studio}/; {told} }}
    location {PREFIXES[2]} {{ proxy_pass http://127.0.0.1:{studio}; {told}
      proxy_set_header X-Forwarded-Prefix {PREFIXES[2]}; }}
  }}
}}""")
        process = subprocess.Popen(
            [nginx, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
        )
        try:
            address = f"http://127.0.0.1:{port}"

            def answers() -> bool:
                assert process.poll() is None, "nginx has ended"
                try:
                    return httpx2.get(f"{address}/studio/healthz").status_code == 200
                except httpx2.TransportError:
                    return False

            until(answers)
            yield address
            assert quote(TOKEN, safe="") not in re.sub(
                r'"GET \S*\?token=\S*', "", (folder / "access.log").read_text()
            )
        finally:
            process.terminate()
            process.wait()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_everything_follows_the_path_that_the_browser_sees(proxied: str, prefix: str) -> None:
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
