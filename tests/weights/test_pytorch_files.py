"""A PyTorch file is read whole to the last bit, or refused by name; nothing in it is run."""

import argparse
import io
import os
import random
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shotstream.weights.file_kinds import CheckpointError
from shotstream.weights.pytorch_files import read_pytorch
from shotstream.weights.tensor_files import read_safetensors, read_tensors, safetensors_metadata

_CONTENT = {"a": torch.linspace(-1, 1, 100), "b": {"c": torch.arange(40), "d": 0.5}, "step": 3}


def _same(found: object, expected: object) -> bool:
    if isinstance(expected, torch.Tensor):
        return isinstance(found, torch.Tensor) and torch.equal(found, expected)
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        return found.keys() == expected.keys() and all(_same(found[key], expected[key]) for key in expected)
    return found == expected


def test_no_single_flipped_bit_changes_what_is_read(tmp_path: Path) -> None:
    """torch.load reads past the sums of its own archive: 197 of 200 flipped files were once accepted."""
    path, draw = tmp_path / "a.pt", random.Random(0)
    torch.save(_CONTENT, path)
    whole = path.read_bytes()
    inside = whole.index(_CONTENT["a"].numpy().tobytes())  # type: ignore[union-attr]
    places = [inside * 8 + at for at in range(0, 400 * 8, 53)]
    places += [draw.randrange(len(whole) * 8) for _ in range(150)]
    num_refused = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert _same(read_pytorch(path), _CONTENT), f"bit {place} changed what was read"
        except CheckpointError as error:
            assert str(path) in str(error)
            num_refused += 1
    assert num_refused >= 61  # every bit of the tensor; the rest lies in padding and dates too
    path.write_bytes(whole)
    assert _same(read_pytorch(path), _CONTENT)


