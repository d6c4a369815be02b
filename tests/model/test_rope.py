"""Rotations depend on distances, and a cut adds one angle to all of them."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from shotstream.geometry import TokenGrid
from shotstream.model.positions import FramePositions
from shotstream.model.rope import apply_rope, rope_table
from tests.model.tiny import CONFIG, GRID, randn

SPLIT = CONFIG.rotary_split


def _positions(frames: list[int], phases: list[int]) -> FramePositions:
    captions = torch.zeros(1, len(frames), dtype=torch.long)
    return FramePositions(torch.tensor([frames]), torch.tensor([phases]), captions)


def _plain_rope(x: Tensor, frame: int, row: int, column: int, phase: float = 0.0) -> Tensor:
    """RoPE of one head vector by complex numbers in float64, written out from the formula."""
    pairs = torch.view_as_complex(x.double().reshape(-1, 2))
    angles = [frame * 10000 ** (-2 * j / SPLIT.temporal) + phase for j in range(SPLIT.temporal // 2)]
    angles += [row * 10000 ** (-2 * j / SPLIT.height) for j in range(SPLIT.height // 2)]
    angles += [column * 10000 ** (-2 * j / SPLIT.width) for j in range(SPLIT.width // 2)]
    turned = pairs * torch.polar(
        torch.ones(len(angles), dtype=torch.float64), torch.tensor(angles, dtype=torch.float64)
    )
    return torch.view_as_real(turned).flatten()


def _turned(x: Tensor, frames: list[int], phases: list[int], grid: TokenGrid = GRID) -> Tensor:
    return apply_rope(x, rope_table(_positions(frames, phases), grid, CONFIG))


def test_tokens_turn_by_the_formula_in_the_order_frame_row_column() -> None:
    frames, phases = [0, 3, 17], [0, 0, 2]
    x = randn(1, 3 * GRID.num_tokens, 2, CONFIG.head_dim)
    turned = _turned(x, frames, phases)
    token = 0
    for frame, phase in zip(frames, phases, strict=True):
        for row in range(GRID.height):
            for column in range(GRID.width):
                for head in range(2):
                    expected = _plain_rope(x[0, token, head], frame, row, column, phase / 6)
                    # float32 rotations of numbers of order 1.
                    torch.testing.assert_close(turned[0, token, head].double(), expected, rtol=0, atol=1e-6)
                token += 1


def test_phase_zero_is_plain_rope() -> None:
    """To the bit: a film of one shot is Wan as it was."""
    phased = rope_table(_positions([0, 1], [0, 0]), GRID, CONFIG)
    no_angle = _positions([0, 1], [4, 9])
    silent = rope_table(no_angle, GRID, replace(CONFIG, phase_angle=0.0))
    assert torch.equal(phased.cos, silent.cos)
    assert torch.equal(phased.sin, silent.sin)


def _products(frames: list[int], phases: list[int]) -> Tensor:
    grid = TokenGrid(1, 1)
    queries, keys = (randn(1, 1, 1, CONFIG.head_dim, seed=seed).expand(1, 2, 1, -1) for seed in (0, 1))
    turned = [_turned(x, frames, phases, grid) for x in (queries, keys)]
    return (turned[0][0, 1] * turned[1][0, 0]).sum()


def test_within_a_shot_only_the_distance_counts() -> None:
    for phase in (0, 1, 4):
        torch.testing.assert_close(_products([0, 5], [0, 0]), _products([11, 16], [phase, phase]))
    assert not torch.allclose(_products([0, 5], [0, 0]), _products([0, 6], [0, 0]))


def test_across_shots_only_the_difference_of_phases_counts() -> None:
    torch.testing.assert_close(_products([0, 5], [0, 2]), _products([3, 8], [4, 6]))
    assert not torch.allclose(_products([0, 5], [0, 2]), _products([0, 5], [0, 0]), atol=1e-3)


def test_a_cut_turns_every_temporal_pair_by_the_same_angle_and_no_spatial_one() -> None:
    table, cut = (rope_table(_positions([3], [phase]), GRID, CONFIG) for phase in (0, 1))
    angle = torch.atan2(table.sin[..., 1::2], table.cos[..., 1::2])
    turned = torch.atan2(cut.sin[..., 1::2], cut.cos[..., 1::2])
    difference = torch.remainder(turned - angle, 2 * math.pi)[0, :, 0]
    num_temporal = SPLIT.temporal // 2
    torch.testing.assert_close(
        difference[:, :num_temporal], torch.full((GRID.num_tokens, num_temporal), 1 / 6)
    )
    assert torch.equal(turned[..., num_temporal:], angle[..., num_temporal:])


def test_half_precision_is_turned_in_float32() -> None:
    x = randn(1, GRID.num_tokens, 2, CONFIG.head_dim).to(torch.bfloat16)
    turned = _turned(x, [1000], [3])
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, _turned(x.float(), [1000], [3]).to(torch.bfloat16))
