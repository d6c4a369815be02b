"""Files are read whole or refused; nothing in them is run."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shotstream.weights.tensor_files import (
    CheckpointError,
    LazyTensor,
    check_tensors,
    lazy_tensors,
    read_json,
    read_pytorch,
    read_safetensors,
    sha256_of_file,
    sound,
    write_safetensors,
)

_TENSORS = {
    "half": torch.arange(6, dtype=torch.float16).reshape(2, 3),
    "brain": torch.arange(3, dtype=torch.bfloat16),
    "single": torch.linspace(0, 1, 5),
    "double": torch.tensor(0.25, dtype=torch.float64),
    "empty": torch.zeros(0, 4),
    "index": torch.tensor([[1, -2]]),
    "flag": torch.tensor([True, False, True]),
}


def _lazy(tensors: dict[str, torch.Tensor]) -> dict[str, LazyTensor]:
    return {name: LazyTensor.of(tensor) for name, tensor in tensors.items()}


def test_what_is_written_reads_back_here_and_in_the_safetensors_library(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    assert write_safetensors(path, _lazy(_TENSORS)) == sha256_of_file(path)
    ours = {name: lazy.load() for name, lazy in read_safetensors(path).items()}
    for found in (ours, load_file(path)):
        assert found.keys() == _TENSORS.keys()
        for name, tensor in _TENSORS.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


def test_a_strided_view_is_written_as_it_reads(tmp_path: Path) -> None:
    view = torch.arange(12.0).reshape(3, 4).T
    write_safetensors(tmp_path / "a.safetensors", _lazy({"view": view}))
    assert torch.equal(load_file(tmp_path / "a.safetensors")["view"], view)


def test_tensors_are_loaded_one_after_another(tmp_path: Path) -> None:
    loaded: list[str] = []

    def lazy(name: str) -> LazyTensor:
        def load() -> torch.Tensor:
            loaded.append(name)
            return torch.zeros(2)

        return LazyTensor(shape=(2,), dtype=torch.float32, load=load)

    tensors = {name: lazy(name) for name in "cab"}
    assert not loaded
    write_safetensors(tmp_path / "a.safetensors", tensors)
    assert loaded == ["a", "b", "c"]


def test_a_conversion_keeps_integers() -> None:
    assert LazyTensor.of(torch.ones(2, dtype=torch.int64)).to(torch.float16).dtype == torch.int64
    assert LazyTensor.of(torch.ones(2)).to(torch.float16).load().dtype == torch.float16


def test_a_truncated_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(_TENSORS, path)
    content = path.read_bytes()
    for kept in (4, 40, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(CheckpointError, match="not a complete safetensors file"):
            read_safetensors(path)


def test_what_only_a_pytorch_file_is_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(
        CheckpointError, match=r"a PyTorch file under the name of another format; name it \.pt"
    ):
        read_safetensors(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (read_safetensors, read_pytorch):
        with pytest.raises(CheckpointError, match=r"nowhere\.pt: no such file"):
            read(tmp_path / "nowhere.pt")


def test_shards_must_agree_with_their_index(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    save_file({"a": torch.zeros(1)}, tmp_path / "one.safetensors")
    save_file({"b": torch.ones(1)}, tmp_path / "two.safetensors")
    both = {"a": "one.safetensors", "b": "two.safetensors"}
    index.write_text(json.dumps({"weight_map": both}))
    assert {name: lazy.load().item() for name, lazy in read_safetensors(index).items()} == {"a": 0, "b": 1}
    for weight_map, complaint in (
        (both | {"c": "two.safetensors"}, "1 keys differ"),
        ({"a": "one.safetensors", "x": "two.safetensors"}, "2 keys differ"),
        (both | {"b": "three.safetensors"}, "three.safetensors: no such file"),
        (both | {"b": "../two.safetensors"}, "is not a file beside the index"),
        (["a"], "not a safetensors index"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(CheckpointError, match=complaint):
            read_safetensors(index)


def test_only_real_finite_sane_numbers_are_weights() -> None:
    good = {
        "a": torch.tensor([1.0, -999_999.0]),
        "b": torch.zeros(0),
        "c": torch.ones(2, dtype=torch.float16),
    }
    found = sound(_lazy(good), "w.pt")
    assert all(torch.equal(found[name].load(), tensor) for name, tensor in good.items())
    for value, complaint in (
        (torch.tensor([0.0, float("nan")]), r"w\.pt: odd is damaged: 1 of its 2 numbers are infinite"),
        (torch.tensor([float("-inf"), float("nan")]), r"2 of its 2 numbers"),
        (torch.tensor([float("inf")], dtype=torch.bfloat16), r"1 of its 1 numbers"),
        (torch.tensor([3.0, -2e38]), r"it reaches -2e\+38, beyond what a weight can be"),
    ):
        lazy = sound(_lazy({**good, "odd": value}), "w.pt")
        with pytest.raises(CheckpointError, match=complaint):
            lazy["odd"].load()
    for value, words in (
        (torch.zeros(2, dtype=torch.complex64), r"complex numbers \(complex64\)"),
        (torch.zeros(2, dtype=torch.bool), "truth values"),
        (torch.zeros(2, dtype=torch.int8), r"numbers \(int8\)"),
        (torch.zeros(2, dtype=torch.float8_e4m3fn), r"numbers \(float8_e4m3fn\)"),
    ):
        with pytest.raises(CheckpointError, match=f"odd holds {words}, and weights are real"):
            sound(_lazy({**good, "odd": value}), "w.pt")


def test_a_tensor_is_no_larger_than_what_is_stored_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(1).expand(1000, 1000), "b": torch.eye(2).to_sparse()}, path)
    content = read_pytorch(path)
    with pytest.raises(CheckpointError, match="a is larger than its stored data"):
        lazy_tensors({"a": content["a"]}, "here")
    with pytest.raises(CheckpointError, match="b is sparse"):
        lazy_tensors({"b": content["b"]}, "here")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "at a number of thousands of digits"),
        (b'{"a": "\xff"}', "not UTF-8 text"),
        (b"[1]", "holds a list, not an object"),
        (b"null", r"holds nothing \(null\)"),
        (b'{"a": "' + b"x" * (64 << 20) + b'"}', "more than 67,108,864 bytes"),
    ],
    ids=["deep", "digits", "bytes", "list", "null", "large"],
)
def test_odd_json_is_refused_in_words(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=complaint):
        read_json(path)
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}


def test_the_error_counts_and_names_what_differs() -> None:
    expected = {f"k{index}": (2,) for index in range(6)}
    given = _lazy({"k0": torch.zeros(2), "k1": torch.zeros(3), "stray": torch.zeros(1)})
    with pytest.raises(CheckpointError) as caught:
        check_tensors(expected, given, "file.pt", "use another")
    assert str(caught.value) == (
        "file.pt: 4 missing keys (k2, k3, k4, ...); 1 unexpected keys (stray); "
        "1 wrong shapes (k1 is [3] and should be [2]); use another"
    )