def test_a_file_without_sums_is_read_and_that_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    notes: list[str] = []
    torch.save(_CONTENT, path)
    assert _same(read_pytorch(path, notes), _CONTENT) and not notes
    torch.save(_CONTENT, path, _use_new_zipfile_serialization=False)
    assert _same(read_pytorch(path, notes), _CONTENT)
    assert len(notes) == 1 and "a.pt was saved without checksums" in notes[0]
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(_CONTENT, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert _same(read_pytorch(path, notes), _CONTENT)
    assert len(notes) == 2 and "without checksums" in notes[1]


class _Malicious:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path, as_zip: bool) -> None:
    victim, path = tmp_path / "victim", tmp_path / "evil.pt"
    content = {"generator": {"model.a": torch.zeros(1)}, "payload": _Malicious(victim)}
    torch.save(content, path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(CheckpointError, match=r"evil\.pt: refused, it wants to run posix\.mkdir"):
        read_pytorch(path)
    assert not victim.exists()
    torch.load(path, weights_only=False)
    assert victim.exists(), "the payload works where it is let in"


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (argparse.Namespace(lr=1.0), r"argparse\.Namespace"),
        (np.float64(3.0), r"numpy\._core\.multiarray\.scalar"),
        (torch.nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear"),
    ],
    ids=["namespace", "scalar", "module"],
)
def test_a_refusal_names_the_class_and_never_advises_to_load_it_anyway(
    tmp_path: Path, value: object, name: str, as_zip: bool
) -> None:
    path = tmp_path / "a.pt"
    torch.save({"model": {"a": torch.zeros(1)}, "args": value}, path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(CheckpointError, match=name) as caught:
        read_pytorch(path)
    for advice in ("weights_only", "add_safe_globals", "trust", "torch.load"):
        assert advice not in str(caught.value)
    assert "save only the weights" in str(caught.value)


def test_a_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/data.pkl", "a/constants.pkl", "a/code/__torch__.py"):
            archive.writestr(name, b"x")
    with pytest.raises(CheckpointError, match="a TorchScript program"):
        read_pytorch(path)


def test_nothing_is_unpacked_and_no_file_holds_more_than_it_has(tmp_path: Path) -> None:
    """An archive of 6 MB once unpacked to 6.5 GB in memory before anything was checked."""
    plain, packed = tmp_path / "a.pt", tmp_path / "packed.pt"
    torch.save({"a": torch.zeros(250_000)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    assert packed.stat().st_size < 10_000
    with pytest.raises(CheckpointError, match=r"data\.pkl in it is compressed, which PyTorch never does"):
        read_pytorch(packed)
    content = bytearray(plain.read_bytes())
    directory = content.index(b"PK\x01\x02")
    while directory >= 0:  # the central directory's sizes, stored and unpacked
        content[directory + 20 : directory + 28] = (10**9).to_bytes(4, "little") * 2
        directory = content.find(b"PK\x01\x02", directory + 4)
    plain.write_bytes(content)
    with pytest.raises(CheckpointError, match="claims to hold more than its"):
        read_pytorch(plain)


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_truncated_pytorch_file_is_refused(tmp_path: Path, as_zip: bool) -> None:
    path = tmp_path / "a.pt"
    torch.save(_CONTENT, path, _use_new_zipfile_serialization=as_zip)
    assert read_pytorch(path).keys() == _CONTENT.keys()
    content = path.read_bytes()
    for kept in (0, 1, 2, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(CheckpointError, match=r"fetch it again|not a PyTorch file"):
            read_pytorch(path)


def test_a_legacy_file_damaged_anywhere_is_refused_or_read_and_never_crashes(tmp_path: Path) -> None:
    """Damage once surfaced as IndexError, struct.error or BadZipFile from inside the unpickler."""
    path, draw = tmp_path / "a.pt", random.Random(0)
    torch.save(_CONTENT, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    num_refused = 0
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[draw.randrange(min(len(damaged), 700))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            read_pytorch(path)
        except CheckpointError as error:
            assert "weights_only" not in str(error)
            num_refused += 1
    assert num_refused > 70


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return stream.getvalue()


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("model.safetensors", b"1234")
    return stream.getvalue()


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_header_whose_length_looks_like_a_pickle_is_one_of_safetensors(
    tmp_path: Path, name: str, length: int
) -> None:
    """A header of 0x280 bytes begins as a pickle of protocol 2 does: the file was said to be damaged."""
    path = tmp_path / name
    for padding in range(length - 120, length, 4):
        save_file({"a": torch.arange(3.0)}, path, {"padding": "x" * padding})
        if int.from_bytes(path.read_bytes()[:8], "little") == length:
            break
    assert path.read_bytes()[0] == 0x80 and path.read_bytes()[1] in (2, 3, 4, 5)
    assert torch.equal(read_tensors(path)["a"].load(), torch.arange(3.0))
    assert set(safetensors_metadata(path)) == {"padding"}


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4665b3\nsize 2838276\n"
_KINDS = {
    "lfs": (_POINTER, r"a Git LFS pointer, not the weights; run `git lfs pull`"),
    "html": (b"\n<!DOCTYPE html>\n<html><head><title>Sign in", "a web page saved under this name"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "a web page saved under this name"),
    "error": (b'{"error": "Repository not found"}', "a server's error message"),
    "json": (b'{"weight_map": {}}', "a JSON file, not the weights"),
    "empty": (b"", "an empty file"),
    "zeros": (bytes(3000), "nothing but zeros: the download was not finished"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(20), "a GGUF file of quantised weights"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "a compressed archive; unpack it"),
}


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_what_is_there_instead_of_weights_is_named_with_what_to_do(
    tmp_path: Path, kind: str, name: str
) -> None:
    content, complaint = _KINDS[kind]
    path = tmp_path / name
    path.write_bytes(content)
    read = read_pytorch if path.suffix == ".pt" else read_safetensors
    with pytest.raises(CheckpointError, match=complaint):
        read(path)


def test_other_files_are_refused_as_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for content, kind in (
        ([torch.zeros(1)], "a list"), ((), "a list"), (torch.zeros(1), "a single tensor"),
        (None, "nothing"), (3, "a number"), ("fox", "a text"),
    ):  # fmt: skip
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=f"holds {kind}, not tensors by their names"):
            read_pytorch(path)
    for content, complaint in (
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "refused, it is not a PyTorch file"),
        (_tar(), "a tar archive"),
        (_zip(), r"none that PyTorch saved \(it holds model\.safetensors\); unpack it"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=complaint):
            read_pytorch(path)
    with pytest.raises(CheckpointError, match="a directory; give the PyTorch file in it"):
        read_pytorch(tmp_path)
