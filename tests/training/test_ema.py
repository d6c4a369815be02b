"""The average of weights: of those that learn, and of no others."""

import pytest
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


@pytest.mark.parametrize("decay", [0.98, 0.15])
def test_the_average_follows_the_written_formula(decay: float) -> None:
    """At update n it keeps min(decay, (1 + n) / (10 + n)) of itself: 0.1, 2/11, 3/12, ... at first."""
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(8.0)
    ema, expected = Ema(module, decay), 8.0
    for n, value in enumerate((4.0, -2.0, 0.0, 10.0, 3.0)):
        with torch.no_grad():
            module.weight.fill_(value)
        ema.update(module)
        kept = min(decay, (0.1, 2 / 11, 0.25, 4 / 13, 5 / 14)[n])
        expected = kept * expected + (1 - kept) * value
        assert ema.average["weight"].item() == pytest.approx(expected, rel=1e-6)
        assert module.weight.item() == value, "what learns is not touched"
    assert ema.num_updates == 5


def test_after_many_updates_the_average_is_as_slow_as_its_decay() -> None:
    module = nn.Linear(1, 1, bias=False)
    ema = Ema(module, 0.9995)
    ema.load_state_dict({"weight": torch.full((1, 1), 1.0), "num_updates": 100_000})
    with torch.no_grad():
        module.weight.zero_()
    ema.update(module)
    assert ema.average["weight"].item() == pytest.approx(0.9995)


def test_an_average_of_half_precision_is_kept_in_whole_and_gone_on_from() -> None:
    """In bfloat16 a decay of 0.9995 would never move it."""
    module = nn.Linear(2, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        module.weight.fill_(1.0)
    ema = Ema(module, 0.9995)
    ema.load_state_dict({**ema.average, "num_updates": 100_000})
    with torch.no_grad():
        module.weight.fill_(2.0)
    for _ in range(3):
        ema.update(module)
    assert ema.average["weight"].dtype == torch.float32
    torch.testing.assert_close(ema.average["weight"], torch.full((1, 2), 2 - 0.9995**3))
    again = Ema(module, 0.9995)
    again.load_state_dict(ema.state_dict())
    for one in (ema, again):
        one.update(module)
    assert torch.equal(again.average["weight"], ema.average["weight"])
    assert again.num_updates == ema.num_updates == 100_004


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay is"):
        Ema(nn.Linear(1, 1), decay)


def test_averages_of_another_module_are_refused() -> None:
    ema = Ema(nn.Linear(1, 1), 0.5)
    with pytest.raises(ValueError, match="do not belong"):
        ema.load_state_dict({"weight": torch.zeros(1, 1), "num_updates": 1})
