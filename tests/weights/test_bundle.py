"""A bundle comes back as it was written, or not at all."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shotstream.weights.bundle import BundleError, read_bundle, write_bundle

_TENSORS = {
    "dit": {"a": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor([1, 2])},
    "codec": {"b": torch.ones(4, dtype=torch.bfloat16)},
}
_CONFIG = {"family": "theatre", "sizes": (1, 2), "nested": {"x": 0.5, "none": None}}


def _write(directory: Path) -> Path:
    write_bundle(directory, _CONFIG, _TENSORS, files={"words.json": b"[]"})
    return directory


def test_a_bundle_comes_back_as_it_was_written(tmp_path: Path) -> None:
    sha256 = write_bundle(tmp_path / "b", _CONFIG, _TENSORS, files={"words.json": b"[]"})
    bundle = read_bundle(tmp_path / "b")
    assert bundle.config == {"family": "theatre", "sizes": [1, 2], "nested": {"x": 0.5, "none": None}}
    assert bundle.sha256 == sha256
    assert bundle.files["words.json"].read_bytes() == b"[]"
    assert bundle.tensors.keys() == _TENSORS.keys()
    for part, named in _TENSORS.items():
        assert bundle.tensors[part].keys() == named.keys()
        for name, tensor in named.items():
            assert torch.equal(bundle.tensors[part][name], tensor)


def test_equal_content_has_equal_bytes_and_any_change_another_identity(tmp_path: Path) -> None:
    first = write_bundle(tmp_path / "a", _CONFIG, _TENSORS)
    assert write_bundle(tmp_path / "b", _CONFIG, _TENSORS) == first
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert write_bundle(tmp_path / "c", _CONFIG | {"family": "wan"}, _TENSORS) != first
    assert write_bundle(tmp_path / "d", _CONFIG, {"dit": _TENSORS["dit"]}) != first


def test_half_precision_is_stored_and_restored_on_request(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", {}, _TENSORS, dtype=torch.float16)
    stored = read_bundle(tmp_path / "b").tensors["dit"]
    assert stored["a"].dtype == torch.float16 and stored["steps"].dtype == torch.int64
    restored = read_bundle(tmp_path / "b", dtype=torch.float32).tensors["dit"]
    assert restored["a"].dtype == torch.float32 and restored["steps"].dtype == torch.int64


def test_parts_are_read_alone(tmp_path: Path) -> None:
    directory = _write(tmp_path / "b")
    (directory / "codec.safetensors").unlink()
    assert read_bundle(directory, parts=["dit"]).tensors.keys() == {"dit"}
    with pytest.raises(BundleError, match="no part 'ditt'"):
        read_bundle(directory, parts=["ditt"])


@pytest.mark.parametrize("name", ["dit.safetensors", "words.json"])
def test_a_changed_missing_or_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    directory = _write(tmp_path / "b")
    path = directory / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match=rf"{name}: sha256 .* the file was changed"):
        read_bundle(directory)
    path.write_bytes(content[:-1])
    with pytest.raises(BundleError, match=rf"{name}: .* truncated"):
        read_bundle(directory)
    path.unlink()
    with pytest.raises(BundleError, match=rf"{name}: missing"):
        read_bundle(directory)


def test_a_foreign_directory_is_refused(tmp_path: Path) -> None:
    directory = _write(tmp_path / "b")
    config = directory / "config.json"
    document = json.loads(config.read_text())
    del document["document_sha256"]
    for content, complaint in (
        ("", "not JSON"),
        ("[]", "not an object"),
        ('{"_class_name": "WanModel"}', "not a ShotStream bundle"),
        (json.dumps(document | {"format_version": 99}), "format version 99"),
        (json.dumps(document | {"files": {"../x": {"sha256": "", "num_bytes": 0}}}), "is damaged"),
        (
            json.dumps({key: document[key] for key in ("format", "format_version")}),
            "config or files is missing",
        ),
    ):
        config.write_text(content)
        with pytest.raises(BundleError, match=complaint):
            read_bundle(directory)
    config.unlink()
    with pytest.raises(BundleError, match="no such file"):
        read_bundle(directory)
    with pytest.raises(BundleError, match="no such bundle"):
        read_bundle(tmp_path / "nowhere")


def test_an_interrupted_write_leaves_no_trace_and_the_old_bundle(tmp_path: Path) -> None:
    directory = _write(tmp_path / "b")
    before = read_bundle(directory).sha256
    with pytest.raises(FileNotFoundError):
        write_bundle(directory, {}, _TENSORS, files={"x": tmp_path / "nowhere"}, overwrite=True)
    assert read_bundle(directory).sha256 == before
    with pytest.raises(FileNotFoundError):
        write_bundle(tmp_path / "new", {}, _TENSORS, files={"x": tmp_path / "nowhere"})
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_only_a_bundle_is_replaced_and_only_on_request(tmp_path: Path) -> None:
    directory = _write(tmp_path / "b")
    with pytest.raises(BundleError, match="exists already"):
        write_bundle(directory, {}, _TENSORS)
    sha256 = write_bundle(directory, {}, _TENSORS, overwrite=True)
    assert read_bundle(directory).sha256 == sha256
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    (tmp_path / "photos").mkdir()
    with pytest.raises(BundleError, match="is not a bundle"):
        write_bundle(tmp_path / "photos", {}, _TENSORS, overwrite=True)


def test_unusable_names_and_configs_are_refused(tmp_path: Path) -> None:
    for name in ("../x", "config.json", ".hidden"):
        with pytest.raises(BundleError, match="cannot be a file of a bundle"):
            write_bundle(tmp_path / "b", {}, _TENSORS, files={name: b""})
    for config in ({"x": float("nan")}, {"x": torch.zeros(1)}):
        with pytest.raises(BundleError, match="not plain JSON"):
            write_bundle(tmp_path / "b", config, _TENSORS)


def test_what_is_no_finite_number_in_the_stored_precision_is_never_written(tmp_path: Path) -> None:
    """70,000 once became infinite on the way to half precision, without a word."""
    tensors = {"dit": {"a": torch.tensor([1.0, 70_000.0])}}
    write_bundle(tmp_path / "single", {}, tensors)
    with pytest.raises(BundleError, match="dit: a holds a value that is not finite in float16"):
        write_bundle(tmp_path / "half", {}, tensors, dtype=torch.float16)
    with pytest.raises(BundleError, match="dit: a holds a value that is not finite in float32"):
        write_bundle(tmp_path / "half", {}, {"dit": {"a": torch.tensor([float("nan")])}})
    assert [path.name for path in tmp_path.iterdir()] == ["single"]


def test_what_the_weights_were_made_of_is_kept_and_does_not_change_what_they_are(tmp_path: Path) -> None:
    tensors = {"dit": {"a": torch.ones(2)}}
    plain = write_bundle(tmp_path / "plain", {"x": 1}, tensors)
    told = write_bundle(tmp_path / "told", {"x": 1}, tensors, provenance={"checkpoint": "a.pt"})
    assert plain == told == read_bundle(tmp_path / "told").sha256
    assert read_bundle(tmp_path / "told").provenance == {"checkpoint": "a.pt"}
    assert read_bundle(tmp_path / "plain").provenance == {}


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([1.0, float("nan")]),
        torch.tensor([float("-inf")], dtype=torch.float16),
        torch.zeros(1, dtype=torch.complex64),
    ],
)
def test_a_bundle_that_others_wrote_of_numbers_that_are_none_is_refused_by_the_tensors_name(
    tmp_path: Path, value: torch.Tensor
) -> None:
    """Its hashes are right, for whoever wrote it computed them."""
    write_bundle(tmp_path / "b", {}, {"dit": {"good": torch.ones(1), "odd": torch.ones(1)}})
    save_file({"good": torch.ones(1), "odd": value}, tmp_path / "b" / "dit.safetensors")
    config = tmp_path / "b" / "config.json"
    document = json.loads(config.read_text())
    content = (tmp_path / "b" / "dit.safetensors").read_bytes()
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "num_bytes": len(content)}
    del document["document_sha256"]
    config.write_text(json.dumps({**document, "files": {"dit.safetensors": entry}}))
    with pytest.raises(
        BundleError, match=r"dit\.safetensors: odd holds a value that is not a finite real number"
    ):
        read_bundle(tmp_path / "b")


def test_a_changed_digit_in_the_config_is_found_and_earlier_bundles_without_a_sum_are_read(
    tmp_path: Path,
) -> None:
    path = _write(tmp_path / "b") / "config.json"
    text = path.read_text()
    path.write_text(text.replace("0.5", "0.4"))
    with pytest.raises(BundleError, match="differs from what was written"):
        read_bundle(tmp_path / "b")
    path.write_text(text.replace("document_sha256", "document_sha257"))
    with pytest.raises(BundleError, match="differs from what was written"):
        read_bundle(tmp_path / "b")
    earlier = json.loads(text)
    del earlier["document_sha256"]
    path.write_text(json.dumps(earlier))
    assert read_bundle(tmp_path / "b").config["nested"] == {"x": 0.5, "none": None}
