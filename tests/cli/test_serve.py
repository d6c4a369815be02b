"""`shotstream serve` as a person meets it: what it says first, what it says when it cannot, how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from shotstream.cli import main
from shotstream.cli.serve import _welcome
from shotstream.studio.server import bind_socket


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["serve", *arguments])
    return int(ended.value.code or 0), capsys.readouterr().err


def test_an_address_that_is_taken_is_told_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = told(capsys, "--port", str(port), "--data", str(tmp_path), "--model", "no-such-model")
    assert (code, said) == (
        1,
        f"shotstream: cannot listen on 127.0.0.1:{port}: it is in use; give another --port\n",
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a" * 70 + ".example", "1:2:3"])
def test_an_address_that_is_not_this_machines_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, host: str
) -> None:
    code, said = told(capsys, "--host", host, "--data", str(tmp_path), "--model", "no-such-model")
    assert code == 1 and said.startswith("shotstream: cannot listen on") and "--host" in said
    assert said.count("\n") == 1 and "rrno" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--token", "short"), "at least 16 characters"),
        (("--token", "sixteen or more characters"), "remove the others"),
        (("--root-path", "studio"), "such as /studio"),
        (("--root-path", "//evil.example"), "such as /studio"),
    ],
)
def test_what_cannot_be_served_with_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, str], words: str
) -> None:
    code, said = told(capsys, *arguments, "--data", str(tmp_path), "--model", "no-such-model")
    assert code == 2 and words in said and said.count("\n") == 1


def test_a_folder_that_cannot_hold_stories_is_told_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        code, said = told(capsys, "--data", str(tmp_path / place), "--model", "no-such-model")
        assert code == 2 and "--data" in said and said.count("\n") == 1 and "rrno" not in said


def test_the_address_is_one_that_can_be_opened() -> None:
    data = Path("/stories")
    assert list(_welcome("127.0.0.2", 8720, None, "", data)) == [
        "the studio is open at http://127.0.0.2:8720/ (stop it with Ctrl-C)",
        "stories are kept in /stories",
    ]
    assert "http://[::1]:8720/ " in next(_welcome("::1", 8720, None, "", data))
    token = "a&b+c#d%41=e/f?g;"
    own, far, *_ = _welcome("0.0.0.0", 8720, token, "", data)
    for line in (own, far):
        (address,) = re.findall(r"http://\S+", line)
        parts = urlsplit(address)
        assert parse_qs(parts.query) == {"token": [token]} and not parts.fragment
    assert urlsplit(re.findall(r"http://\S+", own)[0]).hostname == "127.0.0.1"
    assert any("/studio/?token=" in line for line in _welcome("127.0.0.1", 1, token, "/studio", data))


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and the first line that it says."""
    command = [sys.executable, "-m", "shotstream.cli", "serve", "--device", "cpu", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--data", str(folder), *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "40"},
    )
    try:
        assert process.stderr is not None
        yield process, process.stderr.readline()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_told_to_end_ends_well(tmp_path: Path, number: int) -> None:
    """Once SIGTERM killed it at the end of its own tidying."""
    with serving(tmp_path, "--host", "127.0.0.2") as (process, said):
        (address,) = re.findall(r"http://127\.0\.0\.2:\d+/", said)
        with urllib.request.urlopen(address + "readyz", timeout=60) as answer:
            assert answer.read() == b"ready\n"
        parts = urlsplit(address)
        with socket.create_connection((parts.hostname, parts.port)) as half_open:
            half_open.sendall(b"POST /api/stories HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
            process.send_signal(number)
            assert process.wait(60) == 0
        assert process.stderr is not None
        rest = process.stderr.read()
    assert rest.splitlines() == [f"stories are kept in {tmp_path}", "closed; every finished shot is safe"]


def test_a_name_is_listened_on_at_its_address_of_either_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of version 6 alone, as `ip6-localhost` is, was no address of this machine."""
    four = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
    six = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0))
    for found, address in (([six], "::1"), ([six, four], "127.0.0.1"), ([four], "127.0.0.1")):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, found=found, **__: found)
        with bind_socket("a-name", 0) as bound:
            assert bound.getsockname()[0] == address


def test_an_account_without_a_home_is_told_what_to_give(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that runs under a bare number has none: Python's words for it were passed on."""

    def nobody(_: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    for name in ("HOME", "SHOTSTREAM_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    code, said = told(capsys, "--model", "no-such-model")
    assert (code, said.endswith("this account has no home folder; give --data\n")) == (2, True), said
    code, said = told(capsys, "--data", str(tmp_path), "--port", "0", "--model", "no-such-model")
    assert code == 2 and "has no home folder; let SHOTSTREAM_HOME name a folder for models" in said
