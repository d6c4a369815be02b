"""Files are read whole or refused; nothing in them is run."""

import json
import os
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shotstream.weights.tensor_files import (
    CheckpointError,
    LazyTensor,
    check_tensors,
    lazy_tensors,
    read_pytorch,
    read_safetensors,
    sha256_of_file,
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
    for kept in (0, 4, 40, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(CheckpointError, match="not a whole safetensors file"):
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
    with pytest.raises(CheckpointError, match="refused"):
        read_pytorch(path)
    assert not victim.exists()
    torch.load(path, weights_only=False)
    assert victim.exists(), "the payload works where it is let in"


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_truncated_pytorch_file_is_refused(tmp_path: Path, as_zip: bool) -> None:
    path = tmp_path / "a.pt"
    torch.save(_TENSORS, path, _use_new_zipfile_serialization=as_zip)
    assert read_pytorch(path).keys() == _TENSORS.keys()
    content = path.read_bytes()
    for kept in (0, 1, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(CheckpointError):
            read_pytorch(path)


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pytorch_file_damaged_anywhere_is_refused_or_read_and_never_crashes(
    tmp_path: Path, as_zip: bool
) -> None:
    """Damage once surfaced as IndexError, struct.error or BadZipFile from inside the unpickler."""
    path, draw = tmp_path / "a.pt", random.Random(0)
    torch.save({"a": torch.zeros(3), "b": {"c": torch.ones(2)}}, path, _use_new_zipfile_serialization=as_zip)
    content = path.read_bytes()
    num_refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[draw.randrange(min(len(damaged), 700))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            read_pytorch(path)
        except CheckpointError:
            num_refused += 1
    assert num_refused > 100


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save([torch.zeros(1)], path)
    with pytest.raises(CheckpointError, match="holds a list"):
        read_pytorch(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(CheckpointError, match="refused"):
        read_pytorch(path)
    with pytest.raises(CheckpointError, match=r"1 entries are not named tensors \(step\)"):
        lazy_tensors({"a": torch.zeros(1), "step": 3}, "here")


def test_the_error_counts_and_names_what_differs() -> None:
    expected = {f"k{index}": (2,) for index in range(6)}
    given = _lazy({"k0": torch.zeros(2), "k1": torch.zeros(3), "stray": torch.zeros(1)})
    with pytest.raises(CheckpointError) as caught:
        check_tensors(expected, given, "file.pt", "use another")
    assert str(caught.value) == (
        "file.pt: 4 missing keys (k2, k3, k4, ...); 1 unexpected keys (stray); "
        "1 wrong shapes (k1 is [3] and should be [2]); use another"
    )
