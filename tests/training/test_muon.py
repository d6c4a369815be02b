"""Muon against torch's own, and what it is for."""

import pytest
import torch
from torch import nn

from shotstream.training.muon import Muon, orthogonalised


def _matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((6, 4), (4, 8), (6, 4))]


def test_it_steps_like_torchs_to_the_precision_of_bfloat16() -> None:
    ours, theirs = _matrices(), _matrices()
    start = [value.detach().clone() for value in ours]
    mine = Muon(ours, 0.1, weight_decay=0.01)
    reference = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        for left, right in zip(ours, theirs, strict=True):
            left.grad = torch.randn(left.shape, generator=generator)
            right.grad = left.grad.clone()
        mine.step()
        reference.step()
    for left, right, before in zip(ours, theirs, start, strict=True):
        assert (left - right).norm() < 0.02 * (right - before).norm()


def test_states_are_interchangeable_with_torchs() -> None:
    ours, theirs = _matrices(), _matrices()
    mine, reference = Muon(ours, 0.1), torch.optim.Muon(theirs, lr=0.1)
    for value in theirs:
        value.grad = torch.ones_like(value)
    reference.step()
    mine.load_state_dict(reference.state_dict())
    for left, right in zip(ours, theirs, strict=True):
        assert torch.equal(mine.state[left]["momentum_buffer"], reference.state[right]["momentum_buffer"])


def test_singular_values_come_near_one_and_directions_stay() -> None:
    matrix = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(2))
    result = orthogonalised(matrix)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.6 and values.max() < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert (result - u @ v).norm() < 0.35 * (u @ v).norm()


def test_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="matrices"):
        Muon([nn.Parameter(torch.zeros(3))], 0.1)
