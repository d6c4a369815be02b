"""What a person is told when files cannot be fetched, and that they can be: by the hub's own client."""

import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shotstream import cli
from shotstream.weights import hub
from shotstream.weights.hub import DownloadError, download, fetch_from_hub

pytest.importorskip("huggingface_hub", reason="huggingface_hub comes with the wan extra")

_REPOSITORY = "Wan-AI/Wan2.1-T2V-1.3B"
_COMMIT = "c0ffee0123456789c0ffee0123456789c0ffee01"
_FILES = {"config.json": b'{"dim": 24}', "google/umt5-xxl/tokenizer.json": b"{}"}


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as its client asks for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        for name, content in _FILES.items():
            if path == f"/{_REPOSITORY}/resolve/{_COMMIT}/{name}":
                return self._answer(200, content, ETag=f'"{hash(name):x}"', **{"X-Repo-Commit": _COMMIT})
        if path.startswith(f"/api/models/{_REPOSITORY}/revision/gone"):
            return self._answer(404, b"{}", **{"X-Error-Code": "RevisionNotFound"})
        if path.startswith(f"/api/models/{_REPOSITORY}/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(c), "oid": "0"} for name, c in _FILES.items()
            ]
            return self._answer(200, json.dumps(entries).encode())
        if path.startswith(f"/api/models/{_REPOSITORY}"):
            siblings = [{"rfilename": name} for name in _FILES]
            document = {"id": _REPOSITORY, "modelId": _REPOSITORY, "sha": _COMMIT, "siblings": siblings}
            return self._answer(200, json.dumps(document).encode())
        if "/gated/" in path:
            return self._answer(403, b"{}", **{"X-Error-Code": "GatedRepo"})
        if "/busy/" in path:
            return self._answer(500, b"{}")
        return self._answer(404, b"{}", **{"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture(scope="module")
def endpoint() -> Generator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def _without_times(said: str) -> str:
    return " ".join(said.split())


def test_a_repository_is_fetched_whole_and_locked(
    tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOTSTREAM_HOME", str(tmp_path / "home"))
    directory = download(
        _REPOSITORY, fetch=lambda name, revision, to: fetch_from_hub(name, revision, to, endpoint=endpoint)
    )
    for name, content in _FILES.items():
        assert (directory / name).read_bytes() == content
    lock = json.loads((tmp_path / "home" / "weights.lock.json").read_text())
    assert lock["repositories"][_REPOSITORY]["revision"] == _COMMIT
    assert lock["repositories"][_REPOSITORY]["files"].keys() == _FILES.keys()


@pytest.mark.parametrize(
    ("repository", "revision", "complaint"),
    [
        (_REPOSITORY, "gone", r"Wan-AI/Wan2\.1-T2V-1\.3B at http://127.* has no revision 'gone'"),
        ("no/where", None, r"http://127\S+ has no repository no/where"),
        (
            "gated/model",
            None,
            r"gated/model asks for an account: accept its terms at http://127\S+/gated/model",
        ),
    ],
)
def test_what_the_hub_lacks_is_told(
    tmp_path: Path, endpoint: str, repository: str, revision: str | None, complaint: str
) -> None:
    with pytest.raises(DownloadError, match=complaint):
        fetch_from_hub(repository, revision, tmp_path, endpoint=endpoint)


def test_without_a_way_to_the_hub_the_command_names_host_files_and_the_way_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It once said "[Errno -2] Name or service not known", and nothing else."""
    monkeypatch.setenv("SHOTSTREAM_HOME", str(tmp_path / "home"))
    unreachable = "http://127.0.0.1:9"
    real = fetch_from_hub
    monkeypatch.setattr(hub, "fetch_from_hub", lambda *given: real(*given, endpoint=unreachable))
    with pytest.raises(SystemExit) as ended:
        cli.main(["weights", "download", _REPOSITORY])
    said = _without_times(capsys.readouterr().err)
    assert ended.value.code == 1
    for part in (
        f"{unreachable} could not be reached",
        f"`hf download {_REPOSITORY} --local-dir DIR`",
        "config.json, diffusion_pytorch_model.safetensors, Wan2.1_VAE.pth, models_t5_umt5-xxl-enc-bf16.pth, "
        "google/umt5-xxl/tokenizer.json",
        f"{unreachable}/{_REPOSITORY}/tree/main",
        "`shotstream weights import DIR --as wan-1.3b`",
    ):
        assert part in said, said
    assert "Errno" not in said


def test_the_switch_that_forbids_the_network_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set here; unset it, or on a machine"):
        fetch_from_hub("KlingTeam/ShotStream", None, tmp_path)
