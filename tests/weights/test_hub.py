"""Names resolve to directories; downloads are trusted once; imports convert once. No network."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from shotstream.configs import config_from_document
from shotstream.model.config import DiTConfig
from shotstream.model.dit import DiT
from shotstream.text.text_encoder import TextEncoder, UMT5Config, UMT5TextEncoder
from shotstream.vae.codec import Codec
from shotstream.vae.wan_vae import WanVAE, WanVAEConfig
from shotstream.weights import hub
from shotstream.weights.bundle import BundleError, read_bundle
from shotstream.weights.hub import (
    LockError,
    WeightsNotFoundError,
    available,
    download,
    import_weights,
    resolve,
)

_REPOSITORY = "Wan-AI/Wan2.1-T2V-1.3B"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHOTSTREAM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


class _Server:
    """Stands in for the hub: serves files by revision."""

    def __init__(self) -> None:
        self.files = {"model.safetensors": b"weights", "google/tokenizer.json": b"{}"}
        self.revision = "c0ffee"
        self.asked: list[str | None] = []

    def __call__(self, repository: str, revision: str | None, target: Path) -> str:
        assert repository == _REPOSITORY
        self.asked.append(revision)
        for name, content in self.files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(content)
        (target / ".cache").mkdir(exist_ok=True)
        (target / ".cache" / "notes").write_text(str(len(self.asked)))
        return self.revision


def test_the_first_download_is_locked_and_the_next_needs_no_network(home: Path) -> None:
    server = _Server()
    directory = download(_REPOSITORY, fetch=server)
    assert (directory / "model.safetensors").read_bytes() == b"weights"
    lock = json.loads((home / "weights.lock.json").read_text())["repositories"][_REPOSITORY]
    assert lock["revision"] == "c0ffee"
    assert lock["files"].keys() == set(server.files), "the fetcher's own notes are not locked"
    assert download(_REPOSITORY, fetch=server) == directory
    assert server.asked == [None]


def test_a_lost_or_changed_file_is_fetched_again_at_the_locked_revision() -> None:
    server = _Server()
    directory = download(_REPOSITORY, fetch=server)
    (directory / "model.safetensors").write_bytes(b"weight")
    download(_REPOSITORY, fetch=server)
    (directory / "google" / "tokenizer.json").unlink()
    download(_REPOSITORY, fetch=server)
    assert server.asked == [None, "c0ffee", "c0ffee"]


def test_files_that_differ_from_the_lock_are_refused() -> None:
    server = _Server()
    directory = download(_REPOSITORY, fetch=server)
    (directory / "model.safetensors").unlink()
    server.files["model.safetensors"] = b"poison"
    with pytest.raises(LockError, match=r"files model\.safetensors of 2 files differ"):
        download(_REPOSITORY, fetch=server)
    server.files |= {"model.safetensors": b"weights", "extra.bin": b""}
    with pytest.raises(LockError, match=r"files extra\.bin"):
        download(_REPOSITORY, fetch=server)


def test_a_moved_revision_is_refused() -> None:
    server = _Server()
    directory = download(_REPOSITORY, "main", fetch=server)
    assert download(_REPOSITORY, "main", fetch=server) == directory
    assert download(_REPOSITORY, "c0ffee", fetch=server) == directory
    with pytest.raises(LockError, match="locked to revision c0ffee, not v2"):
        download(_REPOSITORY, "v2", fetch=server)
    (directory / "model.safetensors").unlink()
    server.revision = "decade"
    with pytest.raises(LockError, match="revision decade"):
        download(_REPOSITORY, fetch=server)
    assert server.asked == ["main", "c0ffee"]


def test_a_damaged_lock_or_an_empty_answer_stops_the_download(home: Path) -> None:
    server = _Server()
    server.files = {}
    with pytest.raises(LockError, match="nothing was fetched"):
        download(_REPOSITORY, fetch=server)
    for content in ("{", "[]", '{"format_version": 1, "repositories": {"a/b": {}}}', '{"format_version": 2}'):
        (home / "weights.lock.json").write_text(content)
        with pytest.raises(LockError, match="restore"):
            download(_REPOSITORY, fetch=_Server())


@pytest.mark.parametrize("repository", ["wan", "../../etc", "a/b/c", "a/..", ""])
def test_only_repository_names_are_downloaded(repository: str) -> None:
    with pytest.raises(ValueError, match="is not a repository"):
        download(repository, fetch=_Server())


def test_names_and_paths_resolve_or_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_BUILTIN_BUNDLE", tmp_path / "builtin")
    with pytest.raises(WeightsNotFoundError, match="install it again"):
        resolve("theatre")
    (tmp_path / "builtin").mkdir()
    (tmp_path / "builtin" / "config.json").touch()
    assert resolve("theatre") == tmp_path / "builtin"
    with pytest.raises(WeightsNotFoundError, match=r"weights download .* weights import"):
        resolve("wan-1.3b")
    with pytest.raises(
        WeightsNotFoundError, match="no model 'theater': neither a directory nor one of theatre"
    ):
        resolve("theater")
    (tmp_path / "mine").mkdir()
    assert resolve(tmp_path / "mine") == tmp_path / "mine"
    assert resolve(str(tmp_path / "mine")) == tmp_path / "mine"


def test_the_cache_directory_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.home() == tmp_path / "home"
    monkeypatch.delenv("SHOTSTREAM_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hub.home() == tmp_path / "xdg" / "shotstream"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.home() == tmp_path / ".cache" / "shotstream"


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_an_import_gives_a_bundle_that_builds_every_network(tiny: Any, tmp_path: Path, layout: str) -> None:
    source = tiny.source(getattr(tiny, f"write_{layout}")(tmp_path / "wan"))
    directory = import_weights(source)
    assert resolve("wan-1.3b") == directory
    assert available() == ("theatre", "wan-1.3b")
    bundle = read_bundle(directory)
    pipeline = bundle.config["engine"]
    assert (pipeline["family"], pipeline["model_id"]) == ("wan", "wan-1.3b")
    assert pipeline["pixel_size"] == {"height": 480, "width": 832}

    dit = DiT(config_from_document(DiTConfig, bundle.config["dit"], "dit"))
    dit.load_state_dict(bundle.tensors["dit"], strict=True)
    assert all(torch.equal(tensor, tiny.dit[name]) for name, tensor in dit.state_dict().items())

    codec_config = config_from_document(WanVAEConfig, bundle.config["codec"], "codec")
    codec = WanVAE.from_tensors(codec_config, bundle.tensors["codec"])
    assert isinstance(codec, Codec)
    assert codec.decode(torch.zeros(1, 4, 2, 1, 1)).shape == (1, 3, 5, 8, 8)

    text_config = config_from_document(UMT5Config, bundle.config["text_encoder"], "text_encoder")
    tokenizer = bundle.files["tokenizer.json"]
    encoder = UMT5TextEncoder.from_tensors(text_config, bundle.tensors["text_encoder"], tokenizer)
    assert isinstance(encoder, TextEncoder)
    assert encoder.encode(["a red fox"]).shape == (1, 8, 16)


def test_both_layouts_import_to_the_same_bytes(tiny: Any, tmp_path: Path) -> None:
    written = [
        import_weights(tiny.source(write(tmp_path / name)), out=tmp_path / f"{name}-bundle")
        for name, write in (("original", tiny.write_original), ("diffusers", tiny.write_diffusers))
    ]
    assert read_bundle(written[0]).sha256 == read_bundle(written[1]).sha256


def test_an_import_converts_precision_and_never_overwrites_unasked(tiny: Any, tmp_path: Path) -> None:
    source = tiny.source(tiny.write_original(tmp_path / "wan"))
    directory = import_weights(source, as_="small", dtype=torch.bfloat16)
    assert read_bundle(directory).tensors["dit"]["head.head.weight"].dtype == torch.bfloat16
    assert resolve("small") == directory
    with pytest.raises(BundleError, match="exists already"):
        import_weights(source, as_="small")
    import_weights(source, as_="small", overwrite=True)
    for name in ("theatre", "../up", "Wan", ""):
        with pytest.raises(ValueError, match="cannot name an imported model"):
            import_weights(source, as_=name)
