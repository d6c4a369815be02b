"""A bundle whose config is of nonsense is refused by name, before memory is taken for it."""

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from shotstream.streaming.loading import load, load_encoders
from shotstream.training.start import codec_of
from shotstream.weights.bundle import BundleError, read_bundle, write_bundle
from shotstream.weights.hub import resolve


def _changed(directory: Path, section: str, **changes: Any) -> Path:
    """The model that ships, with another config beside the same files, and no sum over it."""
    shutil.copytree(resolve("theatre"), directory)
    path = directory / "config.json"
    document = json.loads(path.read_text())
    document["config"][section] |= changes
    del document["document_sha256"]
    path.write_text(json.dumps(document))
    return directory


@pytest.mark.parametrize(
    ("section", "changes", "complaint"),
    [
        ("dit", {"num_layers": 10**9}, r"num_layers is 1e\+09; no model has more than 512"),
        ("dit", {"num_layers": 40}, r"dit: \d+ missing keys .*its config\.json is of other weights"),
        ("dit", {"dim": 1_048_572, "num_heads": 6}, "wrong shapes"),
        ("dit", {"num_layers": "8"}, r'dit\.num_layers is "8"; a whole number belongs there'),
        pytest.param(
            "dit", {"num_layers": True}, r"dit\.num_layers is true; a whole number", marks=pytest.mark.slow
        ),
        ("dit", {"num_layers": 8.0}, r"dit\.num_layers is 8\.0; a whole number"),
        pytest.param(
            "dit", {"num_layers": None}, r"dit\.num_layers is null; a whole number", marks=pytest.mark.slow
        ),
        pytest.param("dit", {"eps": "small"}, r'dit\.eps is "small"; a number', marks=pytest.mark.slow),
        ("dit", {"eps": 1e300}, r"eps is 1e\+300"),
        ("codec", {"dim": 1_048_576}, r"codec: \d+ wrong shapes"),
        pytest.param(
            "codec", {"num_decoder_layers": 500}, r"codec: \d+ missing keys", marks=pytest.mark.slow
        ),
        ("codec", {"num_finish_layers": 10**12}, "num_finish_layers"),
        pytest.param(
            "text_encoder", {"dim": 1_048_576}, r"text_encoder: \d+ wrong shapes", marks=pytest.mark.slow
        ),
        pytest.param(
            "text_encoder", {"questions": "who"}, r'text_encoder\.questions is "who"', marks=pytest.mark.slow
        ),
        ("text_encoder", {"words": ["a", 7]}, r"text_encoder\.words is 7; a string"),
        ("text_encoder", {"questions": [["species", 7]]}, "questions are not the theatre's"),
        ("text_encoder", {"dim": 64}, "wrong shapes"),
        pytest.param("engine", {"fps": 10**9}, r"fps is 1e\+09", marks=pytest.mark.slow),
        ("engine", {"fps": "twelve"}, r'engine\.fps is "twelve"; a whole number'),
        ("engine", {"pixel_size": {"height": 10**6, "width": 80}}, "pixels"),
        ("engine", {"pixel_size": [48, 80]}, r"engine\.pixel_size: holds a list"),
        ("engine", {"student_steps": [10**18]}, "must lie in 0"),
        pytest.param("engine", {"student_steps": [-1]}, "must lie in 0", marks=pytest.mark.slow),
        ("engine", {"shift": -8.0}, "shift"),
    ],
)
def test_a_config_of_nonsense_is_refused_before_memory_is_taken(
    tmp_path: Path, section: str, changes: dict[str, Any], complaint: str
) -> None:
    """A bundle that said ten thousand million layers once ran until the memory ended."""
    directory = _changed(tmp_path / "bundle", section, **changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=complaint):
        load(directory, device="cpu", precision="float32")
    if section != "dit":
        with pytest.raises(ValueError, match=complaint):
            load_encoders(directory, "cpu")
    if section == "codec":
        with pytest.raises(ValueError, match=complaint):
            codec_of(directory)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 500_000


def test_a_tensor_of_another_kind_of_number_is_refused_by_its_name(tmp_path: Path) -> None:
    bundle = read_bundle(resolve("theatre"))
    name = min(bundle.tensors["dit"])
    for value, kind in (
        (torch.zeros_like(bundle.tensors["dit"][name], dtype=torch.int32), r"numbers \(int32\)"),
        (torch.zeros_like(bundle.tensors["dit"][name], dtype=torch.bool), "truth values"),
    ):
        tensors = {**bundle.tensors, "dit": {**bundle.tensors["dit"], name: value}}
        write_bundle(tmp_path / "odd", bundle.config, tensors, overwrite=True)
        assert load_file(tmp_path / "odd" / "dit.safetensors")[name].dtype == value.dtype
        with pytest.raises(BundleError, match=rf"dit: {name} holds {kind}"):
            load(tmp_path / "odd", device="cpu", precision="float32")
