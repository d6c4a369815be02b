"""The average of weights: of those that learn, and of no others."""

import torch
from torch import nn

from shotstream.training.ema import Ema


def _half_frozen() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[0].requires_grad_(False)
    return module


def test_what_never_changes_has_no_average() -> None:
    """Of the 1.3B teacher four fifths are frozen: their averages were 4.5 GB for nothing."""
    module = _half_frozen()
    ema = Ema(module, 0.5)
    assert ema.average.keys() == {"1.weight", "1.bias"}
    with torch.no_grad():
        module[1].weight.add_(1.0)
    ema.update(module)
    other = _half_frozen()
    frozen = other[0].weight.clone()
    ema.copy_to(other)
    assert torch.equal(other[0].weight, frozen)
    assert torch.equal(other[1].weight, ema.average["1.weight"])


def test_an_average_of_all_weights_is_gone_on_from() -> None:
    """Checkpoints once held averages of frozen weights too."""
    module = _half_frozen()
    state = {name: value.detach() + 1 for name, value in module.named_parameters()}
    ema = Ema(module, 0.5)
    ema.load_state_dict({**state, "num_updates": 7})
    assert ema.num_updates == 7
    assert torch.equal(ema.average["1.bias"], state["1.bias"])
