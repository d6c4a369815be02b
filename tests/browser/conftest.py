"""A studio served by a process of its own, and Debian's Chromium to open it in.

With SHOTSTREAM_PICTURES=DIR the tests write screenshots of what they see to DIR.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.studio_page import WAIT_S, WIDE


class Server:
    """`shotstream serve` with the embedded model; may be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/"
        self._process: subprocess.Popen[bytes] | None = None
        self.num_kills = 0

    def start(self) -> None:
        arguments = [
            "serve",
            "--data",
            str(self._folder / "studio"),
            "--port",
            str(self.port),
            "--device",
            "cpu",
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "shotstream.cli", *arguments],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        end_s = time.monotonic() + WAIT_S
        while time.monotonic() < end_s and self._process.poll() is None:
            try:
                with urllib.request.urlopen(self.address + "readyz", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        raise AssertionError((self._folder / "log").read_text())

    def kill(self) -> None:
        if self._process is not None:
            self.num_kills += 1
            self._process.kill()
            self._process.wait()

    def read(self, path: str) -> bytes:
        with urllib.request.urlopen(self.address + path, timeout=WAIT_S) as answer:
            return answer.read()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    served = Server(tmp_path_factory.mktemp("studio"))
    try:
        served.start()
        yield served
    finally:
        served.kill()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        # Chromium's own sandbox refuses to work for root, which is who runs tests in a container.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """A wide dark page; what it complains of fails the test, the strict content-security policy included."""
    context = browser.new_context(viewport=WIDE, color_scheme="dark")
    page = context.new_page()
    complaints: list[str] = []
    num_kills = server.num_kills
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.set_default_timeout(WAIT_S * 1000)
    try:
        yield page
    finally:
        context.close()
    # A server that is away, or refuses, is told in the console by the browser itself.
    told = ["ERR_CONNECTION", "status of 409", "status of 400"]
    if server.num_kills > num_kills:
        told += ["ERR_CONTENT_LENGTH_MISMATCH"]  # killed in the middle of an answer
    assert [text for text in complaints if not any(words in text for words in told)] == []
