"""A text encoder whose layers visit the device gives what it gives when it is there."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from shotstream.text.offload import visit
from shotstream.text.text_encoder import UMT5Config, UMT5TextEncoder, umt5_shapes
from tests.text.test_text_encoder import _tokenizer

CONFIG = UMT5Config(vocab_size=300, dim=32, dim_ffn=64, num_heads=4, num_layers=2, text_length=12)


@pytest.fixture
def stored() -> dict[str, Tensor]:
    """Weights as a bundle has them, in another dtype than is computed in."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator).bfloat16() * 0.2
        for name, shape in umt5_shapes(CONFIG).items()
    }


def test_offloaded_embeddings_are_the_same_to_the_bit_and_weights_stay_as_they_are(
    stored: dict[str, Tensor], tmp_path: Path
) -> None:
    file = tmp_path / "tokenizer.json"
    _tokenizer().save(str(file))
    captions = ["w1 w2 w3", "w4 w4"]
    whole = UMT5TextEncoder.from_tensors(CONFIG, stored, file)
    visiting = UMT5TextEncoder.from_tensors(CONFIG, stored, file, offload=True)
    first = visiting.encode(captions)
    assert first.dtype == torch.float32
    assert torch.equal(first, whole.encode(captions))
    module: nn.Module = visiting._module
    assert all(parameter.dtype == torch.bfloat16 for parameter in module.parameters())
    by_name = dict(module.named_parameters())
    assert all(by_name[name].data_ptr() == tensor.data_ptr() for name, tensor in stored.items())


def test_a_layer_goes_home_after_an_error_too() -> None:
    layer = nn.Linear(4, 4).bfloat16()
    visit([layer], torch.device("cpu"), torch.float32)
    with pytest.raises(RuntimeError):
        layer(torch.randn(3, 5))
    assert layer.weight.dtype == torch.bfloat16
    assert layer(torch.randn(3, 4)).dtype == torch.float32
